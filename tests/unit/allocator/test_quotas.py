"""Quotas, denial for good, reasons and estimates: docs/spec/002-lease.md section 5."""

import pytest

from rfaas.control import messages as m
from rfaas.control.hosts import HostList
from rfaas_allocator.events import HostsNamed
from rfaas_allocator.policy import Policy, Quota

from .world import MIB, World


def a_world(**limits):
    return World(policy=Policy(quotas={1001: Quota(**limits)}))


def last(holder, kind):
    return [message for message in holder.heard if isinstance(message, kind)][-1]


# --- quotas --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "workers"),
    [
        ({"cores": 4}, 2),
        ({"cores": 5}, 2),
        ({"memory_bytes": 9 * MIB}, 3),
        ({"workers": 1}, 1),
        ({"cores": 6, "workers": 5, "memory_bytes": 3 * MIB}, 1),
    ],
)
def test_a_user_gets_no_more_than_the_quota_and_waits_with_a_reason(limits, workers):
    world = a_world(**limits)
    world.agent(cores=16)
    holder = world.holder(uid=1001)
    holder.want(6, cores=2, memory=3 * MIB)
    world.settle()
    assert holder.workers == workers
    waiting = last(holder, m.Waiting)
    assert (waiting.missing, waiting.code) == (6 - workers, "quota")
    assert waiting.reason == f"user 1001 holds what the quota allows: {Quota(**limits)}"


def test_leases_are_counted_too():
    world = a_world(leases=1)
    world.agent(cores=2, node="n1")
    world.agent(cores=2, node="n2")
    holder = world.holder(uid=1001)
    holder.want(4)
    world.settle()
    assert (len(holder.granted), holder.workers) == (1, 2)
    assert last(holder, m.Waiting).code == "quota"


def test_a_quota_of_leases_counts_small_ones():
    world = a_world(leases=2)
    world.agent(cores=8)
    holder = world.holder(uid=1001)
    holder.want(6, lease_workers=2)
    world.settle()
    assert (holder.workers, len(holder.granted)) == (4, 2)
    assert last(holder, m.Waiting).code == "quota"


def test_a_quota_is_of_a_user_not_of_a_holder_or_request():
    world = a_world(cores=3)
    world.agent(cores=16)
    first, second, stranger = world.holder(uid=1001), world.holder(uid=1001), world.holder(uid=7)
    first.want(2)
    second.want(2)
    second.want(2, request=2)
    stranger.want(8)
    world.settle()
    assert [first.workers, second.workers, stranger.workers] == [2, 1, 8]


def test_what_a_user_gives_back_may_be_had_again():
    world = a_world(cores=2)
    world.agent(cores=16)
    first, second = world.holder(uid=1001), world.holder(uid=1001)
    first.want(2)
    world.settle()
    second.want(1)
    world.settle()
    assert second.workers == 0
    first.want(0)
    first.release(next(iter(first.granted)))
    world.settle()
    assert second.workers == 1


def test_a_worker_beyond_the_quota_is_denied_for_good_with_its_code():
    world = a_world(cores=3)
    world.agent(cores=16)
    holder = world.holder(uid=1001)
    holder.want(1, cores=4)
    world.settle()
    assert last(holder, m.Denied) == m.Denied(holder.holder, 1, "quota", "one worker is beyond the quota of 3 cores")
    assert world.snapshot().wants == ()


def test_what_a_dead_allocators_user_holds_still_counts():
    world = a_world(cores=2)
    agent = world.agent(cores=16)
    holder = world.holder(uid=1001)
    holder.want(2)
    world.settle()
    world.crash()
    other = world.holder(uid=1001)
    other.want(1)
    world.connect(agent)
    world.settle()
    assert other.workers == 0


def test_a_lease_that_nobody_knows_of_and_the_quota_forbids_is_given_back():
    """It was accepted as an allocator died; meanwhile its user got the quota elsewhere."""
    world = a_world(cores=2)
    first, second = world.agent(cores=2, node="n1"), world.agent(cores=2, node="n2")
    holder = world.holder(uid=1001)
    holder.want(2)
    world.deliver(holder.link, "up")
    chosen, other = (first, second) if first.link.down else (second, first)
    world.deliver(chosen.link, "down")  # it accepts, and nobody hears of it
    assert chosen.held
    world.crash()
    holder.wants.clear()
    world.connect(holder)
    world.settle()
    holder.want(2, request=2)
    world.connect(other)
    world.settle()
    assert holder.workers == 2
    world.connect(chosen)
    world.settle()
    assert not chosen.held
    assert holder.workers == 2


# --- denial for good -----------------------------------------------------------------------------


def named(*sizes, complete=True):
    hosts = tuple(m.Host(f"h{index}", cores, mib * MIB, "file") for index, (cores, mib) in enumerate(sizes))
    return HostsNamed("file", HostList(hosts, complete))


