"""Which block of a global array a rank owns: pure arithmetic on one or two axes, without numpy, MPI or files.

Rank r of n owns, along an axis that is cut into p parts, the points n_points * i // p up to n_points * (i + 1) // p of
part i, so that parts differ by one point at most. Ranks are numbered in C order of their parts, the last axis fastest.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Final

from rfaas_transport.errors import ConfigError

Box = tuple[tuple[int, int], ...]  # (start, stop) along each axis of the global array
MOST_AXES: Final = 2


@dataclass(frozen=True, slots=True)
class Decomposition:
    """A global array cut into blocks, one a rank, each with a halo of copies of its neighbours' outermost points.

    Args:
        shape: of the global array, the plate's own edges included.
        axes: those that are cut, one or two; others belong to every rank whole.
        parts: into how many, for each of `axes`; their product is the number of ranks.
        halo: points beside a block along each of `axes`. At the edges of the global array there is none.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    parts: tuple[int, ...]
    halo: int = 0

    @property
    def n_ranks(self) -> int:
        """How many blocks there are."""
        return prod(self.parts)

    def part_of(self, rank: int) -> tuple[int, ...]:
        """Which part along each of `axes`."""
        found = []
        for n_parts in reversed(self.parts):
            rank, part = divmod(rank, n_parts)
            found.append(part)
        return tuple(reversed(found))

    def owned(self, rank: int) -> Box:
        """The points that no other rank owns."""
        box = [(0, points) for points in self.shape]
        for axis, n_parts, part in zip(self.axes, self.parts, self.part_of(rank), strict=True):
            points = self.shape[axis]
            box[axis] = (points * part // n_parts, points * (part + 1) // n_parts)
        return tuple(box)

    def with_halo(self, rank: int) -> Box:
        """The points that a rank has, its own and copies."""
        box = list(self.owned(rank))
        for axis in self.axes:
            start, stop = box[axis]
            box[axis] = (max(0, start - self.halo), min(self.shape[axis], stop + self.halo))
        return tuple(box)

    def neighbour(self, rank: int, cut: int, step: int) -> int | None:
        """The rank `step` (-1 or 1) parts further along `axes[cut]`; None beyond the edge."""
        part = list(self.part_of(rank))
        part[cut] += step
        if not 0 <= part[cut] < self.parts[cut]:
            return None
        number = 0
        for n_parts, one in zip(self.parts, part, strict=True):
            number = number * n_parts + one
        return number


def decompose(shape: tuple[int, ...], axes: tuple[int, ...], n_ranks: int, halo: int = 0) -> Decomposition:
    """Cut an array so that blocks have little edge for their size.

    Raises:
        ConfigError: axes that aren't there, or so many ranks that a block would be smaller than its halo.
    """
    if not 1 <= len(axes) <= MOST_AXES or len(set(axes)) != len(axes) or not all(0 <= a < len(shape) for a in axes):
        raise ConfigError(
            f"an array of {len(shape)} axes can't be cut along {axes}",
            hint=f"name one or {MOST_AXES} different axes, counted from 0",
        )
    least = max(1, halo)
    fitting = [
        parts
        for parts in _products(n_ranks, len(axes))
        if all(shape[axis] // n_parts >= least for axis, n_parts in zip(axes, parts, strict=True))
    ]
    if not fitting:
        raise ConfigError(
            f"{n_ranks} ranks are too many for an array of shape {shape} cut along {axes}: a block would have less"
            f" than {least} points along one of them",
            hint="use fewer ranks, or cut along two axes",
        )
    edge = {p: sum(shape[axis] / n for axis, n in zip(axes, p, strict=True)) for p in fitting}
    best = min(fitting, key=lambda parts: (edge[parts], -parts[0])) if len(axes) > 1 else fitting[0]
    return Decomposition(shape, axes, best, halo)


def _products(number: int, n_factors: int) -> list[tuple[int, ...]]:
    if n_factors == 1:
        return [(number,)]
    return [(first, number // first) for first in range(1, number + 1) if number % first == 0]


def overlap(one: Box, other: Box) -> Box | None:
    """The points that both have; None if there are none."""
    both = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return both if all(start < stop for start, stop in both) else None


def slices(box: Box, within: Box) -> tuple[slice, ...]:
    """How `box` is found in an array that holds the points of `within`."""
    return tuple(slice(start - first, stop - first) for (start, stop), (first, _) in zip(box, within, strict=True))


def extent(box: Box) -> tuple[int, ...]:
    """The shape of an array that holds the points of a box."""
    return tuple(stop - start for start, stop in box)
