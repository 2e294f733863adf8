"""What the allocator decides, event by event (docs/spec/002-lease.md sections 3, 5, 6, 7)."""

from dataclasses import replace

import pytest

from rfaas.control import messages as m
from rfaas_allocator.core import LESS_MEMORY
from rfaas_allocator.events import AgentSaid, SlicesMustEnd, StorageIs

from .world import MIB, Agent, World, some_id


@pytest.fixture
def world():
    return World()


def only(items):
    (item,) = items
    return item


# --- granting ------------------------------------------------------------------------------------


def test_a_want_becomes_a_lease_that_is_durable_before_the_holder_knows(world):
    agent, holder = world.agent(cores=4), world.holder()
    holder.want(2)
    world.settle()
    granted = only(holder.granted.values())
    assert (granted.terms.workers, granted.node, granted.address) == (2, "n1", "unix:@agent")
    assert granted.core_ids == agent.held[granted.terms.lease_id].core_ids
    assert world.kinds() == ["restart", "epoch", "request", "grant_proposed", "grant_accepted", "grant_acked"]


def test_nothing_is_granted_beyond_the_target_and_a_repeated_want_changes_nothing(world):
    world.agent(cores=8)
    holder = world.holder()
    for _ in range(3):
        holder.want(3)
        world.settle()
    assert holder.workers == 3


def test_a_target_that_rises_gets_the_difference(world):
    world.agent(cores=8)
    holder = world.holder()
    for target in (1, 2, 5):
        holder.want(target)
        world.settle()
        assert holder.workers == target


def test_lowering_a_target_takes_nothing_back(world):
    world.agent(cores=8)
    holder = world.holder()
    holder.want(4)
    world.settle()
    holder.want(1)
    world.settle()
    assert holder.workers == 4


def test_what_does_not_fit_waits_with_a_reason_and_is_served_when_cores_come(world):
    world.agent(cores=2)
    holder = world.holder()
    holder.want(5)
    world.settle()
    assert holder.workers == 2
    waiting = only(message for message in holder.heard if isinstance(message, m.Waiting))
    assert (waiting.missing, waiting.reason) == (3, "all that is here is leased")
    assert world.snapshot().waiting == (waiting,)
    world.agent(cores=8, node="n2")
    assert holder.workers == 5
    assert world.snapshot().waiting == ()


@pytest.mark.parametrize(
    ("cores", "want", "code", "reason"),
    [
        (None, {}, "no-slice", "no slice is here yet"),
        (2, {"cores": 3}, "too-large", "no slice is as large as one worker: 3 cores, 1 MiB"),
        (
            2,
            {"memory": 2**50},
            "too-large",
            "no slice is as large as one worker: 1 cores, 1073741824 MiB; memory lacks, not cores: " + LESS_MEMORY,
        ),
    ],
)
def test_waiting_says_why(world, cores, want, code, reason):
    if cores:
        world.agent(cores=cores)
    holder = world.holder()
    holder.want(1, **want)
    world.settle()
    assert holder.heard == [m.Waiting(holder.holder, 1, 1, reason, code)]


def test_waiting_names_memory_where_cores_are_free(world):
    world.agent(cores=8, memory=4 * MIB)
    holder = world.holder()
    holder.want(3, memory=2 * MIB)
    world.settle()
    assert holder.workers == 2
    reason = f"cores are free, but no memory: {LESS_MEMORY}"
    assert m.Waiting(holder.holder, 1, 1, reason, "memory") in holder.heard
    assert [waiting.code for waiting in world.snapshot().waiting] == ["memory"]
    world.agent(cores=1, memory=64 * MIB, node="n2")
    world.settle()
    assert holder.workers == 3
    assert world.snapshot().waiting == ()


def test_waiting_is_said_once_for_each_change(world):
    world.agent(cores=1)
    holder, other = world.holder(), world.holder()
    holder.want(3)
    world.settle()
    other.want(1)
    world.settle()
    assert [message.missing for message in holder.heard if isinstance(message, m.Waiting)] == [2]


