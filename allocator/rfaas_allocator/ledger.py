"""What can be done to slices and leases, each with all the effects it has: the verbs of the core.

Every change of a lease's state is one of these. Must not decide whom to serve (core) nor read messages (desks).
Spec: docs/spec/002-lease.md sections 3, 6.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from rfaas.control.lease import Lease, LeaseEvent, LeaseState
from rfaas.control.messages import (
    MEMORY,
    AllocatorToAgent,
    AllocatorToHolder,
    Ended,
    EndLease,
    EndSlice,
    Epoch,
    Granted,
    HolderId,
    LeaseId,
    LeaseSeq,
    LeaseTerms,
    Neighbours,
    Propose,
    SliceId,
    Usage,
)
from rfaas_allocator.accounts import AccountBook
from rfaas_allocator.entries import LeaseEntry, SliceEntry, WantEntry
from rfaas_allocator.events import (
    CounterIs,
    Effect,
    Happened,
    HostsAre,
    LeaseIs,
    LeaseIsOver,
    Persist,
    Recovered,
    SliceIs,
    SliceIsForgotten,
    SliceIsOver,
    ToAgent,
    ToHolder,
)
from rfaas_allocator.forecast import History
from rfaas_allocator.inventory import Inventory
from rfaas_allocator.neighbours import PairBook, kind_of

logger = logging.getLogger(__name__)

SLICES_OVER_KEPT: Final = 10_000  # ids of ended slices that are still recognised

EVENT_OF_REASON: Final[Mapping[str, LeaseEvent]] = {
    "released": LeaseEvent.RELEASE,
    "expired": LeaseEvent.EXPIRE,
    "reclaimed": LeaseEvent.RECLAIM,
    "lost": LeaseEvent.LOST,
}


class Ledger:
    """The inventory with the effects of changing it.

    Args:
        recovered: what the journal remembers.
        ttl_s: of new leases, in seconds.
        new_id: makes 16 random bytes.
        now_s: the time of the start.
        unix_offset_s: what to add to that clock for seconds since 1970; for people and for the journal.
    """

    def __init__(
        self,
        recovered: Recovered,
        *,
        ttl_s: float,
        new_id: Callable[[], bytes],
        now_s: float,
        unix_offset_s: float = 0.0,
    ) -> None:
        self.inventory = Inventory()
        self.history = History()
        self._guarded: set[SliceId] = set()  # slices whose guards have spoken
        self.ttl_s = ttl_s
        self.now_s = now_s  # of this step
        self.tallies = dict.fromkeys(("proposed", "granted", "refused", "freed", "slices_ended"), 0)
        self.changed = False  # somebody may be served now who could not be before
        self._new_id = new_id
        self._effects: list[Effect] = []
        self.accounts = AccountBook(
            recovered.accounts,
            lambda record: self.emit(Persist(record)),
            lambda: self.now_s + unix_offset_s,
        )
        self._unix_offset_s = unix_offset_s
        self.pairs = PairBook(recovered.pairs, lambda record: self.emit(Persist(record)), self._unix_s)
        self._restore(recovered, now_s)

    def _restore(self, recovered: Recovered, now_s: float) -> None:
        inventory = self.inventory
        inventory.counters |= recovered.counters
        inventory.slices_over = dict.fromkeys(recovered.slices_over)
        for record in recovered.slices:
            entry = SliceEntry(record.slice, record.instance, record.epoch, heard_s=now_s)
            inventory.add_slice(entry)
        for kept in recovered.leases:
            lease = Lease(LeaseState[kept.held.state], reason=kept.reason, reason_code=kept.reason_code)
            inventory.add_lease(LeaseEntry(kept.held.terms, lease, kept.held.core_ids, since_s=now_s))
        for source, hosts in recovered.hosts.items():
            inventory.name_hosts(source, hosts)

    @property
    def _unix_s(self) -> float:
        return self.now_s + self._unix_offset_s

    # --- effects ---------------------------------------------------------------------------------

    def emit(self, *effects: Effect) -> None:
        """Add effects to this step."""
        self._effects += effects

    def take_effects(self) -> list[Effect]:
        """Return the effects of this step and begin the next."""
        effects, self._effects = self._effects, []
        return effects

    def tell_agent(self, entry: SliceEntry, message: AllocatorToAgent) -> None:
        """Send to a slice's agent, if it can be reached; else its next registration makes it good."""
        if entry.link is not None:
            self.emit(ToAgent(entry.link, message))

    def tell_holder(self, holder: HolderId, message: AllocatorToHolder) -> None:
        """Send to a holder, if it can be reached; else its next hello makes it good."""
        entry = self.inventory.holders.get(holder)
        if entry is not None:
            self.emit(ToHolder(entry.link, message))

    def note(self, kind: str, entry: LeaseEntry, **fields: object) -> None:
        """Write something about a lease to the event log."""
        terms = entry.terms
        node = self.inventory.slices[terms.slice_id].slice.node
        self.emit(
            Happened(
                kind,
                slice_id=terms.slice_id,
                lease_id=terms.lease_id,
                holder=terms.holder,
                node=node,
                fields={
                    "lease_seq": terms.lease_seq,
                    "node_epoch": terms.epoch,
                    "alloc_epoch": self.inventory.counters["alloc_epoch"],
                    **fields,
                },
            )
        )

    # --- counters --------------------------------------------------------------------------------

    def advance(self, name: str, at_least: int | None = None) -> int:
        """Raise a durable counter by one, or to `at_least` if it is lower, and return it."""
        counters = self.inventory.counters
        value = counters[name] + 1 if at_least is None else max(at_least, counters[name])
        if value != counters[name]:
            counters[name] = value
            self.emit(Persist(CounterIs(name, value)))
        return value

    # --- leases ----------------------------------------------------------------------------------

    def propose(self, entry: SliceEntry, want: WantEntry, workers: int) -> None:
        """Propose a lease for `want` to the agent of this slice (002 section 6, step 1)."""
        wanted = want.want
        terms = LeaseTerms(
            lease_id=LeaseId(self._new_id()),
            lease_seq=LeaseSeq(self.advance("lease_seq")),
            slice_id=entry.slice_id,
            epoch=entry.epoch,
            holder=wanted.holder,
            request=wanted.request,
            workers=workers,
            cores_per_worker=wanted.cores_per_worker,
            memory_bytes_per_worker=wanted.memory_bytes_per_worker,
            ttl_s=self.ttl_s,
            uid=self.inventory.holders[wanted.holder].uid,
            kind=wanted.kind,
        )
        lease = LeaseEntry(terms, Lease(), since_s=self.now_s)
        self.inventory.add_lease(lease)
        self.tallies["proposed"] += 1
        self.note("grant_proposed", lease, workers=workers)
        self.tell_agent(entry, Propose(terms))

    def keep(self, entry: LeaseEntry) -> None:
        """Make a lease, as it is now, durable."""
        self.emit(Persist(LeaseIs(entry.held, entry.lease.reason, entry.lease.reason_code)))

    def accept(self, entry: LeaseEntry, core_ids: tuple[int, ...]) -> None:
        """The agent holds it: durable, then the holder may know (002 section 6, step 3)."""
        entry.core_ids = core_ids
        entry.lease.step(LeaseEvent.ACCEPT)
        self.inventory.recount(entry)
        self.keep(entry)
        self.begin(entry)
        self.tallies["granted"] += 1
        self.note("grant_accepted", entry, cores=list(core_ids), mem=entry.terms.memory_bytes)
        if entry.cancelled:
            self.end(entry, LeaseEvent.RELEASE, reason_code=6)
        else:
            self.grant(entry)

    def begin(self, entry: LeaseEntry) -> None:
        """A lease holds cores from now on, as far as we know: open its account."""
        entry.since_s = self.now_s
        holder = self.inventory.holders.get(entry.terms.holder)
        offer = self.inventory.slices[entry.terms.slice_id].slice
        self.accounts.open(entry.terms, offer, "" if holder is None else holder.name)

    def grant(self, entry: LeaseEntry) -> None:
        """Tell the holder of its lease; repeating it is harmless."""
        offer = self.inventory.slices[entry.terms.slice_id].slice
        if entry.terms.holder in self.inventory.holders:
            self.note("grant_acked", entry)
        self.tell_holder(entry.terms.holder, Granted(entry.terms, entry.core_ids, offer.node, offer.session_address))

    def end(self, entry: LeaseEntry, event: LeaseEvent, *, reason_code: int) -> None:
        """Lead a held lease to its end: the agent proves the death, then it is free."""
        entry.lease.step(event, reason_code=reason_code)
        self.inventory.recount(entry)
        self.keep(entry)
        self.changed = True
        self.tell_agent(self.inventory.slices[entry.terms.slice_id], EndLease(entry.terms.lease_id, reason_code))

    def cancel(self, entry: LeaseEntry) -> None:
        """Nobody wants this proposal any more; if its agent accepts all the same, it is released at once."""
        entry.cancelled = True
        self.inventory.recount(entry)
        self.changed = True

    def drop(self, entry: LeaseEntry, event: LeaseEvent) -> None:
        """End a proposal that no agent holds: nothing is held, nothing to prove."""
        entry.lease.step(event)
        self.inventory.drop_lease(entry)
        self.changed = True

    def free(
        self, entry: LeaseEntry, reason: str, reason_code: int, *, proof: str = "", usage: Usage | None = None
    ) -> None:
        """Its workers are proven dead: the cores are free and the holder hears of it.

        Args:
            entry: a lease that was held.
            reason: released, expired, reclaimed or lost; counts only if nothing led to its end before.
            reason_code: likewise.
            proof: what proves it, if the agent has not logged that itself.
            usage: what it cost in all, if the agent measured it to its end.
        """
        lease = entry.lease
        lease.step(EVENT_OF_REASON.get(reason, LeaseEvent.LOST), reason_code=reason_code)
        if lease.state is LeaseState.DRAINING:
            lease.step(LeaseEvent.DRAINED)
        if proof:
            self.note("proof_of_death", entry, by=proof)
        lease.step(LeaseEvent.PROVEN_DEAD)
        terms = entry.terms
        if usage is not None:
            self.accounts.hear(terms.lease_id, usage)
        total = self.accounts.close(terms.lease_id, lease.reason, lease.reason_code)
        billed = {} if usage is None else {"billed_core_ns": total.allocated_ns * terms.cores}
        self.note("free", entry, reason=lease.reason, reason_code=lease.reason_code, **billed)
        self.history.lease_ended(self.now_s - entry.since_s)
        self.emit(Persist(LeaseIsOver(terms.lease_id)))
        self.inventory.drop_lease(entry)
        self.tallies["freed"] += 1
        self.changed = True
        self.tell_holder(terms.holder, Ended(terms.holder, terms.lease_id, lease.reason, lease.reason_code))

    # --- neighbours ------------------------------------------------------------------------------

    def hear_guard(self, entry: SliceEntry, about: Neighbours, leases: tuple[LeaseId, ...]) -> None:
        """Take what the guard of a slice says, and learn which functions of these leases it sent away from what."""
        first = entry.neighbours == Neighbours()  # a life of the allocator before may have heard it
        repeated = about.words == entry.neighbours.words and about.verdict == entry.neighbours.verdict
        entry.neighbours, entry.guarded_until_s = about, self.now_s + about.closed_for_s
        self._guarded.add(entry.slice_id)
        if about.verdict == "open":
            entry.full = False  # it refused workers for its neighbours' sake
        self.changed = True
        if not repeated:  # said again after a registration: known already
            kinds = {self._kind_of(entry.leases[lease_id]) for lease_id in leases if lease_id in entry.leases}
            self.pairs.hear(about, kinds - {""}, self._unix_s, may_repeat=first)

    def why_not_beside(self, want: WantEntry, entry: SliceEntry) -> str:
        """Why nothing of this request is placed on a slice because of the job beside it; empty if it may be."""
        if want.want.kind != MEMORY and self.now_s < entry.guarded_until_s:
            return f"on {entry.slice.node} {entry.neighbours.words}"
        holder = self.inventory.holders.get(want.want.holder)
        return self.pairs.obstacle(want.want, holder.name if holder else "", entry.neighbours, self._unix_s)

    def kind_where_guarded(self, want: WantEntry) -> str:
        """What the functions of a request are known by; empty as long as no guard has spoken: nobody asks then."""
        holder = self.inventory.holders.get(want.want.holder)
        return kind_of(want.want, holder.name) if self._guarded and holder else ""

    def apart_from(self, want: WantEntry) -> set[SliceId]:
        """Slices on which nothing of this request is placed now; asks only those whose guards have spoken."""
        found = set()
        for slice_id in list(self._guarded):
            entry = self.inventory.slices.get(slice_id)
            if entry is None:
                self._guarded.discard(slice_id)
            elif self.why_not_beside(want, entry):
                found.add(slice_id)
        return found

    def _kind_of(self, lease: LeaseEntry) -> str:
        want = self.inventory.wants.get(lease.want_key)
        holder = self.inventory.holders.get(lease.terms.holder)
        return kind_of(want.want, holder.name) if want and holder and want.want.kind != MEMORY else ""

    # --- slices and hosts ------------------------------------------------------------------------

    def name_hosts(self, hosts: HostsAre) -> None:
        """Take and keep what a source says of the hosts there are."""
        if self.inventory.hosts_of.get(hosts.source) != hosts.hosts:
            self.inventory.name_hosts(hosts.source, hosts.hosts)
            self.emit(Persist(hosts))
            self.changed = True

    def keep_slice(self, entry: SliceEntry) -> None:
        """Make a slice and its agent's epoch durable."""
        self.emit(Persist(SliceIs(entry.slice, entry.instance, Epoch(entry.epoch))))

    def clear(self, entry: SliceEntry, reason: str, reason_code: int, *, proof: str) -> None:
        """Everything that was leased there is proven dead."""
        for lease in list(entry.leases.values()):
            if lease.lease.held:
                self.free(lease, reason, reason_code, proof=proof)
            else:
                self.drop(lease, LeaseEvent.LOST)

    def end_slice(self, entry: SliceEntry, reason: str, reason_code: int, *, proof: str, for_good: bool = True) -> None:
        """A slice is over, and with it all that was leased there.

        Args:
            entry: of the slice.
            reason: of the leases' ends.
            reason_code: likewise.
            proof: what proves that nothing of it lives.
            for_good: whoever speaks for it later must go; else its host may lend it again.
        """
        self.clear(entry, reason, reason_code, proof=proof)
        self.tallies["slices_ended"] += 1
        if for_good:
            self.inventory.drop_slice(entry)
            self._bar(entry.slice_id)
        else:
            self.forget_slice(entry)
        logger.info("slice over slice=%s node=%s by=%s", entry.slice_id.hex(), entry.slice.node, proof)

    def _bar(self, slice_id: SliceId) -> None:
        """Remember that this slice is over for good, as long as there is room for it."""
        over = self.inventory.slices_over
        over[slice_id] = None
        if len(over) > SLICES_OVER_KEPT:
            del over[next(iter(over))]
        self.emit(Persist(SliceIsOver(slice_id)))

    def tell_to_leave(self, entry: SliceEntry, reason_code: int) -> None:
        """Nothing more is granted there; its agent is told to drain and leave, and proves the end itself."""
        entry.ending, entry.ending_code = True, reason_code
        self.inventory.touch(entry)
        self.tell_agent(entry, EndSlice(reason_code))

    def forget_slice(self, entry: SliceEntry) -> None:
        """A slice that holds nothing, whose agent went: it may come back as it was."""
        self.inventory.drop_slice(entry)
        self.emit(Persist(SliceIsForgotten(entry.slice_id)))
