"""The short form of `make bench-reclaim`, on a cluster of four nodes: no result; a deadline is held at three times."""

import pytest

from cluster.delay import build_probe
from cluster.phases import SETTLED_S, moment_s, share_of_turn
from cluster.reclaim_figures import by_workers, expected, goals, paired, percentile, since_told_s
from cluster.reclaiming import Case, Part, Row, run_part

pytestmark = [pytest.mark.slurm, pytest.mark.figures]

GRACE_S = 5
PART = Part("tuned", GRACE_S, "whole nodes")
SLACK_S = 3 * 1.0


def test_rigid_jobs_take_slices_back_from_idle_busy_and_stubborn_workers(small_cluster):
    cluster = small_cluster
    rows: list[Row] = []
    blocks = [
        [Case(PART, "floor", "", "srun", "all nodes", 0)],
        [
            Case(PART, "rfaas", "idle", "srun", "all nodes", 0),
            Case(PART, "rfaas", "busy", "sbatch", "1 node", 0),
            Case(PART, "rfaas", "stubborn", "srun", "1 node", 0),
        ],
    ]
    users = cluster.user("alice"), cluster.user("bob")
    assert run_part(PART, blocks, cluster, users, build_probe(cluster), rows.append)
    for row in rows:
        print(f"{row.case.load} {row.case.workers} {row.case.how} {row.case.size}: {row.delay_s:.3f} s")
        assert (row.failed, row.unwell, row.taken) == ("", "", expected(row.case)), row
        assert 0 < row.told_s < row.delay_s
        assert (row.phase_s >= SETTLED_S) == (row.case.how == "sbatch")
    floor, idle, busy, stubborn = (row.delay_s for row in rows)
    assert idle <= floor + 3 * 0.3
    assert busy <= GRACE_S + SLACK_S
    assert GRACE_S - 2 < stubborn <= GRACE_S + SLACK_S  # calls got their share of the grace, and then no more


def test_rows_are_read_back_and_compared_among_those_that_are_alike():
    def row(load, workers, delay_s, size="1 node", number=0, **how_it_went):
        return Row(Case(PART, load, workers, "srun", size, number), delay_s, **how_it_went)

    rows = [
        row("floor", "", 1.0, taken=1),
        row("floor", "", 3.0, taken=1, number=1),
        row("rfaas", "idle", 2.25, taken=1),
        row("rfaas", "idle", 3.5, taken=1, number=1),
        row("rfaas", "idle", 8.0, taken=1, number=2),  # the run was cut off before the floor's of the same number
        row("rfaas", "idle", 9.0, size="all nodes", taken=2),  # no floor to compare it with
        row("rfaas", "busy", 8.5, taken=2),
    ]
    assert [Row.of_json(line.as_json()) for line in rows] == rows
    assert by_workers(rows) == {"floor": [-1.0, 1.0], "idle": [0.25, 1.5, 6.0], "busy": [6.5]}
    late = row("rfaas", "idle", 4.0, taken=1, told_s=2.5)  # slurmctld asked late: not what the slice cost
    assert by_workers([*rows[:2], late], since_told_s)["idle"] == [1.5 - 2.0]
    assert {key[2]: len(pairs) for key, pairs in paired(rows).items()} == {"1 node": 2}
    told = {goal["goal"]: (goal["value"], goal["met"]) for goal in goals(rows)}
    assert told["idle workers: median over the floor"] == (0.875, False)
    assert told["idle workers: p99 over the floor's p99"] == (0.5, False)  # 3.5 - 3.0: one middle for both
    assert told["busy workers: worst over the floor, less the grace"] == (1.5, False)
    assert told["jobs that took another number of slices than they needed"] == (1, False)
    failed = goals([*rows, row("rfaas", "idle", 0.0, number=7, failed="Prolog", unwell="n1 Prolog error")])
    assert [goal["value"] for goal in failed[-3:]] == [1, 1, 1]
    assert [percentile([3, 1, 2], p) for p in (1, 50, 99)] == [1, 2, 3]


def test_batch_jobs_come_at_moments_that_are_spread_over_slurmctlds_turn():
    for kind in (0, 1):
        shares = sorted(share_of_turn(number, kind) for number in range(4))
        gaps = [b - a for a, b in zip(shares, [*shares[1:], shares[0] + 1], strict=True)]
        assert max(gaps) < 0.4
    assert moment_s(100.0, 3.0, 0.5, now_s=101.0) == 100 + SETTLED_S + 1.5
    assert moment_s(100.0, 3.0, 0.5, now_s=104.25) == 100 + SETTLED_S + 2.5  # too late: the same part of a second
