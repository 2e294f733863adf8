"""The policy on recorded gaps, against what a few gaps must give by hand, and sums that hold of any."""

import json
import random

import pytest
from click.testing import CliRunner

from rfaas_slurm_plugin.cli import slurm
from rfaas_slurm_plugin.policy.settings import Caps, HarvestPolicy
from rfaas_slurm_plugin.report.gaps import Gap, Taking, gaps_of_series
from rfaas_slurm_plugin.report.simulation import Costs, Simulation
from rfaas_slurm_plugin.report.traces import Sample

COSTS = Costs(start_s=2.0, give_back_s=1.0)


def ran(gaps, costs=COSTS, cores=4, **policy):
    return Simulation(gaps, cores, 4096, HarvestPolicy(partition="harvest", **policy), costs).run()


def test_one_gap_gives_what_lies_between_a_slices_start_and_its_going_back():
    found = ran([Gap(0, 0.0, 100.0)])
    assert found.recovered_core_s == 4 * (100 - 2 - 1)
    assert (found.idle_core_s, found.submissions, found.preemptions, found.useless) == (400, 1, 1, 0)
    assert found.leases_s == [97.0]


def test_a_gap_is_seen_at_the_next_cycle():
    found = ran([Gap(0, 0.0, 100.0), Gap(1, 3.0, 53.0)])
    assert found.recovered_core_s == 4 * (97 + (53 - 10 - 3))


def test_a_node_that_was_taken_back_rests_and_is_harvested_again():
    found = ran([Gap(0, 0.0, 100.0), Gap(0, 101.0, 200.0)], backoff_s=15.0)
    # the node is idle again at 101, and its first cycle after 115 is the one at 120
    assert found.recovered_core_s == 4 * (97 + (200 - 120 - 3))


def test_short_gaps_cost_starts_that_serve_nobody():
    found = ran([Gap(0, 0.0, 2.5), Gap(1, 0.0, 200.0)])
    assert (found.submissions, found.useless, found.preemptions) == (2, 1, 2)
    assert found.share_of_long == pytest.approx(197 / 200, abs=0.002)


def test_the_time_limit_ends_a_slice_and_the_next_follows():
    found = ran([Gap(0, 0.0, 150.0)], time_limit_min=1)
    assert found.ended_by_limit == 2
    assert found.submissions == 3
    assert found.recovered_core_s == 4 * (57 + 57 + (150 - 120 - 3))


def test_the_rate_and_the_caps_of_the_policy_hold():
    gaps = [Gap(i, 0.0, 40.0) for i in range(200)]
    slow = ran(gaps, max_submissions_per_s=1.0)
    assert slow.submissions == 40
    capped = ran(gaps, caps=Caps(cores=22))
    assert capped.recovered_core_s < 22 * 40
    assert max(capped.serving_nodes[1]) == 6


@pytest.mark.parametrize("seed", range(8))
def test_never_more_than_was_idle_and_every_slice_ends(seed):
    rng = random.Random(seed)
    samples, idle = [], 5
    for i in range(60):
        idle = min(30, max(0, idle + rng.randint(-4, 4)))
        samples.append(Sample(60.0 * i, idle))
    gaps = gaps_of_series(samples, Taking.RANDOM, seed)
    found = ran(gaps)
    assert found.idle_core_s == pytest.approx(4 * 60 * sum(sample.idle_nodes for sample in samples[:-1]))
    assert 0 < found.recovered_core_s <= found.recovered_long_core_s + 1e-6 <= found.idle_core_s
    assert len(found.leases_s) == found.preemptions <= found.submissions
    whole = ran(gaps, caps=Caps(cores=10**9))  # a cap that never holds: views show what is wholly lent too
    assert (whole.recovered_core_s, whole.leases_s) == (found.recovered_core_s, found.leases_s)
    free = ran(gaps, Costs(0.0, 0.0), cycle_s=1.0, backoff_s=0.0, max_submissions_per_s=1e9)
    assert free.recovered_core_s == pytest.approx(free.idle_core_s, rel=0.02)  # a cycle of a second costs a second
    assert free.recovered_core_s > found.recovered_core_s


def test_as_it_is_typed(tmp_path):
    series = tmp_path / "idle.csv"
    series.write_text("time,idle_nodes\n" + "".join(f"{100 * i},{5 + i % 3}\n" for i in range(40)))
    arguments = ["simulate", "--idle-series", str(series), "--nodes", "7241", "--cores-per-node", "36"]
    result = CliRunner().invoke(slurm, [*arguments, "--json", "--plot", str(tmp_path / "x.svg")])
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)
    assert said["nodes"] == 7241
    assert said["idle_core_s"] == 36 * 100 * sum(5 + i % 3 for i in range(39))
    assert 0.8 < said["recovered_share"] < 1
    assert said["policy"]["cycle_s"] == 10.0
    assert (tmp_path / "x.svg").exists()
    text = CliRunner().invoke(slurm, arguments).output
    assert "recovered core-hours" in text
    for wrong in (["--nodes", "5"], ["--nodes", "n[1-2]"], ["--from", "x"]):
        assert CliRunner().invoke(slurm, [*arguments, *wrong]).exit_code == 78


def test_of_sacct(tmp_path):
    record = tmp_path / "sacct.txt"
    record.write_text("JobIDRaw|Start|End|AllocCPUS|NodeList\n1|0|100|4|n1\n2|400|500|4|n1\n3|0|500|4|n2\n")
    arguments = ["simulate", "--from", str(record), "--cores-per-node", "4", "--json"]
    said = json.loads(CliRunner().invoke(slurm, arguments).output)
    assert (said["gaps"], said["idle_core_s"]) == (1, 1200)
    assert said["recovered_core_s"] == 4 * 300 - 4 * 3.5
