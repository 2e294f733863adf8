"""Leases of memory alone: docs/spec/008-memory.md section 1."""

import pytest

from rfaas.control import messages as m
from rfaas_allocator.placement import Item, place
from rfaas_allocator.policy import Policy, Quota
from rfaas_allocator.rooms import Room

from .world import MIB, World, only


def last(holder, kind):
    return [message for message in holder.heard if isinstance(message, kind)][-1]


def test_a_region_is_granted_beside_workers_and_holds_no_core():
    world = World()
    agent = world.agent(cores=2, memory=100 * MIB)
    holder = world.holder()
    holder.want(1, cores=0, memory=60 * MIB, kind="memory")
    holder.want(2, request=2, memory=10 * MIB)
    world.settle()
    grants = {granted.terms.kind: granted for granted in holder.granted.values()}
    assert grants["memory"].core_ids == ()
    assert (grants["memory"].terms.cores, grants["memory"].terms.memory_bytes) == (0, 60 * MIB)
    assert grants[""].core_ids == (0, 1)
    assert agent.free_memory_bytes() == 20 * MIB
    view = only(world.core.snapshot(world.now_s).slices)
    assert (view.free_cores, view.free_memory_bytes) == (0, 20 * MIB)


def test_memory_is_never_given_out_twice_and_who_waits_is_told():
    world = World()
    world.agent(cores=1, memory=100 * MIB)
    first, second = world.holder(), world.holder()
    first.want(1, cores=0, memory=60 * MIB, kind="memory")
    second.want(1, cores=0, memory=60 * MIB, kind="memory")
    world.settle()
    assert (len(first.granted), len(second.granted)) == (1, 0)
    waiting = last(second, m.Waiting)
    assert (waiting.missing, waiting.code) == (1, "memory")
    assert "60 MiB" in waiting.reason
    first.release(only(first.granted))
    first.want(0, cores=0, memory=60 * MIB, kind="memory")
    world.settle()
    assert len(second.granted) == 1


@pytest.mark.parametrize(
    ("workers", "cores", "memory"), [(2, 0, MIB), (1, 1, MIB), (1, 0, 0), (1, 0, 2**50 + 1), (-1, 0, MIB)]
)
def test_what_is_no_region_is_denied(workers, cores, memory):
    world = World()
    world.agent()
    holder = world.holder()
    holder.want(workers, cores=cores, memory=memory, kind="memory")
    world.settle()
    assert last(holder, m.Denied).code == "lease-denied"


def test_quotas_count_it():
    world = World(policy=Policy(quota=Quota(memory_bytes=64 * MIB, leases=1, cores=0)))
    world.agent(memory=1000 * MIB)
    holder = world.holder()
    holder.want(1, cores=0, memory=65 * MIB, kind="memory")
    holder.want(1, request=2, cores=0, memory=40 * MIB, kind="memory")
    holder.want(1, request=3, cores=0, memory=40 * MIB, kind="memory")
    world.settle()
    assert last(holder, m.Denied).code == "quota"
    assert len(holder.granted) == 1
    assert last(holder, m.Waiting).code == "quota"


def test_a_region_that_drains_is_replaced_elsewhere_while_the_want_stands():
    world = World()
    first = world.agent(node="n1", memory=100 * MIB)
    holder = world.holder()
    holder.want(1, cores=0, memory=60 * MIB, kind="memory")
    world.settle()
    [lease_id] = holder.granted
    first.to(lease_id, "ACTIVE")
    first.draining = True
    first.say(m.Ending(first.slice.slice_id, first.epoch, 1, 5.0))
    first.to(lease_id, "DRAINING")
    world.settle()
    second = world.agent(node="n2", memory=100 * MIB)
    world.settle()
    assert len(holder.granted) == 2
    assert len(second.held) == 1


def test_it_outlives_a_restart():
    world = World()
    world.agent(memory=100 * MIB)
    holder = world.holder()
    holder.want(1, cores=0, memory=60 * MIB, kind="memory")
    world.settle()
    world.crash()
    world.start()
    view = only(world.core.snapshot(world.now_s).slices)
    assert [lease.terms.kind for lease in view.leases] == ["memory"]
    assert view.free_memory_bytes == 40 * MIB


def test_placement_of_regions_looks_at_memory_alone():
    rooms = [Room(b"a", "n1", 0, 100), Room(b"b", "n2", 4, 60), Room(b"c", "n3", 4, 50)]
    assert [one.slice_id for one in place(rooms, Item(1, 0, 60))] == [b"a"]  # tightest: no core is left there
    assert place(rooms, Item(1, 0, 101)) == []
