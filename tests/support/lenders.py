"""Memory servers of a test, and who holds regions."""

import contextlib
import os
from pathlib import Path

from support.leftovers import alive


def lenders():
    """Pids of the memory servers of this test that live."""
    mark = os.fsencode(f"RFAAS_EVENT_LOG={os.environ['RFAAS_EVENT_LOG']}")
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            is_server = Path(f"/proc/{entry}/comm").read_text() == "rfaas-memory\n" and alive(entry)
            if is_server and mark in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                found.append(int(entry))
    return found


def region_holders(among):
    """Those of these processes that map a region or have one open."""
    found = set()
    for pid in among:
        with contextlib.suppress(OSError):
            if "rfaas-memory (deleted)" in Path(f"/proc/{pid}/maps").read_text():
                found.add(pid)
        with contextlib.suppress(OSError):
            if any("rfaas-memory" in os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()):
                found.add(pid)
    return found


def has_gone(pid):
    """True once a process has let go of its memory: it is a zombie, or reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
