"""Parents and children: what template and workers do to themselves, and how a process finds its own that are left.

Imports only the standard library and `_process`: it is loaded in the user's own environment.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Collection, Iterator

from rfaas_executors._process import (
    adopt_orphans,
    die_with_parent,
    hold_signals,
    install_quiet_signals,
    let_signals_go,
    outlive_parent,
    remember_surroundings,
    restore_signals,
)

__all__ = [
    "adopt_orphans",
    "become_worker",
    "children",
    "cpu_ns",
    "die_with_parent",
    "group_is_empty",
    "install_quiet_signals",
    "kill_trees",
    "limit_descriptors",
    "lower",
    "making_worker",
    "may_be_resource_tracker",
    "n_threads",
    "name_process",
    "outlive_parent",
    "quiet_for_life",
    "reap",
    "reap_adopted",
    "reap_counted",
]

_making_worker = False


def quiet_for_life() -> None:
    """Make SIGTERM and SIGINT do nothing here, in the workers forked from here, and nowhere below them.

    Exec resets a handler by itself; children that user code forks get the ordinary actions back by these hooks, which
    also hold the signals over the fork: a child may be told to end before it has run a line.
    """
    install_quiet_signals()
    os.register_at_fork(before=hold_signals, after_in_parent=let_signals_go, after_in_child=_after_fork_in_child)


def _after_fork_in_child() -> None:
    if not _making_worker:
        restore_signals()
    let_signals_go()


@contextlib.contextmanager
def making_worker() -> Iterator[None]:
    """Fork within this to make a worker: it keeps the quiet signals without a gap."""
    global _making_worker
    _making_worker = True
    try:
        yield
    finally:
        _making_worker = False


def become_worker(template_pid: int, cpus: list[int] | None, data_bytes: int | None = None) -> None:
    """Turn a new child of the template into a worker: own session and process group, dead when the template dies.

    It adopts what its calls leave behind, so that all of that stays below it: what it uses counts, and ends, with it.

    Args:
        cpus: where to stay; None: wherever the template may run.
        data_bytes: of private memory that each of its processes may map beyond what it has now; None: no limit.
    """
    global _making_worker
    _making_worker = False  # the worker lives within `making_worker`, and what it forks is no worker
    os.setsid()
    install_quiet_signals()
    if not die_with_parent(signal.SIGKILL, template_pid):
        os._exit(0)
    name_process("rfaas-worker")
    with contextlib.suppress(OSError):
        adopt_orphans()
    if cpus:
        with contextlib.suppress(OSError):  # a cpuset that shrank meanwhile: unpinned is right, only slower
            os.sched_setaffinity(0, cpus)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as adjustment:
        adjustment.write("1000")  # memory pressure takes the guests first
    if data_bytes is not None:
        _limit_data(data_bytes)
    remember_surroundings()
    _new_random_state()


def limit_descriptors(soft: int | None) -> None:
    """Give functions the soft limit on descriptors that the user's programs have; the agent raised its own."""
    if soft is not None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with contextlib.suppress(OSError, ValueError):  # somebody lowered the hard one meanwhile
            resource.setrlimit(resource.RLIMIT_NOFILE, (lower(soft, hard), hard))


def lower(one: int, other: int) -> int:
    """The lower of two limits, of which RLIM_INFINITY (-1) is the highest."""
    return max(one, other) if resource.RLIM_INFINITY in (one, other) and one != other else min(one, other)


def _limit_data(more_bytes: int) -> None:
    """Allow each process so much private memory beyond what this one has; no more than is allowed already."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        with open("/proc/self/status") as status:
            has_bytes = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = has_bytes + more_bytes if hard == resource.RLIM_INFINITY else min(hard, has_bytes + more_bytes)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def name_process(name: str) -> None:
    """What `ps` and `top` show of this process; 15 characters at most."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:
        comm.write(name)


def _new_random_state() -> None:
    """Workers forked from one template must not draw the same numbers; `random` sees to itself."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def n_threads() -> int:
    """Threads of this process."""
    return len(os.listdir("/proc/self/task"))


def children() -> set[int]:
    """Processes whose parent is the calling process, zombies too. With several threads, of all of them."""
    return _children_of(os.getpid())


def _children_of(pid: int) -> set[int]:
    if not _LISTS_CHILDREN:
        return _children_by_search(pid)
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
        for task in os.listdir(f"/proc/{pid}/task"):
            with (
                contextlib.suppress(FileNotFoundError, ProcessLookupError),  # a thread that has just ended
                open(f"/proc/{pid}/task/{task}/children") as listing,
            ):
                found.update(map(int, listing.read().split()))
    return found


_LISTS_CHILDREN = os.path.exists("/proc/thread-self/children")  # CONFIG_PROC_CHILDREN


def _children_by_search(parent: int) -> set[int]:
    """The same from every process's own word, for kernels that keep no lists."""
    return {int(name) for name in os.listdir("/proc") if name.isdigit() and _parent_of(int(name)) == parent}


