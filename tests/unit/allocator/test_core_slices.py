"""How slices end, and what proves it (docs/spec/002-lease.md section 3)."""

from dataclasses import replace

import pytest

from rfaas.control import messages as m
from rfaas_allocator.events import SlicesMustEnd

from .world import Agent, reclaimable, some_id


def test_the_last_word_of_an_agent_ends_its_slice(world):
    agent, holder, lease_id = reclaimable(world)
    agent.say(m.Ending(agent.slice.slice_id, agent.epoch, 1, 5.0))
    agent.empty()
    world.settle()
    assert world.snapshot().slices == ()
    assert m.Ended(holder.holder, lease_id, "reclaimed", 1) in holder.heard


@pytest.mark.parametrize(
    ("about", "may"),
    [({"job_id": "17"}, False), ({"job_id": "17", "shared_by": 1000}, True), ({"job_id": ""}, True)],
    ids=["harvest job", "job that shares", "no job"],
)
def test_what_no_job_is_for_alone_may_be_lent_again_after_the_last_word_of_its_agent(world, about, may):
    agent = world.agent(cores=1, **about)
    agent.empty()
    world.settle()
    again = world.agent(cores=1, slice_id=agent.slice.slice_id, **about)
    assert bool(again.told_to_leave) is not may
    assert [view.slice.slice_id for view in world.snapshot().slices] == ([agent.slice.slice_id] if may else [])
    if may:
        assert again.epoch > agent.epoch


def test_a_job_that_has_ended_shares_nothing_more(world):
    agent = world.agent(cores=1, job_id="17", shared_by=1000)
    world.cut(agent)
    world.step(m.JobsReport(ended=(m.JobEnded("17", 0, "COMPLETED"),)))
    world.settle()
    again = world.agent(cores=1, job_id="17", shared_by=1000, slice_id=agent.slice.slice_id)
    assert again.told_to_leave


@pytest.mark.parametrize(
    ("why", "reason", "code"),
    [
        ("PREEMPTED", "reclaimed", 1),
        ("TIMEOUT", "lost", 4),
        ("NODE_REBOOTED", "lost", 3),
        ("CANCELLED by 1000", "lost", 5),
        ("FAILED", "lost", 16),
        ("", "lost", 16),
    ],
)
def test_the_end_of_a_job_is_proof_of_death_for_its_leases(world, why, reason, code):
    agent, holder, lease_id = reclaimable(world)
    agent.dead = True
    world.cut(agent)
    world.step(m.JobsReport(ended=(m.JobEnded("17", 5, why),)))
    world.settle()
    assert m.Ended(holder.holder, lease_id, reason, code) in holder.heard
    assert world.kinds()[-2:] == ["proof_of_death", "free"]
    assert (world.disk.leases, world.disk.slices) == ({}, {})


@pytest.mark.parametrize(("why", "code"), [("NODE_FAIL", 3), ("FORGOTTEN", 5)])
def test_an_end_without_proof_frees_nothing_and_its_living_agent_proves_it_itself(world, why, code):
    agent, holder, lease_id = reclaimable(world)
    world.step(m.JobsReport(ended=(m.JobEnded("17", 5, why),), alive=(m.JobRef("17", 5),)))
    world.settle()
    assert agent.draining
    assert world.view(agent).leases
    holder.want(3)
    world.settle()
    assert len(holder.granted) == 1  # nothing new there
    agent.free(lease_id, "reclaimed", code)
    agent.empty()
    world.settle()
    assert world.snapshot().slices == ()
    assert m.Ended(holder.holder, lease_id, "reclaimed", code) in holder.heard


def test_a_silent_agent_whose_node_failed_keeps_its_cores_until_it_speaks_and_is_told_then(world):
    agent, _, _ = reclaimable(world)
    world.cut(agent)
    world.now_s += 100
    for _ in range(2):
        world.step(m.JobsReport(ended=(m.JobEnded("17", 5, "NODE_FAIL"),), alive=(m.JobRef("17", 5),)))
        assert len(world.view(agent).leases) == 1
    world.connect(agent)
    world.settle()
    assert agent.draining