@pytest.mark.parametrize(
    "want", [{"cores": 0}, {"cores": -1}, {"memory": 0}, {"cores": 2**32}, {"memory": 2**63}], ids=str
)
def test_the_impossible_is_denied_and_forgotten(world, want):
    world.agent()
    holder = world.holder()
    holder.want(1, **want)
    world.settle()
    denied = only(holder.heard)
    assert (denied.request, denied.code) == (1, "lease-denied")
    assert denied.hint
    assert world.snapshot().wants == ()


def test_the_oldest_request_is_served_first(world):
    first, second = world.holder(), world.holder()
    first.want(3)
    world.settle()
    second.want(3)
    world.settle()
    world.agent(cores=4)
    assert (first.workers, second.workers) == (3, 1)


def test_memory_limits_as_cores_do(world):
    world.agent(cores=8, memory=100 * MIB)
    holder = world.holder()
    holder.want(8, memory=30 * MIB)
    world.settle()
    assert holder.workers == 3
    assert world.snapshot().slices[0].free_memory_bytes == 10 * MIB


def test_a_want_without_a_hello_is_ignored(world):
    world.agent()
    holder = world.holder(hello=False)
    link = world.connect(holder)
    link.up.clear()
    holder.want(1)
    world.settle()
    assert holder.heard == []


# --- answers of agents ---------------------------------------------------------------------------


def test_a_refusal_for_want_of_room_closes_the_slice_until_something_there_is_freed(world):
    agent, holder = world.agent(cores=2), world.holder()
    agent.refuse_with = "no-room"
    holder.want(1)
    world.settle()
    assert world.kinds().count("grant_proposed") == 1
    agent.refuse_with = None
    world.cut(agent)
    world.connect(agent)
    world.settle()
    assert holder.workers == 1


def test_a_refusal_because_of_draining_sends_the_want_elsewhere(world):
    agent, holder = world.agent(cores=2, node="n1"), world.holder()
    agent.draining = True
    holder.want(2)
    world.settle()
    assert holder.workers == 0
    other = world.agent(cores=2, node="n2")
    assert holder.workers == 2
    assert len(other.held) == 1


def test_a_stale_epoch_makes_the_agent_register_again(world):
    agent, holder = world.agent(cores=2), world.holder()
    agent.refuse_with = "stale-epoch"
    holder.want(1)
    world.settle()
    assert agent.link is None
    agent.refuse_with = None
    world.connect(agent)
    world.settle()
    assert holder.workers == 1


def test_answers_under_another_epoch_are_ignored(world):
    agent, holder = world.agent(cores=2), world.holder()
    holder.want(1)
    world.settle()
    lease_id = only(holder.granted)
    agent.say(m.Freed(lease_id, agent.epoch + 1, "released", 0))
    agent.say(m.SliceEmpty(agent.slice.slice_id, agent.epoch - 1))
    world.settle()
    assert only(world.view(agent).leases).terms.lease_id == lease_id


def test_an_acceptance_that_comes_twice_is_one_grant(world):
    agent, holder = world.agent(cores=2), world.holder()
    holder.want(1)
    world.settle()
    lease = only(agent.held.values())
    agent.say(m.Accepted(lease.terms.lease_id, agent.epoch, lease.core_ids))
    world.settle()
    assert len(holder.heard) == 1
    assert world.snapshot().counters["granted"] == 1


def test_an_acceptance_of_something_unknown_is_ended_at_the_agent(world):
    agent = world.agent(cores=2)
    terms = m.LeaseTerms(some_id(), 7, agent.slice.slice_id, agent.epoch, some_id(), 1, 1, 1, MIB, 10.0)
    agent.held[terms.lease_id] = m.HeldLease(terms, (0,), "GRANTED")
    agent.say(m.Accepted(terms.lease_id, agent.epoch, (0,)))
    world.settle()
    assert agent.held == {}


def test_states_of_the_agent_show_in_the_view(world):
    agent, holder = world.agent(cores=1), world.holder()
    holder.want(1)
    world.settle()
    lease_id = only(holder.granted)
    for state in ("ACTIVE", "DRAINING", "FENCED"):
        agent.to(lease_id, state)
        world.settle()
        assert only(world.view(agent).leases).state == state