def test_what_no_known_host_can_hold_is_denied_and_what_one_can_hold_waits():
    world = World()
    world.step(named((4, 8), (8, 4)))
    fits, too_wide, both = world.holder(), world.holder(), world.holder()
    fits.want(100, cores=8, memory=4 * MIB)
    too_wide.want(1, cores=9)
    both.want(1, cores=8, memory=8 * MIB)  # each number is somewhere, both nowhere
    world.settle()
    assert last(fits, m.Waiting).code == "no-slice"
    for denied in too_wide, both:
        assert last(denied, m.Denied).code == "lease-denied"
        assert "no host of the inventory is as large as one worker" in last(denied, m.Denied).hint


def test_an_inventory_that_may_lack_hosts_proves_nothing():
    world = World()
    world.step(named((4, 8), complete=False))
    holder = world.holder()
    holder.want(1, cores=9)
    world.settle()
    assert last(holder, m.Waiting).code == "no-slice"


def test_a_request_that_waits_is_denied_once_the_inventory_is_known():
    world = World()
    holder = world.holder()
    holder.want(1, cores=9)
    world.settle()
    assert not any(isinstance(message, m.Denied) for message in holder.heard)
    world.step(named((4, 8)))
    world.settle()
    assert last(holder, m.Denied).code == "lease-denied"


def test_a_slice_larger_than_any_known_host_is_no_lie():
    world = World()
    world.step(named((4, 8)))
    world.agent(cores=16, memory=64 * MIB)
    holder = world.holder()
    holder.want(1, cores=9)
    world.settle()
    assert holder.workers == 1


def test_hosts_outlive_the_allocator_and_slurms_stand_beside_the_files():
    world = World()
    world.step(named((4, 8)))
    slurm = (m.Host("n1", 64, 100 * MIB), m.Host("h0", 2, 2 * MIB))
    world.step(m.JobsReport(hosts=slurm))
    world.crash()
    snapshot = world.snapshot()
    assert [(host.name, host.cores, host.source) for host in snapshot.hosts] == [("h0", 4, "file"), ("n1", 64, "slurm")]
    assert snapshot.hosts_complete


def test_an_unknown_kind_is_refused_with_its_own_code():
    world = World()
    world.agent()
    holder = world.holder()
    holder.want(1, cores=0, kind="gpu")
    world.settle()
    assert last(holder, m.Denied).code == "not-supported"


# --- estimates -----------------------------------------------------------------------------------


def run_leases(world, holder, lasting_s):
    for seconds in lasting_s:
        holder.want(1)
        world.settle()
        world.now_s += seconds
        holder.want(0)
        holder.release(next(iter(holder.granted)))
        world.settle()


def test_without_history_nobody_knows_when():
    world = World()
    world.agent(cores=1)
    holder, other = world.holder(), world.holder()
    holder.want(1)
    other.want(1)
    world.settle()
    assert (last(other, m.Waiting).estimate_in_s, last(other, m.Waiting).basis) == (None, "")


def test_leases_that_ended_tell_when_the_next_may_end():
    world = World()
    world.agent(cores=1)
    holder, other = world.holder(), world.holder()
    run_leases(world, holder, [10, 20, 30, 40, 50])
    holder.want(1)
    other.want(1)
    world.settle()
    waiting = last(other, m.Waiting)
    assert waiting.estimate_in_s == pytest.approx(30)
    assert waiting.basis == "how long 5 earlier leases lasted"
    world.now_s += 35.0  # now too few lasted so long: honest again
    (waiting,) = world.snapshot().waiting
    assert waiting.estimate_in_s is None


def test_the_end_of_a_slice_frees_a_quota():
    world = a_world(cores=1)
    world.agent(cores=4, end_in_s=100.0, grace_s=5.0)
    holder = world.holder(uid=1001)
    holder.want(2)
    world.settle()
    world.now_s += 20.0
    (waiting,) = world.snapshot().waiting
    assert (waiting.estimate_in_s, waiting.basis) == (pytest.approx(75.0), "the end of the slice on n1")


def test_slices_that_came_tell_when_the_next_may_come():
    world = World()
    for _ in range(7):
        world.agent(cores=4, node="n1")
        world.now_s += 60.0
    holder = world.holder()
    holder.want(1, cores=8)
    world.settle()
    assert last(holder, m.Waiting).estimate_in_s is None  # none of those was large enough
    for _ in range(7):
        world.agent(cores=8, node="n2")
        world.now_s += 60.0
        holder.want(100, cores=8)
        world.settle()
    world.now_s -= 45.0
    (waiting,) = world.snapshot().waiting
    # All that is here is leased, and what came before says nothing of when a lease ends.
    assert (waiting.code, waiting.estimate_in_s) == ("leased", None)
    for agent in world.agents:
        agent.empty()
    world.settle()
    (waiting,) = world.snapshot().waiting
    assert (waiting.code, waiting.estimate_in_s) == ("no-slice", pytest.approx(45.0))
    assert waiting.basis == "when 7 earlier slices came"