def test_the_nodes_next_incarnation_is_proof_of_death(world):
    agent, holder, lease_id = reclaimable(world)
    agent.slice = replace(agent.slice, incarnation="boot-a:10:1:5")
    world.connect(agent)
    world.settle()
    agent.dead = True
    world.cut(agent)
    for job_id, incarnation, gone in [("18", "boot-a:11:1:5", False), ("19", "boot-a:11:2:6", True)]:
        other = Agent(replace(agent.slice, slice_id=m.SliceId(some_id()), job_id=job_id, incarnation=incarnation))
        world.connect(other)
        world.settle()
        assert (m.Ended(holder.holder, lease_id, "lost", 3) in holder.heard) == gone
        other.dead = True


def test_an_agent_that_seems_connected_is_waited_for_unless_its_node_has_another_boot_id(world):
    agent, holder, lease_id = reclaimable(world)
    agent.slice = replace(agent.slice, incarnation="boot-a:10:1:5")
    world.connect(agent)
    world.settle()
    holder.want(4)
    container = Agent(replace(agent.slice, slice_id=m.SliceId(some_id()), job_id="18", incarnation="boot-a:11:2:6"))
    world.connect(container)
    world.settle()
    assert container.held == {}
    agent.dead = True
    world.cut(agent)
    world.settle()
    assert m.Ended(holder.holder, lease_id, "lost", 3) in holder.heard
    assert len(container.held) == 1
    rebooted = Agent(replace(agent.slice, slice_id=m.SliceId(some_id()), job_id="19", incarnation="boot-b:5:1:1"))
    world.connect(rebooted)
    world.settle()
    assert rebooted.held
    assert len(world.snapshot().slices) == 1
    container.dead = True


def test_a_slice_that_must_leave_its_node_is_told_why(world):
    agent, _, _ = reclaimable(world)
    for _ in range(2):
        world.step(m.JobsReport(ending=(m.JobEnding("17", 5, 2), m.JobEnding("18", 5, 2))))
        world.settle()
    assert agent.told_to_leave == [2]


def test_slices_outside_of_jobs_leave_nodes_that_slurm_has_given_to_a_job_and_others_stay(world):
    agent, _, _ = reclaimable(world)
    node = agent.slice.node
    site = Agent(replace(agent.slice, slice_id=m.SliceId(some_id()), job_id="", outside_jobs=True))
    elsewhere = Agent(replace(site.slice, slice_id=m.SliceId(some_id()), node=f"{node}x"))
    for each in (site, elsewhere):
        world.connect(each)
    world.settle()
    for _ in range(2):
        world.step(m.JobsReport(given_nodes=(node, "unknown")))
        world.settle()
    assert site.told_to_leave == [1]
    assert agent.told_to_leave == elsewhere.told_to_leave == []


def test_nothing_is_granted_on_a_stale_picture_of_slurm_and_everything_goes_on_with_a_new_one(world):
    agent, holder, _ = reclaimable(world)
    local = world.holder()
    free = world.agent(cores=1, job_id="18")
    world.step(m.JobsReport(alive=(m.JobRef("17", 5), m.JobRef("18")), trusted_for_s=10.0))
    world.now_s += 10.5
    holder.want(3)
    local.want(1)
    world.settle()
    assert (holder.workers, local.workers, free.held) == (2, 0, {})
    assert "Slurm" in world.snapshot().waiting[0].reason
    assert world.view(agent).state == "up"  # what runs goes on
    world.step(m.JobsReport(trusted_for_s=0.0))  # the harvester says that it still hears nothing
    world.settle()
    assert free.held == {}
    by_hand = world.agent(cores=1)  # has nothing to do with Slurm
    world.settle()
    assert by_hand.held
    world.step(m.JobsReport(trusted_for_s=10.0))
    world.settle()
    assert free.held
    assert (holder.workers, local.workers) == (3, 1)


