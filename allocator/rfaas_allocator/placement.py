"""Where leases go: a pure function of what is free, what is asked for, and a hint.

`pack`: fewest nodes, then tightest fit, then slice id. `spread`: node by node, the one with the fewest workers of this
request first. Must not know holders, time or links. Spec: docs/spec/002-lease.md section 5.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from rfaas.control.messages import SliceId

K = TypeVar("K", bound=Hashable)

PACK: Final = "pack"
SPREAD: Final = "spread"


@dataclass(frozen=True, slots=True)
class Room:
    """What is free in one slice."""

    slice_id: SliceId
    node: str
    cores: int
    memory_bytes: int


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


def place(
    rooms: Iterable[Room], item: Item, hint: str = PACK, serving: Mapping[str, int] | None = None
) -> list[Placement]:
    """Choose slices for as many workers of `item` as there is room for.

    Args:
        rooms: what is free, in any order.
        item: what is asked for.
        hint: PACK or SPREAD; any other word counts as PACK.
        serving: workers that the same request has already, by node; only SPREAD asks.
    Returns:
        At most one placement a slice, none empty; together `item.workers` or all that fits.
    """
    by_node: dict[str, dict[SliceId, tuple[Room, int]]] = {}
    for room in rooms:
        fits = item.fitting(room)
        if fits:
            by_node.setdefault(room.node, {})[room.slice_id] = (room, fits)
    nodes = {node: _of_node(node, slices) for node, slices in by_node.items()}
    chosen = _spread(nodes, item.workers, serving or {}) if hint == SPREAD else _cover(nodes, item.workers)
    placements = []
    for node, workers in chosen:
        if len(by_node[node]) == 1:
            placements += [Placement(slice_id, workers) for slice_id in by_node[node]]
            continue
        slices = {key: (fits, _left([room]), key) for key, (room, fits) in by_node[node].items()}
        placements += [Placement(slice_id, count) for slice_id, count in _cover(slices, workers)]
    return placements


def _of_node(node: str, slices: Mapping[SliceId, tuple[Room, int]]) -> tuple[int, tuple[int, int], str]:
    """How many workers fit on a node, what is free there, and its name. Nearly every node has one slice."""
    if len(slices) == 1:
        ((room, fits),) = slices.values()
        return fits, (room.cores, room.memory_bytes), node
    return sum(fits for _, fits in slices.values()), _left([room for room, _ in slices.values()]), node


def _left(rooms: list[Room]) -> tuple[int, int]:
    """What decides the tightest fit: free cores, then free memory; the worker's own part is the same everywhere."""
    return sum(room.cores for room in rooms), sum(room.memory_bytes for room in rooms)


def _cover(places: dict[K, tuple[int, tuple[int, int], K]], workers: int) -> list[tuple[K, int]]:
    """Cover `workers` with the fewest places: the largest first, and at the end the tightest that holds the rest.

    Args:
        places: for each place how many workers it holds, what is free there, and its name for equals.
    """
    chosen: list[tuple[K, int]] = []
    largest = sorted(places.values(), key=lambda place: (-place[0], *place[1:]))
    for i, (fits, _, key) in enumerate(largest):
        if workers <= 0:
            break
        if fits >= workers:  # so do those after it that are as large
            key = min((place for place in largest[i:] if place[0] >= workers), key=lambda place: place[1:])[2]
        chosen.append((key, min(fits, workers)))
        workers -= fits
    return chosen


def _spread(
    nodes: dict[str, tuple[int, tuple[int, int], str]], workers: int, serving: Mapping[str, int]
) -> list[tuple[str, int]]:
    """Give each next worker to the node that has the fewest of them; among equals to the emptiest, then by name."""
    heap = [(serving.get(node, 0), (-left[0], -left[1]), node) for node, (_, left, _) in nodes.items()]
    heapq.heapify(heap)
    given = dict.fromkeys(nodes, 0)
    while workers > 0 and heap:
        load, left, node = heapq.heappop(heap)
        given[node] += 1
        workers -= 1
        if given[node] < nodes[node][0]:
            heapq.heappush(heap, (load + 1, left, node))
    return [(node, count) for node, count in sorted(given.items()) if count]
