"""The allocator's core: one `step(event, now_s) -> effects`, and nothing else in production or in tests.

Must not do I/O, read clocks, or make random numbers of its own: links, journal and ids are the shell's (engine).
Oldest request first; none is given more than its target. Spec: docs/spec/002-lease.md sections 5-7.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from rfaas.control.messages import JobsReport, SliceId, Snapshot, Waiting
from rfaas_allocator.agents import AgentDesk
from rfaas_allocator.events import (
    AgentLinkBroke,
    AgentSaid,
    CoreEvent,
    Effect,
    Happened,
    HolderLinkBroke,
    HolderSaid,
    Recovered,
    SlicesMustEnd,
    StorageIs,
)
from rfaas_allocator.holders import HolderDesk
from rfaas_allocator.inventory import WantEntry, WantKey
from rfaas_allocator.ledger import Ledger
from rfaas_allocator.placement import Item, Room, place

DEFAULT_TTL_S: Final = 10.0
MINIMUM_TTL_S: Final = 0.5


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
    """

    def __init__(
        self,
        recovered: Recovered | None = None,
        *,
        now_s: float,
        ttl_s: float = DEFAULT_TTL_S,
        new_id: Callable[[], bytes] = random_id,
    ) -> None:
        self._ledger = Ledger(recovered or Recovered(), ttl_s=max(ttl_s, MINIMUM_TTL_S), new_id=new_id, now_s=now_s)
        self._inventory = self._ledger.inventory
        self._agents = AgentDesk(self._ledger)
        self._holders = HolderDesk(self._ledger)
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
        """Take one event.

        Args:
            event: what happened.
            now_s: seconds on a clock that only rises.
        Returns:
            What to do: first make every record durable, then the rest in order.
        """
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
                self._agents.jobs_reported(event, now_s)
            case SlicesMustEnd():
                self._agents.end_all(event.reason_code, for_good=event.for_good)
            case StorageIs():
                self._storage_problem = event.problem
                self._ledger.changed = True
        if self._ledger.changed:
            self._ledger.changed = False
            self._serve(now_s)
        return self._ledger.take_effects()

    def snapshot(self, now_s: float) -> Snapshot:
        """Everything at this moment."""
        waiting = [
            Waiting(*key, missing=entry.told[0], reason=entry.told[1])
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
        )

    # --- deciding --------------------------------------------------------------------------------

    def _serve(self, now_s: float) -> None:
        """Propose what can be proposed, oldest request first, and tell those that must wait."""
        lacking = [(key, entry) for key, entry in self._inventory.wants.items() if self._inventory.missing(key) > 0]
        for key, entry in self._inventory.wants.items():
            if self._inventory.missing(key) <= 0:
                entry.told = None
        if not lacking:
            return
        ttl_s = self._ledger.ttl_s
        rooms = {entry.slice_id: entry.room() for entry in self._inventory.slices.values() if entry.open(now_s, ttl_s)}
        for key, entry in lacking:
            if not self._storage_problem:
                self._propose(key, entry, rooms)
            self._tell(key, entry)

    def _propose(self, key: WantKey, entry: WantEntry, rooms: dict[SliceId, Room]) -> None:
        want = entry.want
        item = Item(self._inventory.missing(key), want.cores_per_worker, want.memory_bytes_per_worker)
        for placement in place(rooms.values(), item):
            chosen = self._inventory.slices[placement.slice_id]
            self._ledger.propose(chosen, entry, placement.workers)
            rooms[placement.slice_id] = chosen.room()

    def _tell(self, key: WantKey, entry: WantEntry) -> None:
        """Say that a request must wait, once for each change of what is missing and why."""
        missing = self._inventory.missing(key)
        told = (missing, self._why_waiting(entry)) if missing > 0 else None
        if told is not None and told != entry.told:
            self._ledger.tell_holder(key[0], Waiting(*key, missing=told[0], reason=told[1]))
        entry.told = told

    def _why_waiting(self, entry: WantEntry) -> str:
        if self._storage_problem:
            return self._storage_problem
        slices = self._inventory.slices.values()
        if not slices:
            return "no slice is here yet"
        absent = sum(slice_entry.link is None for slice_entry in slices)
        if absent == len(slices):
            return f"waiting for {absent} agents to register"
        want = entry.want
        single = Item(1, want.cores_per_worker, want.memory_bytes_per_worker)
        whole = (Room(s.slice_id, s.slice.node, s.slice.cores, s.slice.memory_bytes) for s in slices)
        if not any(single.fitting(room) for room in whole):
            memory_mib = want.memory_bytes_per_worker / 2**20
            return f"no slice is as large as one worker: {want.cores_per_worker} cores, {memory_mib:.0f} MiB"
        if all(slice_entry.ending for slice_entry in slices if slice_entry.link is not None):
            return "all slices go back to their owners"
        return "all that is here is leased"
