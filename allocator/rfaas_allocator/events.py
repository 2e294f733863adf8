"""What the allocator's core takes and gives, as plain values: events, effects, and the records of its journal.

No behaviour here. Spec: docs/spec/002-lease.md, docs/spec/003-control.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NewType

from rfaas.control.hosts import HostList
from rfaas.control.messages import (
    Account,
    AgentMessage,
    AllocatorToAgent,
    AllocatorToHolder,
    Epoch,
    HeldLease,
    HolderId,
    HolderMessage,
    InstanceId,
    JobsReport,
    LeaseId,
    Slice,
    SliceId,
)

LinkId = NewType("LinkId", int)  # one connection of an agent or a session process; they rise

# --- events: what the core is told ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AgentSaid:
    """A message came from an agent's link."""

    link: LinkId
    message: AgentMessage


@dataclass(frozen=True, slots=True)
class AgentLinkBroke:
    """An agent's link is gone; the agent may live."""

    link: LinkId


@dataclass(frozen=True, slots=True)
class HolderSaid:
    """A message came from a session process's link."""

    link: LinkId
    message: HolderMessage


@dataclass(frozen=True, slots=True)
class HolderLinkBroke:
    """A session process's link is gone; its clients may live."""

    link: LinkId


@dataclass(frozen=True, slots=True)
class SlicesMustEnd:
    """Somebody asked for all slices to be given back; `for_good`: those that register later too."""

    reason_code: int
    for_good: bool


@dataclass(frozen=True, slots=True)
class StorageIs:
    """What keeps the journal from growing, for people; "" when nothing does. Until then no new lease is proposed."""

    problem: str


@dataclass(frozen=True, slots=True)
class HostsNamed:
    """A file, or Slurm, said which hosts there are; it replaces what the same source said before."""

    source: str  # "file" or "slurm"
    hosts: HostList


CoreEvent = (
    AgentSaid | AgentLinkBroke | HolderSaid | HolderLinkBroke | JobsReport | SlicesMustEnd | StorageIs | HostsNamed
)


# --- records: what must be durable ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CounterIs:
    """A number that never decreases: alloc_epoch, epoch or lease_seq."""

    name: str
    value: int


@dataclass(frozen=True, slots=True)
class SliceIs:
    """A slice, and the epoch of its agent."""

    slice: Slice
    instance: InstanceId
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class SliceIsOver:
    """A slice has ended for good: its id never comes back."""

    slice_id: SliceId


@dataclass(frozen=True, slots=True)
class SliceIsForgotten:
    """A slice without leases whose agent went: no promise is lost with it, and it may come back."""

    slice_id: SliceId


@dataclass(frozen=True, slots=True)
class LeaseIs:
    """A lease that holds cores; `reason` once it is to end."""

    held: HeldLease
    reason: str = ""
    reason_code: int = 0


@dataclass(frozen=True, slots=True)
class LeaseIsOver:
    """A lease is FREE."""

    lease_id: LeaseId


@dataclass(frozen=True, slots=True)
class AccountIs:
    """What a lease has cost so far, or in all; it outlives the lease."""

    account: Account


@dataclass(frozen=True, slots=True)
class HostsAre:
    """The hosts that a source names."""

    source: str
    hosts: HostList


@dataclass(frozen=True, slots=True)
class PairIs:
    """One program and one kind of functions that a guard had to send away from it; kept until long after it counts.

    `until_unix_s`: they are kept apart until then, by the wall clock: another life may be on another host.
    """

    host: str
    kind: str
    times: int
    until_unix_s: float
    slowdown: float


@dataclass(frozen=True, slots=True)
class PairIsForgotten:
    """So many others were learnt since that this one is dropped."""

    host: str
    kind: str


Record = (
    CounterIs
    | SliceIs
    | SliceIsOver
    | SliceIsForgotten
    | LeaseIs
    | LeaseIsOver
    | AccountIs
    | HostsAre
    | PairIs
    | PairIsForgotten
)


@dataclass(slots=True)
class Recovered:
    """What a journal remembers; empty at the first start."""

    counters: dict[str, int] = field(default_factory=dict)
    slices: list[SliceIs] = field(default_factory=list)
    slices_over: list[SliceId] = field(default_factory=list)  # oldest first
    leases: list[LeaseIs] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)  # of leases that live, and those that ended last
    hosts: dict[str, HostList] = field(default_factory=dict)  # by source
    pairs: list[PairIs] = field(default_factory=list)  # that time apart ends first, first


# --- effects: what the core wants done -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Make this durable before any other effect of the same step is carried out."""

    record: Record


@dataclass(frozen=True, slots=True)
class ToAgent:
    """Send on an agent's link; drop it if the link broke meanwhile."""

    link: LinkId
    message: AllocatorToAgent


@dataclass(frozen=True, slots=True)
class ToHolder:
    """Send on a session process's link; drop it if the link broke meanwhile."""

    link: LinkId
    message: AllocatorToHolder


@dataclass(frozen=True, slots=True)
class CloseLink:
    """Break a link: what comes from it is not wanted any more."""

    link: LinkId
    why: str


@dataclass(frozen=True, slots=True)
class Happened:
    """For the event log (docs/spec/005-event-log.md) and for those who watch."""

    kind: str
    slice_id: SliceId | None = None
    lease_id: LeaseId | None = None
    holder: HolderId | None = None
    node: str = ""
    fields: dict[str, object] = field(default_factory=dict)


Effect = Persist | ToAgent | ToHolder | CloseLink | Happened