def test_a_lease_that_drains_is_replaced_elsewhere(world):
    agent, holder = world.agent(cores=2, node="n1"), world.holder()
    holder.want(2)
    world.settle()
    other = world.agent(cores=2, node="n2")
    agent.to(only(agent.held), "ACTIVE")
    agent.draining = True
    agent.say(m.Ending(agent.slice.slice_id, agent.epoch, 1, 5.0))
    agent.to(only(agent.held), "DRAINING")
    world.settle()
    assert only(other.held.values()).terms.workers == 2
    assert world.view(agent).state == "draining"


def test_a_freed_lease_is_told_with_the_agents_reason_and_its_cores_go_to_who_waits(world):
    agent, first, second = world.agent(cores=1), world.holder(), world.holder()
    first.want(1)
    second.want(1)
    world.settle()
    lease_id = only(first.granted)
    first.wants.clear()
    first.want(0)
    agent.to(lease_id, "FENCED")
    agent.free(lease_id, "expired", 7)
    world.settle()
    assert m.Ended(first.holder, lease_id, "expired", 7) in first.heard
    assert second.workers == 1


# --- releasing -----------------------------------------------------------------------------------


def test_a_release_ends_the_lease_at_the_agent_and_frees_only_after_its_word(world):
    agent, holder = world.agent(cores=2), world.holder()
    holder.want(2)
    world.settle()
    lease_id = only(holder.granted)
    holder.want(0)
    holder.release(lease_id)
    world.deliver(holder.link, "up")
    world.deliver(holder.link, "up")
    assert only(world.view(agent).leases).state == "FENCED"
    assert world.view(agent).free_cores == 0
    assert world.disk.leases[lease_id].reason == "released"
    world.settle()
    assert world.view(agent).free_cores == 2
    assert world.disk.leases == {}
    assert m.Ended(holder.holder, lease_id, "released", 6) in holder.heard


def test_another_holders_lease_can_not_be_released(world):
    world.agent(cores=2)
    holder, thief = world.holder(), world.holder()
    holder.want(1)
    world.settle()
    lease_id = only(holder.granted)
    thief.release(lease_id)
    world.settle()
    assert set(holder.granted) == {lease_id}


def test_the_release_of_a_lease_that_is_free_is_answered(world):
    holder = world.holder()
    lease_id = some_id()
    holder.release(lease_id)
    world.settle()
    assert holder.heard == [m.Ended(holder.holder, lease_id, "released", 6)]


def test_a_holder_that_is_gone_frees_all_and_wants_nothing(world):
    agent, holder = world.agent(cores=4), world.holder()
    holder.want(2, request=1)
    holder.want(2, request=2)
    world.settle()
    holder.say(m.HolderGone(holder.holder, 12))
    world.settle()
    assert agent.held == {}
    snapshot = world.snapshot()
    assert (snapshot.wants, snapshot.slices[0].free_cores) == ((), 4)


def test_a_proposal_that_nobody_wants_any_more_is_released_when_it_is_accepted(world):
    agent, holder = world.agent(cores=4), world.holder()
    holder.want(3)
    world.deliver(holder.link, "up")  # proposed, not yet heard by the agent
    holder.want(0)
    world.settle()
    assert agent.held == {}
    assert holder.granted == {}
    assert world.view(agent).free_cores == 4


def test_of_proposals_under_way_only_those_beyond_a_lowered_target_are_cancelled(world):
    world.agent(cores=2, node="n1")
    world.agent(cores=2, node="n2")
    holder = world.holder()
    holder.want(4)
    world.deliver(holder.link, "up")
    holder.want(2)
    world.settle()
    assert holder.workers == 2


# --- links that break ----------------------------------------------------------------------------


def test_leases_of_an_agent_that_can_not_be_reached_stay_held(world):
    agent, holder = world.agent(cores=2), world.holder()
    holder.want(2)
    world.settle()
    world.cut(agent)
    assert world.view(agent).state == "unreachable"
    assert len(world.view(agent).leases) == 1
    assert holder.workers == 2


