"""The agent of one slice: an asyncio shell around `AgentCore`.

Must not decide (the core does) and must not let user code run here. One loop, one thread: the one that starts templates
must live as long as the agent, because their lives hang on it. Specs: docs/spec/002-lease.md, 004-session.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from rfaas.control.eventlog import EventLog
from rfaas.control.links import Dial, Link, LinkBroken
from rfaas.control.messages import AgentMessage, AllocatorToAgent, Neighbours
from rfaas_executors import agent_events as on
from rfaas_executors.agent_core import AgentCore
from rfaas_executors.doors import Doors
from rfaas_executors.guard import Guard, GuardSetup
from rfaas_executors.memory_host import MemoryHost
from rfaas_executors.template_host import Surroundings, TemplateHost
from rfaas_executors.watch import Watch
from rfaas_executors.worker_handle import WorkerHandle
from rfaas_transport.errors import ReasonCode, RfaasError
from rfaas_transport.socket_options import KERNELS_OPTIONS, SocketOptions

log = logging.getLogger(__name__)

FLUSH_S = 0.2  # for last words to allocator and sessions (002 section 8)
FIRST_RETRY_S, LONGEST_RETRY_S = 0.05, 5.0
DialAllocator = Dial[AgentMessage, AllocatorToAgent]


class Agent:
    """Runs one slice.

    Args:
        config: what it offers; `config.slice.session_address` is where `listener` listens.
        dial: makes a link to the allocator; called again, with pauses, whenever the link breaks.
        secret: 32 bytes shared with the session processes that may attach.
        listener: a listening socket, the agent's from now on.
        on_record: told every event with its fields, as the event log is.
        options: of the sockets of data connections.
        guard: how it guards the jobs beside it; None: it does not.
        on_leaving: told the guard's last verdict when the slice goes back because of it.
    """

    def __init__(
        self,
        config: on.AgentConfig,
        dial: DialAllocator,
        secret: bytes,
        *,
        listener: socket.socket,
        surroundings: Surroundings,
        on_record: Callable[[str, Mapping[str, object]], None] | None = None,
        options: SocketOptions = KERNELS_OPTIONS,
        guard: GuardSetup | None = None,
        on_leaving: Callable[[Neighbours], None] | None = None,
    ) -> None:
        self._on_record = on_record
        self._on_leaving = on_leaving
        self.core = AgentCore(config, _now_s())
        self._dial = dial
        self._surroundings = surroundings
        self._doors = Doors(listener, secret, self._step, options)
        self._doors.hand_over = self._hand_over
        self._watch = Watch(self._post, surroundings.templates, surroundings.most_tasks)
        self._hosts: dict[int, TemplateHost] = {}
        self._memory: dict[int, MemoryHost] = {}  # by worker
        self._host_of: dict[int, TemplateHost | MemoryHost] = {}  # by worker
        self._link: Link[AgentMessage, AllocatorToAgent] | None = None
        about = config.slice
        self._guard: Guard | None = None
        if guard is not None:
            self._guard = Guard(guard, about.node, about.job_id, self._handles, self._post)
        self._event_log = EventLog.from_environment("agent")
        self._timer: asyncio.TimerHandle | None = None
        self._left = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> int:
        """Serve until the slice goes back to its owner; return the exit status. Nothing of it lives then."""
        self._loop = asyncio.get_running_loop()
        tasks = [self._loop.create_task(work) for work in (self._left.wait(), self._doors.serve(), self._keep_linked())]
        try:
            self._step(on.Tick())
            if self._guard is not None:
                self._guard.start()
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:  # only `left` may end; what failed is raised here
                task.result()
            await self._last_words()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._timer is not None:
                self._timer.cancel()
            if self._guard is not None:
                self._guard.stop()
            for host in self._all_hosts():  # only after a failure or a cancellation is one left
                host.kill_template()
            self._watch.close()
            await self._doors.close(FLUSH_S)
            if self._link is not None:
                self._link.close()
        return 0

    def request_reclaim(self, reason_code: int = ReasonCode.SLURM_PREEMPT, *, at_once: bool = False) -> None:
        """Begin to give the slice back; `run` returns when it is done. A second time changes nothing but by `at_once`.

        Args:
            reason_code: why, for sessions and allocator; the first counts.
            at_once: running calls get no time, also if a drain has begun.
        """
        self._step(on.ReclaimAsked(reason_code, at_once))

    def snapshot(self) -> dict[str, Any]:
        """The agent's state for people and tests."""
        return self.core.snapshot()

    # --- the core -------------------------------------------------------------------------------

    def _step(self, event: on.Event) -> None:
        """Feed the core and carry out what it asks for. Not re-entered: what effects cause comes by `_post`."""
        if isinstance(event, on.Neighboured) and event.about.verdict == "leave" and self._on_leaving is not None:
            self._on_leaving(event.about)
        for effect in self.core.step(event, _now_s()):
            self._carry_out(effect)
        self._set_timer()

    def _post(self, event: on.Event) -> None:
        assert self._loop is not None
        self._loop.call_soon(self._step, event)

    def _set_timer(self) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake_at_s = self.core.wake_at_s
        if wake_at_s is not None and not self.core.left:
            self._timer = self._loop.call_later(max(0.0, wake_at_s - _now_s()), self._step, on.Tick())

    def _carry_out(self, effect: on.Effect) -> None:
        if self._guard is not None and isinstance(effect, on.DrainWorker | on.KillWorker | on.InterruptCall):
            if self.core.draining:
                self._guard.stop()
            self._guard.let_go(effect.worker)
        match effect:
            case on.ToAllocator(message):
                if self._link is not None:
                    self._link.send(message)
            case on.ToSession(session, message):
                self._doors.send(session, message)
            case on.HangUp(session, hint):
                log.warning("session broke the protocol session=%d hint=%s", session, hint)
                self._doors.hang_up(session)
            case on.HandOver() | on.TurnAway():
                self._doors.decide(effect)
            case on.StartTemplate(number, environment):
                self._start_template(number, environment)
            case on.StopTemplate(number):
                self._hosts[number].stop()
            case on.CheckModules(template) if template in self._hosts:
                self._hosts[template].check_modules(effect)
            case on.StartWorker():
                self._start_worker(effect)
            case on.StartMemory():
                self._start_memory(effect)
            case on.DrainWorker(worker, kill_at_s) if worker in self._host_of:  # else it never was, as the core hears
                self._host_of[worker].drain(worker, kill_at_s)
            case on.InterruptCall(worker, page_slot, call_id) if worker in self._host_of:
                self._host_of[worker].interrupt(worker, page_slot, call_id)
            case on.KillWorker(worker) if worker in self._host_of:
                self._host_of[worker].kill(worker)
            case on.ReadUsage():
                usages = {number: usage for host in self._all_hosts() for number, usage in host.usages()}
                self._post(on.UsageRead(usages))
            case on.Record(event, fields):
                self._event_log.write(event, **fields)
                if self._on_record is not None:
                    self._on_record(event, fields)
            case on.Leave():
                self._left.set()

    def _handles(self) -> dict[int, WorkerHandle]:
        """The workers that were forked."""
        return {number: one for host in self._hosts.values() for number, one in host.workers.items() if one.pid}

    def _start_template(self, number: int, environment: on.Environment) -> None:
        try:
            host = TemplateHost(
                number, environment, self._surroundings, self._watch, self._from_host, self._doors.backlog_bytes
            )
            host.start()
        except OSError as error:  # no descriptor or memory is left for it
            self._post(on.TemplateFailed(number, f"the agent can't start an interpreter: {error}"))
        else:
            self._hosts[number] = host

    def _start_worker(self, order: on.StartWorker) -> None:
        host = self._hosts.get(order.template)
        if host is None:
            self._post(on.WorkerDead(order.worker, 71, 0, hint="its template has ended"))
            return
        self._host_of[order.worker] = host
        host.start_worker(order)

    def _all_hosts(self) -> list[TemplateHost | MemoryHost]:
        return [*self._hosts.values(), *self._memory.values()]

    def _start_memory(self, order: on.StartMemory) -> None:
        try:
            host = MemoryHost(order, self._surroundings, self._watch, self._from_memory)
            self._memory[order.worker] = self._host_of[order.worker] = host
            host.start()
        except OSError as error:  # no descriptor or memory is left for it
            self._from_memory(on.WorkerDead(order.worker, os.EX_OSERR, 0, hint=f"no memory server: {error}"))

    def _from_memory(self, event: on.Event) -> None:
        self._post(event)
        if isinstance(event, on.WorkerDead):
            self._memory.pop(event.worker, None)
            self._host_of.pop(event.worker, None)

    def _from_host(self, event: on.Event) -> None:
        """What templates and workers say; forgets those that are gone once the core has heard it."""
        if isinstance(event, on.WorkerForked) and self._event_log.enabled:
            self._note_forked(event)
        self._post(event)
        assert self._loop is not None
        if isinstance(event, on.WorkerDead):
            self._loop.call_soon(self._host_of.pop, event.worker, None)
        elif isinstance(event, on.TemplateGone | on.TemplateFailed):
            self._hosts.pop(event.template, None)

    def _note_forked(self, event: on.WorkerForked) -> None:
        """Log when template and worker came to be: cold starts are taken apart by it."""
        host = self._host_of[event.worker]
        assert isinstance(host, TemplateHost)
        began = {"template_started_ns": host.started_boot_ns, "template_ready_ns": host.ready_boot_ns}
        self._event_log.write("forked", worker_pid=event.pid, **began)

    def _hand_over(self, order: on.HandOver, descriptor: int, key: bytes) -> None:
        host = self._host_of.get(order.worker)
        if host is not None:
            host.hand_over(order, descriptor, key)

    # --- the allocator --------------------------------------------------------------------------

    async def _keep_linked(self) -> None:
        """Have a link to the allocator, and after each break a new one; leases live on meanwhile."""
        retry_s = FIRST_RETRY_S
        while True:
            try:
                self._link = await self._dial()
            except (OSError, RfaasError, LinkBroken) as error:
                log.info("allocator not reached error=%s", error)
                await asyncio.sleep(retry_s * random.uniform(0.5, 1.0))  # many agents lose one allocator at once
                retry_s = min(LONGEST_RETRY_S, 2 * retry_s)
                continue
            retry_s = FIRST_RETRY_S
            self._step(on.AllocatorUp())
            with contextlib.suppress(LinkBroken):
                while True:
                    self._step(on.AllocatorSaid(await self._link.receive()))
            self._link = None
            log.info("allocator lost")
            self._step(on.AllocatorDown())
            await asyncio.sleep(FIRST_RETRY_S * random.uniform(0.5, 1.0))

    async def _last_words(self) -> None:
        if self._link is not None:
            with contextlib.suppress(LinkBroken, TimeoutError):
                await asyncio.wait_for(self._link.flush(FLUSH_S), 2 * FLUSH_S)


def _now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
