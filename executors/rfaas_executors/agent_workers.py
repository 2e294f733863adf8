"""The part of the agent's core that seats, replaces and ends workers, and keeps templates.

Sans-IO like `agent_core`, of which it is a part: it asks for effects through the core and changes no lease by itself.
Specs: docs/spec/001-invocation.md section 5 (farewell), 004-session.md section 2.
"""

from __future__ import annotations

import signal
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgpack

from rfaas.control.lease import LeaseEvent, LeaseState
from rfaas.control.messages import WorkersSpawned
from rfaas.session.modules import REMEDY, Difference, describe
from rfaas_executors import agent_events as on
from rfaas_executors.agent_records import Held, Seat, Template, Worker
from rfaas_transport.errors import ReasonCode
from rfaas_transport.handshake_machine import ENCRYPTION_REQUIRED, ENCRYPTION_UNAVAILABLE, VERBS_UNAVAILABLE

if TYPE_CHECKING:
    from rfaas_executors.agent_core import AgentCore

MEDIA = ("", "shm", "tls", "verbs")  # what a data connection may say of itself (004 section 1)
PAGE_SLOTS = 64  # of a state page: channels that a worker may have at once
FAILURE_KEPT_S = 1.0  # an environment that just failed is not tried again for so long
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)
TEMPLATE_TRIES = 3  # of an environment whose templates are killed while they start, by memory pressure or by chance


