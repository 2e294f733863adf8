"""Where leases go: a pure function of what is free, what is asked for, and a hint.

`pack`: fewest nodes, then tightest fit, then slice id. `spread`: node by node, the one with the fewest workers of this
request first. Must not know holders, time or links. Spec: docs/spec/002-lease.md section 5.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from rfaas.control.messages import SliceId
from rfaas_allocator.rooms import Left, Room, Rooms

PACK: Final = "pack"
SPREAD: Final = "spread"


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a request: so many workers of this size; of memory alone, workers are regions and have no cores."""

    workers: int
    cores_per_worker: int
    memory_bytes_per_worker: int

    def fitting(self, room: Room) -> int:
        """How many of these workers the room holds, at most as many as are asked for."""
        by_cores = room.cores // self.cores_per_worker if self.cores_per_worker else self.workers
        by_memory = room.memory_bytes // self.memory_bytes_per_worker
        fits = by_cores if by_cores < by_memory else by_memory  # asked of every slice for every request: no min()
        return 0 if fits < 0 else fits if fits < self.workers else self.workers


@dataclass(frozen=True, slots=True)
class Placement:
    """So many workers of an item in this slice."""

    slice_id: SliceId
    workers: int


def in_parts(workers: int, most: int) -> list[int]:
    """Share workers of one slice out among leases: each but the last gives `most`; 0: one lease gives all."""
    if most <= 0 or workers <= most:
        return [workers]
    return [most] * (workers // most) + ([workers % most] if workers % most else [])


def place(
    rooms: Iterable[Room], item: Item, hint: str = PACK, serving: Mapping[str, int] | None = None
) -> list[Placement]:
    """Choose slices for as many workers of `item` as there is room for.

    Args:
        rooms: what is free, in any order; of `Rooms` only what comes into question is looked at.
        item: what is asked for.
        hint: PACK or SPREAD; any other word counts as PACK.
        serving: workers that the same request has already, by node; only SPREAD asks.
    Returns:
        At most one placement a slice, none empty; together `item.workers` or all that fits.
    """
    index = rooms if isinstance(rooms, Rooms) else Rooms(rooms)
    chosen = _spread(index, item, serving or {}) if hint == SPREAD else _pack(index, item)
    placements = []
    for node, workers in chosen:
        here = index.of_node(node)
        if len(here) == 1:
            placements += [Placement(slice_id, workers) for slice_id in here]
        else:
            placements += _within_node(here.values(), item, workers)
    return placements


def _fitting(rooms: Rooms, node: str, item: Item) -> int:
    """How many of these workers a node holds, at most as many as are asked for. Nearly every node has one slice."""
    fits = 0
    for room in rooms.of_node(node).values():
        fits += item.fitting(room)
    return fits if fits < item.workers else item.workers


# --- pack ----------------------------------------------------------------------------------------


def _pack(rooms: Rooms, item: Item) -> list[tuple[str, int]]:
    """The fewest nodes: the largest first, and at the end the tightest that holds the rest."""
    chosen: dict[str, int] = {}
    workers = item.workers
    tightest = _tightest(rooms, item, workers, chosen)
    if tightest is not None:
        return [(tightest, workers)]
    for fits, node in _largest_first(rooms, item):
        if fits >= workers:
            node = _tightest(rooms, item, workers, chosen) or node
        chosen[node] = min(fits, workers)
        workers -= chosen[node]
        if not workers:
            break
    return list(chosen.items())


def _tightest(rooms: Rooms, item: Item, workers: int, chosen: Mapping[str, int]) -> str | None:
    """The node with the least room of those that hold so many workers and are not chosen yet."""
    nodes = rooms.tightest_first(workers * item.cores_per_worker, workers * item.memory_bytes_per_worker)
    return next((node for node in nodes if node not in chosen and _fitting(rooms, node, item) >= workers), None)


def _largest_first(rooms: Rooms, item: Item) -> Iterator[tuple[int, str]]:
    """Nodes by how many workers they hold, equals by what is free there; found as far as they are asked for.

    Of a node with one slice its sums tell how many it holds. With more slices it may hold fewer, and comes later.
    """
    size = item.cores_per_worker, item.memory_bytes_per_worker
    later: dict[int, list[str]] = {}

    def order(node: str) -> tuple[Left, str]:
        return rooms.left(node), node

    bound = min(item.workers, rooms.most(*size))
    fits = bound
    while fits > 0:
        fewer = sorted(later.pop(fits, ()), key=order)
        new = _allowed(rooms, item, bound) if fits == bound else iter(())
        for node in heapq.merge(new, fewer, key=order) if fewer else new:
            holds = _fitting(rooms, node, item)
            if holds == fits:
                yield fits, node
            else:
                later.setdefault(holds, []).append(node)
        if fits == bound:
            bound = rooms.most(*size, bound)
        fits = max(bound, max(later, default=0))


def _allowed(rooms: Rooms, item: Item, workers: int) -> Iterator[str]:
    """Nodes whose sums allow so many workers and no more, or at least all that are asked for; the tightest first."""
    size = item.cores_per_worker, item.memory_bytes_per_worker
    if workers < item.workers:
        return rooms.exactly(*size, workers)
    return rooms.tightest_first(workers * size[0], workers * size[1])


def _within_node(rooms: Iterable[Room], item: Item, workers: int) -> list[Placement]:
    """Cover `workers` with the fewest slices of a node: the largest first, at the end the tightest for the rest."""
    places = sorted((-item.fitting(room), room.cores, room.memory_bytes, room.slice_id) for room in rooms)
    placements = []
    for i, (minus_fits, *_, slice_id) in enumerate(places):
        fits = -minus_fits
        if workers <= 0 or fits == 0:
            break
        if fits >= workers:  # so do those after it that are as large
            slice_id = min(place[1:] for place in places[i:] if -place[0] >= workers)[2]
        placements.append(Placement(slice_id, min(fits, workers)))
        workers -= fits
    return placements


# --- spread --------------------------------------------------------------------------------------


def _spread(rooms: Rooms, item: Item, serving: Mapping[str, int]) -> list[tuple[str, int]]:
    """Give each next worker to the node that has the fewest of them; among equals to the emptiest, then by name."""
    size = item.cores_per_worker, item.memory_bytes_per_worker
    new = (_turn(rooms, node, 0) for node in rooms.emptiest_first(*size) if node not in serving)
    heap = [_turn(rooms, node, load) for node, load in serving.items() if rooms.of_node(node)]
    heapq.heapify(heap)
    given: dict[str, int] = {}
    next_new = next(new, None)
    for _ in range(item.workers):
        while True:  # until a node has room for one more
            if next_new is not None and (not heap or next_new < heap[0]):
                turn, next_new = next_new, next(new, None)
            elif heap:
                turn = heapq.heappop(heap)
            else:
                return sorted(given.items())
            load, left, node = turn
            if given.get(node, 0) < _fitting(rooms, node, item):
                break
        given[node] = given.get(node, 0) + 1
        heapq.heappush(heap, (load + 1, left, node))
    return sorted(given.items())


def _turn(rooms: Rooms, node: str, load: int) -> tuple[int, tuple[int, int], str]:
    """By what the next node is chosen: the smallest is."""
    cores, memory_bytes = rooms.left(node)
    return load, (-cores, -memory_bytes), node
