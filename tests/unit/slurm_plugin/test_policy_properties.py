"""What holds of the policy whatever the cluster looks like; each property is worked out here by other means."""

import math
import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from rfaas_slurm_plugin.policy.core import JOB_NAME, Caps, History, plan
from rfaas_slurm_plugin.policy.rules import Why
from rfaas_slurm_plugin.policy.settings import HarvestPolicy
from rfaas_slurm_plugin.views.view import ClusterView, Reservation

from .test_policy import JOB, NODE

NOW_S, WALL_S = 10_000.0, 1_000_000.0
NAMES = tuple(f"n{i}" for i in range(8))
GOOD, BAD = ("IDLE", "MIXED", "ALLOCATED", "PLANNED"), ("DRAIN", "DOWN", "MAINT", "RESERVED", "POWERED_DOWN", "REBOOT")
MIB = 1 << 10


class Scenario:
    """A cluster, settings and a history that a seed makes; each rule is at work now and then, never all at once.

    A seed and not strategies: drawn one by one, nearly every node would be forbidden by one of a dozen rules.
    """

    def __init__(self, seed):
        self.rng = random.Random(seed)
        names = self.rng.sample(NAMES, self.rng.randint(1, len(NAMES)))
        self.view = ClusterView(
            NOW_S,
            tuple(self.node(name) for name in names),
            tuple(self.job(number) for number in range(self.rng.randint(0, 8))),
            tuple(self.reservation(number) for number in range(self.rng.choice([0, 0, 1, 2]))),
        )
        self.policy = self.settings()
        rested = self.some_names(0.5)
        taken_back_boot_s = {name: NOW_S - self.rng.uniform(0, 6) for name in rested}
        rests = dict.fromkeys(self.some_names(), "lmp is slowed by 40.0%")
        self.history = History(taken_back_boot_s=taken_back_boot_s, rests=rests)

    def seldom(self):
        return self.rng.random() < 0.12

    def some_names(self, chance=0.2):
        return frozenset(self.rng.sample(NAMES, 2)) if self.rng.random() < chance else frozenset()

    def node(self, name):
        rng = self.rng
        cores, memory_mib = rng.randint(1, 16), rng.choice([300, 4 * MIB, 16 * MIB])
        return replace(
            NODE,
            name=name,
            states=frozenset({rng.choice(GOOD), rng.choice(BAD)} if self.seldom() else {rng.choice(GOOD)}),
            partitions=("rigid",) if self.seldom() else ("rigid", "harvest", *(["viz"] if self.seldom() else [])),
            features=frozenset({"ib"} - ({"ib"} if self.seldom() else set()) | ({"login"} if self.seldom() else set())),
            cores=cores,
            allocated_cores=rng.choice([0, rng.randint(0, cores)]),
            memory_mib=memory_mib,
            allocated_memory_mib=rng.choice([0, rng.randint(0, memory_mib)]),
        )

    def job(self, number):
        rng = self.rng
        ours, pending = rng.random() < 0.5, rng.random() < 0.4
        on = tuple(rng.sample(NAMES, 1 if ours else rng.randint(1, 2)))
        return replace(
            JOB,
            job_id=number,
            name=JOB_NAME if ours else "mpi",
            partition="harvest" if ours else "rigid",
            user=rng.choice(["ann", "ann", "bob"]),
            state="PENDING" if pending else rng.choice(["RUNNING", "COMPLETED", "COMPLETING"]),
            reason="Resources",
            comment=rng.choice(["", "", "rfaas=off", "mine"]),
            nodes=() if pending else on,
            required_nodes=on if pending and (ours or rng.random() < 0.5) else (),
            node_count=rng.randint(0, 3),
            cores=rng.randint(1, 8),
            memory_per_node_mib=rng.randint(1, 2 * MIB),
            submit_time_s=int(WALL_S) - rng.choice([2, 60, 60]),
            start_time_s=rng.choice([0, int(WALL_S) + 50, int(WALL_S) + 5000]),
            end_time_s=rng.choice([0, int(WALL_S) + 100]),
        )

    def reservation(self, number):
        start_s = int(WALL_S) + self.rng.randint(-100, 500)
        return Reservation(f"r{number}", tuple(self.some_names(1)), start_s, start_s + self.rng.randint(1, 500))

    def caps(self):
        rng = self.rng
        limits = (rng.randint(1, 20), rng.randint(1, 16 * MIB), rng.randint(1, 4), rng.randint(1, 4))
        return Caps(*(limit if rng.random() < 0.3 else 0 for limit in limits))

    def settings(self):
        rng = self.rng
        return HarvestPolicy(
            partition="harvest",
            user=rng.choice(["", "ann"]),
            leave_cores=rng.choice([0, 0, 2]),
            leave_memory_mib=rng.choice([0, 0, 2000]),
            slice_cores=rng.choice([0, 0, 1, 3]),
            caps=self.caps(),
            user_caps=self.caps(),
            nodes=self.some_names(),
            leave_nodes=self.some_names(),
            leave_partitions=frozenset({"viz"}),
            leave_features=frozenset({"login"}),
            require_features=frozenset({"ib"} if rng.random() < 0.5 else ()),
            leave_users=frozenset({"bob"} if rng.random() < 0.5 else ()),
            leave_planned=rng.random() < 0.5,
            min_idle_s=rng.choice([0.0, 0.0, 60.0]),
            time_limit_min=rng.choice([0, 3]),
        )


scenarios = st.integers(0, 2**32 - 1).map(Scenario)
many = settings(max_examples=200)


