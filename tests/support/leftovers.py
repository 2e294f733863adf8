"""What processes hold and may leave behind, looked up in /proc: for assertions that nothing is left."""

import os
from pathlib import Path

OF_TESTS = "of-tests-"
OF_OTHERS = (OF_TESTS, "vader_segment.", "sm_segment.")  # the latter two are Open MPI's, of programs that tests run


def alive(pid):
    """True while the process runs; a zombie is dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


def children(pid, depth=99):
    """Pids of the living children, and of theirs, down to `depth` generations."""
    found = []
    for task in _tasks(pid):
        try:
            numbers = [int(word) for word in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for number in numbers:
            found += [number, *(children(number, depth - 1) if depth > 1 else ())]
    return [number for number in found if alive(number)]


def _tasks(pid):
    """Its threads; none once the process is gone, where `Path.glob` would raise."""
    try:
        return os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return []


def parent(pid):
    """Pid of the parent, None once the process is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat[stat.rindex(")") + 2 :].split()[1])


def shared_memory():
    """Names in /dev/shm, but for those that tests or MPI made themselves: other tests run beside this one."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith(OF_OTHERS)}


def name_in_shared_memory(word):
    """A name for what a test makes in /dev/shm itself, that no other test takes for something left behind."""
    return f"{OF_TESTS}{word}-{os.getpid()}"


def abstract_sockets(part=""):
    """Names of abstract unix sockets of this network namespace that contain `part`."""
    return {name for name in _abstract_sockets().values() if part in name}


def _abstract_sockets():
    """Abstract unix sockets: inode -> name."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {int(row[6]): row[7] for row in rows if len(row) > 7 and row[7].startswith("@")}


def open_files(pid):
    """What the process's descriptors refer to, e.g. `/dev/null` or `socket:[17]`."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(os.readlink(entry))
        except FileNotFoundError:
            continue
    return found


def sockets_of(pid):
    """Names of the abstract sockets that the process holds."""
    files = open_files(pid)
    return {name for inode, name in _abstract_sockets().items() if f"socket:[{inode}]" in files}


def maps(pid, word):
    """True if a file whose name contains `word` is mapped into the process."""
    return word in Path(f"/proc/{pid}/maps").read_text()