def test_nothing_is_proposed_to_an_agent_that_can_not_be_reached(world):
    agent, holder = world.agent(cores=2, job_id="7"), world.holder()
    world.cut(agent)
    holder.want(1)
    world.settle()
    assert only(holder.heard).reason == "waiting for 1 agents to register"


def test_a_slice_without_leases_or_job_is_forgotten_with_its_link_and_keeps_its_epoch_when_it_comes_back(world):
    agent = world.agent(cores=2)
    epoch = agent.epoch
    world.cut(agent)
    assert world.snapshot().slices == ()
    assert world.disk.slices == {}
    world.connect(agent)
    world.settle()
    assert agent.epoch == epoch
    assert world.view(agent).state == "up"


def test_a_proposal_whose_answer_was_lost_is_asked_elsewhere_and_never_given_twice(world):
    agent, holder = world.agent(cores=1, node="n1"), world.holder()
    holder.want(1)
    world.deliver(holder.link, "up")
    world.deliver(agent.link, "down")  # accepted, but the answer is lost with the link
    world.cut(agent)
    other = world.agent(cores=1, node="n2")
    assert holder.workers == 1
    assert len(other.held) == 1
    world.connect(agent)
    world.settle()
    assert holder.workers == 1
    assert agent.held == {}


def test_a_proposal_whose_answer_was_lost_is_granted_when_the_agent_comes_back_in_time(world):
    agent, holder = world.agent(cores=1), world.holder()
    holder.want(1)
    world.deliver(holder.link, "up")
    world.deliver(agent.link, "down")
    world.cut(agent)
    world.connect(agent)
    world.settle()
    assert set(holder.granted) == set(agent.held)


def test_a_proposal_that_never_arrived_is_made_again(world):
    agent, holder = world.agent(cores=1), world.holder()
    holder.want(1)
    world.deliver(holder.link, "up")
    world.cut(agent)
    world.connect(agent)
    world.settle()
    assert holder.workers == 1
    assert world.kinds().count("grant_proposed") == 2


def test_what_ended_while_the_link_was_down_is_free_after_the_agent_registers_again(world):
    agent, holder = world.agent(cores=2), world.holder()
    holder.want(2)
    world.settle()
    lease_id = only(holder.granted)
    holder.want(0)
    world.settle()
    world.cut(agent)
    agent.free(lease_id, "expired", 7)
    world.connect(agent)
    world.settle()
    assert world.view(agent).free_cores == 2
    assert holder.granted == {}


def test_a_release_that_the_agent_never_heard_is_said_again(world):
    agent, holder = world.agent(cores=2), world.holder()
    holder.want(2)
    world.settle()
    world.cut(agent)
    holder.want(0)
    holder.release(only(holder.granted))
    world.settle()
    assert len(agent.held) == 1
    world.connect(agent)
    world.settle()
    assert agent.held == {}
    assert world.view(agent).free_cores == 2


def test_the_newer_link_of_the_same_agent_wins(world):
    agent, holder = world.agent(cores=2), world.holder()
    old = agent.link
    epoch = agent.epoch
    world.connect(agent)
    world.settle()
    assert old.number not in world.links
    assert agent.epoch == epoch
    holder.want(1)
    world.settle()
    assert holder.workers == 1


def test_messages_on_a_link_that_was_replaced_are_ignored(world):
    agent, holder = world.agent(cores=2), world.holder()
    holder.want(1)
    world.settle()
    old = agent.link.number
    world.cut(agent)
    world.connect(agent)
    world.settle()
    world.step(AgentSaid(old, m.Freed(only(holder.granted), agent.epoch, "released", 0)))
    assert len(world.view(agent).leases) == 1


def test_wants_live_as_long_as_their_link_and_leases_longer(world):
    world.agent(cores=2)
    holder = world.holder()
    holder.want(2)
    world.settle()
    world.cut(holder)
    assert world.snapshot().wants == ()
    assert len(world.snapshot().slices[0].leases) == 1
    world.connect(holder)
    world.settle()
    assert holder.workers == 2
    assert world.snapshot().counters["granted"] == 1


