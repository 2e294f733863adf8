"""What a worker uses of its machine, with everything that it started: processes, threads, memory, from /proc.

Must not decide and must not signal. Figures and their cost: docs/spec/002-lease.md section 10, docs/isolation.md.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_N_THREADS, _RSS = 17, 21  # in /proc/<pid>/stat, counted behind the name
_NEARLY_A_PAGE = 3000
_COUNTED = (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")
_OF_CLIENTS = b"/memfd:rfaas-"  # mappings of channels and of clients' arrays: charged to the clients
_WORTH_A_LOOK_BYTES = 16 << 20  # of shared memory


@dataclass(frozen=True, slots=True)
class Family:
    """A process with all its descendants.

    Attributes:
        resident: by pid, the resident set in bytes.
        n_tasks: threads of all of them; counting stops beyond the limit that was given.
    """

    resident: dict[int, int]
    n_tasks: int


def family(pid: int, most_tasks: int) -> Family:
    """Look at a process and its descendants; none if it is gone. Zombies use nothing and count for nothing."""
    resident: dict[int, int] = {}
    n_tasks = 0
    waiting = [pid]
    while waiting and n_tasks <= most_tasks:
        one = waiting.pop()
        fields = _read(f"/proc/{one}/stat").rpartition(b")")[2].split()
        if len(fields) <= _RSS or one in resident or fields[0] == b"Z":
            continue
        n_threads = max(1, int(fields[_N_THREADS]))
        n_tasks += n_threads
        resident[one] = int(fields[_RSS]) * PAGE_BYTES
        if n_tasks <= most_tasks:
            waiting += children_of(one, n_threads)
    return Family(resident, n_tasks)


def children_of(pid: int, n_threads: int = 0) -> list[int]:
    """The children of another process; with several threads, of all of them.

    Args:
        n_threads: if it is known to be 1, the threads need not be listed.
    """
    if n_threads == 1:
        return list(map(int, _read(f"/proc/{pid}/task/{pid}/children").split()))
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    return [int(child) for task in tasks for child in _read(f"/proc/{pid}/task/{task}/children").split()]


def own_bytes(pid: int) -> int:
    """Memory of one process that can't be had back without ending it: shared pages in parts, pages of files not at all.

    Nor what its clients share with it: that is theirs.

    Costs about 20 ms a GiB of small pages. Of a process that hides it (PR_SET_DUMPABLE) its anonymous resident set.
    """
    rollup = _read(f"/proc/{pid}/smaps_rollup")
    found = {line.split(b":")[0]: int(line.split()[1]) for line in rollup.splitlines() if line.startswith(_COUNTED)}
    if found:
        size_bytes = sum(found.values()) * 1024
        shared_bytes = found.get(b"Pss_Shmem", 0) * 1024
        return size_bytes - (of_clients_bytes(pid) if shared_bytes > _WORTH_A_LOOK_BYTES else 0)
    statm = _read(f"/proc/{pid}/statm").split()
    return max(0, int(statm[1]) - int(statm[2])) * PAGE_BYTES if len(statm) > 2 else 0


def of_clients_bytes(pid: int) -> int:
    """The part of a process's memory that is shared with its clients and made by them."""
    sum_kib, counts = 0, False
    for line in _read(f"/proc/{pid}/smaps").splitlines():
        first = line.split(None, 1)[0] if line else b""
        if not first.endswith(b":"):  # the line that begins a mapping: addresses, …, its name
            counts = _OF_CLIENTS in line
        elif counts and first == b"Pss:":
            sum_kib += int(line.split()[1])
    return sum_kib * 1024


def available_part() -> float:
    """The part of this machine's memory that is available without swapping."""
    lines = dict(line.split(b":", 1) for line in _read("/proc/meminfo").splitlines()[:3])
    try:
        return int(lines[b"MemAvailable"].split()[0]) / int(lines[b"MemTotal"].split()[0])
    except (KeyError, ValueError, ZeroDivisionError):
        return 1.0


def oom_kills() -> int:
    """How many processes the kernel has killed for memory since it started, on this machine or in its containers."""
    _, _, after = _read("/proc/vmstat").partition(b"\noom_kill ")
    return int(after.split(None, 1)[0]) if after else 0


def _read(path: str) -> bytes:
    """The content of a file of /proc; nothing if it is gone, or not for us."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        data = part = os.read(descriptor, 1 << 16)
        while len(part) > _NEARLY_A_PAGE:  # the kernel gives about a page at a time
            part = os.read(descriptor, 1 << 16)
            data += part
        return data
    except OSError:
        return b""
    finally:
        os.close(descriptor)
