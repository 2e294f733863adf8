"""The template process: imports the client's modules once, then forks a worker a command in about a millisecond.

Runs in the client's interpreter, `sys.path` and working directory; must not need grpc, protobuf or what only daemons
need. With more than one thread it can't fork safely: then it spawns that worker and says so. It is the parent of its
workers and adopts what they leave behind: its word that one is dead is the proof (docs/spec/002-lease.md section 3).
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import types
from dataclasses import dataclass
from typing import Any, NoReturn

from rfaas_executors import control, family
from rfaas_executors._process import StatePage, exit_within

BOOTSTRAP = """\
"rfaas: template or worker of a slice"
import json, socket, sys
control = socket.socket(fileno=int(sys.argv[1]))
setup = json.loads(control.recv(1 << 20))
wanted, got = setup["version"], list(sys.version_info)
if got[:2] != wanted[:2]:
    sys.exit("%s is Python %d.%d here, but %d.%d at the client\\n  remedy: use an environment that the nodes see "
             "under the same path, or start the program with the Python that they have"
             % (sys.executable, *got[:2], *wanted[:2]))
sys.path[:] = setup["path"]
from rfaas_executors.template import main
main(control, setup)
"""
"""`python -P -c` of a template and of a spawned worker; `ps` shows its first line.

The first packet is JSON, since msgpack comes with the path.
"""

NEVER_PRELOADED = frozenset({"cupy", "jax", "mpi4py", "tensorflow", "torch"})
"""MPI and CUDA don't survive a fork: a function that needs them imports them in its worker."""

TRACKER_GRACE_S = 1.0
"""What multiprocessing's resource tracker gets to unlink the shared memory of a dead worker; it needs some 20 ms, and
its own start where the worker died soon. Other processes that a worker leaves behind are killed at once."""

ALL_TRACKERS_S = 5.0
"""What is left of a worker that died so long ago is killed whatever it is: a command line can be forged for ever."""

ORPHAN_S = 0.2  # for workers whose agent is gone to give calls back and leave; they are killed then
LAST_MS = 700  # for a template whose agent died to end all it has; then the kernel does it

EXIT_MS = 1000  # for what user code registered to run at exit; a worker whose last words are said must not hang in it

_SETTLE_S = 0.002  # between looks at leftovers that were told to die


@dataclass(slots=True)
class Child:
    """A worker as its parent sees it. `ended_s`: when it was found dead, 0 before."""

    worker: int
    pid: int
    pidfd: int
    spawned: subprocess.Popen[bytes] | None = None
    ended_s: float = 0.0
    status: int | None = None
    cpu_ns: int = 0
    leftovers: int = 0


def main(agent: socket.socket, setup: dict[str, Any]) -> NoReturn:
    """Be the template, or the worker that a template with threads had to spawn; never returns."""
    family.quiet_for_life()
    if not family.die_with_parent(signal.SIGKILL, setup["parent_pid"]):
        os._exit(0)
    family.name_process("rfaas-template")
    threads_of = _enter(setup)
    if "worker" in setup:
        agent.close()
        agent, page = socket.socket(fileno=setup["agent_fd"]), StatePage.from_fd(setup["page_fd"])
        _be_worker(agent, page, setup["worker"], setup["parent_pid"], setup.get("descriptors"), tuple(setup["pipes"]))
    _load_what_workers_need()
    family.adopt_orphans()
    gc.collect()
    gc.freeze()  # what is shared now stays shared: no collection writes to it in the workers
    # From here on this process only serves its agent: should that die, it kills and reaps before it goes itself.
    if not family.outlive_parent(setup["parent_pid"], LAST_MS):
        os._exit(0)
    _show_errors_again(setup["stderr_fd"])
    os._exit(Template(agent, setup, threads_of).run())