def test_a_hello_on_a_new_link_forgets_what_was_wanted_on_the_old_one(world):
    holder = world.holder()
    holder.want(2)
    world.settle()
    holder.wants.clear()
    world.connect(holder)  # while the old link still seems to live
    world.settle()
    world.agent(cores=4)
    assert holder.workers == 0


def test_a_hello_that_is_read_after_that_of_a_newer_link_changes_nothing(world):
    world.agent(cores=4)
    holder = world.holder(hello=False)
    old = world.connect(holder)
    holder.want(1)
    new = world.connect(holder)
    world.deliver(new, "up")
    world.settle()  # hello and want of the old link among it
    world.cut_link(old)
    assert holder.link is new
    holder.want(3)
    world.settle()
    assert holder.workers == 3


def test_a_grant_whose_word_was_lost_is_said_again_after_hello(world):
    agent, holder = world.agent(cores=2), world.holder()
    holder.want(1)
    world.deliver(holder.link, "up")
    world.deliver(agent.link, "down")
    world.deliver(agent.link, "up")
    world.cut(holder)  # with the grant in flight
    assert holder.granted == {}
    world.connect(holder)
    world.settle()
    assert set(holder.granted) == set(agent.held)


def test_a_holder_that_thinks_it_holds_what_is_free_is_told(world):
    holder = world.holder(hello=False)
    lease_id = some_id()
    holder.granted[lease_id] = None
    world.connect(holder)
    world.settle()
    assert holder.heard == [m.Ended(holder.holder, lease_id, "lost", 16)]


# --- the end of slices ---------------------------------------------------------------------------


def reclaimable(world, job_id="17", submit_time_s=5):
    agent, holder = world.agent(cores=2, job_id=job_id, submit_time_s=submit_time_s), world.holder()
    holder.want(2)
    world.settle()
    return agent, holder, only(holder.granted)


def test_the_last_word_of_an_agent_ends_its_slice(world):
    agent, holder, lease_id = reclaimable(world)
    agent.say(m.Ending(agent.slice.slice_id, agent.epoch, 1, 5.0))
    agent.empty()
    world.settle()
    assert world.snapshot().slices == ()
    assert m.Ended(holder.holder, lease_id, "reclaimed", 1) in holder.heard


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


# --- storage -------------------------------------------------------------------------------------


def test_while_the_disk_is_full_nothing_is_proposed_and_leases_end(world):
    world.agent(cores=4)
    holder, late = world.holder(), world.holder("late")
    holder.want(2)
    world.settle()
    world.step(StorageIs("the disk is full (ENOSPC)"))
    late.want(2)
    world.settle()
    assert (late.workers, holder.workers) == (0, 2)
    waiting = only(world.snapshot().waiting)
    assert (waiting.code, waiting.reason) == ("storage", "the disk is full (ENOSPC)")
    assert world.snapshot().counters["storage_full"] == 1
    holder.want(0)
    holder.release(only(holder.granted))
    world.settle()
    assert holder.workers == 0
    world.step(StorageIs(""))
    world.settle()
    assert late.workers == 2
    assert world.snapshot().waiting == ()


# --- restart -------------------------------------------------------------------------------------


def test_after_a_restart_the_same_leases_hold_and_nothing_is_granted_twice(world):
    agent, holder, _ = reclaimable(world)
    before = dict(holder.granted)
    world.crash()
    world.connect(holder)
    world.settle()
    world.connect(agent)
    world.settle()
    assert holder.granted == before
    assert world.snapshot().alloc_epoch == 2
    assert world.snapshot().counters["granted"] == 0


def test_after_a_restart_nothing_is_proposed_before_the_agent_registers_again(world):
    agent, _, _ = reclaimable(world)
    world.crash()
    other = world.holder()
    other.want(1)
    world.settle()
    assert only(other.heard).reason == "waiting for 1 agents to register"
    assert agent.link is None


def test_an_agent_keeps_its_epoch_over_a_restart(world):
    agent = world.agent(job_id="9")
    epoch = agent.epoch
    world.crash()
    world.connect(agent)
    world.settle()
    assert agent.epoch == epoch


