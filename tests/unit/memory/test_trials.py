"""Which channels of a medium that is tried have become one, and until when they may."""

from rfaas.memory.trials import SET_UP_S, Trials


class Wire:
    """As far as a trial looks at one."""

    def __init__(self, never_was=True, why=""):
        self.never_was, self.why, self.aborted = never_was, why, False

    def abort(self):
        self.aborted = True


def test_a_channel_that_needs_no_trial_is_never_due():
    trials = Trials()
    trials.begin(1, b"a", Wire(never_was=False), 10.0)
    assert trials.due_s is None
    assert trials.end(1) is None


def test_what_comes_in_time_is_a_channel_and_its_later_end_says_nothing_of_the_medium():
    trials, wire = Trials(), Wire()
    trials.begin(1, b"a", wire, 10.0)
    assert trials.due_s == 10.0 + SET_UP_S
    wire.never_was = False
    assert trials.overdue(1000.0) == []
    assert not wire.aborted
    assert trials.due_s is None
    assert trials.end(1) is None


def test_what_does_not_come_in_time_is_given_up_with_its_lease():
    trials, wire = Trials(), Wire()
    trials.begin(1, b"a", wire, 10.0)
    assert trials.overdue(10.0 + SET_UP_S / 2) == []
    assert trials.overdue(10.0 + SET_UP_S) == [1]
    assert wire.aborted
    assert trials.end(1) == (b"a", "nothing came over it within 30 s")
    assert trials.end(1) is None


def test_what_the_peer_said_is_why():
    trials = Trials()
    trials.begin(7, b"a", Wire(why="the peer has no RDMA: no device"), 10.0)
    assert trials.end(7) == (b"a", "the peer has no RDMA: no device")