def _enter(setup: dict[str, Any]) -> list[str]:
    """Take on the client's surroundings and import its modules; return those whose import left threads running."""
    threads_of = []
    if setup["sched"] == "idle":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    _limit_core_files(setup.get("limits", {}).get("core"))
    try:
        os.chdir(setup["cwd"])
    except OSError as error:
        remedy = "start the program in a directory that the nodes see"
        sys.exit(f"the working directory {setup['cwd']} can't be entered here: {error.strerror}\n  remedy: {remedy}")
    # What pickles by reference to the user's main program must not be found in ours.
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = [""]
    for name in setup["preload"]:
        if name.partition(".")[0] not in NEVER_PRELOADED:
            with contextlib.suppress(Exception):  # the call that needs it will say so better
                threads = family.n_threads()
                importlib.import_module(name)
                if family.n_threads() > threads:
                    threads_of.append(name)
    family.install_quiet_signals()  # a module may have set its own
    if not faulthandler.is_enabled():
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            faulthandler.enable(all_threads=False)
    return threads_of


def _limit_core_files(soft: int | None) -> None:
    """Take the client's soft limit, as far as this host's hard one goes. That of descriptors is the workers' alone."""
    if soft is not None:
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (family.lower(soft, hard), hard))


def _load_what_workers_need() -> None:
    """Import once, and before the freeze, what else each worker would import into memory of its own."""
    import cloudpickle  # noqa: F401

    import rfaas_executors.streams
    import rfaas_executors.worker  # noqa: F401

    if os.environ.get("RFAAS_EVENT_LOG"):
        import rfaas.control.eventlog  # noqa: F401


def _show_errors_again(stderr_fd: int) -> None:
    """From now on standard error is where prints of functions belong; until here the agent kept it for its report."""
    sys.stderr.flush()
    os.dup2(stderr_fd, 2)
    os.close(stderr_fd)


def _be_worker(
    agent: socket.socket,
    page: StatePage,
    spec: dict[str, Any],
    template_pid: int,
    descriptors: int | None,
    pipes: tuple[int, ...],
) -> NoReturn:
    """Serve as a worker, then end this process without what the template registered for its own end.

    Args:
        agent: the worker's end of its control socket.
        page: shared with the agent.
        spec: the agent's order.
        template_pid: the parent.
        descriptors: the soft limit on them; None: as it is.
        pipes: where its standard output and error go, if anywhere.
    """
    from rfaas_executors.streams import Streams
    from rfaas_executors.worker import Worker

    atexit._clear()
    family.become_worker(template_pid, spec["cpus"], spec.get("data_bytes"))
    family.limit_descriptors(descriptors)
    identity = {name: spec[name] for name in ("slot", "generation", "node")}
    streams = Streams.redirect(page, spec.get("output", ""), pipes)
    status = os.EX_SOFTWARE
    try:
        worker = Worker(agent, page, identity, streams)  # kept: the client must not find its channel closed before
        status = worker.run()
        exit_within(EXIT_MS, status)
        atexit._run_exitfuncs()
        for stream in sys.stdout, sys.stderr:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
    finally:
        os._exit(status)  # what user code registered may raise, or may have left nothing of builtins; it is decided


