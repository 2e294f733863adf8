"""What the inventory keeps of each slice, lease, request and client.

Must not know of each other's entries more than the fields say. Spec: docs/spec/002-lease.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from rfaas.control.lease import Lease
from rfaas.control.messages import (
    NO_NEIGHBOURS,
    Epoch,
    HeldLease,
    HolderId,
    InstanceId,
    LeaseId,
    LeaseTerms,
    Neighbours,
    Slice,
    SliceId,
    SliceView,
    Want,
)
from rfaas_allocator.events import LinkId
from rfaas_allocator.placement import Item
from rfaas_allocator.rooms import Room

WantKey = tuple[HolderId, int]


@dataclass(slots=True, eq=False)
class LeaseEntry:
    """One lease that is not FREE."""

    terms: LeaseTerms
    lease: Lease
    core_ids: tuple[int, ...] = ()
    cancelled: bool = False  # nobody wants it any more, but its agent has not answered the proposal yet
    spawned: str = ""  # why its workers are spawned and not forked, as its agent says
    since_s: float = 0.0  # when it was granted or found, in this life of the allocator; for estimates only
    counted: bool = False  # towards its request's target; the inventory's alone

    @property
    def held(self) -> HeldLease:
        """As messages and journal carry it."""
        return HeldLease(self.terms, self.core_ids, self.lease.state.name, self.spawned)

    @property
    def want_key(self) -> WantKey:
        """The standing request it serves."""
        return self.terms.holder, self.terms.request


@dataclass(slots=True, eq=False)
class SliceEntry:
    """One slice and what is leased of it."""

    slice: Slice
    instance: InstanceId
    epoch: Epoch
    heard_s: float  # when its agent spoke last, or the allocator started
    end_s: float | None = None
    link: LinkId | None = None
    ending: bool = False  # it goes back to its owner
    ending_code: int = 0  # a ReasonCode: why
    doomed: bool = False  # Slurm says that it must end: its agent is told again whenever it registers
    full: bool = False  # its agent said so although we thought otherwise; until something there is freed
    haunted: bool = False  # workers of an earlier agent may live there: nothing is granted
    shadowed: bool = False  # a slice of the node's earlier incarnation is not proven dead yet: nothing is granted
    leases: dict[LeaseId, LeaseEntry] = field(default_factory=dict)
    leased_cores: int = 0  # sums over them
    leased_memory_bytes: int = 0
    watched_s: float = math.inf  # when the inventory looks at it again; its alone
    neighbours: Neighbours = NO_NEIGHBOURS  # what its guard said last
    guarded_until_s: float = 0.0  # until then its guard accepts no workers

    @property
    def slice_id(self) -> SliceId:
        """The slice's id."""
        return self.slice.slice_id

    @property
    def free_cores(self) -> int:
        """Cores that no lease holds or is proposed to hold."""
        return max(0, self.slice.cores - self.leased_cores)

    @property
    def free_memory_bytes(self) -> int:
        """Memory that no lease holds or is proposed to hold."""
        return max(0, self.slice.memory_bytes - self.leased_memory_bytes)

    @property
    def state(self) -> str:
        """For people and harvester: up, draining or unreachable."""
        if self.link is None:
            return "unreachable"
        return "draining" if self.ending else "up"

    def closes_s(self, ttl_s: float) -> float:
        """The last moment at which a lease of `ttl_s` fits before the slice's end minus its grace."""
        return math.inf if self.end_s is None else self.end_s - self.slice.grace_s - ttl_s

    def open(self, now_s: float, ttl_s: float) -> bool:
        """True if something may be proposed there now."""
        closed = self.link is None or self.ending or self.full or self.haunted or self.shadowed
        return not closed and now_s <= self.closes_s(ttl_s)

    def room(self) -> Room:
        """What is free, for placement."""
        return Room(self.slice_id, self.slice.node, self.free_cores, self.free_memory_bytes)

    def view(self, now_s: float) -> SliceView:
        """As status and harvester see it."""
        end_in_s = None if self.end_s is None else max(0.0, self.end_s - now_s)
        return SliceView(
            slice=replace(self.slice, end_in_s=end_in_s),
            epoch=self.epoch,
            state=self.state,
            leases=tuple(entry.held for _, entry in sorted(self.leases.items())),
            free_cores=self.free_cores,
            free_memory_bytes=self.free_memory_bytes,
            neighbours=replace(self.neighbours, closed_for_s=max(0.0, self.guarded_until_s - now_s)),
        )


@dataclass(slots=True, eq=False)
class WantEntry:
    """One standing request, and what its holder was told last."""

    want: Want
    number: int = 0  # the oldest has the lowest
    told: tuple[int, str, str] | None = None  # missing workers, code, reason
    single: Item = field(init=False)  # one worker of it, as placement needs it

    def __post_init__(self) -> None:
        self.change(self.want)

    def change(self, want: Want) -> None:
        """It is another from now on."""
        self.want = want
        self.single = Item(1, want.cores_per_worker, want.memory_bytes_per_worker)


@dataclass(slots=True, eq=False)
class HolderEntry:
    """One client, as its session process speaks for it."""

    holder: HolderId
    name: str
    uid: int
    link: LinkId
    held: frozenset[LeaseId] = frozenset()  # what it knew of when it said hello
