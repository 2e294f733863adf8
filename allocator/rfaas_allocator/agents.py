"""What agents say, turned into changes of the ledger. The agent's truth wins.

Must not choose where leases go (placement) nor whom to serve (core). Spec: docs/spec/002-lease.md sections 3, 6, 7.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from rfaas.control.lease import SERVING, Lease, LeaseEvent, LeaseState
from rfaas.control.messages import (
    Accepted,
    AgentMessage,
    Ending,
    EndLease,
    EndSlice,
    Epoch,
    Freed,
    HeldLease,
    NeighbourReport,
    Refused,
    Register,
    Registered,
    SliceEmpty,
    StateChanged,
    UsageReport,
    WorkersSpawned,
)
from rfaas_allocator.entries import LeaseEntry, SliceEntry
from rfaas_allocator.events import CloseLink, Happened, LinkId, ToAgent
from rfaas_allocator.jobs import bury_earlier_incarnations
from rfaas_allocator.ledger import Ledger
from rfaas_allocator.policy import Policy
from rfaas_transport.errors import ReasonCode

logger = logging.getLogger(__name__)


class AgentDesk:
    """Serves agents."""

    def __init__(self, ledger: Ledger, policy: Policy) -> None:
        self._ledger = ledger
        self._policy = policy
        self._inventory = ledger.inventory
        self._end_reason: int | None = None

    # --- links -----------------------------------------------------------------------------------

    def said(self, link: LinkId, message: AgentMessage, now_s: float) -> None:
        """Take one message of an agent."""
        if isinstance(message, Register):
            self._register(link, message, now_s)
            return
        entry = self._inventory.slice_of_link(link)
        if entry is None or message.epoch != entry.epoch:
            logger.warning("message of no registered agent ignored link=%d kind=%s", link, type(message).__name__)
            return
        entry.heard_s = now_s
        self._inventory.touch(entry)
        match message:
            case Ending():
                entry.ending, entry.ending_code = True, message.reason_code
                self._ledger.changed = True
            case SliceEmpty():
                reason = "reclaimed" if entry.ending else "lost"
                code = entry.ending_code if entry.ending else ReasonCode.AGENT_LOST
                # A job that shares takes back what its tasks need, and shares again when they have left it.
                for_good = bool(entry.slice.job_id) and entry.slice.shared_by is None
                self._ledger.end_slice(entry, reason, code, proof="slice-empty", for_good=for_good)
            case NeighbourReport():
                self._ledger.hear_guard(entry, message.about, message.leases)
            case UsageReport():
                for one in message.leases:
                    self._ledger.accounts.hear(one.lease_id, one.usage)
            case _:
                self._about_lease(entry, message)

    def link_broke(self, link: LinkId) -> None:
        """An agent can't be reached any more; what it holds stays held."""
        entry = self._inventory.slice_of_link(link)
        if entry is None:
            return
        self._inventory.disconnect(entry)
        self._ledger.changed = True
        bury_earlier_incarnations(self._ledger, entry.slice.node)
        if not entry.leases and not entry.slice.job_id:
            self._ledger.forget_slice(entry)

    def end_all(self, reason_code: int, *, for_good: bool) -> None:
        """Tell every agent to drain and leave; `for_good`: those that register later too."""
        for entry in self._inventory.slices.values():
            self._ledger.tell_to_leave(entry, reason_code)
        if for_good:
            self._end_reason = reason_code

    # --- leases ----------------------------------------------------------------------------------

    def _about_lease(
        self, entry: SliceEntry, message: Accepted | Refused | StateChanged | Freed | WorkersSpawned
    ) -> None:
        lease = entry.leases.get(message.lease_id)
        match message:
            case Accepted() if lease is None:
                # We gave it up; whoever holds cores for us must hear that.
                self._ledger.tell_agent(entry, EndLease(message.lease_id, ReasonCode.OWNER_RELEASE))
            case Accepted() if lease is not None and lease.lease.state is LeaseState.REQUESTED:
                self._ledger.accept(lease, message.core_ids)
            case Refused() if lease is not None and lease.lease.state is LeaseState.REQUESTED:
                self._refused(entry, lease, message)
            case StateChanged() if lease is not None:
                self._mirror(entry, lease, LeaseState[message.state])
            case WorkersSpawned() if lease is not None:
                lease.spawned = message.why
            case Freed() if lease is not None:
                self._freed(lease, message)
            case _:
                logger.debug("repeated message ignored kind=%s", type(message).__name__)

    def _refused(self, entry: SliceEntry, lease: LeaseEntry, message: Refused) -> None:
        logger.info("refused lease=%s code=%s hint=%s", message.lease_id.hex(), message.code, message.hint)
        self._ledger.tallies["refused"] += 1
        self._ledger.drop(lease, LeaseEvent.DENY)
        if message.code == "draining":
            entry.ending = True
        elif message.code == "no-room":
            entry.full = True
        elif entry.link is not None:  # stale-epoch, unknown-slice: our picture of this agent is wrong
            link = entry.link
            self._inventory.disconnect(entry)
            self._ledger.emit(CloseLink(link, f"refused with {message.code}: register again"))

    def _freed(self, lease: LeaseEntry, message: Freed) -> None:
        if lease.lease.state is LeaseState.REQUESTED:  # accepted, ended and proven before we heard of any of it
            self._ledger.drop(lease, LeaseEvent.LOST)
        else:
            measured = message.usage if message.usage.allocated_ns else None  # agents of the version before say nothing
            self._ledger.free(lease, message.reason, message.reason_code, usage=measured)

    def _mirror(self, entry: SliceEntry, lease: LeaseEntry, state: LeaseState) -> None:
        """Follow the agent's state; one that we have left already is old news."""
        mine = lease.lease
        if state is LeaseState.ACTIVE and mine.state in SERVING:
            mine.step(LeaseEvent.ATTACH)
        elif state is LeaseState.DRAINING and mine.state in SERVING:
            lease.lease = Lease(LeaseState.DRAINING, reason="reclaimed", reason_code=self._why_reclaimed(entry))
        elif state is LeaseState.FENCED and mine.state in SERVING:
            lease.lease = Lease(LeaseState.FENCED)  # `freed` will say why
        elif state is LeaseState.FENCED and mine.state is LeaseState.DRAINING:
            mine.step(LeaseEvent.DRAINED)
        self._inventory.recount(lease)
        self._ledger.changed = True

    @staticmethod
    def _why_reclaimed(entry: SliceEntry) -> int:
        """A slice gives single leases back only because its guard moved them."""
        return entry.ending_code if entry.ending else ReasonCode.CPU_PRESSURE

    # --- registration ----------------------------------------------------------------------------

    def _register(self, link: LinkId, message: Register, now_s: float) -> None:
        slice_id = message.slice.slice_id
        if slice_id in self._inventory.slices_over:
            # Slurm said that this job had ended, and its cores may be somebody else's: whatever speaks must go.
            self._ledger.emit(ToAgent(link, EndSlice(ReasonCode.ADMIN)))
            return
        entry = self._inventory.slices.get(slice_id)
        if entry is not None and entry.link is not None and entry.link != link:
            if entry.instance != message.instance:
                self._ledger.emit(CloseLink(link, "another agent serves this slice"))
                return
            self._ledger.emit(CloseLink(entry.link, "its agent registered again"))
        entry = self._admit(entry, message, now_s)
        self._inventory.connect(entry, link)
        bury_earlier_incarnations(self._ledger, entry.slice.node)
        entry.heard_s = now_s
        entry.end_s = None if message.slice.end_in_s is None else now_s + message.slice.end_in_s
        entry.ending, entry.full = message.draining, False
        alloc_epoch = self._inventory.counters["alloc_epoch"]
        self._ledger.tell_agent(entry, Registered(entry.epoch, alloc_epoch))
        self._merge(entry, message.held)
        if self._end_reason is not None:
            self._ledger.tell_to_leave(entry, self._end_reason)
        elif entry.doomed:
            self._ledger.tell_to_leave(entry, entry.ending_code)
        self._ledger.changed = True

    def _admit(self, entry: SliceEntry | None, message: Register, now_s: float) -> SliceEntry:
        """The entry of a slice with the epoch of the agent that registers; durable if anything of it is new."""
        about = replace(message.slice, end_in_s=None)
        if entry is not None and entry.instance == message.instance:
            if entry.slice != about or entry.epoch < message.epoch:
                self._inventory.replace_slice(entry, about)
                entry.epoch = max(entry.epoch, message.epoch)
                self._ledger.advance("epoch", at_least=entry.epoch)
                self._ledger.keep_slice(entry)
            return entry
        if entry is None:
            entry = SliceEntry(about, message.instance, message.epoch, heard_s=now_s)
            self._inventory.add_slice(entry)
            self._ledger.history.slice_came(now_s, about.cores, about.memory_bytes)
        else:
            self._succeed(entry, message)
        # An agent that has an epoch keeps it: it was forgotten meanwhile, or its giver's journal is lost.
        entry.epoch = message.epoch or Epoch(self._ledger.advance("epoch"))
        self._ledger.advance("epoch", at_least=entry.epoch)
        self._ledger.keep_slice(entry)
        if not message.epoch:
            fields: dict[str, object] = {"node_epoch": entry.epoch}
            self._ledger.emit(Happened("epoch", slice_id=entry.slice_id, node=entry.slice.node, fields=fields))
        return entry

    def _succeed(self, entry: SliceEntry, message: Register) -> None:
        """Another agent process takes over a slice."""
        if message.clean:
            self._ledger.clear(entry, "lost", ReasonCode.AGENT_LOST, proof="new-agent")
        self._inventory.replace_slice(entry, replace(message.slice, end_in_s=None))
        entry.instance = message.instance
        entry.haunted = not message.clean  # the old one may hold what we never heard of

    def _merge(self, entry: SliceEntry, held: tuple[HeldLease, ...]) -> None:
        """Make our leases those that the agent holds (002 section 7)."""
        reported = {lease.terms.lease_id: lease for lease in held}
        for lease in list(entry.leases.values()):
            if lease.terms.lease_id not in reported and lease.terms.epoch == entry.epoch:
                self._gone(lease)
        for lease_id, truth in reported.items():
            known = entry.leases.get(lease_id)
            if known is None:
                self._adopt(entry, truth)
                continue
            known.spawned = truth.spawned
            if known.lease.state is LeaseState.REQUESTED:
                self._found(entry, known, truth)
            else:
                self._reconcile(entry, known, truth)

    def _gone(self, lease: LeaseEntry) -> None:
        if lease.lease.held:
            self._ledger.free(lease, "lost", ReasonCode.NONE)
        else:
            self._ledger.drop(lease, LeaseEvent.LOST)

    def _adopt(self, entry: SliceEntry, truth: HeldLease) -> None:
        """The agent holds what the journal lacks: it accepted, and we died before that was durable."""
        if truth.state in (LeaseState.REQUESTED.name, LeaseState.FREE.name) or truth.terms.slice_id != entry.slice_id:
            logger.warning("impossible lease ignored lease=%s state=%s", truth.terms.lease_id.hex(), truth.state)
            return
        lease = LeaseEntry(truth.terms, Lease(LeaseState[truth.state]), truth.core_ids, spawned=truth.spawned)
        self._inventory.add_lease(lease)
        self._ledger.advance("lease_seq", at_least=truth.terms.lease_seq)
        self._ledger.keep(lease)
        self._ledger.begin(lease)
        if lease.lease.state is LeaseState.GRANTED and self._is_surplus(lease):
            self._ledger.end(lease, LeaseEvent.RELEASE, reason_code=ReasonCode.OWNER_RELEASE)
        elif lease.lease.state in SERVING:
            self._ledger.grant(lease)

    def _is_surplus(self, lease: LeaseEntry) -> bool:
        """True if the holder is here, does not know of this lease, and has what it wants or may have without it."""
        holder = self._inventory.holders.get(lease.terms.holder)
        unknown = holder is not None and lease.terms.lease_id not in holder.held
        uid = lease.terms.uid
        beyond = self._policy.quota_of(uid).exceeded(self._inventory.holding(uid))
        return unknown and (beyond or self._inventory.missing(lease.want_key) < 0)

    def _found(self, entry: SliceEntry, known: LeaseEntry, truth: HeldLease) -> None:
        """The answer to a proposal was lost with its link: the agent had accepted."""
        # While it was unreachable somebody else may have been asked: more than the target is not kept.
        if self._inventory.missing(known.want_key) < 0:
            self._ledger.cancel(known)
        self._ledger.accept(known, truth.core_ids)
        if truth.state != LeaseState.GRANTED.name:
            self._mirror(entry, known, LeaseState[truth.state])

    def _reconcile(self, entry: SliceEntry, known: LeaseEntry, truth: HeldLease) -> None:
        known.core_ids = truth.core_ids
        if known.lease.state is LeaseState.FENCED and known.lease.reason and truth.state != LeaseState.FENCED.name:
            # It was released while its agent could not be reached, and the agent does not know.
            self._ledger.tell_agent(entry, EndLease(known.terms.lease_id, known.lease.reason_code))
        else:
            self._mirror(entry, known, LeaseState[truth.state])
