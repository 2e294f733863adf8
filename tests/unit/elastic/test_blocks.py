"""Every point has one owner, at any number of ranks; halos are what neighbours own."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfaas.elastic.blocks import decompose, overlap, slices
from rfaas_transport.errors import ConfigError

SHAPES = st.tuples(st.integers(6, 30), st.integers(6, 30), st.integers(1, 3))
CUTS = st.sampled_from([(0,), (1,), (0, 1), (1, 0)])


@given(SHAPES, CUTS, st.integers(1, 6), st.integers(0, 1))
def test_each_point_is_owned_once_and_blocks_differ_by_a_row_at_most(shape, axes, n_ranks, halo):
    cut = decompose(shape, axes, n_ranks, halo)
    owners = np.zeros(shape, int)
    everything = tuple((0, points) for points in shape)
    for rank in range(n_ranks):
        owners[slices(cut.owned(rank), everything)] += 1
    assert (owners == 1).all()
    assert cut.n_ranks == n_ranks
    for axis in axes:
        lengths = {b - a for a, b in (cut.owned(rank)[axis] for rank in range(n_ranks))}
        assert max(lengths) - min(lengths) <= 1


@given(SHAPES, CUTS, st.integers(1, 6))
def test_what_a_halo_adds_is_owned_by_the_neighbours(shape, axes, n_ranks):
    cut = decompose(shape, axes, n_ranks, 1)
    for rank, (number, axis) in itertools.product(range(n_ranks), enumerate(axes)):
        for step in (-1, 1):
            other = cut.neighbour(rank, number, step)
            (start, stop), (first, last) = cut.with_halo(rank)[axis], cut.owned(rank)[axis]
            width = first - start if step < 0 else stop - last
            assert width == (0 if other is None else 1)
            if other is not None:
                assert cut.neighbour(other, number, -step) == rank
                there = cut.owned(other)[axis]
                assert there[1 if step < 0 else 0] == (first if step < 0 else last)


def test_two_axes_are_cut_so_that_blocks_are_near_squares():
    assert decompose((100, 100), (0, 1), 4).parts == (2, 2)
    assert decompose((100, 100), (0, 1), 6).parts == (3, 2)
    assert decompose((1000, 10), (0, 1), 4).parts == (4, 1)
    assert decompose((100, 100), (0, 1), 7).parts == (7, 1)


@pytest.mark.parametrize(
    ("shape", "axes", "n_ranks", "halo", "what"),
    [
        ((4, 4), (0,), 5, 0, "5 ranks are too many"),
        ((4, 4), (0,), 3, 2, "3 ranks are too many"),
        ((4, 4), (2,), 1, 0, "can't be cut along"),
        ((4, 4), (0, 0), 1, 0, "can't be cut along"),
        ((4, 4, 4), (0, 1, 2), 1, 0, "can't be cut along"),
        ((4, 4), (), 1, 0, "can't be cut along"),
    ],
)
def test_what_cannot_be_cut_is_refused(shape, axes, n_ranks, halo, what):
    with pytest.raises(ConfigError, match=what):
        decompose(shape, axes, n_ranks, halo)


def test_boxes_that_only_touch_do_not_overlap():
    assert overlap(((0, 2), (0, 2)), ((2, 4), (0, 2))) is None
    assert overlap(((0, 3), (0, 2)), ((2, 4), (1, 2))) == ((2, 3), (1, 2))
