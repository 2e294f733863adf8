"""What became of a run, over all its attempts: one line of JSON an event, written by rank 0.

The file lies beside the checkpoints (NAME.timeline.jsonl) and is only ever appended to. Spec 011 section 5.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path


def process_start_ns() -> int:
    """When this process began (CLOCK_BOOTTIME), to a hundredth of a second."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Timeline:
    """The file of one run; `writes` is true at rank 0 alone.

    A line that can't be written is left out: no run ends because of its log.
    """

    def __init__(self, path: Path, *, writes: bool, **always: object) -> None:
        self._path = path if writes else None
        self._always = always
        self.n_lost = 0

    def add(self, event: str, **fields: object) -> None:
        """Append an event with its time, host and job."""
        if self._path is None:
            return
        record = {
            "ev": event,
            "t_boot_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            "t_unix_ns": time.time_ns(),
            "host": socket.gethostname(),
            "job": os.environ.get("SLURM_JOB_ID", ""),
            **self._always,
            **fields,
        }
        line = json.dumps(record).encode() + b"\n"
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            self.n_lost += 1
            return
        with contextlib.closing(os.fdopen(descriptor, "wb", buffering=0)) as file:
            try:
                file.write(line)
            except OSError:
                self.n_lost += 1


def read(path: Path) -> list[dict[str, object]]:
    """All events of a file, oldest first; a line that was cut off is left out."""
    found: list[dict[str, object]] = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found