@pytest.mark.parametrize(
    "job", [m.JobEnded("18", 5, "X"), m.JobEnded("17", 6, "X"), m.JobEnded("", 0, "X"), m.JobEnded("1", 0, "X")]
)
def test_the_end_of_another_job_is_not(world, job):
    agent, holder, _ = reclaimable(world)
    world.step(m.JobsReport(ended=(job,)))
    world.settle()
    assert holder.workers == 2
    assert world.view(agent).state == "up"


def test_a_job_whose_submit_time_is_not_known_is_compared_by_its_id(world):
    reclaimable(world)
    world.step(m.JobsReport(ended=(m.JobEnded("17", 0, "FAILED"),)))
    assert world.snapshot().slices == ()


def test_a_slice_without_a_job_is_named_by_its_id(world):
    agent = world.agent()
    world.step(m.JobsReport(ended=(m.JobEnded(agent.slice.slice_id.hex(), 0, "agent ended"),)))
    assert world.snapshot().slices == ()


def test_an_agent_of_a_slice_that_is_over_is_told_to_go_and_gets_no_epoch(world):
    agent, holder, _ = reclaimable(world)
    world.step(m.JobsReport(ended=(m.JobEnded("17", 5, "FAILED"),)))
    world.settle()
    for _ in range(2):
        again = Agent(agent.slice)
        world.connect(again)
        world.settle()
        assert (again.epoch, again.draining) == (0, True)
        world.crash()
    holder.wants.clear()


def test_a_job_missing_from_slurms_list_has_ended_if_its_agent_can_not_be_reached(world):
    agent, holder, _ = reclaimable(world)
    world.cut(agent)
    world.now_s += 100
    world.step(m.JobsReport(alive=(m.JobRef("18", 5),), alive_age_s=1.0))
    world.settle()
    assert world.snapshot().slices == ()
    assert holder.workers == 0


@pytest.mark.parametrize("alive", [(m.JobRef("17", 5),), (m.JobRef("17"),), None])
def test_a_job_on_slurms_list_or_no_list_keeps_its_slice(world, alive):
    agent, _, _ = reclaimable(world)
    world.cut(agent)
    world.now_s += 100
    world.step(m.JobsReport(alive=alive))
    assert world.view(agent).state == "unreachable"


def test_a_list_read_before_the_agent_spoke_proves_nothing(world):
    agent, _, _ = reclaimable(world)
    world.cut(agent)
    world.now_s += 10
    world.step(m.JobsReport(alive=(), alive_age_s=11.0))
    assert world.view(agent).state == "unreachable"


def test_a_list_proves_nothing_against_an_agent_that_is_connected(world):
    agent, _, _ = reclaimable(world)
    world.now_s += 100
    world.step(m.JobsReport(alive=()))
    assert world.view(agent).state == "up"


def test_a_list_read_before_the_allocators_restart_proves_nothing(world):
    agent, _, _ = reclaimable(world)
    world.now_s += 100
    world.crash()
    world.now_s += 1
    world.step(m.JobsReport(alive=(), alive_age_s=2.0))
    assert world.view(agent).state == "unreachable"
    world.step(m.JobsReport(alive=(), alive_age_s=0.5))
    assert world.snapshot().slices == ()


def test_a_new_agent_of_the_same_slice_gets_a_higher_epoch_and_nothing_while_the_old_ones_workers_may_live(world):
    agent, holder = world.agent(cores=4, job_id="17"), world.holder()
    holder.want(1)
    world.settle()
    world.cut(agent)
    successor = Agent(agent.slice)
    world.connect(successor)
    world.settle()
    assert successor.epoch > agent.epoch
    holder.want(2)
    world.settle()
    assert successor.held == {}  # three cores look free, but which three?
    assert len(world.view(successor).leases) == 1


def test_nothing_is_granted_beside_what_a_dead_agent_may_have_accepted_unheard(world):
    agent, holder = world.agent(cores=1, job_id="17"), world.holder()
    world.cut(agent)
    successor = Agent(agent.slice)
    world.connect(successor)
    holder.want(1)
    world.settle()
    assert successor.held == {}
    world.cut(successor)
    clean = Agent(agent.slice)
    world.connect(clean, clean=True)
    world.settle()
    assert len(clean.held) == 1


