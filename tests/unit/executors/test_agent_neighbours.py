"""Verdicts of the neighbour guard in the agent's core: told, moved, left, opened again."""

import pytest
from unit.executors.agent_model import Shell

from rfaas.control.messages import Ending, Freed, NeighbourReport, Neighbours, Refused, StateChanged
from rfaas_executors import agent_events as on

THROTTLED = Neighbours("lmp", "throttle", "marks 7", 0.08, 0.2, 0.5, 0.0, "lmp is slowed by 8.0%")
MOVED = Neighbours("lmp", "move", "marks 7", 0.4, 0.5, 0.1, 30.0, "its leases move")
LEFT = Neighbours("lmp", "leave", "marks 7", 0.4, 0.5, 0.1, 120.0, "the slice goes back")


@pytest.fixture
def shell():
    shell = Shell(drain_s=2.0)
    shell.up()
    return shell


def reports(shell):
    return shell.of(NeighbourReport)


def test_a_verdict_is_told_with_its_leases_and_again_after_each_registration(shell):
    terms = shell.lease()
    shell.step(on.Neighboured(THROTTLED))
    assert [(one.about, one.leases) for one in reports(shell)] == [(THROTTLED, (terms.lease_id,))]
    shell.step(on.AllocatorDown())
    shell.up()
    assert reports(shell)[-1].about == THROTTLED
    assert shell.state(terms) == "ACTIVE"


def test_moved_leases_drain_with_notice_and_the_slice_refuses_others_until_it_opens_again(shell):
    terms = shell.lease()
    shell.step(on.Neighboured(MOVED))
    assert shell.state(terms) == "DRAINING"
    assert [(words["leases"], words["reason_code"]) for words in shell.words("notice")] == [([terms.lease_id], 10)]
    assert "DRAINING" in [message.state for message in shell.of(StateChanged)]
    assert not shell.of(Ending)
    shell.pass_time(2.0)
    for worker in list(shell.living):
        shell.living.discard(worker)
        shell.step(on.WorkerDead(worker, 0, 9))
    assert [(message.reason, message.reason_code) for message in shell.of(Freed)] == [("reclaimed", 10)]
    shell.propose(b"b")
    assert shell.of(Refused)[-1].code == "no-room"
    assert "lmp" in shell.of(Refused)[-1].hint
    shell.pass_time(28.5)
    assert reports(shell)[-1].about.verdict == "open"
    assert reports(shell)[-1].about.closed_for_s == 0.0
    again = shell.propose(b"c")
    assert shell.accepted(again)


def test_a_registration_says_how_long_it_stays_closed(shell):
    shell.step(on.Neighboured(MOVED))
    shell.pass_time(10.0)
    shell.up()
    assert reports(shell)[-1].about.closed_for_s == pytest.approx(20.0)


def test_to_leave_is_a_reclaim_of_the_slice(shell):
    terms = shell.lease()
    shell.step(on.Neighboured(LEFT))
    assert shell.core.draining
    assert [message.reason_code for message in shell.of(Ending)] == [10]
    assert shell.state(terms) == "DRAINING"
    before = len(reports(shell))
    shell.step(on.Neighboured(THROTTLED))  # too late to matter
    assert len(reports(shell)) == before
