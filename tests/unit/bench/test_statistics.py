"""Percentiles against numpy, and what is said of too few samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfaas.bench import statistics

TIMES = st.lists(st.integers(0, 10**12), min_size=1, max_size=300)
SHARES = st.sampled_from([0.001, 0.1, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0])


@given(TIMES, SHARES)
def test_a_percentile_is_the_sample_that_numpy_names(times, share):
    assert statistics.percentile(sorted(times), share) == np.percentile(times, 100 * share, method="inverted_cdf")


@pytest.mark.parametrize("n", [1000, 2000, 10_000])
def test_the_thousandth_is_where_floating_point_would_miss_it(n):
    times = list(range(n))
    for share in statistics.SHARES.values():
        assert statistics.percentile(times, share) == round(n * share) - 1


@given(st.lists(st.lists(st.integers(1, 10**9), max_size=50), min_size=1, max_size=8).filter(any))
def test_a_summary_is_that_of_all_blocks_together(blocks):
    every = [one for block in blocks for one in block]
    found = statistics.summary(blocks)
    assert (found.n, found.min_ns, found.max_ns) == (len(every), min(every), max(every))
    assert found.p50_ns == np.percentile(every, 50, method="inverted_cdf")
    medians = [np.percentile(block, 50, method="inverted_cdf") for block in blocks if block]
    assert (found.p50_low_ns, found.p50_high_ns) == (min(medians), max(medians))


def test_percentiles_that_would_be_the_maximum_are_not_given():
    few = statistics.summary([range(9)])
    assert (few.p90_ns, few.p99_ns, few.p999_ns) == (None, None, None)
    enough = statistics.summary([range(1000)])
    assert (enough.p90_ns, enough.p99_ns, enough.p999_ns, enough.max_ns) == (899, 989, 998, 999)
    assert statistics.summary([range(999)]).p999_ns is None


def test_nothing_measured_is_no_summary():
    with pytest.raises(ValueError, match="without samples"):
        statistics.summary([[], []])
    with pytest.raises(ValueError, match="no figure"):
        statistics.spread([])


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=20))
def test_spread_is_median_and_extremes(figures):
    found = statistics.spread(figures)
    assert found == (pytest.approx(np.median(figures)), min(figures), max(figures), len(figures))


def test_ratios_are_made_round_by_round():
    assert statistics.ratios([2, 9], [1, 3]) == [2, 3]
    with pytest.raises(ValueError, match="zip"):
        statistics.ratios([1], [1, 2])


@given(TIMES)
def test_a_distribution_rises_to_one(times):
    points = statistics.cumulative(sorted(times), points=10)
    assert points == sorted(points)
    assert points[-1] == (max(times), 1.0)
    for took, share in points:
        assert sum(one <= took for one in times) >= round(share * len(times))


def test_room_for_samples_is_there_before_anything_is_timed():
    room = statistics.samples(3)
    assert (room.itemsize, room.tolist()) == (8, [0, 0, 0])