def test_a_lease_that_the_agent_holds_and_the_journal_lacks_is_adopted_and_told(world):
    agent, holder = world.agent(cores=2), world.holder()
    holder.want(1)
    world.deliver(holder.link, "up")
    world.deliver(agent.link, "down")  # accepted; the allocator dies before it hears of it
    world.crash()
    world.connect(agent)
    world.settle()
    world.connect(holder)
    world.settle()
    assert set(holder.granted) == set(agent.held)
    assert holder.workers == 1


def test_an_adopted_lease_that_nobody_lacks_any_more_is_given_back(world):
    agent, holder = world.agent(cores=1, node="n1", job_id="1"), world.holder()
    holder.want(1)
    world.deliver(holder.link, "up")
    world.deliver(agent.link, "down")
    world.crash()
    world.connect(holder)
    world.settle()
    world.agent(cores=1, node="n2")
    assert holder.workers == 1
    world.connect(agent)
    world.settle()
    assert holder.workers == 1
    assert agent.held == {}


def test_a_release_survives_a_restart(world):
    agent, holder = world.agent(cores=2), world.holder()
    holder.want(1)
    world.settle()
    lease_id = only(holder.granted)
    world.cut(agent)
    holder.release(lease_id)
    holder.wants.clear()
    world.settle()
    world.crash()
    world.connect(agent)
    world.settle()
    assert agent.held == {}


def test_a_lost_journal_does_not_take_numbers_back(world):
    agent, holder, _ = reclaimable(world)
    reborn = World()
    reborn.seen_seqs = world.seen_seqs
    agent.link = holder.link = None
    reborn.connect(agent)
    reborn.settle()
    reborn.connect(holder)
    reborn.settle()
    assert set(holder.granted) == set(agent.held)
    assert reborn.disk.counters["epoch"] >= agent.epoch
    fresh = reborn.agent(cores=1, node="n9")
    assert fresh.epoch > agent.epoch
    holder.want(3)
    reborn.settle()
    assert holder.workers == 3


def test_the_view_counts_and_sorts(world):
    agents = [world.agent(cores=3, node=f"n{number}", end_in_s=100.0) for number in range(3)]
    holder = world.holder()
    holder.want(4)
    world.settle()
    snapshot = world.snapshot()
    assert [view.slice.slice_id for view in snapshot.slices] == sorted(agent.slice.slice_id for agent in agents)
    assert sum(view.free_cores for view in snapshot.slices) == 5
    assert {view.slice.end_in_s for view in snapshot.slices} == {100.0}
    world.now_s += 40
    assert {view.slice.end_in_s for view in world.snapshot().slices} == {60.0}
    assert only(snapshot.wants).workers == 4


def test_a_thousand_requests_that_come_at_once_are_decided_on_once(monkeypatch):
    """As after a restart. Deciding after each took seconds, since each decision looks at all requests."""
    world = World()
    agent, holder = world.agent(cores=700), world.holder()
    looked = []
    missing = world.core._inventory.missing
    monkeypatch.setattr(world.core._inventory, "missing", lambda key: looked.append(key) or missing(key))
    for request in range(1, 1001):
        holder.want(1, request, 1, MIB)
    world.deliver_at_once(1000)
    assert len(looked) <= 10 * 1000
    world.settle()
    assert sorted(granted.terms.request for granted in holder.granted.values()) == list(range(1, 701))
    assert len(agent.held) == 700
    waiting = [message for message in holder.heard if isinstance(message, m.Waiting)]
    assert [message.request for message in waiting] == list(range(701, 1001))


def test_an_agent_that_was_forgotten_and_comes_back_gets_no_epoch_it_has():
    """Its idle slice is forgotten with its stream; the log said once that it got an epoch (I14)."""
    world = World()
    agent = world.agent()
    epoch = agent.epoch
    world.cut(agent)
    assert world.snapshot().slices == ()
    world.connect(agent)
    world.settle()
    assert (agent.epoch, world.view(agent).epoch) == (epoch, epoch)
    assert world.kinds().count("epoch") == 1