class Template:
    """The template's loop over its agent and its workers.

    Args:
        threads_of: modules whose import left threads running, for people.
    """

    def __init__(self, agent: socket.socket, setup: dict[str, Any], threads_of: list[str]) -> None:
        self._agent = agent
        self._setup = setup
        self._threads_of = threads_of
        self._children: dict[int, Child] = {}  # by pidfd
        self._poll = select.poll()
        self._kill_at_s: float | None = None  # set when the agent is gone
        self._trackers: dict[int, float] = {}  # resource trackers that dead workers left: pid, seen since
        self._checked: dict[tuple[tuple[str, str], ...], list[tuple[str, str, str | None]]] = {}

    def run(self) -> int:
        """Fork and reap until the agent closes the socket; then no worker is left."""
        import cloudpickle

        self._tell(
            {
                "m": "ready",
                "protocol": control.PROTOCOL,
                "python": list(sys.version_info[:3]),
                "implementation": sys.implementation.name,
                "cloudpickle": cloudpickle.__version__,
                "pid": os.getpid(),
            }
        )
        self._poll.register(self._agent, select.POLLIN)
        while self._kill_at_s is None or self._children:
            for descriptor, _ in self._poll.poll(self._timeout_ms()):
                if descriptor == self._agent.fileno():
                    self._read_agent()
                elif descriptor in self._children:
                    self._found_dead(self._children[descriptor])
            if self._kill_at_s is not None and time.monotonic() >= self._kill_at_s:
                for child in self._children.values():
                    self._kill(child)
            self._settle()
        from rfaas_executors import placing  # only now: it would cost each worker memory

        placing.remove(os.getpid())
        return 0

    def _timeout_ms(self) -> float | None:
        dying = any(child.ended_s for child in self._children.values())
        return _SETTLE_S * 1000 if dying or self._kill_at_s is not None else None

    def _tell(self, message: control.Message, descriptors: tuple[int, ...] = ()) -> None:
        with contextlib.suppress(OSError):  # the agent is gone; reading its socket tells
            control.send(self._agent, message, descriptors)

    def _read_agent(self) -> None:
        """Do one command. When the agent has closed, every worker ends: by itself, or it is killed soon."""
        try:
            received = control.receive(self._agent)
        except OSError:
            received = None
        if received is None:
            self._poll.unregister(self._agent)
            self._kill_at_s = time.monotonic() + ORPHAN_S
            return
        message, descriptors = received
        if message["m"] == "fork":
            self._make_worker(message, *descriptors)
        elif message["m"] == "check":
            self._check_modules(message)

    def _check_modules(self, message: control.Message) -> None:
        """Look for modules that a client has imported; say which are missing or of another version, if any."""
        asked = tuple((name, version) for name, version in message["modules"])
        if asked not in self._checked:
            try:
                from rfaas.session.modules import differences

                self._checked[asked] = differences(asked)
            except Exception:  # a finder of the user's: the call that needs a module will say so better
                self._checked[asked] = []
        if self._checked[asked]:
            self._tell({"m": "differ", "lease": message["lease"], "modules": self._checked[asked]})

    # --- making workers -------------------------------------------------------------------------

    def _make_worker(self, spec: control.Message, agent_fd: int, page_fd: int, *pipes: int) -> None:
        try:
            threads = family.n_threads()
            if threads == 1:
                child, why = self._fork(spec, agent_fd, page_fd, pipes), ""
            else:
                child = self._spawn(spec, agent_fd, page_fd, pipes)
                why = self._why_not_forked(threads - 1)
        except OSError as error:
            self._tell({"m": "exited", "worker": spec["worker"], "pid": 0, "exit_status": 71, "signal": 0,
                        "leftovers": 0, "hint": f"no worker could be made: {error}"})  # fmt: skip
            return
        finally:
            for descriptor in agent_fd, page_fd, *pipes:
                os.close(descriptor)
        self._children[child.pidfd] = child
        self._poll.register(child.pidfd, select.POLLIN)
        self._tell({"m": "forked", "worker": child.worker, "pid": child.pid, "spawned": why}, (child.pidfd,))

    def _why_not_forked(self, threads: int) -> str:
        """For people; `threads` besides the main one are running."""
        running = "1 thread" if threads == 1 else f"{threads} threads"
        if not self._threads_of:
            return f"{running} ran already when the interpreter had started"
        return f"importing {', '.join(self._threads_of)} left {running} running"

    def _fork(self, spec: control.Message, agent_fd: int, page_fd: int, pipes: tuple[int, ...]) -> Child:
        template_pid = os.getpid()
        with family.making_worker():
            pid = os.fork()
            if pid == 0:
                try:
                    self._into_worker(spec, agent_fd, page_fd, template_pid, pipes)
                finally:
                    os._exit(70)  # reached only after an exception, which has nobody to catch it
        return Child(spec["worker"], pid, os.pidfd_open(pid))

    def _into_worker(
        self, spec: control.Message, agent_fd: int, page_fd: int, template_pid: int, pipes: tuple[int, ...]
    ) -> NoReturn:
        """The new child drops what is the template's, then serves."""
        try:
            self._agent.close()
            for pidfd in self._children:
                os.close(pidfd)
            self._children.clear()
            limit = self._setup.get("descriptors")
            _be_worker(socket.socket(fileno=agent_fd), StatePage.from_fd(page_fd), spec, template_pid, limit, pipes)
        except Exception:
            sys.excepthook(*sys.exc_info())
            raise

    def _spawn(self, spec: control.Message, agent_fd: int, page_fd: int, pipes: tuple[int, ...]) -> Child:
        """Fork and exec a worker with the same surroundings: for a template that has threads."""
        here, there = control.pair()
        setup = {**self._setup, "parent_pid": os.getpid(), "worker": spec, "page_fd": page_fd, "agent_fd": agent_fd}
        setup["pipes"] = pipes
        with here, there:
            here.send(json.dumps(setup).encode())
            command = [sys.executable, "-P", "-c", BOOTSTRAP, str(there.fileno())]
            process = subprocess.Popen(command, pass_fds=(there.fileno(), agent_fd, page_fd, *pipes))
        return Child(spec["worker"], process.pid, os.pidfd_open(process.pid), process)

    # --- ends of workers ------------------------------------------------------------------------

    def _kill(self, child: Child) -> None:
        with contextlib.suppress(ProcessLookupError):  # by pidfd: its number can't be another's
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)

    def _found_dead(self, child: Child) -> None:
        """It is a zombie and stays one, and its number its own, until nothing that it left lives."""
        self._poll.unregister(child.pidfd)
        child.ended_s = time.monotonic()

    def _settle(self) -> None:
        """Report workers whose death is complete, and end what they left behind."""
        dying = [child for child in self._children.values() if child.ended_s]
        if not dying:
            return
        strays = family.children() - {child.pid for child in self._children.values()}
        strays = {pid for pid in strays if family.reap(pid) is None}
        late = self._late_trackers(strays, min(child.ended_s for child in dying))
        n_found = family.kill_trees(strays - late, spare_trackers=True) + family.kill_trees(late)
        for child in dying:
            child.leftovers = max(child.leftovers, len(strays), n_found)
            if not strays:
                self._report(child)

    def _late_trackers(self, strays: set[int], first_end_s: float) -> set[int]:
        """Those that had their time, each since it was first seen: others may have died long before its worker."""
        now_s = time.monotonic()
        trackers = filter(family.may_be_resource_tracker, strays)
        self._trackers = {pid: self._trackers.get(pid, now_s) for pid in trackers}
        if first_end_s <= now_s - ALL_TRACKERS_S:
            return strays
        return {pid for pid, seen_s in self._trackers.items() if seen_s <= now_s - TRACKER_GRACE_S}

    def _report(self, child: Child) -> None:
        """Reap the worker; say that it is dead once its group is empty, else look again."""
        if child.status is None:
            reaped = family.reap_counted(child.pid)
            if reaped is not None:
                child.status, child.cpu_ns = reaped
        if child.status is None or not family.group_is_empty(child.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            return
        if child.spawned is not None:
            child.spawned.returncode = child.status
        del self._children[child.pidfd]
        os.close(child.pidfd)
        code = os.waitstatus_to_exitcode(child.status)
        self._tell(
            {
                "m": "exited",
                "worker": child.worker,
                "pid": child.pid,
                "exit_status": max(code, 0),
                "signal": max(-code, 0),
                "leftovers": child.leftovers,
                "cpu_ns": child.cpu_ns,
            }
        )
