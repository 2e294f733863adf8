"""What the processes of one test may leave behind: processes, sockets, shared memory, temporary files, descriptors.

They are found by a word in their environment, so other tests on the machine don't matter. What they had open is noted
while they live (`look`), since afterwards nobody could say whose it was.
"""

import gc
import os
import re
from pathlib import Path

from support.waiting import wait_until


class Residue:
    """Notes what exists before a test and what its processes open.

    Args:
        events: the event log; each process of the test but this one has `RFAAS_EVENT_LOG=events` in its environment.
    """

    def __init__(self, events):
        self._events = events
        self._sockets = set()
        self._shared = set()
        self._descriptors_before = descriptors()

    def processes(self):
        """Pids of the living processes with the mark."""
        return marked_processes(self._events)

    def look(self):
        """Note sockets and shared memory of the processes that live now."""
        names = _socket_names()
        for pid in self.processes():
            for target in descriptors(pid).values():
                if target.startswith("socket:["):
                    self._sockets.update(names.get(target[8:-1], ()))
                elif target.startswith("/dev/shm/"):
                    self._shared.add(target.removesuffix(" (deleted)"))

    def assert_nothing_left(self, temporary):
        """See that all is gone: what was noted, every process, every file in `temporary`, descriptors of ours."""
        try:
            wait_until(lambda: not self.processes(), 5.0, "the end of every process of the test")
        except AssertionError as error:
            raise AssertionError(f"{error}; left: {[command(pid) for pid in self.processes()]}") from None
        zombies = [pid for pid in _pids() if _parent_and_state(pid) == (os.getpid(), "Z")]
        assert not zombies, f"zombies of this process: {zombies}"
        here = {name for names in _socket_names().values() for name in names}
        assert not self._sockets & here, f"sockets left: {self._sockets & here}"
        shared = {path for path in self._shared if os.path.exists(path)}
        shared |= {name for name in os.listdir("/dev/shm") if "rfaas" in name}
        assert not shared, f"shared memory left: {shared}"
        files = sorted(str(path) for path in Path(temporary).rglob("*"))
        assert not files, f"temporary files left: {files}"
        try:
            wait_until(lambda: not self._new_descriptors(), 5.0, "descriptors of this process")
        except AssertionError:
            raise AssertionError(f"descriptors of this process left: {self._new_descriptors()}") from None

    def _new_descriptors(self):
        gc.collect()  # gRPC's channels are in cycles; the last closes what all shared, in a thread of its own
        new = {fd: target for fd, target in descriptors().items() if fd not in self._descriptors_before}
        return {fd: target for fd, target in new.items() if not _stays(target)}


def marked_processes(events):
    """Pids of the living processes, but for this one, that write this event log."""
    mark = os.fsencode(f"RFAAS_EVENT_LOG={events}")
    return [pid for pid in _pids() if pid != os.getpid() and mark in _environment(pid)]


def command(pid):
    """Pid, parent, state and command line of a process, for people."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        words = "?"
    return f"{pid} {_parent_and_state(pid)} {words}"


def descriptors(pid="self"):
    """By descriptor of a process, what it refers to."""
    found = {}
    try:
        entries = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return found
    for entry in entries:
        try:
            found[int(entry)] = os.readlink(f"/proc/{pid}/fd/{entry}")
        except OSError:  # closed meanwhile, or the listing's own
            continue
    return found


def _stays(target):
    """What a process keeps for its life: gRPC an event descriptor or two, a client its memory for arrays."""
    return re.fullmatch(r"anon_inode:\[event(fd|poll)\]|/memfd:rfaas-arrays \(deleted\)", target) is not None


def _pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _environment(pid):
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ()


def _parent_and_state(pid):
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(words[1]), words[0]


def _socket_names():
    """Names of listening or bound unix sockets of this network namespace by inode, as text."""
    names = {}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = line.split(maxsplit=7)
        if len(words) == 8:
            names.setdefault(words[6], set()).add(words[7])
    return names
