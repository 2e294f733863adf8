"""What the allocator makes of links that break, a full disk and its own restart (docs/spec/002-lease.md section 7)."""

from rfaas.control import messages as m
from rfaas_allocator.events import AgentSaid, StorageIs

from .world import World, only, reclaimable, some_id

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
        holder.want(1, request, 1, 1 << 20)
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
