"""What the allocator knows: slices, leases, holders and their wants. Bookkeeping only; the desks decide.

Must not send, persist or read a clock. Spec: docs/spec/002-lease.md.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from rfaas.control.hosts import HostList, merged
from rfaas.control.lease import SERVING, Lease, LeaseState
from rfaas.control.messages import (
    MEMORY,
    Epoch,
    HeldLease,
    HolderId,
    InstanceId,
    LeaseId,
    LeaseTerms,
    Slice,
    SliceId,
    SliceView,
    Want,
)
from rfaas_allocator.events import LinkId
from rfaas_allocator.placement import Item, Room
from rfaas_allocator.policy import Holding

WantKey = tuple[HolderId, int]
K = TypeVar("K", bound=Hashable)


@dataclass(slots=True, eq=False)
class LeaseEntry:
    """One lease that is not FREE."""

    terms: LeaseTerms
    lease: Lease
    core_ids: tuple[int, ...] = ()
    cancelled: bool = False  # nobody wants it any more, but its agent has not answered the proposal yet
    spawned: str = ""  # why its workers are spawned and not forked, as its agent says
    since_s: float = 0.0  # when it was granted or found, in this life of the allocator; for estimates only

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

    @property
    def slice_id(self) -> SliceId:
        """The slice's id."""
        return self.slice.slice_id

    @property
    def free_cores(self) -> int:
        """Cores that no lease holds or is proposed to hold."""
        return max(0, self.slice.cores - sum(entry.terms.cores for entry in self.leases.values()))

    @property
    def free_memory_bytes(self) -> int:
        """Memory that no lease holds or is proposed to hold."""
        return max(0, self.slice.memory_bytes - sum(entry.terms.memory_bytes for entry in self.leases.values()))

    @property
    def state(self) -> str:
        """For people and harvester: up, draining or unreachable."""
        if self.link is None:
            return "unreachable"
        return "draining" if self.ending else "up"

    def has_time(self, now_s: float, ttl_s: float) -> bool:
        """True if a lease of `ttl_s` fits before the slice's end minus its grace."""
        return self.end_s is None or self.end_s - self.slice.grace_s - now_s >= ttl_s

    def open(self, now_s: float, ttl_s: float) -> bool:
        """True if something may be proposed there now."""
        closed = self.link is None or self.ending or self.full or self.haunted or self.shadowed
        return not closed and self.has_time(now_s, ttl_s)

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
        )


@dataclass(slots=True, eq=False)
class WantEntry:
    """One standing request, and what its holder was told last."""

    want: Want
    told: tuple[int, str, str] | None = None  # missing workers, code, reason

    @property
    def item(self) -> Item:
        """What placement needs of it; `workers` is the whole target."""
        return Item(self.want.workers, self.want.cores_per_worker, self.want.memory_bytes_per_worker)

    @property
    def single(self) -> Item:
        """One worker of it."""
        return Item(1, self.want.cores_per_worker, self.want.memory_bytes_per_worker)


@dataclass(slots=True, eq=False)
class HolderEntry:
    """One client, as its session process speaks for it."""

    holder: HolderId
    name: str
    uid: int
    link: LinkId
    held: frozenset[LeaseId] = frozenset()  # what it knew of when it said hello


COUNTERS: Final = ("alloc_epoch", "epoch", "lease_seq")
"""Numbers that never decrease; durable."""


