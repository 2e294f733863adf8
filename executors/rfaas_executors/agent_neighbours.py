"""The part of the agent's core that carries out the neighbour guard's verdicts, and tells the allocator of them.

Sans-IO like `agent_core`, of which it is a part. Source: docs/adr/0028, docs/spec/002-lease.md section 11.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rfaas.control.messages import LeaseId, NeighbourReport, Neighbours
from rfaas_executors import agent_events as on
from rfaas_transport.errors import ReasonCode

if TYPE_CHECKING:
    from rfaas_executors.agent_core import AgentCore


class NeighbourBook:
    """What the guard of one slice said last."""

    def __init__(self, core: AgentCore) -> None:
        self._core = core
        self._last: Neighbours | None = None
        self._closed_until_s: float | None = None  # None: leases are accepted

    def hear(self, about: Neighbours) -> None:
        """Take a verdict. After a reclaim has begun there is nothing left to guard."""
        core = self._core
        if core.draining:
            return
        self._last = about
        core.record(
            "neighbours",
            verdict=about.verdict,
            host=about.host,
            watch=about.watch,
            slowdown=round(about.slowdown, 4),
            tail=round(about.tail, 4),
            share=round(about.share, 3),
            words=about.words,
        )
        self.report()
        if about.verdict == "move":
            self._closed_until_s = core.now_s + about.closed_for_s
            leases = [held for held in core.leases.values() if not held.is_memory and not held.ending]
            core.move(leases, ReasonCode.CPU_PRESSURE)
        elif about.verdict == "leave":
            core.reclaim(ReasonCode.CPU_PRESSURE)

    def report(self) -> None:
        """Tell the allocator, now and after each registration, and which leases it is about."""
        core = self._core
        if self._last is None:
            return
        closed_s = 0.0 if self._closed_until_s is None else max(0.0, self._closed_until_s - core.now_s)
        about = replace(self._last, closed_for_s=max(closed_s, self._last.closed_for_s if not closed_s else 0.0))
        leases = tuple(LeaseId(held.terms.lease_id) for held in core.leases.values() if not held.is_memory)
        core.do(on.ToAllocator(NeighbourReport(core.epoch, about, leases)))

    def refusal(self) -> str:
        """Why no lease is accepted at the moment; empty if one may be."""
        if self._closed_until_s is None or self._last is None:
            return ""
        return f"functions slow {self._last.host or 'the job'} beside this slice: none for a while"

    def due_s(self) -> float | None:
        """When leases are accepted again."""
        return None if self._core.draining else self._closed_until_s

    def on_time(self) -> None:
        """Open again, and say so: the allocator has no clock for it."""
        core = self._core
        if self._closed_until_s is None or core.now_s < self._closed_until_s or self._last is None or core.draining:
            return
        self._closed_until_s = None
        words = f"functions may run beside {self._last.host or 'the job'} again"
        self.hear(replace(self._last, verdict="open", closed_for_s=0.0, words=words))
