"""The harvest policy: what is submitted for a given cluster, and what is left alone."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfaas_slurm_plugin.policy.core import JOB_NAME, Caps, HarvestPolicy, History, Submit, overdue, plan
from rfaas_slurm_plugin.views.view import ClusterView, Job, Node, Reservation

NODE = Node(
    name="n1",
    address="n1",
    states=frozenset({"IDLE"}),
    partitions=("rigid", "harvest"),
    cores=4,
    allocated_cores=0,
    memory_mib=8000,
    allocated_memory_mib=0,
    slurmd_start_time_s=1,
)
JOB = Job(
    job_id=1,
    name="mpi",
    user="u",
    partition="rigid",
    state="RUNNING",
    reason="",
    nodes=("n1",),
    required_nodes=(),
    cores=4,
    memory_per_node_mib=100,
    comment="",
    submit_time_s=1000,
    start_time_s=1000,
    end_time_s=0,
)
POLICY = HarvestPolicy(partition="harvest")


def planned(nodes=(NODE,), jobs=(), policy=POLICY, history=None, now_s=100.0, wall_s=5000.0, reservations=()):
    view = ClusterView(now_s, tuple(nodes), tuple(jobs), tuple(reservations))
    return list(plan(view, policy, history or History(), now_s, wall_s).submit)


def test_an_idle_node_becomes_one_slice_with_its_memory():
    assert planned() == [Submit("n1", 4, 8000)]


def test_left_over_cores_get_what_memory_is_left():
    assert planned([replace(NODE, allocated_cores=3, allocated_memory_mib=7000)]) == [Submit("n1", 1, 1000)]


def test_what_is_to_be_left_is_left():
    policy = replace(POLICY, leave_cores=1, leave_memory_mib=2000)
    assert planned(policy=policy) == [Submit("n1", 3, 6000)]


def test_slices_of_a_given_size():
    policy = replace(POLICY, slice_cores=3)
    assert planned(policy=policy) == [Submit("n1", 3, 6000), Submit("n1", 1, 2000)]


def test_the_cap_counts_slices_that_are_there():
    running = replace(JOB, name=JOB_NAME, partition="harvest", cores=4)
    policy = replace(POLICY, caps=Caps(cores=7), slice_cores=2)
    assert planned(jobs=[running], policy=policy) == [Submit("n1", 2, 4000)]


def test_our_pending_jobs_already_claim_their_node():
    pending = replace(JOB, name=JOB_NAME, partition="harvest", state="PENDING", required_nodes=("n1",), nodes=())
    assert planned(jobs=[pending]) == []


@pytest.mark.parametrize("states", [{"IDLE", "DRAIN"}, {"DOWN"}, {"IDLE", "MAINTENANCE"}, {"RESERVED"}])
def test_nodes_in_trouble_or_promised_are_left_alone(states):
    assert planned([replace(NODE, states=frozenset(states))]) == []


def test_nodes_outside_the_partition_or_the_list_are_left_alone():
    assert planned([replace(NODE, partitions=("rigid",))]) == []
    assert planned(policy=replace(POLICY, nodes=frozenset({"n2"}))) == []


def test_a_node_that_was_taken_back_rests():
    history = History(taken_back_boot_s={"n1": 98.0})
    assert planned(history=history, now_s=100.0) == []
    assert planned(history=history, now_s=101.0) == [Submit("n1", 4, 8000)]


def test_nothing_runs_into_the_arms_of_a_job_that_just_began_to_wait():
    waiting = replace(JOB, state="PENDING", reason="Resources", submit_time_s=4998)
    assert planned(jobs=[waiting], wall_s=5000.0) == []
    assert planned(jobs=[waiting], wall_s=5004.0) == [Submit("n1", 4, 8000)]
    assert planned(jobs=[replace(waiting, reason="Dependency")]) != []


def test_what_a_cycle_submits_is_bounded_by_the_rate():
    nodes = [replace(NODE, name=f"n{i}") for i in range(100)]
    assert len(planned(nodes)) == 50  # five a second for ten seconds
    assert len(planned(nodes, policy=replace(POLICY, cycle_s=0.5))) == 5  # at least a second's worth
    assert len(planned(nodes, policy=replace(POLICY, cycle_s=600.0))) == 50
    assert len(planned(nodes, history=History(last_submission_boot_s=99.9), now_s=100.0)) == 49


def test_a_slice_too_poor_in_memory_gets_fewer_cores():
    assert planned([replace(NODE, allocated_memory_mib=7400)]) == [Submit("n1", 2, 512)]
    assert planned([replace(NODE, allocated_memory_mib=7900)]) == []


def test_victims_that_slurm_forgot_are_found():
    ours = replace(JOB, name=JOB_NAME, partition="harvest", preempt_time_s=4980)
    view = ClusterView(
        0.0, (NODE,), (ours, replace(ours, job_id=2, preempt_time_s=4995), replace(JOB, preempt_time_s=1))
    )
    assert overdue(view, POLICY, limit_s=12.0, now_wall_s=5000.0) == [1]


@given(
    st.lists(
        st.tuples(st.integers(1, 64), st.integers(0, 64), st.integers(0, 100_000), st.integers(0, 100_000)), max_size=8
    ),
    st.integers(0, 8),
    st.integers(0, 4000),
    st.integers(0, 16),
)
def test_never_more_than_is_idle_less_what_is_to_be_left(shapes, leave_cores, leave_mib, slice_cores):
    nodes = [
        replace(NODE, name=f"n{i}", cores=c, allocated_cores=min(a, c), memory_mib=m, allocated_memory_mib=min(b, m))
        for i, (c, a, m, b) in enumerate(shapes)
    ]
    policy = replace(POLICY, leave_cores=leave_cores, leave_memory_mib=leave_mib, slice_cores=slice_cores)
    actions = planned(nodes, policy=policy)
    for node in nodes:
        mine = [action for action in actions if action.node == node.name]
        assert all(action.cores > 0 and action.memory_mib >= policy.min_memory_mib_per_core for action in mine)
        assert sum(a.cores for a in mine) <= max(0, node.idle_cores - leave_cores)
        assert sum(a.memory_mib for a in mine) <= max(0, node.idle_memory_mib - leave_mib)


def reservation(start_s, end_s=90_000, nodes=("n1",)):
    return Reservation("maint", nodes, start_s, end_s)


@pytest.mark.parametrize(
    ("start_s", "time_limit_min", "expected"),
    [
        (5000 + 30 + 600, 0, [10]),  # ends when the reservation begins, less the margin
        (5000 + 30 + 659, 0, [10]),  # whole minutes, rounded down
        (5000 + 30 + 600, 5, [5]),
        (5000 + 30 + 119, 0, []),  # too little for a slice
        (5000 - 10, 0, []),  # it has begun
        (5000 + 30 + 6000, 7, [7]),
    ],
)
def test_no_slice_runs_into_a_reservation(start_s, time_limit_min, expected):
    policy = replace(POLICY, time_limit_min=time_limit_min)
    assert [a.time_limit_min for a in planned(policy=policy, reservations=[reservation(start_s)])] == expected


def test_the_next_reservation_counts_and_those_that_are_over_or_elsewhere_do_not():
    soon, later = reservation(5000 + 30 + 600), reservation(80_000)
    assert planned(reservations=[later, soon])[0].time_limit_min == 10
    assert planned(reservations=[reservation(1000, 4000), reservation(5100, nodes=("n2",))])[0].time_limit_min == 0