class Inventory:
    """All slices, leases, holders and wants; ids lead to entries."""

    def __init__(self) -> None:
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self.slices: dict[SliceId, SliceEntry] = {}
        self.slices_over: dict[SliceId, None] = {}  # ordered: the oldest first
        self.leases: dict[LeaseId, LeaseEntry] = {}
        self.holders: dict[HolderId, HolderEntry] = {}
        self.wants: dict[WantKey, WantEntry] = {}  # oldest first: the order in which they are served
        self.hosts_of: dict[str, HostList] = {}  # by source
        self.hosts = HostList()  # all of them
        self._holdings: dict[int, Holding] = {}  # by uid
        self._leases_for: dict[WantKey, dict[LeaseId, LeaseEntry]] = {}
        self._leases_of: dict[HolderId, dict[LeaseId, LeaseEntry]] = {}
        self._slice_of_link: dict[LinkId, SliceEntry] = {}

    def add_lease(self, entry: LeaseEntry) -> None:
        """Note a lease; its slice must be known."""
        terms = entry.terms
        self.leases[terms.lease_id] = entry
        self.slices[terms.slice_id].leases[terms.lease_id] = entry
        self._leases_of.setdefault(terms.holder, {})[terms.lease_id] = entry
        self._leases_for.setdefault(entry.want_key, {})[terms.lease_id] = entry
        holding = self._holdings.setdefault(terms.uid, Holding())
        holding.add(1, _n_workers(terms), terms.cores, terms.memory_bytes)

    def drop_lease(self, entry: LeaseEntry) -> None:
        """Forget a lease that holds nothing any more."""
        terms = entry.terms
        del self.leases[terms.lease_id]
        slice_entry = self.slices[terms.slice_id]
        del slice_entry.leases[terms.lease_id]
        slice_entry.full = False
        slice_entry.haunted = slice_entry.haunted and bool(slice_entry.leases)
        _drop(self._leases_of, terms.holder, terms.lease_id)
        _drop(self._leases_for, entry.want_key, terms.lease_id)
        holding = self._holdings[terms.uid]
        holding.add(-1, -_n_workers(terms), -terms.cores, -terms.memory_bytes)
        if not holding.leases:
            del self._holdings[terms.uid]

    def holding(self, uid: int) -> Holding:
        """What all leases of a user hold or are proposed to hold, until each is FREE; not to be changed."""
        return self._holdings.get(uid, Holding())

    def name_hosts(self, source: str, hosts: HostList) -> None:
        """Take what a source says of the hosts there are, in place of what it said before."""
        self.hosts_of[source] = hosts
        self.hosts = merged(self.hosts_of.values())

    def could_hold(self, item: Item) -> bool:
        """False if it is known that no host, and no slice, can ever hold one such worker."""
        if not self.hosts.complete:
            return True
        sizes = [(host.cores, host.memory_bytes) for host in self.hosts.hosts]
        sizes += [(entry.slice.cores, entry.slice.memory_bytes) for entry in self.slices.values()]
        return any(
            cores >= item.cores_per_worker and memory_bytes >= item.memory_bytes_per_worker
            for cores, memory_bytes in sizes
        )

    def serving_by_node(self, key: WantKey) -> dict[str, int]:
        """Workers that a request has or is about to have, by node."""
        found: dict[str, int] = {}
        for entry in self._leases_for.get(key, {}).values():
            node = self.slices[entry.terms.slice_id].slice.node
            found[node] = found.get(node, 0) + entry.terms.workers
        return found

    def leases_of(self, holder: HolderId) -> list[LeaseEntry]:
        """The leases of one holder, whatever their state."""
        return list(self._leases_of.get(holder, {}).values())

    def pending(self, key: WantKey) -> list[LeaseEntry]:
        """Proposals for this request that an agent will answer, oldest first."""
        return [entry for entry in self._leases_for.get(key, {}).values() if self._is_pending(entry)]

    def missing(self, key: WantKey) -> int:
        """Workers that this request lacks, counting proposals under way; negative if it has more than it wants."""
        entry = self.wants.get(key)
        target = entry.want.workers if entry else 0
        counted = (
            lease.terms.workers
            for lease in self._leases_for.get(key, {}).values()
            if lease.lease.state in SERVING or self._is_pending(lease)
        )
        return target - sum(counted)

    def _is_pending(self, entry: LeaseEntry) -> bool:
        # A proposal to an agent that can't be reached may never be answered: somebody else is asked meanwhile.
        reachable = self.slices[entry.terms.slice_id].link is not None
        return entry.lease.state is LeaseState.REQUESTED and not entry.cancelled and reachable

    def connect(self, entry: SliceEntry, link: LinkId) -> None:
        """The slice's agent speaks on this link from now on."""
        self.disconnect(entry)
        entry.link = link
        self._slice_of_link[link] = entry

    def disconnect(self, entry: SliceEntry) -> None:
        """The slice's agent can't be reached any more."""
        if entry.link is not None:
            del self._slice_of_link[entry.link]
            entry.link = None

    def slice_of_link(self, link: LinkId) -> SliceEntry | None:
        """The slice whose agent speaks on this link."""
        return self._slice_of_link.get(link)


def _n_workers(terms: LeaseTerms) -> int:
    """As quotas count them: a region is none."""
    return 0 if terms.kind == MEMORY else terms.workers


def _drop(index: dict[K, dict[LeaseId, LeaseEntry]], key: K, lease_id: LeaseId) -> None:
    """Take a lease out of an index, and with the last one its key."""
    del index[key][lease_id]
    if not index[key]:
        del index[key]
