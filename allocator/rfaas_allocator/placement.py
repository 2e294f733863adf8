"""Where leases go: a pure function of what is free and what is asked for.

Fewest nodes, then tightest fit, then slice id (docs/spec/002-lease.md section 5). Must not know holders, time or links.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from rfaas.control.messages import SliceId

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Room:
    """What is free in one slice."""

    slice_id: SliceId
    node: str
    cores: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a request: so many workers of this size."""

    workers: int
    cores_per_worker: int
    memory_bytes_per_worker: int

    def fitting(self, room: Room) -> int:
        """How many of these workers the room holds, at most as many as are asked for."""
        by_cores = room.cores // self.cores_per_worker
        by_memory = room.memory_bytes // self.memory_bytes_per_worker
        return max(0, min(by_cores, by_memory, self.workers))


@dataclass(frozen=True, slots=True)
class Placement:
    """So many workers of an item in this slice."""

    slice_id: SliceId
    workers: int


def place(rooms: Iterable[Room], item: Item) -> list[Placement]:
    """Choose slices for as many workers of `item` as there is room for.

    Returns:
        At most one placement a slice, none empty; together `item.workers` or all that fits.
    """
    by_node: dict[str, dict[SliceId, tuple[Room, int]]] = {}
    for room in rooms:
        fits = item.fitting(room)
        if fits:
            by_node.setdefault(room.node, {})[room.slice_id] = (room, fits)
    nodes = {
        node: (sum(fits for _, fits in slices.values()), _left([room for room, _ in slices.values()]), node)
        for node, slices in by_node.items()
    }
    placements = []
    for node, workers in _cover(nodes, item.workers):
        slices = {key: (fits, _left([room]), key) for key, (room, fits) in by_node[node].items()}
        placements += [Placement(slice_id, count) for slice_id, count in _cover(slices, workers)]
    return placements


def _left(rooms: list[Room]) -> tuple[int, int]:
    """What decides the tightest fit: free cores, then free memory; the worker's own part is the same everywhere."""
    return sum(room.cores for room in rooms), sum(room.memory_bytes for room in rooms)


def _cover(places: dict[K, tuple[int, tuple[int, int], K]], workers: int) -> list[tuple[K, int]]:
    """Cover `workers` with the fewest places: the largest first, and at the end the tightest that holds the rest.

    Args:
        places: for each place how many workers it holds, what is free there, and its name for equals.
    """
    chosen: list[tuple[K, int]] = []
    left = dict(places)
    while workers > 0 and left:
        enough = [key for key, (fits, _, _) in left.items() if fits >= workers]
        if enough:
            key = min(enough, key=lambda key: left[key][1:])
        else:
            key = min(left, key=lambda key: (-left[key][0], *left[key][1:]))
        fits = min(left.pop(key)[0], workers)
        chosen.append((key, fits))
        workers -= fits
    return chosen
