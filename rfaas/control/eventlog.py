"""The event log: what each process did, one JSON line an event, for the invariant checker and for audits.

Off unless RFAAS_EVENT_LOG names a directory; each process then appends to `<role>-<host>-<pid>.jsonl` there. A
line is written at once with one `write` on an O_APPEND descriptor: a killed process loses nothing it had said, and
two never mix. Must not keep a descriptor open: functions close what they find, forks copy it, tests count it.
Spec: docs/spec/005-event-log.md.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Final

EVENTS: Final = frozenset(
    {
        *("request", "grant_proposed", "grant_accepted", "grant_acked", "renew", "expire", "reclaim_sig", "drain"),
        *("fence", "proof_of_death", "free", "submit", "sent", "accepted", "started", "done", "error", "resolved"),
        *("fault_start", "fault_stop", "restart", "epoch", "spawned", "forked", "key_violation", "neighbours"),
    }
)
"""The words of `ev`. `epoch` says that an agent or allocator took a new epoch."""


class EventLog:
    """Writes events of one process; does nothing when the log is off."""

    def __init__(self, role: str, directory: str | None) -> None:
        self._role = role
        self._directory = None if directory is None else Path(directory)
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True)

    @classmethod
    def from_environment(cls, role: str) -> EventLog:
        """The log of RFAAS_EVENT_LOG; role is client, session, allocator, agent, worker, harvester or test."""
        return cls(role, os.environ.get("RFAAS_EVENT_LOG") or None)

    @property
    def enabled(self) -> bool:
        """True if events are written: ask before computing costly fields."""
        return self._directory is not None

    def write(self, event: str, **fields: object) -> None:
        """Append one event; bytes become hex. Nothing is written any more once the directory is gone."""
        if self._directory is None:
            return
        if event not in EVENTS:
            raise ValueError(f"unknown event {event!r}")
        host, pid = socket.gethostname(), os.getpid()
        record = {
            "t_boot_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            "host": host,
            "pid": pid,
            "role": self._role,
            "ev": event,
            **fields,
        }
        path = self._directory / f"{self._role}-{host}-{pid}.jsonl"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return
        try:
            os.write(fd, (json.dumps(record, default=_plain) + "\n").encode())
        finally:
            os.close(fd)


def _plain(value: object) -> object:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} can't be logged")
