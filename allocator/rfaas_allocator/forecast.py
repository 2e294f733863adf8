"""When something may come for a request that waits: from what ends, and from what happened before; else "nobody knows".

Pure functions of the inventory, and a memory of this life of the allocator. An estimate binds nobody and is never used
to decide. Spec: docs/spec/002-lease.md section 5.
"""

from __future__ import annotations

import itertools
import math
import statistics
from bisect import bisect_left, bisect_right, insort
from collections import deque
from dataclasses import dataclass
from typing import Final

from rfaas.control.lease import LeaseState
from rfaas_allocator.entries import LeaseEntry, SliceEntry
from rfaas_allocator.inventory import Inventory
from rfaas_allocator.placement import Item
from rfaas_allocator.rooms import Room

LEASES_REMEMBERED: Final = 256
ARRIVALS_REMEMBERED: Final = 64
LEAST_SAMPLES: Final = 5  # fewer say nothing
PROOF_S: Final = 1.0  # a fenced lease is free about so soon: its workers are being killed
LOOK_AGAIN_S: Final = 1.0
SLICES_LOOKED_AT: Final = 100  # an estimate is not worth more than a millisecond
SIZES_KEPT: Final = 1000
OVERDUE: Final = 3.0  # so many medians without a slice: what was before is no guide any more


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds from now, and what they were made of."""

    in_s: float
    basis: str


class History:
    """How long leases lasted and when slices came, in this life of the allocator."""

    def __init__(self) -> None:
        self._lasted_s: deque[float] = deque(maxlen=LEASES_REMEMBERED)
        self._shortest_first_s: list[float] = []  # the same, sorted
        self._arrivals: deque[tuple[float, int, int]] = deque(maxlen=ARRIVALS_REMEMBERED)

    def lease_ended(self, lasted_s: float) -> None:
        """A lease that served somebody is free."""
        if len(self._lasted_s) == LEASES_REMEMBERED:
            del self._shortest_first_s[bisect_left(self._shortest_first_s, self._lasted_s[0])]
        self._lasted_s.append(lasted_s)
        insort(self._shortest_first_s, lasted_s)

    def slice_came(self, now_s: float, cores: int, memory_bytes: int) -> None:
        """A slice is here that was not before."""
        self._arrivals.append((now_s, cores, memory_bytes))

    def lease_left(self, age_s: float) -> Estimate | None:
        """What is left to a lease of this age, if it ends like those before that grew as old."""
        lasted_s = self._shortest_first_s
        first = bisect_right(lasted_s, age_s)
        longer = len(lasted_s) - first
        if longer < LEAST_SAMPLES:
            return None
        median_s = (lasted_s[first + (longer - 1) // 2] + lasted_s[first + longer // 2]) / 2
        return Estimate(median_s - age_s, f"how long {longer} earlier leases lasted")

    def next_slice(self, now_s: float, item: Item) -> Estimate | None:
        """When the next slice may come that holds such a worker, if they come as before."""
        came = [
            at_s
            for at_s, cores, memory_bytes in self._arrivals
            if cores >= item.cores_per_worker and memory_bytes >= item.memory_bytes_per_worker
        ]
        if len(came) <= LEAST_SAMPLES:
            return None
        pause_s = statistics.median(later - earlier for earlier, later in itertools.pairwise(came))
        since_s = now_s - came[-1]
        if since_s > OVERDUE * max(pause_s, 1.0):
            return None
        return Estimate(max(0.0, pause_s - since_s), f"when {len(came)} earlier slices came")


class Outlook:
    """When leases end, looked up for each size of worker at most once a second: many wait for the same.

    Args:
        inventory, history: of the allocator.
    """

    def __init__(self, inventory: Inventory, history: History) -> None:
        self._inventory = inventory
        self._history = history
        self._found: dict[tuple[int, int], tuple[float, Estimate | None]] = {}  # when it was looked up, and what then

    def when_a_lease_ends(self, item: Item, now_s: float) -> Estimate | None:
        """When so much of one slice may be free that one worker fits."""
        size = item.cores_per_worker, item.memory_bytes_per_worker
        asked_s, estimate = self._found.get(size, (-math.inf, None))
        if now_s - asked_s >= LOOK_AGAIN_S:
            if len(self._found) >= SIZES_KEPT:
                self._found.clear()
            asked_s, estimate = now_s, when_a_lease_ends(self._inventory, self._history, item, now_s)
            self._found[size] = asked_s, estimate
        return None if estimate is None else Estimate(max(0.0, estimate.in_s + asked_s - now_s), estimate.basis)


def when_a_lease_ends(inventory: Inventory, history: History, item: Item, now_s: float) -> Estimate | None:
    """When so much of one slice may be free that one worker fits; of a large cluster only some slices are looked at."""
    alive = (
        entry
        for entry in inventory.slices.values()
        if entry.link is not None and not entry.ending and not entry.haunted
    )
    found = []
    for entry in itertools.islice(alive, SLICES_LOOKED_AT):
        estimate = _when_fitting(entry, history, item, now_s)
        if estimate is not None:
            found.append(estimate)
    return min(found, key=lambda estimate: estimate.in_s, default=None)


def _when_fitting(entry: SliceEntry, history: History, item: Item, now_s: float) -> Estimate | None:
    cores, memory_bytes = entry.free_cores, entry.free_memory_bytes
    ends = [(end, lease) for lease in entry.leases.values() if (end := _end_of(lease, history, now_s)) is not None]
    for end, lease in sorted(ends, key=lambda pair: pair[0].in_s):
        cores += lease.terms.cores
        memory_bytes += lease.terms.memory_bytes
        if item.fitting(Room(entry.slice_id, entry.slice.node, cores, memory_bytes)):
            return end if now_s + end.in_s <= entry.closes_s(0.0) else None
    return None


def when_quota_is_free(inventory: Inventory, history: History, uid: int, now_s: float) -> Estimate | None:
    """When the first of a user's own leases may end: by its slice's end at the latest, if that is known."""
    found = []
    for lease in inventory.leases.values():
        if lease.terms.uid != uid:
            continue
        entry = inventory.slices[lease.terms.slice_id]
        if entry.end_s is not None:
            left_s = max(0.0, entry.end_s - entry.slice.grace_s - now_s)
            found.append(Estimate(left_s, f"the end of the slice on {entry.slice.node}"))
        end = _end_of(lease, history, now_s)
        if end is not None:
            found.append(end)
    return min(found, key=lambda estimate: estimate.in_s, default=None)


def _end_of(lease: LeaseEntry, history: History, now_s: float) -> Estimate | None:
    if lease.lease.state is LeaseState.FENCED:
        return Estimate(PROOF_S, "a lease that ends now")
    return history.lease_left(max(0.0, now_s - lease.since_s))
