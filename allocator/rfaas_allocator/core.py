"""The allocator's core: `steps(events, now_s) -> effects`, and nothing else in production or in tests.

Must not do I/O, read clocks, or make random numbers of its own: links, journal and ids are the shell's (engine).
Oldest request first; none is given more than its target. Spec: docs/spec/002-lease.md sections 5-7.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Hashable, Iterable
from typing import Final

from rfaas.control.messages import MEMORY, JobsReport, Snapshot, Waiting
from rfaas_allocator import forecast
from rfaas_allocator.agents import AgentDesk
from rfaas_allocator.entries import WantEntry, WantKey
from rfaas_allocator.events import (
    AgentLinkBroke,
    AgentSaid,
    CoreEvent,
    Effect,
    Happened,
    HolderLinkBroke,
    HolderSaid,
    HostsAre,
    HostsNamed,
    Recovered,
    SlicesMustEnd,
    StorageIs,
)
from rfaas_allocator.holders import HolderDesk
from rfaas_allocator.jobs import JobDesk
from rfaas_allocator.ledger import Ledger
from rfaas_allocator.placement import SPREAD, Item, in_parts, place
from rfaas_allocator.policy import Policy
from rfaas_allocator.rooms import Rooms

DEFAULT_TTL_S: Final = 10.0
MINIMUM_TTL_S: Final = 0.5
LESS_MEMORY: Final = "ask for less by Executor(memory=…), or offer more by rfaas up --memory-mib"
SMALLER_REGION: Final = "ask for less by RemoteMemory(size), or offer more by rfaas up --memory-mib"


def random_id() -> bytes:
    """16 bytes that nobody can guess."""
    return secrets.token_bytes(16)


class AllocatorCore:
    """All decisions of one allocator.

    Args:
        recovered: what the journal remembers; empty at the first start.
        now_s: the time of the start, on the clock that `step` is given.
        ttl_s: of the leases it makes, in seconds, at least 0.5.
        new_id: makes 16 bytes that were never made before.
        policy: quotas.
        unix_offset_s: what to add to the clock of `step` for seconds since 1970; for people and for the journal.
    """

    def __init__(
        self,
        recovered: Recovered | None = None,
        *,
        now_s: float,
        ttl_s: float = DEFAULT_TTL_S,
        new_id: Callable[[], bytes] = random_id,
        policy: Policy | None = None,
        unix_offset_s: float = 0.0,
    ) -> None:
        self._policy = policy or Policy()
        self._ledger = Ledger(
            recovered or Recovered(),
            ttl_s=max(ttl_s, MINIMUM_TTL_S),
            new_id=new_id,
            now_s=now_s,
            unix_offset_s=unix_offset_s,
        )
        self._inventory = self._ledger.inventory
        self._agents = AgentDesk(self._ledger, self._policy)
        self._jobs = JobDesk(self._ledger)
        self._holders = HolderDesk(self._ledger, self._policy)
        self._outlook = forecast.Outlook(self._inventory, self._ledger.history)
        self._storage_problem = ""

    def start(self) -> list[Effect]:
        """Begin a new life; call once, before the first step, and carry out its effects first."""
        alloc_epoch = self._ledger.advance("alloc_epoch")
        fields: dict[str, object] = {
            "alloc_epoch": alloc_epoch,
            "leases": len(self._inventory.leases),
            "slices": len(self._inventory.slices),
        }
        self._ledger.emit(Happened("restart", fields=fields))
        return self._ledger.take_effects()

    def step(self, event: CoreEvent, now_s: float) -> list[Effect]:
        """Take one event; see `steps`."""
        return self.steps((event,), now_s)

    def steps(self, events: Iterable[CoreEvent], now_s: float) -> list[Effect]:
        """Take what happened since the last time, and then decide once: with many requests a decision looks at each.

        Args:
            events: what happened, in this order.
            now_s: seconds on a clock that only rises.
        Returns:
            What to do: first make every record durable, then the rest in order.
        """
        self._ledger.now_s = now_s
        for event in events:
            self._take(event, now_s)
        if self._ledger.changed:
            self._ledger.changed = False
            self._serve(now_s)
        return self._ledger.take_effects()

    def _take(self, event: CoreEvent, now_s: float) -> None:
        match event:
            case AgentSaid():
                self._agents.said(event.link, event.message, now_s)
            case AgentLinkBroke():
                self._agents.link_broke(event.link)
            case HolderSaid():
                self._holders.said(event.link, event.message)
            case HolderLinkBroke():
                self._holders.link_broke(event.link)
            case JobsReport():
                self._jobs.reported(event, now_s)
            case SlicesMustEnd():
                self._agents.end_all(event.reason_code, for_good=event.for_good)
            case StorageIs():
                self._storage_problem = event.problem
                self._ledger.changed = True
            case HostsNamed():
                self._ledger.name_hosts(HostsAre(event.source, event.hosts))

    def snapshot(self, now_s: float) -> Snapshot:
        """Everything at this moment."""
        waiting = [
            self._waiting(key, entry, entry.told, now_s)
            for key, entry in self._inventory.wants.items()
            if entry.told is not None
        ]
        return Snapshot(
            alloc_epoch=self._inventory.counters["alloc_epoch"],
            slices=tuple(entry.view(now_s) for _, entry in sorted(self._inventory.slices.items())),
            wants=tuple(entry.want for entry in self._inventory.wants.values()),
            waiting=tuple(waiting),
            counters={
                **self._ledger.tallies,
                **self._inventory.counters,
                "storage_full": int(bool(self._storage_problem)),
            },
            hosts=self._inventory.hosts.hosts,
            hosts_complete=self._inventory.hosts.complete,
        )

    def counter(self, name: str) -> int:
        """One number of the snapshot's `counters`, without making one of everything."""
        tallies: dict[str, int] = {**self._ledger.tallies, **self._inventory.counters}
        return tallies[name]

    def n_reachable(self) -> int:
        """Slices whose agents can be reached."""
        return len(self._inventory.slices) - self._inventory.n_absent()

    def n_hosts(self) -> int:
        """Hosts that any source names."""
        return len(self._inventory.hosts.hosts)

    # --- deciding --------------------------------------------------------------------------------

    def _serve(self, now_s: float) -> None:
        """Propose what can be proposed, oldest request first, and tell those that must wait."""
        stale = self._jobs.slurm_is_stale(now_s)
        stuck: dict[Hashable, tuple[str, str]] = {}  # why nothing is left, for requests that are alike
        for key, entry in self._inventory.lacking():
            alike = self._what_it_gets_by(entry)
            why = stuck.get(alike)
            if why is None:
                if not self._inventory.could_hold(entry.single):
                    self._holders.deny(key, "lease-denied", f"no host of the inventory is as large as {_size(entry)}")
                    continue
                if not self._storage_problem:
                    self._propose(key, entry, self._rooms(now_s, stale=stale))
                if self._inventory.missing(key) > 0:
                    why = stuck[alike] = self._why_waiting(entry, now_s, stale=stale)
            self._tell(key, entry, why, now_s)

    def _what_it_gets_by(self, entry: WantEntry) -> Hashable:
        """Where one request lacks workers after it was served, those after it that have the same of this get none."""
        want, uid = entry.want, self._inventory.holders[entry.want.holder].uid
        limited_uid = uid if self._policy.quota_of(uid).limits else None
        kind = self._ledger.kind_where_guarded(entry)
        return want.cores_per_worker, want.memory_bytes_per_worker, want.kind, limited_uid, kind

    def _rooms(self, now_s: float, *, stale: bool) -> Rooms:
        return self._inventory.rooms(now_s, self._ledger.ttl_s, without_slurm=stale)

    def _propose(self, key: WantKey, entry: WantEntry, rooms: Rooms) -> None:
        want = entry.want
        workers, leases = self._quota_room(entry)
        item = Item(min(workers, self._inventory.missing(key)), want.cores_per_worker, want.memory_bytes_per_worker)
        if item.workers <= 0:
            return
        serving = self._inventory.serving_by_node(key) if want.placement == SPREAD else {}
        apart = self._ledger.apart_from(entry)
        allowed = [room for room in rooms if room.slice_id not in apart] if apart else rooms
        for placement in place(allowed, item, want.placement, serving):
            parts = in_parts(placement.workers, want.lease_workers)[:leases]
            for part in parts:
                self._ledger.propose(self._inventory.slices[placement.slice_id], entry, part)
            leases -= len(parts)
            if leases <= 0:
                break

    def _quota_room(self, entry: WantEntry) -> tuple[int, int]:
        """How many workers of this request, in how many leases, its user's quota allows more."""
        uid = self._inventory.holders[entry.want.holder].uid
        return self._policy.quota_of(uid).room(self._inventory.holding(uid), entry.single)

    # --- waiting ---------------------------------------------------------------------------------

    def _tell(self, key: WantKey, entry: WantEntry, why: tuple[str, str] | None, now_s: float) -> None:
        """Say that a request must wait, once for each change of what is missing and why."""
        told = None if why is None else (self._inventory.missing(key), *why)
        if told is not None and told != entry.told:
            self._ledger.tell_holder(key[0], self._waiting(key, entry, told, now_s))
        entry.told = told

    def _waiting(self, key: WantKey, entry: WantEntry, told: tuple[int, str, str], now_s: float) -> Waiting:
        missing, code, reason = told
        estimate = self._estimate(entry, code, now_s)
        if estimate is None:
            return Waiting(*key, missing=missing, reason=reason, code=code)
        return Waiting(*key, missing, reason, code, estimate.in_s, estimate.basis)

    def _why_waiting(self, entry: WantEntry, now_s: float, *, stale: bool) -> tuple[str, str]:
        """Code and words."""
        if self._storage_problem:
            return "storage", self._storage_problem
        uid = self._inventory.holders[entry.want.holder].uid
        if self._quota_room(entry)[0] < 1:
            return "quota", f"user {uid} holds what the quota allows: {self._policy.quota_of(uid)}"
        slices = self._inventory.slices.values()
        if not slices:
            return "no-slice", "no slice is here yet"
        if stale and any(slice_entry.slice.job_id for slice_entry in slices):
            return "slurm-silent", "nothing has been heard of Slurm for too long: is slurmctld up, and the harvester?"
        absent = self._inventory.n_absent()
        if absent == len(slices):
            return "agents-absent", f"waiting for {absent} agents to register"
        if not self._inventory.some_slice_holds(entry.single):
            return "too-large", f"no slice is as large as {_size(entry)}{self._if_memory_lacks(entry)}"
        if all(slice_entry.ending for slice_entry in slices if slice_entry.link is not None):
            return "reclaimed", "all slices go back to their owners"
        if why := self._beside_whom(entry, now_s):
            return "neighbours", f"what is free lies beside jobs that it would slow: {why}"
        if self._rooms(now_s, stale=stale).some_slice_has(entry.single.cores_per_worker):
            # What has both was given out before anybody is told to wait.
            if entry.want.kind == MEMORY:
                return "memory", f"no slice has {entry.want.memory_bytes_per_worker >> 20} MiB free: {SMALLER_REGION}"
            return "memory", f"cores are free, but no memory: {LESS_MEMORY}"
        return "leased", "all that is here is leased"

    def _beside_whom(self, entry: WantEntry, now_s: float) -> str:
        """Why what is free is not for this request; empty if nothing free is kept from it by a job beside it."""
        slices = (self._inventory.slices[slice_id] for slice_id in sorted(self._ledger.apart_from(entry)))
        free = (one for one in slices if one.open(now_s, self._ledger.ttl_s) and entry.single.fitting(one.room()))
        return next((self._ledger.why_not_beside(entry, one) for one in free), "")

    def _if_memory_lacks(self, entry: WantEntry) -> str:
        if entry.want.kind == MEMORY:
            return f"; {SMALLER_REGION}"
        by_cores = any(cores >= entry.single.cores_per_worker for cores, _ in self._inventory.sizes())
        return f"; memory lacks, not cores: {LESS_MEMORY}" if by_cores else ""

    def _estimate(self, entry: WantEntry, code: str, now_s: float) -> forecast.Estimate | None:
        """When something may come for a request that waits; None: nobody knows."""
        history = self._ledger.history
        if code == "quota":
            uid = self._inventory.holders[entry.want.holder].uid
            return forecast.when_quota_is_free(self._inventory, history, uid, now_s)
        if code == "storage":
            return None
        if code in ("leased", "memory"):
            return self._outlook.when_a_lease_ends(entry.single, now_s)
        return history.next_slice(now_s, entry.single) if code != "agents-absent" else None


def _size(entry: WantEntry) -> str:
    memory_mib = entry.want.memory_bytes_per_worker / 2**20
    if entry.want.kind == MEMORY:
        return f"the region: {memory_mib:.0f} MiB"
    return f"one worker: {entry.want.cores_per_worker} cores, {memory_mib:.0f} MiB"