class WorkerBook:
    """Workers and templates of one agent."""

    def __init__(self, core: AgentCore) -> None:
        self._core = core
        self.templates: dict[int, Template] = {}
        self.workers: dict[int, Worker] = {}
        self._generations: dict[int, int] = {}  # by slot: a name is never used twice
        self._failures: dict[bytes, tuple[float, str]] = {}  # by environment: until when, and why
        self._killed: dict[bytes, int] = {}  # by environment: templates in a row that were killed before they were up
        self._last_number = 0

    def _number(self) -> int:
        self._last_number += 1
        return self._last_number

    # --- starting -------------------------------------------------------------------------------

    def seat_workers(self, held: Held, environment: on.Environment, n_workers: int) -> None:
        """Start the workers of a lease that was attached for the first time."""
        if held.is_memory:
            self._seat_memory(held, held.seats[0])
            return
        held.environment = environment
        held.key = sha256(msgpack.packb(environment)).digest()
        until_s, hint = self._failures.get(held.key, (0.0, ""))
        if self._core.now_s < until_s:
            self._give_up(held, hint)
            return
        if held.modules:  # before its workers: the template answers in order
            template = self._template_for(held.key, environment).number
            self._core.do(on.CheckModules(template, held.terms.lease_id, held.modules))
        for seat in held.seats[: max(0, n_workers)]:
            self._seat(held, seat)

    def _template_for(self, key: bytes, environment: on.Environment) -> Template:
        """The template of an environment, started if there is none."""
        for template in self.templates.values():
            if template.key == key and not template.stopping:
                template.idle_since_s = None
                return template
        template = Template(self._number(), key, environment)
        self.templates[template.number] = template
        self._core.do(on.StartTemplate(template.number, environment))
        return template

    def _seat(self, held: Held, seat: Seat) -> None:
        template = self._template_for(held.key, held.environment).number
        held.template = template
        worker = self._new_worker(held, seat, template)
        cpus = self._core.config.cpus
        pinned = tuple(cpus[core] for core in seat.cores) if cpus else ()
        limits = held.output_limit_bytes, held.terms.memory_bytes_per_worker
        self._core.do(on.StartWorker(worker.number, template, seat.slot, worker.generation, pinned, *limits))

    def _seat_memory(self, held: Held, seat: Seat) -> None:
        """Start the server of a lease of memory, which is never replaced: its content is gone with it."""
        worker = self._new_worker(held, seat, template=0)
        order = on.StartMemory(worker.number, seat.slot, worker.generation, held.terms.memory_bytes)
        self._core.do(order)

    def _new_worker(self, held: Held, seat: Seat, template: int) -> Worker:
        generation = self._generations.get(seat.slot, 0) + 1
        self._generations[seat.slot] = generation
        number = self._number()
        seat.refill_at_s = None
        seat.worker = Worker(number, held.terms.lease_id, seat.slot, generation, template, self._core.now_s)
        self.workers[number] = seat.worker
        return seat.worker

    def speak_again(self, held: Held) -> None:
        """Tell a session that attached again what it may not know: what ended unheard, and who lives."""
        for words in held.unsaid:
            self._core.say(held, words)
        held.unsaid.clear()
        for worker in held.workers:
            if worker.pid:
                self._core.say(held, _worker_up(worker))
        if held.lease.state is LeaseState.DRAINING:
            self._core.say(held, self._core.notice([held.terms.lease_id], held.lease.reason_code))

    # --- events ---------------------------------------------------------------------------------

    def step(self, event: on.Event) -> None:
        """Take an event about a worker or template; one about what is gone already changes nothing."""
        match event:
            case on.WorkerForked():
                self._on_forked(event)
            case on.WorkerDead():
                self._on_dead(event)
            case on.ChannelEnded():
                self._on_channel_ended(event)
            case on.CallOverdue(number):
                if number in self.workers:
                    self._kill(self.workers[number], ReasonCode.CALL_TIMEOUT)
            case on.CallInterrupted(number):
                if number in self.workers:
                    self._kill(self.workers[number], ReasonCode.CALL_INTERRUPTED)
            case on.Printed() | on.PrintedAll():
                self._on_printed(event)
            case on.ModulesDiffer(lease_id, modules):
                self._on_modules_differ(lease_id, modules)
            case on.LimitExceeded(number, reason_code, hint):
                if number in self.workers:
                    self._kill(self.workers[number], reason_code, hint)
            case on.TemplateFailed():
                self._on_template_failed(event)
            case on.TemplateGone(number):
                self.templates.pop(number, None)

    def _on_forked(self, event: on.WorkerForked) -> None:
        worker = self.workers.get(event.worker)
        if worker is None:
            return
        held = self._core.leases[worker.lease_id]
        worker.pid, worker.spawned, worker.forked_s = event.pid, event.spawned, self._core.now_s
        self._killed.pop(held.key, None)
        self._core.say(held, _worker_up(worker))
        if held.spawned != event.spawned:
            held.spawned = event.spawned
            self._core.record("spawned", lease=worker.lease_id, why=event.spawned)
            said = WorkersSpawned(held.terms.lease_id, held.terms.epoch, event.spawned)
            self._core.do(on.ToAllocator(said))

    def _on_modules_differ(self, lease_id: bytes, modules: tuple[Difference, ...]) -> None:
        """Tell the client, before any of its workers is up; or refuse the lease, if it wants that."""
        held = self._core.leases.get(lease_id)
        if held is None or held.ending:
            return
        if held.modules_strict:
            self._give_up(held, f"{describe(modules, self._core.config.slice.node)}; remedy: {REMEDY}")
        else:
            words = {"m": "differs", "lease": lease_id, "modules": [list(difference) for difference in modules]}
            self._core.say(held, words)

    def _on_printed(self, event: on.Printed | on.PrintedAll) -> None:
        """Tell a session that listens now; output is not kept for one that may come."""
        worker = self.workers.get(event.worker)
        held = self._core.leases[worker.lease_id] if worker is not None else None
        if worker is None or held is None or held.session is None:
            return
        words = {"lease": worker.lease_id, "channel": event.channel, "call_id": event.call_id}
        if isinstance(event, on.Printed):
            words |= {"slot": worker.slot, "generation": worker.generation, "stream": event.stream}
            words |= {"m": "output", "data": event.data, "cut_bytes": event.cut_bytes, "over": event.over}
        else:
            words["m"] = "output-complete"
        self._core.do(on.ToSession(held.session, words))

    def on_data(self, offer: on.DataOffered) -> None:
        """Hand a data connection to the worker it asks for, or turn it away."""
        held = self._core.leases.get(offer.lease_id)
        seat = held.seat(offer.slot) if held is not None else None
        worker = seat.worker if seat is not None else None
        if held is None or worker is None or worker.generation != offer.generation or worker.killed_for:
            self._turn_away(offer, "there is no such worker")
        elif held.lease.state is not LeaseState.ACTIVE and not (held.is_memory and not held.fenced):
            self._turn_away(offer, "the lease takes no calls any more")
        elif offer.medium not in MEDIA:
            self._turn_away(offer, f"no medium {offer.medium!r} is known here")
        elif offer.medium == "tls" and self._core.config.cannot_encrypt:
            self._core.do(on.TurnAway(offer.connection, ENCRYPTION_UNAVAILABLE, self._core.config.cannot_encrypt))
        elif offer.medium in ("", "verbs") and offer.over_network and self._core.config.encrypted_only:
            hint = 'transport_security = "encrypt" is set for the agent'
            self._core.do(on.TurnAway(offer.connection, ENCRYPTION_REQUIRED, hint))
        elif offer.obstacle:
            self._core.do(on.TurnAway(offer.connection, VERBS_UNAVAILABLE, offer.obstacle))
        elif offer.channel in worker.channels:
            self._turn_away(offer, "the worker has a channel of this number")
        elif (page_slot := worker.free_page_slot(PAGE_SLOTS)) is None:
            self._turn_away(offer, f"the worker has {PAGE_SLOTS} channels already")
        else:
            worker.channels[offer.channel] = page_slot
            terms = held.terms
            self._core.do(
                on.HandOver(
                    offer.connection,
                    worker.number,
                    offer.channel,
                    page_slot,
                    terms.lease_seq,
                    terms.epoch,
                    terms.lease_id.hex(),
                    terms.holder.hex(),
                    offer.medium,
                    offer.hot_for_s,
                )
            )

    def interrupt(self, held: Held, slot: int, generation: int, channel: int, call_id: int) -> None:
        """Take back a call that may run on this worker; nothing if the worker or the channel is gone."""
        seat = held.seat(slot)
        worker = seat.worker if seat is not None else None
        if worker is not None and worker.generation == generation and channel in worker.channels:
            self._core.do(on.InterruptCall(worker.number, worker.channels[channel], call_id))

    def _turn_away(self, offer: on.DataOffered, hint: str) -> None:
        self._core.do(on.TurnAway(offer.connection, "not-found", hint))

    def _on_channel_ended(self, event: on.ChannelEnded) -> None:
        """Say farewell for a channel whose worker lives on: the client may not have closed it."""
        worker = self.workers.get(event.worker)
        if worker is None or worker.channels.pop(event.channel, None) is None or event.calls is None:
            return
        started, done = event.calls
        words = {
            "m": "farewell",
            "lease": worker.lease_id,
            "slot": worker.slot,
            "generation": worker.generation,
            "channel": event.channel,
            "last_started": started,
            "last_done": done,
            "reason_code": int(ReasonCode.NONE),
            "exit_status": None,
            "signal": None,
            "grace_s": None,
            "hint": "the connection ended, its worker lives on",
        }
        held = self._core.leases[worker.lease_id]
        self._core.say(held, words)
        if event.violated:
            self._core.end_for_violation(held, event.channel)

    def _on_dead(self, death: on.WorkerDead) -> None:
        """Say farewell for each channel, then that it is down, and seat another or see whether its lease is free."""
        worker = self.workers.pop(death.worker, None)
        if worker is None:
            return
        held = self._core.leases[worker.lease_id]
        seat = held.seat(worker.slot)
        assert seat is not None
        seat.worker = None
        self._core.usage.worker_died(held, worker, death.usage)
        reason_code = _reason(worker, held, death)
        common = {
            "lease": worker.lease_id,
            "slot": worker.slot,
            "generation": worker.generation,
            "reason_code": int(reason_code),
            "exit_status": death.exit_status,
            "signal": death.signal,
            "hint": worker.killed_because or death.hint or _describe(reason_code, death),
        }
        grace_s = self._core.grace_s if held.lease.reason == "reclaimed" else 0.0
        for channel in worker.channels:
            started, done = death.calls.get(channel, (0, 0))
            calls = {"channel": channel, "last_started": started, "last_done": done, "grace_s": grace_s}
            self._core.say(held, {"m": "farewell", **common, **calls})
        self._core.say(held, {"m": "worker-down", **common})
        if held.ending:
            self._core.free_if_dead(held)
        elif held.is_memory:
            self._core.end(held, LeaseEvent.LOST, int(reason_code))
        else:
            self._replace(held, seat, worker, served=any(done for _, done in death.calls.values()))

    def _replace(self, held: Held, seat: Seat, dead: Worker, *, served: bool) -> None:
        """Have another worker in its seat: at once, or after a pause when they keep dying young."""
        pause_s = seat.back_off_s(self._core.now_s - dead.wanted_s, served)
        if pause_s:
            seat.refill_at_s = self._core.now_s + pause_s
        else:
            self._seat(held, seat)

    def _on_template_failed(self, failure: on.TemplateFailed) -> None:
        """The environment can't be had here: its leases are refused and end; none of the workers ever ran."""
        template = self.templates.pop(failure.template, None)
        if template is None:
            return
        again = self._try_again(template, failure)
        if not again and not template.stopping:
            self._failures[template.key] = (self._core.now_s + FAILURE_KEPT_S, failure.hint)
        for held in [held for held in self._core.leases.values() if held.template == failure.template]:
            seats = [seat for seat in held.seats if seat.worker is not None]
            for seat in seats:
                assert seat.worker is not None
                del self.workers[seat.worker.number]
                seat.worker = None
            if held.ending:
                self._core.free_if_dead(held)
            elif again:
                for seat in seats:
                    self._seat(held, seat)
            else:
                self._give_up(held, failure.hint)

    def _try_again(self, template: Template, failure: on.TemplateFailed) -> bool:
        """True if a template was killed while it started, and that is no habit of its environment yet."""
        if not failure.killed or template.stopping:
            return False
        killed = self._killed.pop(template.key, 0) + 1
        if killed < TEMPLATE_TRIES:
            self._killed[template.key] = killed
        return killed < TEMPLATE_TRIES

    def _give_up(self, held: Held, hint: str) -> None:
        refusal = {"m": "refused", "lease": held.terms.lease_id, "code": "environment-failed", "hint": hint}
        self._core.say(held, refusal)
        self._core.end(held, LeaseEvent.RELEASE, ReasonCode.OWNER_RELEASE)

    # --- ending ---------------------------------------------------------------------------------

    def drain(self, held: Held, kill_at_s: float) -> None:
        """Tell the workers of a lease to finish and leave by then; a region stays readable until it is ended."""
        for worker in held.workers if not held.is_memory else ():
            self._core.do(on.DrainWorker(worker.number, kill_at_s))

    def kill(self, held: Held, reason_code: int) -> None:
        """End the workers of a lease now."""
        for worker in held.workers:
            self._kill(worker, reason_code)

    def _kill(self, worker: Worker, reason_code: int, because: str = "") -> None:
        if not worker.killed_for:
            worker.killed_for = reason_code or ReasonCode.ADMIN
            worker.killed_because = because
            self._core.do(on.KillWorker(worker.number))

    def forget(self, held: Held) -> None:
        """A lease is free: its template may go when nobody else needs it."""
        template = self.templates.get(held.template) if held.template is not None else None
        if template is not None and not any(h.template == template.number for h in self._core.leases.values()):
            template.idle_since_s = self._core.now_s

    def stop_templates(self) -> None:
        """End every template; none has a worker any more."""
        for template in self.templates.values():
            self._stop(template)

    def _stop(self, template: Template) -> None:
        if not template.stopping:
            template.stopping = True
            self._core.do(on.StopTemplate(template.number))

    # --- time -----------------------------------------------------------------------------------

    def due(self) -> list[float | None]:
        """When something here wants a Tick."""
        linger_s = self._core.config.template_linger_s
        moments: list[float | None] = [
            template.idle_since_s + linger_s
            for template in self.templates.values()
            if template.idle_since_s is not None and not template.stopping
        ]
        for held in self._core.leases.values():
            if not held.ending:
                moments += [seat.refill_at_s for seat in held.seats]
        return moments

    def on_time(self) -> None:
        """Refill seats whose pause is over; end templates that nobody needed for a while."""
        now_s = self._core.now_s
        for held in self._core.leases.values():
            for seat in held.seats if not held.ending else ():
                if seat.refill_at_s is not None and now_s >= seat.refill_at_s:
                    self._seat(held, seat)
        for template in self.templates.values():
            if (
                template.idle_since_s is not None
                and now_s >= template.idle_since_s + self._core.config.template_linger_s
            ):
                self._stop(template)


