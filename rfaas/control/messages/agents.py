"""What agent and allocator say to each other, as `agents.proto` does."""

from __future__ import annotations

from dataclasses import dataclass

from rfaas.control.messages.common import (
    NO_USAGE,
    Epoch,
    HeldLease,
    InstanceId,
    LeaseId,
    LeaseTerms,
    LeaseUsage,
    Neighbours,
    Slice,
    SliceId,
    Usage,
)


@dataclass(frozen=True, slots=True)
class Register:
    """First message of an agent, and again after each reconnect.

    `clean`: this process has proven that nothing of an earlier agent of this slice lives (002 section 3); only then are
    the leases of that agent free and something granted here.
    """

    slice: Slice
    instance: InstanceId
    epoch: Epoch  # 0 at the first registration of this process
    held: tuple[HeldLease, ...] = ()
    draining: bool = False
    clean: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """The agent holds the cores for this lease now."""

    lease_id: LeaseId
    epoch: Epoch
    core_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """code: stale-epoch, draining, no-room, unknown-slice."""

    lease_id: LeaseId
    epoch: Epoch
    code: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The agent moved a lease to ACTIVE, DRAINING or FENCED."""

    lease_id: LeaseId
    epoch: Epoch
    state: str


@dataclass(frozen=True, slots=True)
class Freed:
    """FREE with proof of death. reason: released, expired, reclaimed, lost. `usage`: what it cost in all."""

    lease_id: LeaseId
    epoch: Epoch
    reason: str
    reason_code: int
    usage: Usage = NO_USAGE


@dataclass(frozen=True, slots=True)
class Ending:
    """The slice goes back to its owner; grant nothing there any more."""

    slice_id: SliceId
    epoch: Epoch
    reason_code: int
    grace_s: float


@dataclass(frozen=True, slots=True)
class SliceEmpty:
    """Last word of an agent: every lease freed, every descendant proven dead, it exits."""

    slice_id: SliceId
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What leases of this agent have cost so far; sent every few seconds and after each registration."""

    epoch: Epoch
    leases: tuple[LeaseUsage, ...]


@dataclass(frozen=True, slots=True)
class WorkersSpawned:
    """The template of this lease's environment can't fork, and why, for people; empty: it can again."""

    lease_id: LeaseId
    epoch: Epoch
    why: str


@dataclass(frozen=True, slots=True)
class NeighbourReport:
    """What the slice's guard said last, and the leases of workers that it is about; again after each registration."""

    epoch: Epoch
    about: Neighbours
    leases: tuple[LeaseId, ...]


AgentMessage = (
    Register
    | Accepted
    | Refused
    | StateChanged
    | Freed
    | Ending
    | SliceEmpty
    | UsageReport
    | WorkersSpawned
    | NeighbourReport
)


@dataclass(frozen=True, slots=True)
class Registered:
    """The agent's epoch, durable before it was sent."""

    epoch: Epoch
    alloc_epoch: int


@dataclass(frozen=True, slots=True)
class Propose:
    """Accept by compare-and-set on `terms.epoch`, or refuse."""

    terms: LeaseTerms


@dataclass(frozen=True, slots=True)
class EndLease:
    """End it now (the holder released it, or the allocator does not know it any more)."""

    lease_id: LeaseId
    reason_code: int


@dataclass(frozen=True, slots=True)
class EndSlice:
    """Drain and leave, as for a reclaim (`rfaas down`, harvester shrinking)."""

    reason_code: int


AllocatorToAgent = Registered | Propose | EndLease | EndSlice
