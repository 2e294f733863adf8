"""Gaps made of what is recorded, and what is left over, against sums that are worked out another way."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfaas_slurm_plugin.report import left_over
from rfaas_slurm_plugin.report.gaps import Gap, Taking, gaps_of_jobs, gaps_of_series, lengths_of
from rfaas_slurm_plugin.report.traces import PastJob, Sample

from .test_policy import NODE

series = st.lists(st.integers(0, 12), min_size=2, max_size=30).map(
    lambda counts: [Sample(100.0 * i, n) for i, n in enumerate(counts)]
)


@given(series, st.sampled_from(Taking))
def test_as_many_nodes_are_in_a_gap_as_the_series_says_and_none_twice(samples, taking):
    found = gaps_of_series(samples, taking)
    for sample in samples[:-1]:
        inside = [gap.node for gap in found if gap.start_s <= sample.at_s < gap.end_s]
        assert len(inside) == len(set(inside)) == sample.idle_nodes
    assert sum(gap.length_s for gap in found) == sum(100.0 * sample.idle_nodes for sample in samples[:-1])


def test_which_gap_ends_decides_how_unequal_they_are():
    samples = [Sample(0.0, 0), Sample(10.0, 1), Sample(20.0, 2), Sample(30.0, 1), Sample(40.0, 0)]
    assert sorted(g.length_s for g in gaps_of_series(samples, Taking.NEWEST)) == [10.0, 30.0]
    assert sorted(g.length_s for g in gaps_of_series(samples, Taking.OLDEST)) == [20.0, 20.0]


def test_gaps_that_the_record_cuts_off_are_marked():
    found = gaps_of_series([Sample(0.0, 2), Sample(10.0, 1), Sample(20.0, 2), Sample(30.0, 2)], Taking.OLDEST)
    assert [(g.start_s, g.end_s, g.cut) for g in found] == [(0, 10, True), (0, 30, True), (20, 30, True)]


def random_jobs(rng, nodes, until_s=500):
    found = []
    for number in range(rng.randint(0, 12)):
        start_s = rng.randint(-50, until_s)
        on = tuple(rng.sample(nodes, rng.randint(1, len(nodes))))
        end_s = start_s + rng.randint(0, 200) if rng.random() < 0.9 else float("inf")
        found.append(PastJob(str(number), on, float(start_s), float(end_s), len(on), 10 * len(on)))
    return found


@pytest.mark.parametrize("seed", range(30))
def test_gaps_and_left_overs_of_jobs_second_by_second(seed):
    rng = random.Random(seed)
    nodes = [f"n{i}" for i in range(4)]
    jobs = random_jobs(rng, nodes)
    gaps = gaps_of_jobs(jobs, nodes, 0.0, 500.0)
    idle = shared = unrequested = 0
    for second in range(500):
        for place, name in enumerate(nodes):
            there = [job for job in jobs if name in job.nodes and job.start_s <= second < job.end_s]
            assert bool(there) != any(g.node == place and g.start_s <= second < g.end_s for g in gaps)
            idle += not there
            shared += max(0, 4 - len(there)) if there else 0
            unrequested += max(0, 25 - 10 * len(there)) if there else 0
    found = left_over.of_jobs(jobs, nodes, 4, 25, 0.0, 500.0)
    assert found.cores == 500 * 4 * 4
    assert found.idle_node_cores == pytest.approx(idle * 4)
    assert found.shared_node_cores == pytest.approx(shared)
    assert found.idle_node_memory_bytes == pytest.approx(idle * 25)
    assert found.unrequested_memory_bytes == pytest.approx(unrequested)
    assert found.unused_memory_bytes is None


def test_memory_that_jobs_requested_and_did_not_use():
    job = PastJob("1", ("n1", "elsewhere"), 0.0, 100.0, 8, 200, 120)
    found = left_over.of_jobs([job], ["n1"], 4, 500, 0.0, 50.0)
    assert found.unused_memory_bytes == (200 - 120) / 2 * 50
    assert found.unrequested_memory_bytes == 400 * 50


def test_lengths():
    found = lengths_of([Gap(0, 0, 30), Gap(0, 0, 90), Gap(0, 0, 700), Gap(0, 0, 5000, cut=True)])
    assert (found.n, found.n_cut, found.node_s) == (4, 1, 5820)
    assert (found.percentiles_s[50], found.percentiles_s[99]) == (90, 700)
    assert found.shares[60] == (pytest.approx(2 / 3), pytest.approx(5790 / 5820))
    assert lengths_of([]).percentiles_s == {}


def test_left_over_now():
    busy = replace(NODE, name="n2", allocated_cores=3, allocated_memory_mib=6000, free_memory_mib=5000)
    lent = replace(NODE, name="n3", allocated_cores=4, allocated_memory_mib=8000)
    down = replace(NODE, name="n4", states=frozenset({"DOWN"}))
    found = left_over.of_view([NODE, busy, lent, down], {"n3": (4, 8000)})
    mib = 1 << 20
    assert (found.cores, found.idle_node_cores, found.shared_node_cores) == (12, 8, 1)
    assert found.idle_node_memory_bytes == 16000 * mib
    assert found.unrequested_memory_bytes == 2000 * mib
    assert found.unused_memory_bytes == (6000 - 3000) * mib
    assert left_over.of_view([NODE], {}).unused_memory_bytes is None
