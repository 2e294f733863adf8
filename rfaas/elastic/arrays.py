"""A global array of which each rank has a block: with a halo of copies, to be refreshed from the neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from rfaas.elastic.blocks import Box, Decomposition, extent, overlap, slices
from rfaas.elastic.format import Array
from rfaas.elastic.ranks import TAG_HIGH, TAG_LOW, Ranks
from rfaas_transport.errors import ConfigError

Values = npt.NDArray[Any]
KINDS = "biufc"  # numbers: what another process can read from their bytes


class BlockArray:
    """One rank's block of a global array; made by `Run.array`.

    `local` holds the rank's own points and its halo. It may be replaced by another array of that shape and dtype,
    e.g. the second one of two that are swapped after each sweep: what is there at the end of an iteration is what a
    checkpoint holds.
    """

    def __init__(self, name: str, dtype: npt.DTypeLike, decomposition: Decomposition, ranks: Ranks) -> None:
        self._ranks = ranks
        self.name = name
        self.dtype = np.dtype(dtype)
        if self.dtype.kind not in KINDS:
            raise ConfigError(
                f"{name!r} has dtype {self.dtype}, which isn't numbers", hint="use integers, floats, complex or bool"
            )
        self.decomposition = decomposition
        self.box: Box = decomposition.with_halo(ranks.rank)
        self.owned_box: Box = decomposition.owned(ranks.rank)
        self._local: Values = np.zeros(extent(self.box), self.dtype)

    @property
    def about(self) -> Array:
        """As a manifest describes it."""
        return Array(self.name, self.decomposition.shape, self.dtype.str)

    @property
    def local(self) -> Values:
        """The block with its halo."""
        return self._local

    @local.setter
    def local(self, values: Values) -> None:
        if values.shape != self._local.shape or values.dtype != self.dtype:
            raise ConfigError(
                f"{self.name!r} is {self._local.shape} {self.dtype} here, not {values.shape} {values.dtype}",
                hint="make the other array by numpy.empty_like(array.local)",
            )
        self._local = values

    @property
    def owned(self) -> Values:
        """A view of the points that are this rank's own."""
        return self._local[slices(self.owned_box, self.box)]

    def inner(self, margin: int | tuple[int, ...] = 1, *, shift: tuple[int, ...] = ()) -> tuple[slice, ...]:
        """Where in `local` those own points are that lie at least `margin` points inside the global array.

        Args:
            margin: along every axis, or one number for each; 0: all own points.
            shift: the same points, moved by so much along each axis of the array: a stencil's neighbours.

        Raises:
            ConfigError: a shift that leads out of the halo.
        """
        cut = self.decomposition
        margins = (margin,) * len(cut.shape) if isinstance(margin, int) else margin
        inside = tuple((m, points - m) for m, points in zip(margins, cut.shape, strict=True))
        there = overlap(self.owned_box, inside)
        if there is None:
            return tuple(slice(0, 0) for _ in cut.shape)
        moved = tuple((a + s, b + s) for (a, b), s in zip(there, shift or (0,) * len(there), strict=True))
        if overlap(moved, self.box) != moved:
            raise ConfigError(f"{self.name!r}: shift {shift} leads out of the block", hint="use a wider halo or margin")
        return slices(moved, self.box)

    def fill(self, function: Callable[..., Any]) -> None:
        """Set all of `local` to `function(i, j, …)` of the points' global indices, given as open grids."""
        grids = np.meshgrid(*(np.arange(a, b) for a, b in self.box), indexing="ij", sparse=True)
        self._local[...] = function(*grids)

    def exchange(self) -> None:
        """Refresh the halo from the neighbours; collective. Along two axes corners are right, too."""
        halo = self.decomposition.halo
        for cut, axis in enumerate(self.decomposition.axes) if halo else ():
            low = self.decomposition.neighbour(self._ranks.rank, cut, -1)
            high = self.decomposition.neighbour(self._ranks.rank, cut, 1)
            (first, last), (own_first, own_last) = self.box[axis], self.owned_box[axis]
            begin, end = own_first - first, own_last - first
            self._send(axis, (end - halo, end), high, (0, begin), low, TAG_HIGH)
            self._send(axis, (begin, begin + halo), low, (end, last - first), high, TAG_LOW)

    def _send(
        self, axis: int, out: tuple[int, int], to: int | None, into: tuple[int, int], source: int | None, tag: int
    ) -> None:
        def layer(bounds: tuple[int, int]) -> Values:
            return self._local[(slice(None),) * axis + (slice(*bounds),)]

        sent = np.ascontiguousarray(layer(out))
        came = np.empty(layer(into).shape, self.dtype)
        self._ranks.swap(sent, to, came, source, tag)
        if source is not None:
            layer(into)[...] = came

    def gather(self) -> Values | None:
        """The whole global array at rank 0, None elsewhere; collective. It must fit into that rank's memory."""
        pieces = self._ranks.gather((self.owned_box, np.ascontiguousarray(self.owned)))
        if pieces is None:
            return None
        whole: Values = np.empty(self.decomposition.shape, self.dtype)
        everything: Box = tuple((0, points) for points in whole.shape)
        for box, values in pieces:
            whole[slices(box, everything)] = values
        return whole
