"""What the allocator knows: slices, leases, holders and their wants. Bookkeeping only; the desks decide.

Must not send, persist or read a clock. Spec: docs/spec/002-lease.md.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable
from typing import Final, TypeVar

from rfaas.control.hosts import HostList, merged
from rfaas.control.lease import SERVING, LeaseState
from rfaas.control.messages import (
    MEMORY,
    HolderId,
    LeaseId,
    LeaseTerms,
    Slice,
    SliceId,
    Want,
)
from rfaas_allocator.entries import HolderEntry, LeaseEntry, SliceEntry, WantEntry, WantKey
from rfaas_allocator.events import LinkId
from rfaas_allocator.placement import Item
from rfaas_allocator.policy import Holding
from rfaas_allocator.rooms import Rooms

K = TypeVar("K", bound=Hashable)
L = TypeVar("L", bound=Hashable)
E = TypeVar("E")

COUNTERS: Final = ("alloc_epoch", "epoch", "lease_seq")
"""Numbers that never decrease; durable."""


class Inventory:
    """All slices, leases, holders and wants; ids lead to entries.

    What is asked at every event is kept as it changes, not found by looking through all: who lacks workers (`lacking`),
    what is free (`rooms`). For that whoever changes a slice calls `touch`, and whoever moves a lease on `recount`.
    """

    def __init__(self) -> None:
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self.slices: dict[SliceId, SliceEntry] = {}
        self.slices_over: dict[SliceId, None] = {}  # ordered: the oldest first
        self.leases: dict[LeaseId, LeaseEntry] = {}
        self.holders: dict[HolderId, HolderEntry] = {}
        self.wants: dict[WantKey, WantEntry] = {}  # oldest first: the order in which they are served
        self.hosts_of: dict[str, HostList] = {}  # by source
        self.hosts = HostList()  # all of them
        self._host_sizes: frozenset[tuple[int, int]] = frozenset()
        self._slice_sizes: dict[tuple[int, int], int] = {}  # how many slices are as large
        self._lacking: dict[WantKey, WantEntry] = {}
        self._wants_of: dict[HolderId, dict[WantKey, WantEntry]] = {}
        self._n_wants = 0
        self._counted: dict[WantKey, int] = {}  # workers that it has, or that are proposed
        self._holdings: dict[int, Holding] = {}  # by uid
        self._leases_for: dict[WantKey, dict[LeaseId, LeaseEntry]] = {}
        self._leases_of: dict[HolderId, dict[LeaseId, LeaseEntry]] = {}
        self._slice_of_link: dict[LinkId, SliceEntry] = {}
        self._on_node: dict[str, dict[SliceId, SliceEntry]] = {}
        self._rooms = Rooms()
        self._touched: dict[SliceId, None] = {}
        self._closing: list[tuple[float, SliceId]] = []  # heap: when slices may be too near to their end
        self._rooms_without_slurm = False

    # --- slices ----------------------------------------------------------------------------------

    def add_slice(self, entry: SliceEntry) -> None:
        """Note a slice."""
        self.slices[entry.slice_id] = entry
        self._index(entry)

    def replace_slice(self, entry: SliceEntry, about: Slice) -> None:
        """A slice is another than was thought; its id is the same."""
        self._unindex(entry)
        entry.slice = about
        self._index(entry)

    def drop_slice(self, entry: SliceEntry) -> None:
        """Forget a slice that holds nothing."""
        self.disconnect(entry)
        del self.slices[entry.slice_id]
        self._unindex(entry)

    def _index(self, entry: SliceEntry) -> None:
        size = entry.slice.cores, entry.slice.memory_bytes
        self._slice_sizes[size] = self._slice_sizes.get(size, 0) + 1
        self._on_node.setdefault(entry.slice.node, {})[entry.slice_id] = entry
        self.touch(entry)

    def _unindex(self, entry: SliceEntry) -> None:
        size = entry.slice.cores, entry.slice.memory_bytes
        self._slice_sizes[size] -= 1
        if not self._slice_sizes[size]:
            del self._slice_sizes[size]
        _drop(self._on_node, entry.slice.node, entry.slice_id)
        self.touch(entry)

    def touch(self, entry: SliceEntry) -> None:
        """What may be given of this slice may be another from now on."""
        self._touched[entry.slice_id] = None

    def on_node(self, node: str) -> list[SliceEntry]:
        """The slices of one node."""
        return list(self._on_node.get(node, {}).values())

    def rooms(self, now_s: float, ttl_s: float, *, without_slurm: bool) -> Rooms:
        """What may be given now; `without_slurm`: not of slices that Slurm gave. Not to be changed."""
        if without_slurm is not self._rooms_without_slurm:
            self._rooms_without_slurm = without_slurm
            self._touched.update(dict.fromkeys(self.slices))
        while self._closing and self._closing[0][0] < now_s:
            self._touched[heapq.heappop(self._closing)[1]] = None
        for slice_id in self._touched:
            entry = self.slices.get(slice_id)
            if entry is None or not entry.open(now_s, ttl_s) or (without_slurm and entry.slice.job_id):
                self._rooms.drop(slice_id)
            else:
                self._rooms.put(entry.room())
                self._watch_the_end(entry, ttl_s)
        self._touched.clear()
        return self._rooms

    def _watch_the_end(self, entry: SliceEntry, ttl_s: float) -> None:
        closes_s = entry.closes_s(ttl_s)
        if closes_s != entry.watched_s:
            entry.watched_s = closes_s
            if closes_s < math.inf:
                heapq.heappush(self._closing, (closes_s, entry.slice_id))

    def sizes(self) -> Iterable[tuple[int, int]]:
        """Cores and memory of the slices that are here, each size once."""
        return self._slice_sizes

    def connect(self, entry: SliceEntry, link: LinkId) -> None:
        """The slice's agent speaks on this link from now on."""
        self.disconnect(entry)
        entry.link = link
        self._slice_of_link[link] = entry
        self._reached(entry)

    def disconnect(self, entry: SliceEntry) -> None:
        """The slice's agent can't be reached any more."""
        if entry.link is not None:
            del self._slice_of_link[entry.link]
            entry.link = None
            self._reached(entry)

    def _reached(self, entry: SliceEntry) -> None:
        """Proposals count as long as their agent can be reached."""
        self.touch(entry)
        for lease in entry.leases.values():
            self.recount(lease)

    def slice_of_link(self, link: LinkId) -> SliceEntry | None:
        """The slice whose agent speaks on this link."""
        return self._slice_of_link.get(link)

    def n_absent(self) -> int:
        """How many slices there are whose agents can't be reached."""
        return len(self.slices) - len(self._slice_of_link)

    # --- leases ----------------------------------------------------------------------------------

    def add_lease(self, entry: LeaseEntry) -> None:
        """Note a lease; its slice must be known."""
        terms = entry.terms
        self.leases[terms.lease_id] = entry
        slice_entry = self.slices[terms.slice_id]
        slice_entry.leases[terms.lease_id] = entry
        slice_entry.leased_cores += terms.cores
        slice_entry.leased_memory_bytes += terms.memory_bytes
        self.touch(slice_entry)
        self._leases_of.setdefault(terms.holder, {})[terms.lease_id] = entry
        self._leases_for.setdefault(entry.want_key, {})[terms.lease_id] = entry
        holding = self._holdings.setdefault(terms.uid, Holding())
        holding.add(1, _n_workers(terms), terms.cores, terms.memory_bytes)
        self.recount(entry)

    def drop_lease(self, entry: LeaseEntry) -> None:
        """Forget a lease that holds nothing any more."""
        terms = entry.terms
        del self.leases[terms.lease_id]
        slice_entry = self.slices[terms.slice_id]
        del slice_entry.leases[terms.lease_id]
        slice_entry.leased_cores -= terms.cores
        slice_entry.leased_memory_bytes -= terms.memory_bytes
        slice_entry.full = False
        slice_entry.haunted = slice_entry.haunted and bool(slice_entry.leases)
        self.touch(slice_entry)
        _drop(self._leases_of, terms.holder, terms.lease_id)
        _drop(self._leases_for, entry.want_key, terms.lease_id)
        holding = self._holdings[terms.uid]
        holding.add(-1, -_n_workers(terms), -terms.cores, -terms.memory_bytes)
        if not holding.leases:
            del self._holdings[terms.uid]
        self._count(entry, counts=False)

    def recount(self, entry: LeaseEntry) -> None:
        """A lease has moved on, or its agent can be reached, or no more: does it count towards its target?"""
        self._count(entry, counts=entry.lease.state in SERVING or self._is_pending(entry))

    def _count(self, entry: LeaseEntry, *, counts: bool) -> None:
        if counts is entry.counted:
            return
        entry.counted = counts
        key, workers = entry.want_key, entry.terms.workers
        self._counted[key] = self._counted.get(key, 0) + (workers if counts else -workers)
        if not self._counted[key]:
            del self._counted[key]
        self._look(key)

    def _is_pending(self, entry: LeaseEntry) -> bool:
        # A proposal to an agent that can't be reached may never be answered: somebody else is asked meanwhile.
        reachable = self.slices[entry.terms.slice_id].link is not None
        return entry.lease.state is LeaseState.REQUESTED and not entry.cancelled and reachable

    def holding(self, uid: int) -> Holding:
        """What all leases of a user hold or are proposed to hold, until each is FREE; not to be changed."""
        return self._holdings.get(uid, Holding())

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

    # --- wants -----------------------------------------------------------------------------------

    def set_want(self, key: WantKey, want: Want) -> None:
        """A request stands, or has changed: then it keeps its place in the queue."""
        entry = self.wants.get(key)
        if entry is None:
            self._n_wants += 1
            self.wants[key] = WantEntry(want, self._n_wants)
            self._wants_of.setdefault(key[0], {})[key] = self.wants[key]
        else:
            entry.change(want)
        self._look(key)

    def drop_want(self, key: WantKey) -> bool:
        """Forget a request; False if it was not known."""
        if self.wants.pop(key, None) is None:
            return False
        self._lacking.pop(key, None)
        _drop(self._wants_of, key[0], key)
        return True

    def wants_of(self, holder: HolderId) -> list[WantKey]:
        """The requests of one holder."""
        return list(self._wants_of.get(holder, {}))

    def missing(self, key: WantKey) -> int:
        """Workers that this request lacks, counting proposals under way; negative if it has more than it wants."""
        entry = self.wants.get(key)
        return (entry.want.workers if entry else 0) - self._counted.get(key, 0)

    def lacking(self) -> list[tuple[WantKey, WantEntry]]:
        """Requests that lack workers, oldest first."""
        return sorted(self._lacking.items(), key=lambda pair: pair[1].number)

    def _look(self, key: WantKey) -> None:
        """Note whether a request lacks workers."""
        entry = self.wants.get(key)
        if entry is None:
            return
        if self.missing(key) > 0:
            self._lacking[key] = entry
        elif self._lacking.pop(key, None) is not None:
            entry.told = None

    # --- hosts -----------------------------------------------------------------------------------

    def name_hosts(self, source: str, hosts: HostList) -> None:
        """Take what a source says of the hosts there are, in place of what it said before."""
        self.hosts_of[source] = hosts
        self.hosts = merged(self.hosts_of.values())
        self._host_sizes = frozenset((host.cores, host.memory_bytes) for host in self.hosts.hosts)

    def could_hold(self, item: Item) -> bool:
        """False if it is known that no host, and no slice, can ever hold one such worker."""
        if not self.hosts.complete:
            return True
        return _holds(self._host_sizes, item) or self.some_slice_holds(item)

    def some_slice_holds(self, item: Item) -> bool:
        """True if a slice that is here, were it empty, held one such worker."""
        return _holds(self._slice_sizes, item)


def _holds(sizes: Iterable[tuple[int, int]], item: Item) -> bool:
    return any(
        cores >= item.cores_per_worker and memory_bytes >= item.memory_bytes_per_worker for cores, memory_bytes in sizes
    )


def _n_workers(terms: LeaseTerms) -> int:
    """As quotas count them: a region is none."""
    return 0 if terms.kind == MEMORY else terms.workers


def _drop(index: dict[K, dict[L, E]], key: K, inner: L) -> None:
    """Take one entry out of an index, and with the last one its key."""
    del index[key][inner]
    if not index[key]:
        del index[key]
