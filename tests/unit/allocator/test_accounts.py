"""What leases cost: opened at the grant, fed by reports, closed at the end, never counted twice (002 section 9)."""

from dataclasses import replace

import pytest

from rfaas.control import messages as m
from rfaas_allocator.accounts import priced
from rfaas_allocator.policy import GIB, Prices

from .world import MIB, World

S = 10**9


@pytest.fixture
def world():
    return World()


@pytest.fixture
def lease(world):
    """(agent, holder, lease id) of a lease of two workers with two cores each."""
    agent, holder = world.agent(cores=8, node="n7", job_id="17"), world.holder()
    holder.want(2, cores=2, memory=3 * MIB)
    world.settle()
    return agent, holder, next(iter(holder.granted))


def account(world):
    (found,) = world.disk.accounts.values()
    return found


def test_a_grant_opens_an_account_that_says_whose_and_what(world, lease):
    _, holder, lease_id = lease
    found = account(world)
    assert (found.lease_id, found.holder, found.holder_name, found.uid) == (lease_id, holder.holder, "holder", 1000)
    assert (found.node, found.job_id, found.workers, found.cores, found.memory_bytes) == ("n7", "17", 2, 4, 6 * MIB)
    assert (found.start_unix_s, found.end_unix_s) == (1_000_000.0 + world.now_s, None)


def test_reports_are_cumulative_and_a_late_one_takes_nothing_back(world, lease):
    agent, _, lease_id = lease
    for ns in (5 * S, 3 * S, 5 * S, 9 * S):
        agent.say(m.UsageReport(agent.epoch, (m.LeaseUsage(lease_id, m.Usage(allocated_ns=ns, calls=1)),)))
        world.settle()
    assert account(world).usage == m.Usage(allocated_ns=9 * S, calls=1)


def test_the_end_closes_it_with_what_the_agent_measured(world, lease):
    agent, holder, lease_id = lease
    agent.use(lease_id, 20 * S)
    world.now_s += 20.0
    holder.want(0)
    holder.release(lease_id)
    world.settle()
    found = account(world)
    assert (found.reason, found.reason_code) == ("released", 6)
    assert found.end_unix_s - found.start_unix_s == pytest.approx(20.0)
    assert found.usage.allocated_ns == 20 * S
    (free,) = [one for one in world.happened if one.kind == "free"]
    assert free.fields["billed_core_ns"] == 4 * 20 * S


def test_what_an_agent_said_before_it_died_is_what_is_billed(world, lease):
    agent, _, lease_id = lease
    agent.use(lease_id, 7 * S)
    agent.report_usage()
    world.settle()
    world.cut(agent)
    world.now_s += 1000.0
    world.step(m.JobsReport(ended=(m.JobEnded("17", 0, "CANCELLED"),)))
    found = account(world)
    assert (found.reason, found.usage.allocated_ns) == ("lost", 7 * S)
    (free,) = [one for one in world.happened if one.kind == "free"]
    assert "billed_core_ns" not in free.fields  # nobody measured its end


def test_an_end_that_was_not_heard_is_made_good_after_the_next_registration(world, lease):
    agent, _, lease_id = lease
    agent.use(lease_id, 7 * S)
    world.cut(agent)
    agent.free(lease_id, "expired", 7)
    agent.use(lease_id, 2 * S)
    world.connect(agent)
    world.settle()
    found = world.disk.accounts[lease_id]
    assert (found.reason, found.usage.allocated_ns) == ("lost", 9 * S)


def test_a_restart_counts_nothing_twice(world, lease):
    agent, holder, lease_id = lease
    agent.use(lease_id, 7 * S)
    agent.report_usage()
    world.settle()
    world.crash()
    agent.use(lease_id, 1 * S)
    world.connect(agent)
    world.connect(holder)
    world.settle()
    found = account(world)
    assert (found.usage.allocated_ns, found.end_unix_s) == (8 * S, None)


def test_a_price_adds_up():
    usage = m.Usage(allocated_ns=10 * S, running_ns=S, bytes_in=1000, bytes_out=24)
    about = m.Account(b"l" * 16, 1, b"h" * 16, "", 0, b"s" * 16, "n", "", 2, 4, 3 * GIB, 0.0, usage=usage)
    costly = priced(about, Prices(core_s=0.5, gib_s=0.1, byte=0.001, currency="EUR"))
    assert costly.cost == pytest.approx(40 * 0.5 + 30 * 0.1 + 1024 * 0.001)
    assert costly.currency == "EUR"
    assert costly.credit == 0.0


def test_what_a_job_shared_is_its_owners_credit_at_prices_of_its_own():
    usage = m.Usage(allocated_ns=900 * S)
    about = m.Account(
        b"l" * 16, 1, b"h" * 16, "", 7, b"s" * 16, "n", "17", 2, 4, 8 * GIB, 0.0, usage=usage, shared_by=1000
    )
    prices = Prices(share_credit_per_core_h=0.5, share_credit_per_gib_h=0.25, currency="EUR")
    assert priced(about, prices).credit == pytest.approx(0.5 * 1 + 0.25 * 2)
    assert priced(about, prices).cost == 0.0
    assert priced(replace(about, shared_by=None), prices).credit == 0.0
