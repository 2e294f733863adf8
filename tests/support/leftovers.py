"""What processes may leave behind: looked up in /proc and /dev/shm, for assertions that nothing is."""

import os
from pathlib import Path


def alive(pid):
    """True while the process runs; a zombie is dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


def children(pid):
    """Pids of the living children, and of theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            numbers = [int(word) for word in task.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for number in numbers:
            found += [number, *children(number)]
    return [number for number in found if alive(number)]


def abstract_sockets(part):
    """Names of abstract unix sockets of this network namespace that contain `part`."""
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    names = {line.split()[-1] for line in lines if "@" in line}
    return {name for name in names if part in name}


def shared_memory():
    """Names in /dev/shm."""
    return set(os.listdir("/dev/shm"))


def maps(pid, word):
    """True if a file whose name contains `word` is mapped into the process."""
    return word in Path(f"/proc/{pid}/maps").read_text()
