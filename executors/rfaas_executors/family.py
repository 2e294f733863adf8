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
    "is_resource_tracker",
    "kill_all",
    "limit_descriptors",
    "making_worker",
    "n_threads",
    "name_process",
    "outlive_parent",
    "quiet_for_life",
    "reap",
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


def become_worker(template_pid: int, cpus: list[int] | None) -> None:
    """Turn a new child of the template into a worker: own session and process group, dead when the template dies.

    Args:
        cpus: where to stay; None: wherever the template may run.
    """
    global _making_worker
    _making_worker = False  # the worker lives within `making_worker`, and what it forks is no worker
    os.setsid()
    install_quiet_signals()
    if not die_with_parent(signal.SIGKILL, template_pid):
        os._exit(0)
    name_process("rfaas-worker")
    if cpus:
        with contextlib.suppress(OSError):  # a cpuset that shrank meanwhile: unpinned is right, only slower
            os.sched_setaffinity(0, cpus)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as adjustment:
        adjustment.write("1000")  # memory pressure takes the guests first
    _new_random_state()


def limit_descriptors(soft: int | None) -> None:
    """Give functions the soft limit on descriptors that the user's programs have; the agent raised its own."""
    if soft is not None:
        with contextlib.suppress(OSError, ValueError):  # somebody lowered the hard one meanwhile
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


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
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        return _children_by_search()
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        with (
            contextlib.suppress(FileNotFoundError, ProcessLookupError),  # a thread that has just ended
            open(f"/proc/self/task/{task}/children") as listing,
        ):
            found.update(map(int, listing.read().split()))
    return found


def _children_by_search() -> set[int]:
    """The same from every process's own word, for kernels without CONFIG_PROC_CHILDREN."""
    me, found = os.getpid(), set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as stat:
                if int(stat.read().rpartition(")")[2].split()[1]) == me:
                    found.add(int(name))
    return found


def kill_all(pids: Collection[int]) -> None:
    """SIGKILL children of this process and reap those that are dead already; never blocks."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        reap(pid)


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


def is_resource_tracker(pid: int) -> bool:
    """True for the helper of multiprocessing that unlinks shared memory and semaphores once its users are gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as command:
            return b"multiprocessing.resource_tracker" in command.read()
    except OSError:
        return False


def group_is_empty(group: int) -> bool:
    """True if no process, zombies included, is left in a process group."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # a member that changed its uid is still there
        return False
    return False
