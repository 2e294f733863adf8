"""Room on the disk that is kept for bad times: a file that is given up when the journal needs its place.

With it leases can end, and agents come back, on a disk that somebody has filled; new leases wait until it is whole.
Spec: docs/spec/002-lease.md section 7. Must not know what is written with the room.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

RESERVE_BYTES: Final = 4 << 20
"""The end of one lease takes 16 KiB of write-ahead log, its account included; of a thousand in one commit 1.3 MiB, and
as much what agents report of their usage (measured, 2026-11); the file grows a little besides. The log is shortened
between commits."""
FREE_BYTES: Final = 64 << 10
"""Less than this beside the reserve is a full disk."""


class Reserve:
    """The file, made at once if there is room.

    Args:
        path: of the file, on the disk of the journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.problem()

    def give_up(self) -> bool:
        """Free its room; False if there was none."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True

    def problem(self) -> str:
        """Make the file if it is missing and there is room; why the disk counts as full, "" if it does not."""
        about = os.statvfs(self._path.parent)
        free_bytes = about.f_bavail * about.f_frsize
        wanted_bytes = FREE_BYTES + (0 if self._is_whole() else RESERVE_BYTES)
        if free_bytes >= wanted_bytes and (self._is_whole() or self._make()):
            return ""
        return (
            f"the allocator's disk is full (ENOSPC): {free_bytes >> 10} KiB are free at {self._path.parent}; "
            "new leases wait until there is room"
        )

    def _is_whole(self) -> bool:
        try:
            return self._path.stat().st_size == RESERVE_BYTES
        except FileNotFoundError:
            return False

    def _make(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(os.urandom(RESERVE_BYTES))  # zeros would take no room where the file system compresses
                file.flush()
                os.fsync(descriptor)
        except OSError:  # somebody was quicker
            with contextlib.suppress(OSError):
                self._path.unlink()
            return False
        return True