MOST_ZOMBIES = 64


def reap_adopted() -> None:
    """Reap dead processes that detached themselves from calls here; nobody else will.

    Which of them a function started itself and may yet wait for can't be known: those of other sessions count, and the
    youngest MOST_ZOMBIES of these are left.
    """
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
    except ChildProcessError:
        return
    here = os.getsid(0)
    zombies = [pid for pid in sorted(children()) if _is_zombie_of_another_session(pid, here)]
    for pid in zombies[:-MOST_ZOMBIES]:
        reap(pid)


def _is_zombie_of_another_session(pid: int, session: int) -> bool:
    fields = _stat(pid)
    return len(fields) > 3 and fields[0] == b"Z" and int(fields[3]) != session


MOST_WALKS = 100  # through what is left, in one go: more can't be found of what forks as fast as it is stopped


def kill_trees(roots: Collection[int], *, spare_trackers: bool = False) -> int:
    """SIGKILL children of this process with all their descendants, and reap those children that are dead.

    Everything is stopped first, walk after walk until one finds nobody new, so what forks all the time does not get
    away. Who still does has a dead or a stopped parent, and is found at the next call.

    Args:
        spare_trackers: leave out the helpers of multiprocessing that unlink shared memory once its users are gone.
    Returns:
        How many processes were found.
    """
    stopped: dict[int, int] = {}  # pid: pidfd, which can't come to mean another process
    spared: set[int] = set()
    try:
        for _ in range(MOST_WALKS):
            if not _stop_new(roots, stopped, spared, spare_trackers):
                break
    finally:
        for pidfd in stopped.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
    for pid in roots:
        if pid not in stopped and pid not in spared:  # no descriptor was left for it; a child of ours keeps its number
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if pid not in spared:
            reap(pid)
    return len(stopped)


def _stop_new(roots: Collection[int], stopped: dict[int, int], spared: set[int], spare_trackers: bool) -> bool:
    """Walk once from the roots down and stop whom we have not stopped yet; False if there was nobody."""
    found = False
    me = os.getpid()
    waiting = [(pid, me) for pid in roots]
    while waiting:
        pid, parent = waiting.pop()
        if pid not in stopped and pid not in spared:
            if spare_trackers and may_be_resource_tracker(pid):
                spared.add(pid)
                continue
            pidfd = _pidfd_of_child(pid, parent)
            if pidfd is None:
                continue
            stopped[pid] = pidfd
            found = True
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        if pid in stopped:
            waiting += [(child, pid) for child in _children_of(pid)]
    return found


def _pidfd_of_child(pid: int, parent: int) -> int | None:
    """A pidfd, if the number still is that of a child of `parent` and descriptors are left."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    if _parent_of(pid) == parent:
        return pidfd
    os.close(pidfd)
    return None


def _parent_of(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/<pid>/stat behind the name: state, parent, group, session, …; empty if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()
    except OSError:
        return []


def reap(pid: int) -> int | None:
    """Take the wait status of one child if it is dead; None if it lives. A stranger counts as dead with status 0."""
    reaped = reap_counted(pid)
    return None if reaped is None else reaped[0]


def reap_counted(pid: int) -> tuple[int, int] | None:
    """As `reap`, with the CPU time in ns of the child and of those that it waited for."""
    try:
        reaped, status, usage = os.wait4(pid, os.WNOHANG)
    except ChildProcessError:
        return 0, 0
    return (status, round((usage.ru_utime + usage.ru_stime) * 1e9)) if reaped else None


def cpu_ns(pid: int) -> int:
    """CPU time of a process that lives, and of the children that it waited for; 0 if it is gone. In steps of a tick."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15])) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def may_be_resource_tracker(pid: int) -> bool:
    """True for the helper of multiprocessing that unlinks shared memory and semaphores once its users are gone.

    And for any process in the midst of exec, whose command line is empty for some 0.1 ms: the kernel lets its parent go
    on before it has written the new one, so a worker may end by then (97 of 100 times that is what is seen, 2026-11).
    """
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as command:
            words = command.read()
    except OSError:
        return False
    return b"multiprocessing.resource_tracker" in words or (not words and not _is_zombie(pid))


def _is_zombie(pid: int) -> bool:
    fields = _stat(pid)
    return not fields or fields[0] in (b"Z", b"X")


def group_is_empty(group: int) -> bool:
    """True if no process, zombies included, is left in a process group."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # a member that changed its uid is still there
        return False
    return False
