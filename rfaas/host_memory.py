"""How much memory this host has, and how much of it is offered where nobody says."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

OFFERED_PART: Final = 0.8  # the rest is the user's own and the kernel's
CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")  # of this container; absent or "max" where there is no limit


def offered_bytes(line: str) -> int:
    """A part of what /proc/meminfo says, at most of the limit of this container.

    Args:
        line: of /proc/meminfo: MemTotal, or MemAvailable for what is free now.
    """
    host_bytes = meminfo_bytes(line)
    with contextlib.suppress(OSError, ValueError):
        host_bytes = min(host_bytes, int(CGROUP_LIMIT.read_text()))
    return int(host_bytes * OFFERED_PART)


def machine_bytes() -> int:
    """All memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def meminfo_bytes(line: str) -> int:
    """What a line of /proc/meminfo says."""
    with open("/proc/meminfo") as meminfo:
        (found,) = [text for text in meminfo if text.startswith(f"{line}:")]
    return int(found.split()[1]) * 1024
