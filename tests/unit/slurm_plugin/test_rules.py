"""What is left alone, and that every node that is not harvested has a reason in words."""

from dataclasses import replace

import pytest

from rfaas_slurm_plugin.policy.core import JOB_NAME, Caps, History, Submit, plan
from rfaas_slurm_plugin.policy.rules import TEXTS, Verdict, Why, by_code
from rfaas_slurm_plugin.policy.settings import policy_of
from rfaas_slurm_plugin.views.view import ClusterView, Reservation

from .test_policy import JOB, NODE, POLICY

NOW_S, WALL_S = 1000.0, 5000.0


def decided(nodes=(NODE,), jobs=(), policy=POLICY, history=None, reservations=(), taken_s=NOW_S):
    view = ClusterView(taken_s, tuple(nodes), tuple(jobs), tuple(reservations))
    return plan(view, policy, history or History(), NOW_S, WALL_S)


def why(node=NODE, **how):
    decision = decided((node,), **how)
    assert not decision.submit
    return decision.verdicts[node.name]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"states": frozenset({"IDLE", "DRAIN"})}, Why.DRAINED),
        ({"states": frozenset({"IDLE", "RFAAS_DRAIN"})}, Why.HARVEST_DRAINED),
        ({"states": frozenset({"DOWN", "NOT_RESPONDING"})}, Why.SILENT),
        ({"states": frozenset({"DOWN"})}, Why.DOWN),
        ({"states": frozenset({"IDLE", "MAINTENANCE"})}, Why.MAINTENANCE),
        ({"states": frozenset({"RESERVED"})}, Why.RESERVED),
        ({"states": frozenset({"IDLE", "POWERED_DOWN"})}, Why.POWER_SAVING),
        ({"states": frozenset({"IDLE", "REBOOT_ISSUED"})}, Why.REBOOT),
        ({"partitions": ("rigid",)}, Why.OTHER_PARTITION),
        ({"allocated_cores": 4}, Why.ALLOCATED),
        ({"allocated_memory_mib": 7900}, Why.NO_MEMORY),
    ],
)
def test_a_node_is_left_alone_for_what_it_is(change, code):
    assert why(replace(NODE, **change)).code is code


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"nodes": ["n2"]}, Why.NOT_LISTED),
        ({"leave_nodes": ["n1"]}, Why.LEFT_BY_NAME),
        ({"leave_partitions": ["rigid"]}, Why.LEFT_PARTITION),
        ({"leave_features": ["viz", "login"]}, Why.LEFT_FEATURE),
        ({"require_features": ["ib", "gpu"]}, Why.LACKS_FEATURE),
        ({"leave_planned": True}, Why.PLANNED),
    ],
)
def test_a_node_is_left_alone_for_what_the_settings_say(settings, code):
    node = replace(NODE, features=frozenset({"ib", "viz"}), states=frozenset({"IDLE", "PLANNED"}))
    assert decided((node,)).submit
    assert why(node, policy=policy_of("harvest", settings)).code is code


def test_a_planned_node_is_lent_until_its_job_comes_unless_the_settings_say_otherwise():
    assert decided((replace(NODE, states=frozenset({"IDLE", "PLANNED"})),)).submit == (Submit("n1", 4, 8000),)


@pytest.mark.parametrize("comment", ["rfaas=off", "project=x, rfaas=off", "a;rfaas=off"])
def test_a_job_that_wants_no_company_has_none_on_any_of_its_nodes(comment):
    half = replace(NODE, allocated_cores=2)
    nodes = [replace(half, name=name) for name in ("n1", "n2", "n3")]
    job = replace(JOB, job_id=77, comment=comment, nodes=("n1", "n2"), cores=4)
    decision = decided(nodes, [job])
    assert [action.node for action in decision.submit] == ["n3"]
    assert decision.verdicts["n2"] == Verdict(Why.OPTED_OUT, "77")
    assert "77" in decision.verdicts["n2"].text
    over = replace(job, state="COMPLETED")
    assert len(decided(nodes, [over]).submit) == 3


def test_words_that_only_look_like_an_opt_out_are_none():
    assert decided((replace(NODE, allocated_cores=2),), [replace(JOB, comment="rfaas=official")]).submit


def test_nodes_of_users_that_want_no_company():
    policy = policy_of("harvest", {"leave_users": ["ann"]})
    shared = replace(NODE, allocated_cores=1)
    assert why(shared, jobs=[replace(JOB, user="ann")], policy=policy) == Verdict(Why.LEFT_USER, "ann")
    assert decided((shared,), [replace(JOB, user="bob")], policy).submit


