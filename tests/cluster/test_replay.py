"""The short form of `make bench-replay`: minutes of a day on the real slurmctld. Its figures are no results."""

import pytest

from cluster.replaying import LONG_S, RigidRun, Served, planned, recovered, replayed
from support.soak import scaled

pytestmark = [pytest.mark.slurm, pytest.mark.figures]

SPAN_S = scaled(15.0, 300.0)
COMPRESSION = 60.0


def test_gaps_are_filled_and_every_rigid_job_runs(small_cluster):
    cluster = small_cluster
    plan = planned(cluster.settings.node_names, SPAN_S, COMPRESSION, seed=1)
    found = replayed(cluster, cluster.user("alice"), cluster.user("bob"), "rfaas", plan, SPAN_S, LONG_S / COMPRESSION)
    print(f"\n{len(plan)} rigid jobs in {SPAN_S:g} s, {COMPRESSION:g} times compressed: {found.about()}")
    assert len(found.runs) == len(plan)
    assert 0 < found.recovered_core_s <= found.idle_core_s
    assert all(run.delay_s >= 0 for run in found.runs)


def test_what_is_recovered_is_counted_within_gaps_only():
    runs = (RigidRun("n1", 0, 1, 10), RigidRun("n1", 40, 42, 50), RigidRun("n1", 51, 52, 60), RigidRun("n2", 0, 0, 9))
    served = [Served("n1", 12, 41), Served("n1", 5, 20), Served("n2", 10, 40), Served("n1", 50.5, 70)]
    found = recovered(runs, served, cpus=2, long_s=5)
    assert (found.idle_core_s, found.long_core_s) == (2 * 30 + 2 * 1, 2 * 30)
    assert (found.recovered_core_s, found.recovered_long_core_s) == (28 + 10 + 0.5, 28 + 10)
