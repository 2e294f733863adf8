"""What is free, in an order in which it is found at once: nodes by free cores, then by free memory, then by name.

An index of values; whoever changes what is free says so by `put` and `drop`. Must not know leases, links or time.
Spec: docs/spec/002-lease.md section 5.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from rfaas.control.messages import SliceId

NO_BOUND: Final = 2**63
Left = tuple[int, int]
"""Free cores and free bytes of memory of a node, in all its slices."""


@dataclass(frozen=True, slots=True)
class Room:
    """What is free in one slice."""

    slice_id: SliceId
    node: str
    cores: int
    memory_bytes: int


class Rooms:
    """All rooms by slice, and their nodes in order.

    A change costs the logarithm of the number of nodes, and moving pointers of those with as many free cores.

    Args:
        rooms: to begin with, in any order.
    """

    def __init__(self, rooms: Iterable[Room] = ()) -> None:
        self._room_of: dict[SliceId, Room] = {}
        self._of_node: dict[str, dict[SliceId, Room]] = {}
        self._left: dict[str, Left] = {}
        self._with_cores: dict[int, list[tuple[int, str]]] = {}  # by free cores: free memory and name, sorted
        self._counts: list[int] = []  # its keys, sorted
        for room in rooms:
            self.put(room)

    def __iter__(self) -> Iterator[Room]:
        return iter(self._room_of.values())

    def get(self, slice_id: SliceId) -> Room | None:
        """The room of a slice; None if it has none."""
        return self._room_of.get(slice_id)

    def put(self, room: Room) -> None:
        """This is free in its slice from now on."""
        before = self._room_of.get(room.slice_id)
        if before == room:
            return
        if before is not None:
            self.drop(before.slice_id)
        self._room_of[room.slice_id] = room
        self._of_node.setdefault(room.node, {})[room.slice_id] = room
        self._move(room.node, room.cores, room.memory_bytes)

    def drop(self, slice_id: SliceId) -> None:
        """Nothing is free in this slice, or nothing may be given of it; repeatable."""
        room = self._room_of.pop(slice_id, None)
        if room is None:
            return
        del self._of_node[room.node][slice_id]
        self._move(room.node, -room.cores, -room.memory_bytes)
        if not self._of_node[room.node]:
            self._forget(room.node)

    def _move(self, node: str, cores: int, memory_bytes: int) -> None:
        """A node has so much more."""
        before = self._left.get(node)
        if before is not None:
            self._take_out(before, node)
            cores, memory_bytes = before[0] + cores, before[1] + memory_bytes
        self._left[node] = cores, memory_bytes
        names = self._with_cores.get(cores)
        if names is None:
            names = self._with_cores[cores] = []
            insort(self._counts, cores)
        insort(names, (memory_bytes, node))

    def _forget(self, node: str) -> None:
        self._take_out(self._left.pop(node), node)
        del self._of_node[node]

    def _take_out(self, left: Left, node: str) -> None:
        cores, memory_bytes = left
        names = self._with_cores[cores]
        del names[bisect_left(names, (memory_bytes, node))]
        if not names:
            del self._with_cores[cores]
            del self._counts[bisect_left(self._counts, cores)]

    # --- questions -------------------------------------------------------------------------------

    def of_node(self, node: str) -> Mapping[SliceId, Room]:
        """What is free on one node, by slice; not to be changed."""
        return self._of_node.get(node, {})

    def left(self, node: str) -> Left:
        """What is free on a node that has room."""
        return self._left[node]

    def tightest_first(self, cores: int, memory_bytes: int) -> Iterator[str]:
        """Nodes with at least so much, the one with the least first. Nothing may change before the last is read."""
        for count in self._counts[bisect_left(self._counts, cores) :]:
            names = self._with_cores[count]
            for i in range(bisect_left(names, (memory_bytes,)), len(names)):
                yield names[i][1]

    def emptiest_first(self, cores: int, memory_bytes: int) -> Iterator[str]:
        """Nodes with at least so much, the one with the most first, equals by name. Likewise."""
        for count in reversed(self._counts[bisect_left(self._counts, cores) :]):
            names = self._with_cores[count]
            end, first = len(names), bisect_left(names, (memory_bytes,))
            while end > first:
                begin = bisect_left(names, (names[end - 1][0],))
                for i in range(begin, end):
                    yield names[i][1]
                end = begin

    def some_slice_has(self, cores: int) -> bool:
        """True if so many cores are free in one slice; the memory there may be none."""
        return any(
            room.cores >= cores for node in self.emptiest_first(cores, 0) for room in self._of_node[node].values()
        )

    def most(self, cores: int, memory_bytes: int, below: int = NO_BOUND) -> int:
        """The largest number of workers of this size, less than `below`, that a node's sums of cores and memory allow.

        Its slices may hold fewer, since no worker is split over two.
        """
        found = 0
        for count in self._counts:
            names = self._with_cores[count]
            by_cores = count // cores if cores else below
            end = len(names) if by_cores < below else bisect_left(names, (below * memory_bytes,))
            if end:
                found = max(found, min(by_cores, names[end - 1][0] // memory_bytes))
        return found

    def exactly(self, cores: int, memory_bytes: int, workers: int) -> Iterator[str]:
        """Nodes whose sums of cores and memory allow so many workers of this size and no more; the tightest first."""
        for count in self._counts[bisect_left(self._counts, workers * cores) :]:
            names = self._with_cores[count]
            more_cores = not cores or count // cores > workers
            end = bisect_left(names, ((workers + 1) * memory_bytes,)) if more_cores else len(names)
            for i in range(bisect_left(names, (workers * memory_bytes,)), end):
                yield names[i][1]
