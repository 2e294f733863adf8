"""kill -9 of templates, session processes and the allocator, at random moments of a stream.

Scaled: ten times each in `make test`, twenty with RFAAS_SOAK.

Workers, agents and clients: tests/faults/test_t01_workers.py, test_t04_agent.py, test_t06_client.py.

Goals: docs/spec/001-invocation.md section 5, 002-lease.md sections 3, 4, 7; 004-session.md section 2. Deadlines are
asserted at three times the goal, since a test machine may pause any process; the figures are printed.
"""

import time

import pytest

from rfaas import AgentLost, WorkerLost
from support.deadlines import SLACK, assert_in_time, wait_in_time
from support.fault_ring import TTL_S, WORKERS, long_ttl, pause, seeded, wait_dead
from support.fault_ring import alone as alone  # fixtures: pytest finds them by name
from support.fault_ring import ring as ring
from support.leftovers import children
from support.soak import scaled
from support.stream import Stream, figures
from support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.figures, pytest.mark.serial]

KILLS = scaled(10, 20)
WORKER_GOAL_S = 1.0
SESSION_GOAL_S = 2.0
GAP_GOAL_S = 1.0


# --- templates ------------------------------------------------------------------------------------------------


def test_template(ring):
    """Only those that serve: one killed three times in a row while it starts passes for an environment that can't."""
    source = seeded("template")
    victims, resolved_s = set(), []

    def serving():
        templates = [pid for agent in ring.agents for pid in children(agent.pid, depth=1)]
        return [pid for pid in templates if children(pid)]

    with ring.executor(WORKERS) as executor:
        stream = Stream(executor, ring.witness, source.random())
        ring.wait_workers(executor, WORKERS)
        before = ring.descriptors()
        for _ in range(KILLS // 2):
            pause(source)
            victim = source.choice(wait_until(serving, 10))
            victims |= {victim, *children(victim)}
            pending = stream.pending()
            killed_s = ring.kill(victim)
            resolved_s.append(stream.settle(pending, killed_s, SLACK * WORKER_GOAL_S))
        stream.wait_answers(50)
        ring.wait_workers(executor, WORKERS)
        ring.assert_no_more_descriptors(before)
        stream.finish()
    stream.tell(executor, figures("killed, futures resolved", resolved_s, WORKER_GOAL_S))
    starts = stream.check()
    assert all(type(call.error) is WorkerLost for call in stream.errors), stream.errors
    assert all(call.error.phase in ("STARTED", "DONE") for call in stream.errors), stream.errors
    # between the page and the function's first line: microseconds, but a fresh worker unpickles the function there, and
    # a kill meets all workers
    assert len(stream.unseen(starts, victims)) <= 1 + KILLS // 8
    assert len(stream.errors) <= len(victims)


# --- session processes ----------------------------------------------------------------------------------------


@long_ttl
def test_session(ring):
    source = seeded("session")
    resolved_s, back_s = [], []
    with ring.executor(WORKERS) as executor:
        stream = Stream(executor, ring.witness, source.random())
        ring.wait_workers(executor, WORKERS)
        leases, before = ring.leases(), ring.descriptors()
        for round_ in range(KILLS):
            [victim] = ring.session_daemons()
            pause(source, 0.0)
            pending = stream.pending()
            killed_s = ring.kill(victim)
            resolved_s.append(stream.settle(pending, killed_s, SLACK * SESSION_GOAL_S))
            stream.wait_answers(1)
            ring.wait_joined(round_ + 2)
            back_s.append(time.monotonic() - killed_s)
        stream.wait_answers(50)
        assert ring.leases() == leases
        ring.assert_no_more_descriptors(before)
        stream.finish()
    stream.tell(
        executor,
        figures("session process killed, futures resolved", resolved_s, SESSION_GOAL_S),
        figures("session process killed, another one joined", back_s, SESSION_GOAL_S),
    )
    starts = stream.check()
    assert not stream.errors, stream.errors
    assert all(len(pids) == 1 for pids in starts.values())


@long_ttl
def test_session_while_it_starts(ring):
    """Its successor is killed before it serves, too: calls run on the channels that live, and those that wait, wait."""
    source = seeded("session start")
    with ring.executor(WORKERS) as executor:
        stream = Stream(executor, ring.witness, source.random(), longest_s=0.1)
        ring.wait_workers(executor, WORKERS)
        joined = 0
        for _ in range(KILLS // 4):
            ring.wait_joined(joined + 1)
            [victim] = ring.session_daemons()
            ring.kill(victim)
            for _ in range(2):
                victim = ring.wait_session_daemon(other_than=victim)
                pause(source, 0.0, 0.1)
                ring.kill(victim)
            joined = ring.joined()  # some of those that died had come so far
            stream.wait_answers(1)
        stream.wait_answers(50)
        stream.finish()
    stream.tell(executor)
    stream.check()
    assert not stream.errors, stream.errors


def test_session_embedded(alone):
    """Allocator, agent and workers die with it; calls that were not on a worker go on with the next one."""
    source = seeded("session, embedded")
    victims, resolved_s, back_s = set(), [], []
    with alone.executor(WORKERS, "embedded") as executor:
        stream = Stream(executor, alone.witness, source.random(), some_s=0.7)
        for _ in range(KILLS // 2):
            stream.wait_answers(1)
            pause(source, 0.0)
            [victim] = alone.embedded_pids()
            family = children(victim)
            victims.update(family)
            pending = stream.pending()
            running = stream.running()
            killed_s = alone.kill(victim)
            wait_dead(family, SLACK * 1.0, "the session process's family")
            lost = [call for call in pending if call.number in running and not call.idempotent]
            resolved_s.append(stream.settle(lost, killed_s, SLACK * SESSION_GOAL_S))
            stream.settle(pending, killed_s, 20.0)
            back_s.append(time.monotonic() - killed_s)
        stream.wait_answers(50)
        stream.finish()
    starts = stream.check()
    unseen = stream.unseen(starts, victims)
    stream.tell(
        executor,
        figures("embedded session process killed, futures in flight resolved", resolved_s, SESSION_GOAL_S),
        figures("embedded session process killed, all of them", back_s, SESSION_GOAL_S),
        f"failed and not seen to start, since nobody could tell: {len(unseen)}",
    )
    assert all(type(call.error) is AgentLost for call in stream.errors), stream.errors
    elsewhere = [call for call in unseen if starts[call.number]]
    assert not elsewhere, f"failed with the agent, but ran elsewhere: {elsewhere}"
    assert len(stream.errors) <= KILLS * WORKERS


# --- allocator ------------------------------------------------------------------------------------------------


def test_allocator(ring):
    source = seeded("allocator")
    down_s = []
    with ring.executor(WORKERS - 1) as executor:
        stream = Stream(executor, ring.witness, source.random())
        ring.wait_workers(executor, WORKERS - 1)
        leases, before = ring.leases(), ring.descriptors()
        from_s = time.monotonic()
        for _ in range(KILLS):
            pause(source, 0.0)
            killed_s = ring.kill(ring.allocator.pid)
            ring.allocator.wait(10)
            pause(source, 0.0)
            ring.start_allocator()
            down_s.append(time.monotonic() - killed_s)
            ring.wait_registered()
            assert ring.leases() == leases
        with ring.executor(1) as other:  # new capacity can be asked for
            assert other.submit(pow, 2, 10).result(20) == 1024
        wait_in_time(lambda: ring.leases() == leases, SLACK * (TTL_S + 1.0), "the end of the other program's lease")
        to_s = time.monotonic()
        ring.assert_no_more_descriptors(before)
        stream.finish()
    gap_s = stream.witness.longest_gap_s(from_s, to_s)
    stream.tell(
        executor,
        figures("allocator killed, serves again", down_s, 2.0),
        f"longest gap between functions: {gap_s:.3f} s (goal {GAP_GOAL_S:g} s)",
    )
    starts = stream.check()
    assert not stream.errors, stream.errors
    assert all(len(pids) == 1 for pids in starts.values())
    assert_in_time(gap_s, GAP_GOAL_S)
