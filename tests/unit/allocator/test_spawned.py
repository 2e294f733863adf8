"""Leases whose workers can't be forked: the agent says why, the allocator shows it (docs/spec/003-control.md)."""

from rfaas.control import messages as m

from .world import World

WHY = "importing x left 1 thread running"


def leased():
    world = World()
    agent, holder = world.agent(), world.holder()
    holder.want(1)
    world.settle()
    (lease_id,) = agent.held
    return world, agent, lease_id


def shown(world):
    return [lease.spawned for view in world.core.snapshot(world.now_s).slices for lease in view.leases]


def test_what_the_agent_says_is_shown_until_it_says_otherwise():
    world, agent, lease_id = leased()
    assert shown(world) == [""]
    agent.say(m.WorkersSpawned(lease_id, agent.epoch, WHY))
    world.settle()
    assert shown(world) == [WHY]
    agent.say(m.WorkersSpawned(lease_id, agent.epoch, ""))
    world.settle()
    assert shown(world) == [""]


def test_an_allocator_that_was_killed_hears_it_with_the_registration():
    world, agent, lease_id = leased()
    held = agent.held[lease_id]
    agent.held[lease_id] = m.HeldLease(held.terms, held.core_ids, held.state, WHY)
    world.crash()
    world.connect(agent)
    world.settle()
    assert shown(world) == [WHY]


def test_of_a_lease_that_is_gone_it_changes_nothing():
    world, agent, _ = leased()
    agent.say(m.WorkersSpawned(b"z" * 16, agent.epoch, WHY))
    world.settle()
    assert shown(world) == [""]
