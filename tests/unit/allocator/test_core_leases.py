"""How the allocator grants and releases, event by event (docs/spec/002-lease.md sections 5, 6)."""

import pytest

from rfaas.control import messages as m
from rfaas_allocator.core import LESS_MEMORY

from .world import MIB, only, some_id

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


def test_leases_are_as_small_as_the_holder_asks_for(world):
    world.agent(cores=8)
    holder = world.holder()
    holder.want(7, lease_workers=3)
    world.settle()
    assert sorted(granted.terms.workers for granted in holder.granted.values()) == [1, 3, 3]
    world.agent(cores=8, node="n2")
    holder.want(9, lease_workers=1)  # of those that come from now on
    world.settle()
    assert sorted(granted.terms.workers for granted in holder.granted.values()) == [1, 1, 1, 3, 3]


def test_a_lease_that_was_given_back_alone_is_not_replaced_below_the_target(world):
    world.agent(cores=4)
    holder = world.holder()
    holder.want(4, lease_workers=1)
    world.settle()
    holder.want(3, lease_workers=1)
    holder.release(next(iter(holder.granted)))
    world.settle()
    assert (holder.workers, len(holder.granted)) == (3, 3)


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
