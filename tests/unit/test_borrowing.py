"""How much a session process asks the site for, and when again."""

from rfaas.site.borrowing import (
    COMING_S,
    FIRST_PAUSE_S,
    GATHER_S,
    LONGEST_PAUSE_S,
    Ask,
    Began,
    Borrowing,
    Refused,
    Shortfall,
    Size,
    Tell,
    Tick,
    Wanted,
)

ONE = Size(1, 1 << 30)
NO_ROOM = Refused("no-room", "later")


def wanting(workers, size=ONE, now_s=0.0):
    """A core that wants so many workers and has just asked for the first time."""
    core = Borrowing()
    assert core.step(Wanted((Shortfall(size, workers),)), now_s) == []
    assert core.next_s == now_s + GATHER_S
    return core, core.step(Tick(), now_s + GATHER_S)


def test_nothing_is_asked_for_while_nothing_is_missing_or_an_allocator_grants_at_once():
    core = Borrowing()
    assert core.step(Wanted(()), 0.0) == []
    assert core.next_s is None
    core.step(Wanted((Shortfall(ONE, 2),)), 1.0)
    assert core.step(Wanted(()), 1.1) == []
    assert core.next_s is None


def test_what_does_not_fit_is_halved_until_it_does_and_the_rest_is_asked_for_too():
    core, asked = wanting(6)
    assert asked == [Ask(ONE, 6)]
    assert core.step(NO_ROOM, 1.0) == [Ask(ONE, 3)]
    assert core.step(NO_ROOM, 1.1) == [Ask(ONE, 1)]
    assert core.step(Began(b"a"), 1.2) == [Tell(ONE, "", ""), Ask(ONE, 2)]
    assert core.step(Began(b"b"), 1.3) == [Tell(ONE, "", ""), Ask(ONE, 3)]
    assert core.step(Began(b"c"), 1.4) == [Tell(ONE, "", "")]  # the six are on their way


def test_where_there_is_nothing_it_is_tried_again_with_growing_pauses_and_said_why():
    core, _ = wanting(1)
    now_s, pause_s = 1.0, FIRST_PAUSE_S
    for _ in range(8):
        assert core.step(NO_ROOM, now_s) == [Tell(ONE, "no-room", "later")]
        assert core.next_s == now_s + pause_s
        assert core.step(Tick(), now_s + 0.9 * pause_s) == []
        now_s += pause_s
        assert core.step(Tick(), now_s) == [Ask(ONE, 1)]
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def test_a_slice_that_was_started_counts_until_it_is_heard_of_or_a_minute_has_passed():
    core, _ = wanting(1)
    core.step(Began(b"a"), 1.0)
    core.step(Wanted((Shortfall(ONE, 2),)), 2.0)
    assert core.step(Tick(), 2.0 + GATHER_S) == [Ask(ONE, 1)]
    core.step(Began(b"b"), 2.5)
    assert core.step(Wanted((Shortfall(ONE, 1),), frozenset({b"a"})), 3.0) == []
    gone_s = 2.5 + COMING_S
    core.step(Tick(), gone_s)  # the second one never came
    assert core.step(Tick(), gone_s + GATHER_S) == [Ask(ONE, 1)]


def test_what_will_never_be_is_said_once_and_other_sizes_are_not_held_up():
    core, _ = wanting(1, Size(1000, 1))
    assert core.step(Refused("too-large", "ask for less"), 1.0) == [
        Tell(Size(1000, 1), "too-large", "ask for less", for_good=True)
    ]
    core.step(Wanted((Shortfall(ONE, 1),)), 1.1)
    assert core.step(Tick(), 5.0) == [Ask(ONE, 1)]


def test_an_answer_after_nothing_is_missing_any_more_asks_no_further():
    core, _ = wanting(2)
    assert core.step(Wanted(()), 1.0) == []
    assert core.step(NO_ROOM, 2.0) == []
    assert core.step(Tick(), 100.0) == []
