"""The agent's decisions: the only authority over its slice, as `step(event, now_s) -> effects`.

No I/O, clock, process or logging here: production runs nothing else, and neither do simulator and model check.
Specs: docs/spec/002-lease.md; 004-session.md section 2. Workers and templates: `agent_workers`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any

from rfaas.control.lease import Lease, LeaseEvent, LeaseState
from rfaas.control.messages import (
    MEMORY,
    Accepted,
    AllocatorToAgent,
    Ending,
    EndLease,
    EndSlice,
    Epoch,
    Freed,
    InstanceId,
    LeaseId,
    LeaseTerms,
    Propose,
    Refused,
    Register,
    Registered,
    Slice,
    SliceEmpty,
    StateChanged,
    Usage,
)
from rfaas_executors import agent_events as on
from rfaas_executors.agent_neighbours import NeighbourBook
from rfaas_executors.agent_records import CoreMap, Held, Seat
from rfaas_executors.agent_usage import UsageBook
from rfaas_executors.agent_workers import WorkerBook
from rfaas_transport.errors import ReasonCode

SHORTEST_TTL_S, LONGEST_TTL_S = 0.5, 3600.0
RELEASE_S = 0.1  # for idle workers of a released lease to leave in order; running calls are killed then
REMEMBERED = 1024  # ended leases, so that a repeated message about one is answered and not obeyed


class AgentCore:
    """Leases of one slice. Not thread-safe; every effect of a step is to be carried out in order.

    Args:
        now_s: the clock of all steps, at the start.
    """

    def __init__(self, config: on.AgentConfig, now_s: float) -> None:
        self.config = config
        self.epoch = Epoch(0)
        self.draining = False
        self.left = False
        self.leases: dict[bytes, Held] = {}
        self.cores = CoreMap(config.slice.cores)
        self.usage = UsageBook(self)
        self.neighbours = NeighbourBook(self)
        self.violations = 0  # leases that were ended because their client asked for memory without its key
        self._book = WorkerBook(self)
        self.linked = False
        self._ended: OrderedDict[bytes, tuple[str, int, Usage]] = OrderedDict()
        self._lonely_since_s = now_s
        self._busy_at_s = now_s  # when a lease was last there
        self._drain_until_s = 0.0
        self.grace_s = config.slice.grace_s  # what a reclaim gives, or gave
        self._reclaimed_s = now_s
        end_in_s = config.slice.end_in_s
        self.give_back_at_s = None if end_in_s is None else now_s + max(0.0, end_in_s - config.slice.grace_s)
        self._slice_end_s = None if end_in_s is None else now_s + end_in_s
        self._now_s = now_s
        self._effects: list[on.Effect] = []

    def step(self, event: on.Event, now_s: float) -> list[on.Effect]:
        """Take one event and return what is to be done, in order. Time that has passed is seen to first and last."""
        self._now_s, self._effects = now_s, []
        if self.leases:
            self._busy_at_s = now_s
        self._on(event)
        self._on_time()
        self._leave_if_done()
        return self._effects

    @property
    def wake_at_s(self) -> float | None:
        """When the next Tick is due; None: only another event can change anything."""
        due = [None if self.draining else self.give_back_at_s, self._abandoned_at_s(), self._idle_at_s()]
        for held in self.leases.values():
            due += [held.kill_at_s, None if held.ending else held.expires_at_s]
        due += [*self._book.due(), self.usage.due_s(), self.neighbours.due_s()]
        return min((moment_s for moment_s in due if moment_s is not None), default=None)

    def snapshot(self) -> dict[str, Any]:
        """The state for people and tests."""
        return {
            "epoch": self.epoch,
            "draining": self.draining,
            "linked": self.linked,
            "free_cores": self.cores.n_free,
            "leases": {
                held.terms.lease_id.hex(): {
                    "state": held.lease.state.value,
                    "cores": list(held.core_ids),
                    "workers": [
                        {"slot": w.slot, "generation": w.generation, "pid": w.pid, "spawned": w.spawned}
                        for w in held.workers
                    ],
                }
                for held in self.leases.values()
            },
        }

    def do(self, effect: on.Effect) -> None:
        """Ask for an effect of this step."""
        self._effects.append(effect)

    @property
    def now_s(self) -> float:
        """The time of this step."""
        return self._now_s

    def _on(self, event: on.Event) -> None:
        match event:
            case on.AllocatorUp():
                self.linked = True
                self.do(on.ToAllocator(self._registration()))
            case on.AllocatorDown():
                self.linked = False
            case on.AllocatorSaid(message):
                self._on_allocator(message)
            case on.SessionSaid(session, words):
                self._on_session(session, words)
            case on.SessionGone(session):
                for held in self.leases.values():
                    if held.session == session:
                        held.session = None
            case on.DataOffered():
                self._book.on_data(event)
            case on.UsageRead(usages):
                self.usage.hear(usages, self._book.workers)
            case on.Neighboured(about):
                self.neighbours.hear(about)
            case on.ReclaimAsked(reason_code, at_once):
                self.reclaim(reason_code, at_once=at_once)
                if at_once:
                    self._hurry()
            case on.Tick():
                pass
            case _:
                self._book.step(event)
        if self.linked or self.leases:
            self._lonely_since_s = self._now_s

    # --- the allocator --------------------------------------------------------------------------

    def _registration(self) -> Register:
        return Register(
            self._slice_now(),
            InstanceId(self.config.instance),
            self.epoch,
            tuple(held.report() for held in self.leases.values()),
            self.draining,
            self.config.clean,
        )

    def _slice_now(self) -> Slice:
        """The slice with the time that is left to it now."""
        if self._slice_end_s is None:
            return self.config.slice
        return replace(self.config.slice, end_in_s=max(0.0, self._slice_end_s - self._now_s))

    def _on_allocator(self, message: AllocatorToAgent) -> None:
        match message:
            case Registered(epoch):
                if epoch > self.epoch:  # never backwards: what an older allocator says is stale
                    self.epoch = epoch
                    about = self.config.slice
                    slice_size = {"cores": about.cores, "mem": about.memory_bytes}
                    self.record("epoch", epoch=epoch, node_epoch=epoch, clean=self.config.clean, **slice_size)
                self.usage.report({lease_id: usage for lease_id, (_, _, usage) in self._ended.items()})
                self.neighbours.report()
            case Propose():
                self._on_proposal(message)
            case EndLease(lease_id, reason_code):
                held = self.leases.get(lease_id)
                if held is not None:
                    self.end(held, LeaseEvent.RELEASE, reason_code)
                else:
                    reason, code, usage = self._ended.get(lease_id, ("released", reason_code, Usage()))
                    self.do(on.ToAllocator(Freed(lease_id, self.epoch, reason, code, usage)))
            case EndSlice(reason_code):
                self.reclaim(reason_code)

    def _on_proposal(self, proposal: Propose) -> None:
        """Accept by compare-and-set on the epoch, or refuse (002 section 6)."""
        terms = proposal.terms
        held = self.leases.get(terms.lease_id)
        if held is not None:  # a repetition
            self.do(on.ToAllocator(Accepted(terms.lease_id, terms.epoch, held.core_ids)))
            return
        if terms.lease_id in self._ended:
            reason, code, usage = self._ended[terms.lease_id]
            self.do(on.ToAllocator(Freed(terms.lease_id, terms.epoch, reason, code, usage)))
            return
        refusal = self._refusal(proposal)
        core_ids = None if refusal else self.cores.take(terms.lease_id, terms.cores)
        if core_ids is None:
            refused, hint = refusal or ("no-room", f"{self.cores.n_free} cores are free, {terms.cores} were asked for")
            self.do(on.ToAllocator(Refused(terms.lease_id, self.epoch, refused, hint)))
            return
        lease = Lease()
        lease.step(LeaseEvent.ACCEPT)
        seats = self._seats(terms, core_ids)
        ttl_s = max(SHORTEST_TTL_S, terms.ttl_s)
        held = Held(terms, lease, core_ids, seats, self._expiry_s(ttl_s), ttl_s, granted_s=self._now_s)
        self.leases[terms.lease_id] = held
        self.record(
            "grant_accepted",
            lease=terms.lease_id,
            lease_seq=terms.lease_seq,
            node_epoch=self.epoch,
            cores=list(core_ids),
            mem=terms.memory_bytes,
        )
        self.do(on.ToAllocator(Accepted(terms.lease_id, self.epoch, core_ids)))

    def _seats(self, terms: LeaseTerms, core_ids: tuple[int, ...]) -> list[Seat]:
        """Places for the workers of a new lease; a memory server's has a number that no core has (008 section 1)."""
        if terms.kind == MEMORY:
            taken = {seat.slot for held in self.leases.values() for seat in held.seats}
            first = self.config.slice.cores
            return [Seat((), memory_slot=next(slot for slot in count(first) if slot not in taken))]
        n = terms.cores_per_worker
        return [Seat(core_ids[i : i + n]) for i in range(0, len(core_ids), n)]

    def _refusal(self, proposal: Propose) -> tuple[str, str] | None:
        terms = proposal.terms
        if terms.slice_id != self.config.slice.slice_id:
            return "unknown-slice", "this agent has another slice"
        if self.epoch == 0 or terms.epoch != self.epoch:
            return "stale-epoch", f"the agent's epoch is {self.epoch}, the proposal's {terms.epoch}"
        if self.draining:
            return "draining", "the slice goes back to its owner"
        if terms.kind != MEMORY and (hint := self.neighbours.refusal()):
            return "no-room", hint
        if terms.kind not in ("", MEMORY):
            return "no-room", f"this agent gives no leases of kind {terms.kind!r}"
        if terms.kind == MEMORY and (terms.workers != 1 or terms.cores_per_worker or terms.memory_bytes < 1):
            return "no-room", "a lease of memory is one region without a core"
        if terms.kind != MEMORY and (terms.workers < 1 or terms.cores_per_worker < 1):
            return "no-room", "a lease needs a worker and a worker a core"
        free_bytes = self.config.slice.memory_bytes - sum(held.terms.memory_bytes for held in self.leases.values())
        if terms.memory_bytes > free_bytes:
            return "no-room", f"{free_bytes} bytes are free, {terms.memory_bytes} were asked for"
        return None

    def _expiry_s(self, ttl_s: float) -> float:
        expiry_s = self._now_s + ttl_s
        return expiry_s if self.give_back_at_s is None else min(expiry_s, max(self._now_s, self.give_back_at_s))

    # --- sessions -------------------------------------------------------------------------------

    def _on_session(self, session: int, words: Mapping[str, Any]) -> None:
        try:
            match words.get("m"):
                case "attach":
                    self._on_attach(session, words)
                case "heartbeat":
                    self._on_heartbeat(session, [_name(lease_id) for lease_id in words["leases"]])
                case "release":
                    held = self.leases.get(_name(words["lease"]))
                    if held is not None and held.session == session:
                        self.end(held, LeaseEvent.RELEASE, int(words["reason_code"]))
                case "interrupt":
                    held = self.leases.get(_name(words["lease"]))
                    numbers = (int(words[key]) for key in ("slot", "generation", "channel", "call_id"))
                    slot, generation, channel, call_id = numbers
                    if held is not None and held.session == session:
                        self._book.interrupt(held, slot, generation, channel, call_id)
        except (KeyError, TypeError, ValueError) as error:
            self.do(on.HangUp(session, f"{words.get('m')}: {error!r}"))

    def _on_attach(self, session: int, words: Mapping[str, Any]) -> None:
        lease_id, workers, ttl_s = _name(words["lease"]), int(words["workers"]), float(words["ttl_s"])
        environment = dict(words["env"])
        limit = words.get("output_limit_bytes")
        modules = tuple((str(name), str(version)) for name, version in words.get("modules", ()))
        held = self.leases.get(lease_id)
        refusal = self._attach_refusal(held, words)
        if held is None or refusal:
            code, hint = refusal or ("not-found", "")
            self.do(on.ToSession(session, {"m": "refused", "lease": lease_id, "code": code, "hint": hint}))
            return
        first = held.lease.state is LeaseState.GRANTED
        if held.lease.state is not LeaseState.DRAINING:
            held.lease.step(LeaseEvent.ATTACH)
        held.session = session
        held.ttl_s = min(LONGEST_TTL_S, max(SHORTEST_TTL_S, ttl_s))
        held.expires_at_s = self._expiry_s(held.ttl_s)
        expires_in_s = held.expires_at_s - self._now_s
        answer = {"m": "attached", "lease": lease_id, "cores": list(held.core_ids), "expires_in_s": expires_in_s}
        self.do(on.ToSession(session, answer))
        if first:
            held.output_limit_bytes = None if limit is None else int(limit)
            held.modules, held.modules_strict = modules, bool(words.get("modules_strict", False))
            self.do(on.ToAllocator(StateChanged(LeaseId(lease_id), held.terms.epoch, held.lease.state.value)))
            self._book.seat_workers(held, environment, workers)
        else:
            self._book.speak_again(held)

    def _attach_refusal(self, held: Held | None, words: Mapping[str, Any]) -> tuple[str, str] | None:
        if held is None or held.lease.state is LeaseState.FENCED or words["holder"] != held.terms.holder:
            return "not-found", "this agent has no such lease for this holder"
        if (words["lease_seq"], words["epoch"]) != (held.terms.lease_seq, held.terms.epoch):
            return "stale-epoch", f"the lease is number {held.terms.lease_seq} of epoch {held.terms.epoch}"
        if self.draining and held.lease.state is LeaseState.GRANTED:
            return "draining", "the slice goes back to its owner"
        return None

    def _on_heartbeat(self, session: int, lease_ids: list[bytes]) -> None:
        unknown = []
        for lease_id in lease_ids:
            held = self.leases.get(lease_id)
            if held is None or held.session != session:
                unknown.append(lease_id)
            elif held.lease.state is not LeaseState.FENCED:
                held.expires_at_s = self._expiry_s(held.ttl_s)
        self.do(on.ToSession(session, {"m": "heartbeat-ack", "unknown": unknown}))

    def say(self, held: Held, words: dict[str, Any]) -> None:
        """Tell the lease's session, now or when one attaches again."""
        if held.session is not None:
            self.do(on.ToSession(held.session, words))
        elif len(held.unsaid) < REMEMBERED:
            held.unsaid.append(words)

    # --- the way to the end ---------------------------------------------------------------------

    def reclaim(self, reason_code: int, *, at_once: bool = False) -> None:
        """Begin to give the slice back, `at_once` without a grace; a second time it changes nothing (002 section 8)."""
        if self.draining:
            return
        self.draining = True
        self._reclaimed_s = self._now_s
        self._drain_until_s = self._now_s + (0.0 if at_once else self.config.drain_s)
        if at_once:
            self.grace_s = 0.0
        self.record("reclaim_sig", reason=ReasonCode(reason_code).text, grace_s=self.grace_s)
        by_session: dict[int, list[bytes]] = {}
        for held in self.leases.values():
            if held.session is not None:
                by_session.setdefault(held.session, []).append(held.terms.lease_id)
        for session, lease_ids in by_session.items():
            self.do(on.ToSession(session, self.notice(lease_ids, reason_code)))
        self.do(on.ToAllocator(Ending(self.config.slice.slice_id, self.epoch, reason_code, self.grace_s)))
        for held in list(self.leases.values()):
            self.end(held, LeaseEvent.RECLAIM, reason_code)

    def _hurry(self) -> None:
        """Give running calls no more time; what was told of the drain holds no longer."""
        self._drain_until_s = self._now_s
        self.grace_s = min(self.grace_s, self._now_s - self._reclaimed_s)
        for held in self.leases.values():
            if held.kill_at_s is not None:
                held.kill_at_s = self._now_s

    def notice(self, lease_ids: list[bytes], reason_code: int) -> dict[str, Any]:
        """The word to a session that its leases go back to their owner."""
        return {"m": "notice", "leases": lease_ids, "reason_code": reason_code, "grace_s": self.grace_s}

    def move(self, moved: list[Held], reason_code: int) -> None:
        """Give these leases' cores back with notice, as in a reclaim, and keep the slice."""
        self._drain_until_s = self._now_s + self.config.drain_s
        for held in moved:
            self.say(held, self.notice([held.terms.lease_id], reason_code))
            self.end(held, LeaseEvent.RECLAIM, reason_code)

    def end(self, held: Held, event: LeaseEvent, reason_code: int) -> None:
        """Take a lease towards FREE: drain or kill its workers as the event asks for."""
        before = held.lease.state
        after = held.lease.step(event, reason_code=reason_code)
        if after is not before:
            held.kill_at_s = None
            if after is LeaseState.DRAINING or event is LeaseEvent.RELEASE:
                until_s = self._drain_until_s if after is LeaseState.DRAINING else self._now_s + RELEASE_S
                self._book.drain(held, until_s)
            if after is LeaseState.DRAINING:
                self.record("drain", lease=held.terms.lease_id)
                held.kill_at_s = self._drain_until_s
            elif after is LeaseState.FENCED:
                self._fence(held, at_once=event is not LeaseEvent.RELEASE)
            if after is not LeaseState.FREE:
                changed = StateChanged(held.terms.lease_id, held.terms.epoch, after.value)
                self.do(on.ToAllocator(changed))
        self.free_if_dead(held)

    def end_for_violation(self, held: Held, channel: int) -> None:
        """End the lease of a client that asked for memory that it has no key for; counted in the event log."""
        self.violations += 1
        self.record("key_violation", lease=held.terms.lease_id, channel=channel, count=self.violations)
        self.end(held, LeaseEvent.RELEASE, int(ReasonCode.KEY_VIOLATION))

    def _fence(self, held: Held, *, at_once: bool) -> None:
        self.record("fence", lease=held.terms.lease_id, reason=held.lease.reason)
        if at_once:
            held.kill_at_s = None
            self._book.kill(held, held.lease.reason_code)
        else:
            held.kill_at_s = self._now_s + RELEASE_S

    def free_if_dead(self, held: Held) -> None:
        """Free the cores of a fenced lease once none of its workers can live; nothing else frees them (I17)."""
        if held.workers or not held.ending or held.lease.state is LeaseState.FREE:
            return
        if held.lease.state is LeaseState.DRAINING:
            held.lease.step(LeaseEvent.DRAINED)
            self.record("fence", lease=held.terms.lease_id, reason=held.lease.reason)
        held.lease.step(LeaseEvent.PROVEN_DEAD)
        terms, reason, code = held.terms, held.lease.reason, held.lease.reason_code
        usage = self.usage.total(held)
        self.record("proof_of_death", lease=terms.lease_id)
        self.record("free", lease=terms.lease_id, lease_seq=terms.lease_seq, reason=reason, cores=list(held.core_ids))
        self.cores.give_back(terms.lease_id)
        del self.leases[terms.lease_id]
        self._ended[terms.lease_id] = (reason, code, usage)
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
        self._book.forget(held)
        self.say(held, {"m": "ended", "lease": terms.lease_id, "reason": reason, "reason_code": code})
        self.do(on.ToAllocator(Freed(terms.lease_id, terms.epoch, reason, code, usage)))

    # --- time -----------------------------------------------------------------------------------

    def _on_time(self) -> None:
        now_s = self._now_s
        if self.give_back_at_s is not None and now_s >= self.give_back_at_s:
            self.reclaim(ReasonCode.JOB_TIMELIMIT)
        for held in list(self.leases.values()):
            if not held.ending and now_s >= held.expires_at_s:
                self.record("expire", lease=held.terms.lease_id)
                self.end(held, LeaseEvent.EXPIRE, ReasonCode.LEASE_EXPIRED)
            elif held.kill_at_s is not None and now_s >= held.kill_at_s:
                held.kill_at_s = None
                if held.lease.state is LeaseState.DRAINING:
                    self.end(held, LeaseEvent.DRAINED, held.lease.reason_code)
                else:
                    self._book.kill(held, held.lease.reason_code)
        self._book.on_time()
        self.usage.on_time()
        self.neighbours.on_time()
        abandoned_at_s = self._abandoned_at_s()
        if abandoned_at_s is not None and now_s >= abandoned_at_s:
            self.reclaim(ReasonCode.PARTITION)
        idle_at_s = self._idle_at_s()
        if idle_at_s is not None and now_s >= idle_at_s:
            self.reclaim(ReasonCode.OWNER_RELEASE)

    def _idle_at_s(self) -> float | None:
        if self.config.idle_after_s is None or self.leases or self.draining:
            return None
        return self._busy_at_s + self.config.idle_after_s

    def _abandoned_at_s(self) -> float | None:
        if self.config.abandoned_after_s is None or self.linked or self.leases or self.draining:
            return None
        return self._lonely_since_s + self.config.abandoned_after_s

    def _leave_if_done(self) -> None:
        if not self.draining or self.leases or self.left:
            return
        self._book.stop_templates()
        if self._book.templates:
            return
        self.left = True
        self.do(on.ToAllocator(SliceEmpty(self.config.slice.slice_id, self.epoch)))
        self.do(on.Leave())

    def record(self, event: str, **fields: object) -> None:
        """Ask for a line of the event log."""
        place = {"node": self.config.slice.node, "slice": self.config.slice.slice_id}
        self.do(on.Record(event, {**place, **fields}))


def _name(value: object) -> bytes:
    """A lease id as a session wrote it. Never `bytes(value)`: of a number that makes as many bytes."""
    if not isinstance(value, bytes):
        raise TypeError(f"a lease is named by bytes, not by {type(value).__name__}")
    return value
