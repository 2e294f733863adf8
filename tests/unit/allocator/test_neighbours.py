"""What guards of slices say to the allocator: closed slices, pairs that are kept apart, what is told of both."""

import pytest

from rfaas.cli import reasons
from rfaas.control import messages as m
from rfaas.control.wire import FROM_AGENT
from rfaas_allocator.neighbours import FIRST_APART_S, PairBook

from .world import World, only

MOVED = m.Neighbours("lmp", "move", "marks 7", 0.4, 0.5, 0.1, 30.0, "lmp is slowed by 40.0%: its leases move")
MET = m.Neighbours(host="lmp", verdict="watch", words="lmp runs beside the slice")


def say(world, agent, about):
    agent.say(m.NeighbourReport(agent.epoch, about, tuple(agent.held)))
    world.settle()


def moved(world, agent):
    """The guard moves all that the slice has."""
    say(world, agent, MOVED)
    for lease_id in list(agent.held):
        agent.to(lease_id, "DRAINING")
        agent.free(lease_id, "reclaimed", 10)
    world.settle()


@pytest.fixture
def world():
    return World()


def waiting(holder):
    return [message for message in holder.heard if isinstance(message, m.Waiting)][-1]


def test_moved_leases_go_to_another_node_and_none_comes_back_while_the_slice_is_closed(world):
    first = world.agent(node="n1", cores=2)
    holder = world.holder()
    holder.want(2, load="memory")
    world.settle()
    second = world.agent(node="n2", cores=2)
    moved(world, first)
    assert (len(first.held), sum(len(one.core_ids) for one in second.held.values())) == (0, 2)
    assert holder.workers == 2
    other = world.holder()
    other.want(1, load="compute")
    world.settle()
    assert waiting(other).code in ("neighbours", "leased")
    world.now_s += 31.0
    say(world, first, m.Neighbours("lmp", "open", words="functions may run beside lmp again"))
    assert only(first.held.values()).terms.holder == other.holder


def test_what_was_sent_away_is_kept_apart_from_such_jobs_wherever_they_run(world):
    first = world.agent(node="n1", cores=1)
    holder = world.holder()
    holder.want(1, load="memory")
    world.settle()
    moved(world, first)
    assert waiting(holder).code == "neighbours"
    holder.want(0)
    second = world.agent(node="n2", cores=1)
    say(world, second, MET)
    world.now_s += 31.0
    again, calm = world.holder(), world.holder()
    again.want(1, load="memory")
    world.settle()
    assert not second.held
    assert "memory have slowed lmp by 40.0%" in waiting(again).reason
    calm.want(1, load="compute")
    world.settle()
    assert len(calm.granted) == 1


def test_the_waiting_and_the_slice_are_explained(world):
    agent = world.agent(node="n1", cores=1)
    holder = world.holder()
    holder.want(1, load="memory")
    world.settle()
    moved(world, agent)
    snapshot = world.core.snapshot(world.now_s + 10.0)
    said = [reason.text for reason in reasons.of_node(snapshot, "n1")]
    assert any(
        text.startswith("neighbours: lmp is slowed by 40.0%") and "(by marks)" in text and "in 20 s" in text
        for text in said
    ), said
    [waits] = reasons.of_waiting(snapshot)
    assert "lies beside jobs that it would slow" in waits.text
    assert waits.remedy


def test_regions_of_memory_run_nothing_and_are_placed_everywhere(world):
    agent = world.agent(node="n1", cores=1)
    holder = world.holder()
    holder.want(1)
    world.settle()
    moved(world, agent)
    holder.want(1, request=2, cores=0, kind="memory")
    world.settle()
    assert only(agent.held.values()).terms.kind == "memory"


def test_a_report_that_is_repeated_teaches_nothing_new(world):
    agent = world.agent(node="n1", cores=1)
    holder = world.holder()
    holder.want(1, load="memory")
    world.settle()
    for _ in range(3):
        say(world, agent, MOVED)
    pair = world.core._ledger.pairs.apart("lmp", "memory", world.now_s)
    assert pair is not None
    assert pair.times == 1


def test_pairs_are_forgiven_later_each_time():
    book = PairBook()
    for times in range(3):
        book.hear(MOVED, {"memory"}, 0.0)
        assert book.apart("lmp", "memory", FIRST_APART_S * 2**times - 1) is not None
        assert book.apart("lmp", "memory", FIRST_APART_S * 2**times) is None
    assert book.apart("lmp", "compute", 0.0) is None
    assert book.apart("", "memory", 0.0) is None


def test_functions_that_do_not_say_what_they_use_are_known_by_their_program():
    book = PairBook()
    want = m.Want(b"h" * 16, 1, 1, 1, 1)
    book.hear(MOVED, {"program train.py"}, 0.0)
    assert "apart for 60 min" in book.obstacle(want, "train.py (17)", MOVED, 0.0)
    assert book.obstacle(want, "other.py (17)", MOVED, 0.0) == ""


def test_a_report_travels_whole():
    report = m.NeighbourReport(m.Epoch(3), MOVED, (m.LeaseId(b"l" * 16),))
    assert FROM_AGENT.decode(FROM_AGENT.encode(report, 1)) == report
