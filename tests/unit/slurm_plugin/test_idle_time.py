"""How long a node will stay idle: what is announced, what was learnt, and the lesser of the two."""

import math
from dataclasses import replace

import pytest

from rfaas_slurm_plugin.policy.core import JOB_NAME, History, plan
from rfaas_slurm_plugin.policy.idle_time import Forecast, GapBook, median_left_s
from rfaas_slurm_plugin.policy.rules import Why
from rfaas_slurm_plugin.views.view import ClusterView, Reservation

from .test_policy import JOB, NODE, POLICY

NOW_S, WALL_S = 1000.0, 50_000.0
NODES = [replace(NODE, name=f"n{i}") for i in range(1, 5)]
WAITING = replace(JOB, state="PENDING", reason="Resources", nodes=(), submit_time_s=40_000, start_time_s=0)


def expected(nodes=NODES, jobs=(), reservations=(), book=None, name="n1"):
    view = ClusterView(NOW_S, tuple(nodes), tuple(jobs), tuple(reservations))
    forecast = Forecast(view, book or GapBook(), lambda job: job.name == JOB_NAME, NOW_S, WALL_S)
    return forecast.of(next(node for node in nodes if node.name == name))


def test_nothing_is_known_at_first():
    assert expected() == (math.inf, "no history")


def test_the_next_reservation():
    later = [Reservation("b", ("n1",), 50_900, 60_000), Reservation("a", ("n1",), 50_600, 60_000)]
    assert expected(reservations=later) == (600.0, "announced")
    assert expected(reservations=[replace(later[0], end_time_s=49_000)]).seconds == math.inf


def test_where_backfill_means_to_start_a_job():
    job = replace(WAITING, start_time_s=50_120, scheduled_nodes=("n1", "n2"), node_count=2)
    assert expected(jobs=[job]) == (120.0, "announced")
    assert expected(jobs=[job], name="n3").seconds == math.inf
    late = replace(job, start_time_s=49_000)  # it was expected to have started
    assert expected(jobs=[late]).seconds == 0.0
    ours = replace(job, name=JOB_NAME)
    assert expected(jobs=[ours]).seconds == math.inf


def test_a_job_that_needs_more_nodes_than_are_idle_will_take_them_all():
    busy = [replace(node, allocated_cores=4) for node in NODES[2:]]
    nodes = [*NODES[:2], *busy]
    running = [
        replace(JOB, job_id=2, nodes=("n3",), end_time_s=50_300),
        replace(JOB, job_id=3, nodes=("n4",), end_time_s=50_700),
    ]
    wide = replace(WAITING, node_count=3)
    assert expected(nodes, [*running, wide]) == (300.0, "announced")  # when the first of the two reaches its limit
    assert expected(nodes, [*running, replace(wide, node_count=4)]).seconds == 700.0
    assert expected(nodes, [*running, replace(wide, start_time_s=50_450)]).seconds == 450.0  # backfill knows better
    assert expected(nodes, [*running, replace(wide, node_count=2)]).seconds == math.inf  # two are idle now
    assert expected(nodes, [*running, replace(wide, node_count=5)]).seconds == math.inf  # it can't start there at all
    unlimited = [replace(job, end_time_s=0) for job in running]
    assert expected(nodes, [*unlimited, wide]).seconds == math.inf


def seen(book, spare, at_s, name="n1", lent=0):
    book.look([replace(NODE, name=name, allocated_cores=4 - spare + lent)], {name: lent}, at_s)


def test_a_gap_ends_when_the_nodes_own_jobs_leave_fewer_cores():
    book = GapBook()
    for at_s, spare in [(0, 0), (100, 4), (150, 4), (400, 0), (500, 2), (600, 4), (900, 1)]:
        seen(book, spare, at_s)
    assert list(book.past_s["n1"]) == [300.0, 400.0]  # of the second: more cores came meanwhile
    assert book.age_s("n1", 950.0) == 50.0


def test_our_own_slices_end_no_gap():
    book = GapBook()
    seen(book, 4, 0.0)
    seen(book, 4, 10.0, lent=4)
    seen(book, 4, 20.0)
    assert not book.past_s
    assert book.age_s("n1", 20.0) == 20.0


def test_a_drained_node_is_in_no_gap():
    book = GapBook()
    seen(book, 4, 0.0)
    book.look([replace(NODE, states=frozenset({"DRAIN"}))], {}, 60.0)
    assert book.age_s("n1", 90.0) == 0.0


@pytest.mark.parametrize(
    ("past_s", "age_s", "left_s"),
    [
        ([10, 20, 30, 40, 50], 0.0, 30.0),
        ([10, 20, 30, 40, 50], 15.0, 25.0),  # of 5, 15, 25, 35 the third
        ([10, 20, 30, 40, 50], 25.0, None),  # only three were longer
        ([], 0.0, None),
    ],
)
def test_what_is_left_of_gaps_that_were_longer(past_s, age_s, left_s):
    assert median_left_s(past_s, age_s) == left_s


def test_a_node_is_judged_by_its_own_gaps_if_it_has_enough_of_them():
    book = GapBook()
    at_s = 0.0
    for length_s in (50, 60, 70, 80):
        for spare, pause_s in ((4, length_s), (0, 10)):
            seen(book, spare, at_s)
            at_s += pause_s
    seen(book, 4, NOW_S)
    seen(book, 4, NOW_S, name="n2")
    assert expected(book=book) == (70.0, "past gaps of the node")
    assert expected(book=book, name="n2") == (70.0, "past gaps of all nodes")


def test_those_with_the_longest_future_come_first_and_those_with_too_short_a_one_not_at_all():
    soon = [Reservation("soon", ("n1",), int(WALL_S) + 400, 90_000), Reservation("x", ("n2",), 50_900, 90_000)]
    view = ClusterView(NOW_S, tuple(NODES), (), tuple(soon))
    decision = plan(view, POLICY, History(), NOW_S, WALL_S)
    assert [action.node for action in decision.submit] == ["n3", "n4", "n2", "n1"]
    picky = plan(view, replace(POLICY, min_idle_s=600.0), History(), NOW_S, WALL_S)
    assert [action.node for action in picky.submit] == ["n3", "n4", "n2"]
    assert picky.verdicts["n1"].code is Why.TOO_SHORT
    assert "400 s (announced)" in picky.verdicts["n1"].text
