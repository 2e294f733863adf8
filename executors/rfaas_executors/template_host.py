"""The agent's side of one template process and its workers: starts it, commands it, and proves deaths.

Must not decide: it does what the core asked for and posts events. Runs in the agent's event loop, on the thread that
lives as long as the agent, since the kernel ties a template's life to the thread that started it (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from rfaas_executors import agent_events as on
from rfaas_executors import control, family, placing
from rfaas_executors.limits import DEFAULT_TASKS, data_allowance_bytes
from rfaas_executors.streams import AS_BEFORE, DISCARDED, PIPES
from rfaas_executors.template import BOOTSTRAP
from rfaas_executors.watch import Watch
from rfaas_executors.worker_handle import WorkerHandle

log = logging.getLogger(__name__)

INHERITED = ("TMPDIR", "USER", "LOGNAME", "SHELL", "RFAAS_EVENT_LOG")
"""What a template gets of the agent's own environment; all else comes from the client (004 section 4)."""

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "BLIS_NUM_THREADS")
"""A worker has one core, and a template with threads can't fork."""

MARKER = "RFAAS_SLICE"  # in the environment of everything that runs here, so that a later agent can find leftovers
MARKS = "RFAAS_GUARD_MARKS_DIR"  # a function that marks is no job beside the slice: its marks go nowhere
START_LIMIT_S = 300.0  # a cold parallel file system takes minutes for a large environment; for ever is a hang
STDERR_KEPT_BYTES = 8192
LEAST_STACK_BYTES = 1 << 20  # of a client's limit: an interpreter needs it
EX_OSERR = os.EX_OSERR  # sysexits.h: what a worker that could not be made counts as having ended with


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is the same for every template of an agent.

    Args:
        sched: "idle" or "normal".
        owns_children: every child of this process is the agent's; strays are killed.
        descriptors: the soft limit on them that workers get, as it was before the agent raised its own; None: keep.
        templates: pids of all templates of the agent, which are no strays.
        most_tasks: processes and threads that a worker may have.
    """

    node: str
    slice_id: bytes
    sched: str = "normal"
    owns_children: bool = True
    descriptors: int | None = None
    templates: set[int] = field(default_factory=set)
    most_tasks: int = DEFAULT_TASKS


class TemplateHost:
    """One template process. Create and use it in the event loop; `post` takes events and may be called at any time."""

    def __init__(
        self,
        number: int,
        environment: on.Environment,
        surroundings: Surroundings,
        watch: Watch,
        post: Callable[[on.Event], None],
        backlog_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        self.number = number
        self._environment = environment
        self._surroundings = surroundings
        self._watch = watch
        self._post = post
        self._backlog_bytes = backlog_bytes  # of the sessions
        self._loop = asyncio.get_running_loop()
        self._control, self._theirs = control.pair()
        self._control.setblocking(False)
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = self._stderr_fd = -1
        self._said = b""  # the tail of its standard error while it starts
        self._ready = self._given_up = False
        self.started_boot_ns = self.ready_boot_ns = 0  # CLOCK_BOOTTIME, for the event log
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._waiting: list[on.StartWorker | on.CheckModules] = []  # for the template to be up
        self.workers: dict[int, WorkerHandle] = {}
        self._limit: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int:
        """The template's process, 0 before it was started."""
        return self._process.pid if self._process is not None else 0

    # --- starting -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process; TemplateFailed follows if it does not come up."""
        limits = dict(self._environment.get("limits", {}))
        setup = {
            "path": list(self._environment["path"]),
            "cwd": self._environment["cwd"],
            "version": list(self._environment["version"]),
            "limits": limits,
            "preload": list(self._environment["preload"]),
            "parent_pid": os.getpid(),
            "stderr_fd": 2,
            "sched": self._surroundings.sched,
            "descriptors": limits.get("nofile", self._surroundings.descriptors),
        }
        self.started_boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        real_stderr = os.dup(2)
        try:
            setup["stderr_fd"] = real_stderr
            with _stack_limit(limits.get("stack")):
                self._process = self._exec(write_end, real_stderr)
            control.send_packet(self._control, json.dumps(setup).encode())
        except (OSError, ValueError) as error:
            self._said = str(error).encode()
        finally:
            os.close(write_end)
            os.close(real_stderr)
            self._theirs.close()
        self._stderr_fd = read_end
        os.set_blocking(read_end, False)
        self._loop.add_reader(read_end, self._read_stderr)
        if self._process is None:
            self._loop.call_soon(self._finished)
            return
        self._surroundings.templates.add(self._process.pid)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._pidfd, self._on_exit)
        self._loop.add_reader(self._control, self._on_readable)
        self._limit = self._loop.call_later(START_LIMIT_S, self._too_slow)

    def _exec(self, stderr_fd: int, real_stderr: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self._environment["python"], "-P", "-c", BOOTSTRAP, str(self._theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stderr=stderr_fd,
            pass_fds=(self._theirs.fileno(), real_stderr),
            env=template_variables(self._environment["vars"], self._surroundings.slice_id),
            start_new_session=True,
        )

    def _too_slow(self) -> None:
        self._said += f"\nit was not ready after {START_LIMIT_S:g} s".encode()
        self.kill_template()

    def _on_ready(self, message: control.Message) -> None:
        problem = self._mismatch(message)
        if problem:
            self._said = problem.encode()
            self.kill_template()
            return
        self._ready = True
        self.ready_boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._end_limit()
        if self._said:
            with contextlib.suppress(OSError):
                os.write(2, self._said)  # warnings of the imports belong where prints of functions go
        for order in self._waiting:
            if isinstance(order, on.CheckModules):
                self.check_modules(order)
            else:
                self._fork(order)
        self._waiting.clear()

    def _mismatch(self, message: control.Message) -> str:
        """Why this interpreter can't serve the client, or nothing."""
        wanted, got = self._environment, message
        if abs(got["protocol"] - control.PROTOCOL) > 1:
            return f"its rfaas speaks version {got['protocol']} to the agent's {control.PROTOCOL}"
        if list(got["python"][:2]) != list(wanted["version"][:2]):
            mine, theirs = (".".join(map(str, version)) for version in (got["python"], wanted["version"]))
            return f"{wanted['python']} is Python {mine} on {self._surroundings.node}, but {theirs} at the client"
        if got["implementation"].lower() != wanted["implementation"].lower():
            return f"{wanted['python']} is {got['implementation']} here, but {wanted['implementation']} at the client"
        return ""

    # --- commands -------------------------------------------------------------------------------

    def start_worker(self, order: on.StartWorker) -> None:
        """Have a worker made, now or when the template is up; WorkerForked or WorkerDead follows."""
        if self._process is None or (self._pidfd < 0 and self._ready):
            self._post(on.WorkerDead(order.worker, EX_OSERR, 0, hint="its template has ended"))
            return
        self.workers[order.worker] = WorkerHandle(order.worker, order.memory_bytes, self._post)
        if self._ready:
            self._fork(order)
        else:
            self._waiting.append(order)

    def check_modules(self, order: on.CheckModules) -> None:
        """Have modules looked for, now or when the template is up, and before the workers that are ordered later."""
        if not self._ready:
            self._waiting.append(order)
            return
        modules = [list(module) for module in order.modules]
        self._unsent.append((control.pack({"m": "check", "lease": order.lease_id, "modules": modules}), ()))
        self._send_waiting()

    def _fork(self, order: on.StartWorker) -> None:
        handle = self.workers[order.worker]
        try:
            agent_end = handle.open()
            limit_bytes = order.output_limit_bytes
            pipes = handle.open_output(limit_bytes, self._backlog_bytes) if limit_bytes else ()
        except OSError as error:  # no descriptor, memory or file size is left for it
            self._give_up_on(handle, f"the agent can't make another worker: {error}")
            return
        message = {
            "m": "fork",
            "worker": order.worker,
            "slot": order.slot,
            "generation": order.generation,
            "cpus": list(order.cpus) or None,
            "data_bytes": data_allowance_bytes(order.memory_bytes),
            "node": self._surroundings.node,
            "output": AS_BEFORE if limit_bytes is None else PIPES if limit_bytes else DISCARDED,
        }
        descriptors = (agent_end.detach(), handle.page.detach(), *pipes)  # its mapping is enough here
        self._unsent.append((control.pack(message), descriptors))
        self._send_waiting()

    def _give_up_on(self, handle: WorkerHandle, hint: str) -> None:
        """A worker can't be had, and no process of it exists or matters."""
        self.workers.pop(handle.number, None)
        handle.close()
        log.error("worker not made worker=%d why=%s", handle.number, hint)
        self._post(on.WorkerDead(handle.number, EX_OSERR, 0, hint=hint))

    def _send_waiting(self) -> None:
        while self._unsent:
            packet, descriptors = self._unsent[0]
            try:
                control.send_packet(self._control, packet, descriptors)
            except BlockingIOError:
                self._loop.add_writer(self._control, self._send_waiting)
                return
            except OSError:  # the template has died; its end is seen to by `_on_exit`
                pass
            self._unsent.popleft()
            for descriptor in descriptors:
                os.close(descriptor)
        if self._control.fileno() >= 0:
            self._loop.remove_writer(self._control)

    def drain(self, number: int, kill_at_s: float | None) -> None:
        """Tell a worker to finish and leave; one that does not exist yet never will."""
        if not self._cancel(number) and number in self.workers:
            self.workers[number].drain(kill_at_s)

    def interrupt(self, number: int, page_slot: int, call_id: int) -> None:
        """Take a call back; CallInterrupted follows if it runs."""
        if number in self.workers:
            self.workers[number].interrupt(page_slot, call_id)

    def kill(self, number: int) -> None:
        """SIGKILL a worker; WorkerDead follows."""
        if not self._cancel(number) and number in self.workers:
            self.workers[number].kill()

    def hand_over(self, order: on.HandOver, descriptor: int, key: bytes = b"") -> None:
        """Pass a connection to a worker; the descriptor stays the caller's. A worker that is gone never gets it.

        Args:
            key: of medium "tls", else empty.
        """
        if order.worker in self.workers:
            self.workers[order.worker].hand_over(order, descriptor, key)

    def _cancel(self, number: int) -> bool:
        """Take back an order that the template has not got yet."""
        for order in self._waiting:
            if isinstance(order, on.StartWorker) and order.worker == number:
                self._waiting.remove(order)
                del self.workers[number]
                self._post(on.WorkerDead(number, 0, 0, hint="it was not started yet"))
                return True
        return False

    def stop(self) -> None:
        """End the template; TemplateGone (or, if it never came up, TemplateFailed) follows.

        By SIGKILL: it has no worker and nothing to save, and an owner may wait for these cores. Asked to leave, it
        would have to be scheduled first, behind everything else, and to load a module, from a file system that may be
        cold.
        """
        self._end_limit()
        self.kill_template()

    def kill_template(self) -> None:
        """SIGKILL; its workers get theirs from the kernel."""
        self._given_up = True
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def usages(self) -> Iterator[tuple[int, on.WorkerUsage]]:
        """What each worker that runs has cost so far, by its number."""
        for number, handle in self.workers.items():
            if handle.pid:
                yield number, handle.usage()

    # --- what the template says -----------------------------------------------------------------

    def _read_stderr(self) -> None:
        try:
            data = os.read(self._stderr_fd, 65536)
        except BlockingIOError:
            return
        if not data:
            self._close_stderr()
        elif self._ready:
            with contextlib.suppress(OSError):
                os.write(2, data)
        else:
            self._said = (self._said + data)[-STDERR_KEPT_BYTES:]

    def _on_readable(self) -> None:
        """Take every message that waits."""
        while self._control.fileno() >= 0:
            try:
                received = control.receive(self._control)
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:
                self._close_control()
                return
            self._take(*received)

    def _take(self, message: control.Message, descriptors: list[int]) -> None:
        if message["m"] == "ready":
            self._on_ready(message)
        elif message["m"] == "differ":
            differ = tuple((name, here, there) for name, here, there in message["modules"])
            self._post(on.ModulesDiffer(message["lease"], differ))
        elif message["m"] == "forked":
            if message["spawned"]:
                log.warning(
                    "worker spawned worker=%d pid=%d why=%s", message["worker"], message["pid"], message["spawned"]
                )
            self._on_forked(message, descriptors)
        elif message["m"] == "exited":
            handle = self.workers.pop(message["worker"])
            handle.end_output()
            usage, status, signo = handle.usage(message.get("cpu_ns", 0)), message["exit_status"], message["signal"]
            beyond = self._watch.remove(handle.number, signo)
            hint = beyond.hint if beyond else message.get("hint", "") or handle.last_words()
            code = beyond.reason_code if beyond else 0
            self._post(on.WorkerDead(handle.number, status, signo, handle.calls(), hint, usage, code))
            handle.close()

    def _on_forked(self, message: control.Message, descriptors: list[int]) -> None:
        worker = self.workers[message["worker"]]
        if not descriptors:  # the kernel drops what finds no room in our table (recvmsg: MSG_CTRUNC)
            log.error("out of descriptors, worker let go worker=%d pid=%d", message["worker"], message["pid"])
            worker.hang_up()  # without us it ends by itself, and the template says so
            return
        worker.forked(message["pid"], descriptors[0])
        self._watch.add(worker.number, worker.pid, worker.memory_bytes, worker.runs_call)
        self._post(on.WorkerForked(message["worker"], message["pid"], message["spawned"]))

    # --- its end --------------------------------------------------------------------------------

    def _on_exit(self) -> None:
        """It is dead; its workers get SIGKILL from the kernel. First hear what it said last."""
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._end_limit()
        if self._control.fileno() >= 0:
            self._on_readable()
            self._close_control()
        assert self._process is not None
        self._process.wait()
        placing.remove(self._process.pid)  # in case it was killed
        self._surroundings.templates.discard(self._process.pid)
        if self._stderr_fd >= 0:
            self._read_stderr()
        self._finished()

    def _finished(self) -> None:
        self._close_control()
        self._close_stderr()
        for _, descriptors in self._unsent:
            for descriptor in descriptors:
                os.close(descriptor)
        self._unsent.clear()
        if not self._ready:
            for handle in self.workers.values():
                handle.close()
            self.workers.clear()
            status = self._process.returncode if self._process is not None else 0
            self._post(on.TemplateFailed(self.number, self._failure(), killed=status < 0 and not self._given_up))
            return
        self._post(on.TemplateGone(self.number))
        if self.workers:
            self._loop.create_task(self._see_workers_dead())

    def _failure(self) -> str:
        """What a client should read: the last words of its own interpreter."""
        lines = self._said.decode(errors="replace").strip().splitlines()[-20:]
        status = self._process.returncode if self._process is not None else None
        how = "" if status is None else f" (it ended with status {status})"
        said = "\n".join(lines) or "it said nothing"
        return f"{self._environment['python']} can't run functions on {self._surroundings.node}{how}:\n{said}"

    async def _see_workers_dead(self) -> None:
        """Prove the deaths of workers whose template died: the agent has inherited them."""
        for handle in list(self.workers.values()):
            await handle.inherited_death(self._surroundings.owns_children)
        if self._surroundings.owns_children:
            await self._kill_strays()
        for handle in self.workers.values():
            handle.end_output()
            self._watch.remove(handle.number)
            hint, calls = "the worker's template process died", handle.calls()
            self._post(on.WorkerDead(handle.number, 0, signal.SIGKILL, calls, hint, handle.usage(handle.cpu_ns)))
            handle.close()
        self.workers.clear()

    async def _kill_strays(self) -> None:
        """Kill and reap what dead workers left to this process."""
        while strays := family.children() - self._surroundings.templates:
            family.kill_trees(strays)
            await asyncio.sleep(0.002)

    def _end_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _close_control(self) -> None:
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control)
            self._loop.remove_writer(self._control)
            self._control.close()

    def _close_stderr(self) -> None:
        if self._stderr_fd >= 0:
            self._loop.remove_reader(self._stderr_fd)
            os.close(self._stderr_fd)
            self._stderr_fd = -1


@contextlib.contextmanager
def _stack_limit(soft: int | None) -> Iterator[None]:
    """Have what is started within this get a client's soft limit of the stack, which counts from exec on.

    The agent's own limit is another meanwhile: it has one thread, whose stack is far from either.
    """
    old = resource.getrlimit(resource.RLIMIT_STACK)
    if soft is None:
        yield
        return
    wanted = family.lower(soft, old[1])
    if 0 <= wanted < LEAST_STACK_BYTES:
        wanted = LEAST_STACK_BYTES
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_STACK, (wanted, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, old)


def template_variables(client: Mapping[str, str], slice_id: bytes) -> dict[str, str]:
    """The environment variables of a template."""
    mine = {name: os.environ[name] for name in INHERITED if name in os.environ}
    ours = {MARKER: slice_id.hex(), MARKS: "none"}
    return {**mine, **dict.fromkeys(ONE_THREAD, "1"), **client, **ours}