def test_a_fifth_of_the_scenarios_has_something_to_harvest_and_all_have_every_rule_at_work():
    planned = [plan(s.view, s.policy, s.history, NOW_S, WALL_S) for s in map(Scenario, range(1000))]
    assert sum(bool(decision.submit) for decision in planned) > 200
    seen = {verdict.code for decision in planned for verdict in decision.verdicts.values()}
    assert sorted(set(Why) - seen) == [Why.HARVEST_DRAINED, Why.OLD_VIEW, Why.RATE, Why.SILENT, Why.UNUSABLE]


def forbidden(node, view, policy, history):
    """Whether any rule forbids the node, said as plainly as the settings' documentation does."""
    companions = [job for job in view.jobs if node.name in job.nodes and not job.ended]
    begun_or_soon = [
        r for r in view.reservations if node.name in r.nodes and r.end_time_s > WALL_S and r.start_time_s < WALL_S + 150
    ]
    return (
        bool(node.states & frozenset(BAD))
        or ("PLANNED" in node.states and policy.leave_planned)
        or "harvest" not in node.partitions
        or bool(policy.nodes and node.name not in policy.nodes)
        or node.name in policy.leave_nodes
        or bool(set(node.partitions) & policy.leave_partitions)
        or bool(node.features & policy.leave_features)
        or not policy.require_features <= node.features
        or any(job.comment == "rfaas=off" or job.user in policy.leave_users for job in companions)
        or bool(begun_or_soon)
        or node.name in history.rests
        or NOW_S - history.taken_back_boot_s.get(node.name, -math.inf) < policy.backoff_s
    )


def alive(view, user=""):
    """Harvest jobs that have not ended, of one user or all."""
    return [j for j in view.jobs if j.name == JOB_NAME and not j.ended and user in ("", j.user)]


@many
@given(scenarios)
def test_never_a_node_that_a_rule_forbids_and_a_reason_for_each(s):
    view, policy, history = s.view, s.policy, s.history
    decision = plan(view, policy, history, NOW_S, WALL_S)
    left = {node.name for node in view.nodes if forbidden(node, view, policy, history)}
    assert not left & {action.node for action in decision.submit}
    assert set(decision.verdicts) == {node.name for node in view.nodes}
    for node in view.nodes:
        served = node.name in {action.node for action in decision.submit}
        assert not served or decision.verdicts[node.name].code is Why.HARVESTED


@many
@given(scenarios)
def test_never_more_than_the_caps_allow(s):
    view, policy, history = s.view, s.policy, s.history
    decision = plan(view, policy, history, NOW_S, WALL_S)
    for cap, there in ((policy.caps, alive(view)), (policy.user_caps, alive(view, policy.user))):
        before = (sum(j.cores for j in there), sum(j.memory_per_node_mib for j in there), len(there))
        after = (
            before[0] + sum(a.cores for a in decision.submit),
            before[1] + sum(a.memory_mib for a in decision.submit),
            before[2] + len(decision.submit),
        )
        for limit, had, has in zip((cap.cores, cap.memory_mib, cap.jobs), before, after, strict=True):
            assert not limit or has <= max(limit, had)
        on = {name for job in there for name in (job.nodes or job.required_nodes)}
        assert not cap.nodes or len(on | {a.node for a in decision.submit}) <= max(cap.nodes, len(on))


@many
@given(scenarios)
def test_never_more_than_is_idle_less_what_our_jobs_wait_for(s):
    view, policy, history = s.view, s.policy, s.history
    decision = plan(view, policy, history, NOW_S, WALL_S)
    for node in view.nodes:
        mine = [action for action in decision.submit if action.node == node.name]
        waiting = [job for job in alive(view) if job.state == "PENDING" and node.name in job.required_nodes]
        cores = sum(a.cores for a in mine) + (sum(job.cores for job in waiting) if mine else 0)
        memory_mib = sum(a.memory_mib for a in mine) + (sum(j.memory_per_node_mib for j in waiting) if mine else 0)
        assert cores <= max(0, node.idle_cores - policy.leave_cores)
        assert memory_mib <= max(0, node.idle_memory_mib - policy.leave_memory_mib)
        assert all(a.cores > 0 and a.memory_mib >= a.cores * policy.min_memory_mib_per_core for a in mine)


@many
@given(scenarios)
def test_the_same_is_decided_again_and_in_whatever_order_slurm_lists_its_nodes(s):
    view, policy, history = s.view, s.policy, s.history
    first = plan(view, policy, history, NOW_S, WALL_S)
    shuffled = list(view.nodes)
    s.rng.shuffle(shuffled)
    assert plan(view, policy, history, NOW_S, WALL_S) == first
    assert plan(replace(view, nodes=tuple(shuffled)), policy, history, NOW_S, WALL_S) == first


@many
@given(scenarios)
def test_what_was_submitted_is_not_asked_for_again_on_the_same_view(s):
    view, policy, history = s.view, s.policy, s.history
    submitted = plan(view, policy, history, NOW_S, WALL_S).submit
    for action in submitted:
        history.submit(action, NOW_S)
    later = plan(view, replace(policy, caps=Caps(), user_caps=Caps()), history, NOW_S + 20.0, WALL_S + 20.0)
    for node in view.nodes:
        both = [a for a in (*submitted, *later.submit) if a.node == node.name]
        assert sum(action.cores for action in both) <= max(0, node.idle_cores - policy.leave_cores)
    held_caps = plan(view, policy, history, NOW_S + 20.0, WALL_S + 20.0)
    if policy.caps.jobs:
        total = len(alive(view)) + len(submitted) + len(held_caps.submit)
        assert total <= max(policy.caps.jobs, len(alive(view)))


@many
@given(scenarios, st.floats(30.1, 1e6))
def test_nothing_on_a_view_older_than_three_cycles(s, age_s):
    assert not plan(s.view, s.policy, s.history, NOW_S + age_s, WALL_S).submit
