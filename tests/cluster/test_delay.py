"""The measure of a rigid job's start delay, before any of rfaas is in it: what Slurm itself costs."""

import pytest

from cluster.delay import Probe, build_probe, compare
from support.deadlines import assert_in_time

pytestmark = [pytest.mark.slurm, pytest.mark.figures]

ROUNDS = 3
RUN_S = 60.0


@pytest.fixture(scope="module")
def probe(session_cluster) -> Probe:
    return build_probe(session_cluster)


@pytest.mark.parametrize("grace_s", [0, 5])
def test_a_harvest_that_exits_at_once_delays_a_rigid_job_by_less_than_the_grace(
    cluster, alice, bob, probe, grace_s, record_property
):
    cluster.set_grace(grace_s)
    delays = compare(
        {"no harvest": probe.no_harvest, "instant harvest": lambda: probe.instant_harvest(alice)},
        lambda: probe.rigid_start(bob, ["-N2", "--exclusive"], RUN_S),
        ROUNDS,
    )
    for case in delays.values():
        print(f"GraceTime {grace_s}, {case}")
        record_property(f"grace {grace_s}, {case.name}, median_s", case.median_s)
        assert [len(start.nodes) for start in case.starts] == [2] * ROUNDS
        assert all(0 < start.delay_s <= start.last_delay_s for start in case.starts)
    assert delays["no harvest"].taken == (0,) * ROUNDS
    assert delays["instant harvest"].taken == (2,) * ROUNDS  # each rigid job met the harvest on both its nodes
    # killed at the end of the grace time it would have been grace + KillWait and more
    assert_in_time(delays["instant harvest"].median_s, grace_s + cluster.settings.kill_wait_s)


def test_small_slices_fill_every_cpu_and_each_reports_when_it_was_told_to_go(cluster, alice, bob, probe):
    cpus = cluster.settings.cpus
    with probe.instant_harvest(alice, slice_cpus=cpus // 2) as harvest:
        assert harvest.n_slices == 2 * cluster.settings.nodes
        start = probe.rigid_start(bob, ["-N1", "--exclusive"], RUN_S, command=["true"])
        assert harvest.n_taken() == 2
        assert all(start.launched_ns < time_ns < start.tasks[0].began_ns for time_ns in harvest.terminated_ns())
