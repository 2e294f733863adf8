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


def holding(pid, content):
    """(permissions, name) of each writable mapping of a process in which these bytes lie."""
    found = []
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, permissions, _, _, _, *name = line.split(maxsplit=5)
            begin, end = (int(address, 16) for address in span.split("-"))
            if permissions.startswith("rw") and content in _bytes_of(memory, begin, end):
                found.append((permissions, *name))
    return found


def _bytes_of(memory, begin, end):
    memory.seek(begin)
    return memory.read(min(end - begin, 1 << 26))


def has_gone(pid):
    """True once a process has let go of its memory: it is a zombie, or reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
