"""What guards of slices say to the allocator: closed slices, pairs that are kept apart, what is told of both."""

import pytest

from rfaas.cli import reasons
from rfaas.control import messages as m
from rfaas.control.wire import FROM_AGENT
from rfaas_allocator.events import PairIs, PairIsForgotten
from rfaas_allocator.neighbours import FIRST_APART_S, FORGOTTEN_AFTER_S, LONGEST_APART_S, MOST_PAIRS, PairBook

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
    pair = only(world.disk.pairs.values())
    assert (pair.host, pair.kind, pair.times) == ("lmp", "memory", 1)


def test_an_allocator_that_was_killed_keeps_pairs_apart_and_learns_nothing_twice(world):
    agent = world.agent(node="n1", cores=1)
    holder = world.holder()
    holder.want(1, load="memory")
    world.settle()
    say(world, agent, MOVED)  # and the allocator dies while the lease drains
    before = only(world.disk.pairs.values())
    world.crash()
    world.connect(holder)
    world.connect(agent)
    world.settle()
    say(world, agent, MOVED)
    assert only(world.disk.pairs.values()) == before
    holder.want(0)
    second, again = world.agent(node="n2", cores=1), world.holder()
    say(world, second, MET)
    again.want(1, load="memory")
    world.settle()
    assert not second.held
    assert "memory have slowed lmp by 40.0%" in waiting(again).reason
    world.now_s += FIRST_APART_S
    say(world, second, MET)
    assert len(second.held) == 1


def book(known=(), now_s=0.0):
    """A book, and what it would have kept."""
    kept = []
    return PairBook(known, kept.append, now_s), kept


def test_what_is_kept_of_a_book_is_the_book():
    first, kept = book()
    first.hear(MOVED, {"memory", "compute"}, 10.0)
    first.hear(MOVED, {"memory"}, 20.0)
    second, _ = book(kept, 30.0)
    assert second.apart("lmp", "memory", 30.0) == first.apart("lmp", "memory", 30.0) == kept[-1]
    assert second.apart("lmp", "compute", 30.0) == kept[0]
    second.hear(MOVED, {"memory"}, 30.0)
    assert second.apart("lmp", "memory", 30.0).times == 3


def test_a_book_forgets_what_has_not_counted_for_long_and_what_is_beyond_its_room():
    old, long_ago = PairIs("lmp", "memory", 9, 100.0, 0.4), PairIs("lmp", "compute", 1, 50.0, 0.1)
    kept = book([long_ago, old], 100.0 + FORGOTTEN_AFTER_S)[1]
    assert kept == [PairIsForgotten("lmp", "compute"), PairIsForgotten("lmp", "memory")]
    full, kept = book([PairIs(str(number), "memory", 1, 5000.0, 0.1) for number in range(MOST_PAIRS)])
    full.hear(MOVED, {"memory"}, 0.0)
    assert [type(record) for record in kept] == [PairIs, PairIsForgotten]
    assert full.apart("0", "memory", 0.0) is None
    assert full.apart("lmp", "memory", 0.0) is not None


def test_a_clock_that_was_set_back_keeps_nothing_apart_for_longer_than_a_week():
    found, _ = book([PairIs("lmp", "memory", 20, 1e9, 0.4)], 1000.0)
    assert found.apart("lmp", "memory", 1000.0 + LONGEST_APART_S) is None
    assert found.apart("lmp", "memory", 999.0 + LONGEST_APART_S) is not None


def test_pairs_are_forgiven_later_each_time():
    book = PairBook([], [].append, 0.0)
    for times in range(3):
        book.hear(MOVED, {"memory"}, 0.0)
        assert book.apart("lmp", "memory", FIRST_APART_S * 2**times - 1) is not None
        assert book.apart("lmp", "memory", FIRST_APART_S * 2**times) is None
    assert book.apart("lmp", "compute", 0.0) is None
    assert book.apart("", "memory", 0.0) is None


def test_functions_that_do_not_say_what_they_use_are_known_by_their_program():
    book = PairBook([], [].append, 0.0)
    want = m.Want(b"h" * 16, 1, 1, 1, 1)
    book.hear(MOVED, {"program train.py"}, 0.0)
    assert "apart for 60 min" in book.obstacle(want, "train.py (17)", MOVED, 0.0)
    assert book.obstacle(want, "other.py (17)", MOVED, 0.0) == ""


def test_a_report_travels_whole():
    report = m.NeighbourReport(m.Epoch(3), MOVED, (m.LeaseId(b"l" * 16),))
    assert FROM_AGENT.decode(FROM_AGENT.encode(report, 1)) == report