def test_nothing_is_submitted_on_a_view_older_than_three_cycles():
    assert decided(taken_s=NOW_S - 30.0).submit
    assert why(taken_s=NOW_S - 30.1).code is Why.OLD_VIEW


def test_reasons_that_pass_by_themselves():
    assert why(history=History(taken_back_boot_s={"n1": NOW_S - 1})).code is Why.RESTING
    left = why(history=History(rests={"n1": "lmp is slowed by 40.0%: the slice goes back"}))
    assert (left.code, "its neighbours' sake: lmp" in left.text) == (Why.NEIGHBOURS, True)
    many = decided([replace(NODE, name=f"n{i:02}") for i in range(51)])
    assert many.verdicts["n50"] == Verdict(Why.RATE, "5")
    maintenance = Reservation("maint", ("n1",), 5060, 9000)
    assert why(reservations=[maintenance]) == Verdict(Why.RESERVATION, "maint")
    pending = replace(JOB, name=JOB_NAME, partition="harvest", state="PENDING", required_nodes=("n1",), nodes=())
    assert why(jobs=[pending]).code is Why.HARVESTED
    running = replace(JOB, name=JOB_NAME, partition="harvest")
    verdict = why(replace(NODE, allocated_cores=4), jobs=[running])
    assert (verdict.code, verdict.text) == (Why.HARVESTED, "harvested: 4 of 4 cores are in slices")


def test_a_waiting_job_holds_as_many_nodes_as_it_asks_for_and_those_last_that_were_taken_back():
    nodes = [replace(NODE, name=f"n{i}") for i in range(1, 6)]
    history = History(taken_back_boot_s={"n4": NOW_S - 10, "n2": NOW_S - 20})
    waiting = replace(JOB, job_id=9, state="PENDING", reason="Resources", submit_time_s=4999, nodes=(), node_count=2)
    decision = decided(nodes, [waiting], history=history)
    assert {name for name, verdict in decision.verdicts.items() if verdict.code is Why.HELD} == {"n2", "n4"}
    assert len(decision.submit) == 3
    named = replace(waiting, required_nodes=("n5",))
    assert {action.node for action in decided(nodes, [named], history=history).submit} == {"n1", "n2", "n3", "n4"}
    elsewhere = replace(waiting, partition="other")
    assert len(decided(nodes, [elsewhere]).submit) == 5


@pytest.mark.parametrize(
    ("settings", "cores", "cap"),
    [
        ({"max_cores": 6}, [4, 2], "6 cores in all"),
        ({"max_memory": 12000 << 20}, [4, 2], "12000 MiB in all"),
        ({"max_nodes": 1}, [4], "1 nodes in all"),
        ({"max_jobs": 2}, [4, 4], "2 jobs in all"),
        ({"max_cores_per_user": 5}, [4, 1], "5 cores in all"),
    ],
)
def test_caps(settings, cores, cap):
    nodes = [replace(NODE, name=name) for name in ("n1", "n2", "n3")]
    decision = decided(nodes, policy=policy_of("harvest", settings))
    assert [action.cores for action in decision.submit] == cores
    assert decision.verdicts["n3"] == Verdict(Why.CAP, cap)


def test_a_users_cap_counts_that_users_harvest_jobs_and_the_cap_in_all_everybodys():
    hers = replace(JOB, name=JOB_NAME, partition="harvest", user="ann", nodes=("n7",))
    mine = replace(policy_of("harvest", {"max_cores_per_user": 4}), user="bob")
    assert decided(jobs=[hers], policy=mine).submit == (Submit("n1", 4, 8000),)
    assert why(jobs=[replace(hers, user="bob")], policy=mine) == Verdict(Why.CAP, "4 cores of bob")
    assert why(jobs=[hers], policy=replace(mine, caps=Caps(cores=4))) == Verdict(Why.CAP, "4 cores in all")


def test_slices_of_a_given_size_are_not_cut_smaller_by_a_cap():
    decision = decided(policy=policy_of("harvest", {"max_cores": 3, "slice_cores": 2}))
    assert [action.cores for action in decision.submit] == [2]


def test_a_cap_of_less_than_a_mebibyte_is_a_cap():
    assert policy_of("p", {"max_memory": 1}).caps.memory_mib == 1


def test_every_verdict_has_words_with_room_for_its_detail():
    for code in Why:
        text, _ = TEXTS[code]
        assert text.count("{}") <= 1
        assert "{" not in Verdict(code, "x").text


def test_counting_verdicts():
    assert by_code([Verdict(Why.CAP), Verdict(Why.DOWN, "DOWN"), Verdict(Why.DOWN, "DOWN+X")]) == {"down": 2, "cap": 1}
