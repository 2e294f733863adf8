"""The few things that are done to files of a checkpoint, each durable when it returns.

Apart from `store`, so that a test can make any one of them the last thing that a process did.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


class Files:
    """Files of one directory, which every rank sees; names have no folder in them. All raise OSError."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def make(self) -> None:
        """Make the directory, if it isn't there."""
        self.directory.mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        """What is there, sorted; nothing where there is no directory."""
        try:
            return sorted(os.listdir(self.directory))
        except FileNotFoundError:
            return []

    def write(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Write a new file, or replace one; content is on the disk, its name may not be yet."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(self.directory / name, flags, 0o600)
        try:
            for piece in pieces:
                self.write_all(descriptor, piece)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def write_all(self, descriptor: int, piece: bytes | memoryview) -> None:
        """Write all bytes of a piece (a kernel takes 2 GiB at a time at most)."""
        rest = memoryview(piece).cast("B")
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    def publish(self, temporary: str, name: str) -> None:
        """Give a file its name, unless there is one of that name (FileExistsError); the old name goes."""
        try:
            os.link(self.directory / temporary, self.directory / name)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if (self.directory / name).exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from error
            os.rename(self.directory / temporary, self.directory / name)
        else:
            os.unlink(self.directory / temporary)

    def sync_names(self) -> None:
        """Have all names on the disk that were given or taken before."""
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.directory / name)

    def read(self, name: str) -> bytes:
        """All of a file."""
        return (self.directory / name).read_bytes()