def _worker_up(worker: Worker) -> dict[str, Any]:
    return {
        "m": "worker-up",
        "lease": worker.lease_id,
        "slot": worker.slot,
        "generation": worker.generation,
        "pid": worker.pid,
    }


def _reason(worker: Worker, held: Held, death: on.WorkerDead) -> int:
    """Why a worker ended: what the agent killed it for, its lease's end if it left in order, else its own doing."""
    if worker.killed_for and not _had_crashed(worker, death):
        return worker.killed_for
    if held.ending and death.signal == 0 and death.exit_status == 0:
        return held.lease.reason_code
    if death.reason_code:
        return death.reason_code
    return ReasonCode.WORKER_CRASHED if death.signal else ReasonCode.WORKER_EXITED


def _had_crashed(worker: Worker, death: on.WorkerDead) -> bool:
    """True if a worker was interrupted because its connection had ended, and that because it was crashing already.

    A crash with gigabytes to be freed closes its connections long before it is over.
    """
    return worker.killed_for == ReasonCode.CALL_INTERRUPTED and death.signal in _CRASHES


def _describe(reason_code: int, death: on.WorkerDead) -> str:
    if death.signal:
        try:
            how = f"was killed by {signal.Signals(death.signal).name}"
        except ValueError:  # a real-time signal has no name
            how = f"was killed by signal {death.signal}"
        if death.signal in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT):
            how += ": a bug in compiled code, or a stack that overflowed; what it said is where prints of functions go"
    else:
        how = f"exited with status {death.exit_status}"
    return f"the worker {how} ({ReasonCode(reason_code).text})"