def test_a_new_agent_that_has_proven_the_old_ones_death_frees_its_leases(world):
    agent, holder, lease_id = reclaimable(world)
    world.cut(agent)
    holder.want(0)
    successor = Agent(agent.slice)
    world.connect(successor, clean=True)
    world.settle()
    assert m.Ended(holder.holder, lease_id, "lost", 16) in holder.heard
    holder.want(2)
    world.settle()
    assert len(successor.held) == 1


def test_a_second_agent_of_a_slice_whose_agent_lives_is_turned_away(world):
    agent, _, _ = reclaimable(world)
    intruder = Agent(agent.slice)
    world.connect(intruder, clean=True)
    world.settle()
    assert (intruder.link, intruder.epoch) == (None, 0)
    assert len(world.view(agent).leases) == 1


def test_nothing_is_granted_on_a_slice_that_ends_before_a_lease_would(world):
    world.agent(cores=2, end_in_s=14.0, grace_s=5.0)
    holder = world.holder()
    holder.want(1)
    world.settle()
    assert holder.workers == 0
    world.agent(cores=2, end_in_s=16.0, grace_s=5.0)
    assert holder.workers == 1


def test_all_slices_are_told_to_end_and_those_that_come_later_too(world):
    agent = world.agent()
    world.step(SlicesMustEnd(5, for_good=True))
    world.settle()
    assert agent.draining
    late = world.agent()
    assert late.draining


def test_slices_that_come_after_an_end_that_was_not_for_good_may_stay(world):
    agent = world.agent()
    world.step(SlicesMustEnd(5, for_good=False))
    world.settle()
    assert agent.draining
    assert not world.agent().draining


# --- what is known of free cores follows at once ----------------------------------------------------


def holder_after_a_look_at_all(world):
    """A holder with a worker, after a request that no slice can serve: nothing is left to be looked at."""
    holder = world.holder()
    holder.want(1)
    world.settle()
    holder.want(1, request=8, cores=99)
    world.settle()
    return holder


def asks_in_vain(world, holder):
    """A request is read, and nothing is proposed for it."""
    before = world.kinds().count("grant_proposed")
    holder.want(1, request=9)
    world.deliver(holder.link, "up")
    return world.kinds().count("grant_proposed") == before


def test_nothing_is_proposed_to_an_agent_that_was_just_told_to_leave(world):
    world.agent(cores=4)
    holder = holder_after_a_look_at_all(world)
    world.step(SlicesMustEnd(6, for_good=False))
    assert asks_in_vain(world, holder)


def test_nothing_is_proposed_to_an_agent_that_has_just_said_that_it_ends(world):
    agent, holder = world.agent(cores=4), holder_after_a_look_at_all(world)
    agent.say(m.Ending(agent.slice.slice_id, agent.epoch, 1, 5.0))
    world.deliver(agent.link, "up")
    assert asks_in_vain(world, holder)


def test_a_slice_closes_by_itself_when_a_lease_would_not_fit_before_its_end_any_more(world):
    world.agent(cores=4, end_in_s=100.0, grace_s=20.0)
    holder = holder_after_a_look_at_all(world)
    world.now_s += 70.0
    assert not asks_in_vain(world, holder), "70 s, a lease of 10 s and a grace of 20 s are just enough"
    holder.want(0, request=9)
    world.settle()
    holder.want(1, request=8, cores=98)
    world.settle()
    world.now_s += 0.1
    assert asks_in_vain(world, holder)


def test_a_target_that_is_lowered_and_raised_again_before_the_agent_answers_is_met(world):
    agent, holder = world.agent(cores=8), world.holder()
    holder.want(4)
    world.deliver(holder.link, "up")
    holder.want(0)
    world.deliver(holder.link, "up")
    holder.want(4)
    world.deliver(holder.link, "up")
    assert world.kinds().count("grant_proposed") == 2
    world.settle()
    assert (holder.workers, len(agent.held)) == (4, 1)
