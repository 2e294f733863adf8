"""The part of the agent's core that says what leases cost: sums over workers, told to the allocator every few seconds.

Sans-IO like `agent_core`, of which it is a part. Time comes from the clock of the steps; what workers' pages say is
believed up to the length of their lives. Spec: docs/spec/002-lease.md section 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rfaas.control.messages import LeaseId, LeaseUsage, Usage, UsageReport
from rfaas_executors import agent_events as on
from rfaas_executors.agent_records import Held, Worker

if TYPE_CHECKING:
    from rfaas_executors.agent_core import AgentCore


class UsageBook:
    """What the leases of one agent cost."""

    def __init__(self, core: AgentCore) -> None:
        self._core = core
        self._next_s: float | None = None  # when the next report is due; None: not while nothing is leased

    def total(self, held: Held) -> Usage:
        """What a lease has cost until now."""
        core = self._core
        total = held.spent
        for worker in held.workers:
            total = _with_worker(total, worker, worker.usage, core.now_s)
        return _with_time(total, round((core.now_s - held.granted_s) * 1e9))

    def worker_died(self, held: Held, worker: Worker, usage: on.WorkerUsage) -> None:
        """Keep what a worker cost in all. What was seen while it lived stands, should its end say less."""
        held.spent = _with_worker(held.spent, worker, _highest(worker.usage, usage), self._core.now_s)

    def hear(self, usages: Mapping[int, on.WorkerUsage], workers: Mapping[int, Worker]) -> None:
        """Take what workers that live have cost, and tell the allocator."""
        for number, usage in usages.items():
            worker = workers.get(number)
            # One that was never forked has cost nothing: counted, it would be missing once its template has failed.
            if worker is not None and worker.forked_s is not None:
                worker.usage = _highest(worker.usage, usage)
        self.report({})

    def report(self, ended: Mapping[bytes, Usage]) -> None:
        """Tell the allocator what all leases have cost, and these that ended."""
        core = self._core
        pairs = [(held.terms.lease_id, self.total(held)) for held in core.leases.values()]
        leases = tuple(LeaseUsage(LeaseId(lease_id), usage) for lease_id, usage in [*pairs, *ended.items()])
        if leases:
            core.do(on.ToAllocator(UsageReport(core.epoch, leases)))

    # --- time -----------------------------------------------------------------------------------

    def due_s(self) -> float | None:
        """When the next report wants a Tick."""
        return self._next_s

    def on_time(self) -> None:
        """Ask for a look at the workers when a report is due."""
        core, every_s = self._core, self._core.config.usage_every_s
        if every_s is None or not core.leases or not core.linked:
            self._next_s = None
        elif self._next_s is None:
            self._next_s = core.now_s + every_s
        elif core.now_s >= self._next_s:
            self._next_s = core.now_s + every_s
            core.do(on.ReadUsage())


def _with_worker(total: Usage, worker: Worker, usage: on.WorkerUsage, now_s: float) -> Usage:
    alive_ns = 0 if worker.forked_s is None else max(0, round((now_s - worker.forked_s) * 1e9))
    running_ns = min(usage.running_ns, alive_ns)
    return Usage(
        allocated_ns=total.allocated_ns,
        alive_ns=total.alive_ns + alive_ns,
        running_ns=total.running_ns + running_ns,
        hot_ns=total.hot_ns + min(usage.hot_ns, alive_ns - running_ns),
        cpu_ns=total.cpu_ns + usage.cpu_ns,
        calls=total.calls + usage.calls,
        bytes_in=total.bytes_in + usage.bytes_in,
        bytes_out=total.bytes_out + usage.bytes_out,
    )


def _with_time(total: Usage, allocated_ns: int) -> Usage:
    return total.highest(Usage(allocated_ns=allocated_ns))


def _highest(one: on.WorkerUsage, other: on.WorkerUsage) -> on.WorkerUsage:
    return on.WorkerUsage(
        running_ns=max(one.running_ns, other.running_ns),
        hot_ns=max(one.hot_ns, other.hot_ns),
        cpu_ns=max(one.cpu_ns, other.cpu_ns),
        calls=max(one.calls, other.calls),
        bytes_in=max(one.bytes_in, other.bytes_in),
        bytes_out=max(one.bytes_out, other.bytes_out),
    )
