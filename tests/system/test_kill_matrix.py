"""kill -9 of every process, 20 times each at random moments of a stream of short calls, and nothing goes wrong.

Goals: docs/spec/001-invocation.md section 5, 002-lease.md sections 3, 4, 7; 004-session.md section 2. Deadlines are
asserted at three times the goal, since a test machine may pause any process; the figures are printed.
"""

import time

import pytest

from rfaas import AgentLost, WorkerLost
from support.fault_ring import CORES, TTL_S, WORKERS, long_ttl, pause, seeded, wait_dead
from support.fault_ring import alone as alone  # fixtures: pytest finds them by name
from support.fault_ring import ring as ring
from support.leftovers import alive, children
from support.residue import command, descriptors
from support.stream import Stream, figures
from support.waiting import wait_until
from support.witness import Witness

pytestmark = [pytest.mark.slow, pytest.mark.figures]

KILLS = 20
SLACK = 3  # asserted deadline over goal
WORKER_GOAL_S = 1.0
AGENT_GOAL_S = 2.0
SESSION_GOAL_S = 2.0
GAP_GOAL_S = 1.0


def unseen_starts(stream, starts, victims):
    """Failed calls that no victim's witness line shows started: STARTED is written before the function's first line."""
    return [call for call in stream.errors if not set(starts[call.number]) & victims]


def assert_no_more(ring, before):
    """No process that lived through it all has more descriptors open than before."""

    def more():
        now = ring.descriptors()
        return {pid: (count, now[pid]) for pid, count in before.items() if now.get(pid, 0) > count}

    try:
        wait_until(lambda: not more(), 15.0, "descriptors to be closed")
    except AssertionError as error:
        held = {command(pid): sorted(descriptors(pid).values()) for pid in more()}
        raise AssertionError(f"{error}; {more()} {held}") from None


def tell(stream, executor, *lines):
    print(*lines, f"{len(stream.calls)} calls, {len(stream.errors)} errors, {executor.statistics()}", sep="\n")


# --- workers and templates ------------------------------------------------------------------------------------


def kill_workers(ring, executor, source, agents, choose, kills=KILLS):
    """Kill what `choose(agent pid)` offers, again and again during a stream."""
    victims, resolved_s = set(), []
    with executor:
        stream = Stream(executor, ring.witness, source.random())
        ring.wait_workers(executor, WORKERS)
        before = ring.descriptors()
        for _ in range(kills):
            pause(source)
            victim = source.choice(wait_until(lambda: [pid for agent in agents() for pid in choose(agent)], 10))
            victims |= {victim, *children(victim)}
            pending = stream.pending()
            killed_s = ring.kill(victim)
            resolved_s.append(stream.settle(pending, killed_s, SLACK * WORKER_GOAL_S))
        stream.wait_answers(50)
        ring.wait_workers(executor, WORKERS)
        assert_no_more(ring, before)
        stream.finish()
    tell(stream, executor, figures("killed, futures resolved", resolved_s, WORKER_GOAL_S))
    starts = stream.check()
    assert all(type(call.error) is WorkerLost for call in stream.errors), stream.errors
    assert all(call.error.phase in ("STARTED", "DONE") for call in stream.errors), stream.errors
    # between the page and the function's first line: microseconds, but a fresh worker unpickles the function there, and
    # a kill of a template meets all of its workers
    assert len(unseen_starts(stream, starts, victims)) <= 1 + kills // 4
    assert len(stream.errors) <= len(victims)


def test_worker(ring):
    kill_workers(
        ring, ring.executor(WORKERS), seeded("worker"), lambda: [agent.pid for agent in ring.agents], ring.workers_of
    )


def test_worker_embedded(alone):
    kill_workers(
        alone, alone.executor(WORKERS, "embedded"), seeded("worker, embedded"), alone.embedded_pids, alone.workers_of
    )


def test_template(ring):
    """Only those that serve: one killed three times in a row while it starts passes for an environment that can't."""
    kill_workers(
        ring,
        ring.executor(WORKERS),
        seeded("template"),
        lambda: [agent.pid for agent in ring.agents],
        lambda agent: [template for template in children(agent, depth=1) if children(template)],
        KILLS // 2,
    )


# --- agents ---------------------------------------------------------------------------------------------------


def test_agent(ring):
    source = seeded("agent")
    victims, resolved_s, back_s = set(), [], []
    with ring.executor(WORKERS) as executor:
        stream = Stream(executor, ring.witness, source.random(), some_s=0.7)
        ring.wait_workers(executor, WORKERS)
        before = ring.descriptors()
        for _ in range(KILLS):
            ring.wait_workers(executor, WORKERS)
            pause(source)
            number = source.randrange(len(ring.agents))
            family = children(ring.agents[number].pid)
            victims.update(family)
            pending = [call for call in stream.pending() if not call.idempotent]  # the others run again
            killed_s = ring.kill(ring.agents[number].pid)
            wait_dead(family, SLACK * 1.0, "the agent's family")
            ring.start_slice(number)
            resolved_s.append(stream.settle(pending, killed_s, SLACK * AGENT_GOAL_S))
            ring.wait_workers(executor, WORKERS)
            back_s.append(time.monotonic() - killed_s)
        stream.wait_answers(50)
        assert_no_more(ring, before)
        stream.finish()
    starts = stream.check()
    unseen = unseen_starts(stream, starts, victims)
    tell(
        stream,
        executor,
        figures("agent killed, futures resolved", resolved_s, AGENT_GOAL_S),
        figures("agent killed, capacity back", back_s, TTL_S + 1.0),
        f"failed and not seen to start, since nobody could tell: {len(unseen)}",
    )
    assert all(type(call.error) is AgentLost for call in stream.errors), stream.errors
    elsewhere = [call for call in unseen if starts[call.number]]
    assert not elsewhere, f"failed with the agent, but ran elsewhere: {elsewhere}"
    assert len(stream.errors) <= KILLS * CORES


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
        assert_no_more(ring, before)
        stream.finish()
    tell(
        stream,
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
    tell(stream, executor)
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
    unseen = unseen_starts(stream, starts, victims)
    tell(
        stream,
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
        wait_until(lambda: ring.leases() == leases, SLACK * (TTL_S + 1.0), "the end of the other program's lease")
        to_s = time.monotonic()
        assert_no_more(ring, before)
        stream.finish()
    gap_s = stream.witness.longest_gap_s(from_s, to_s)
    tell(
        stream,
        executor,
        figures("allocator killed, serves again", down_s, 2.0),
        f"longest gap between functions: {gap_s:.3f} s (goal {GAP_GOAL_S:g} s)",
    )
    starts = stream.check()
    assert not stream.errors, stream.errors
    assert all(len(pids) == 1 for pids in starts.values())
    assert gap_s <= GAP_GOAL_S


# --- clients --------------------------------------------------------------------------------------------------


def test_client(ring):
    """Another program of the same session process notices nothing; a child that holds all sockets keeps nothing."""
    source = seeded("client")
    free_s = []
    with ring.executor(WORKERS - CORES) as executor:
        stream = Stream(executor, ring.witness, source.random())
        ring.wait_workers(executor, WORKERS - CORES)
        leases, before = ring.leases(), {}
        for round_ in range(KILLS):
            witness = Witness(ring.directory / f"witness-{round_}")
            program, child = ring.start_client(witness.path, CORES, ("alone", "fork", "copy")[round_ % 3])
            pause(source, 0.0)
            killed_s = ring.kill(program.pid)
            wait_until(lambda: ring.leases() == leases, SLACK * (TTL_S + 1.0), "the end of its leases")
            freed_s = time.monotonic()
            free_s.append(freed_s - killed_s)
            late = [line for line in witness.lines() if line.at_s > freed_s]
            assert not late, f"ran after the cores were free: {late}"
            assert all(len(pids) == 1 for pids in witness.starts().values())
            if child:
                assert alive(child)
                ring.kill(child)
            before = before or ring.descriptors()  # with the template and connection that linger
        assert_no_more(ring, before)
        stream.finish()
    tell(stream, executor, figures("client killed, cores free", free_s, TTL_S + 1.0))
    stream.check()
    assert not stream.errors, stream.errors


def test_client_and_session_at_once(ring):
    """Nobody is left to say anything: the cores are free when the lease has expired."""
    source = seeded("client and session")
    free_s = []
    for round_ in range(KILLS // 4):
        witness = Witness(ring.directory / f"witness-{round_}")
        program, child = ring.start_client(witness.path, WORKERS, ("alone", "copy")[round_ % 2])
        pause(source, 0.0)
        [session] = ring.session_daemons()
        ring.kill(session)
        killed_s = ring.kill(program.pid)
        wait_until(lambda: not ring.leases(), SLACK * (TTL_S + 1.0), "the end of its leases")
        free_s.append(time.monotonic() - killed_s)
        assert all(len(pids) == 1 for pids in witness.starts().values())
        if child:
            assert alive(child)
            ring.kill(child)
    print(figures("client and session process killed, cores free", free_s, TTL_S + 1.0))


def test_client_embedded(alone):
    source = seeded("client, embedded")
    gone_s = []
    for round_ in range(KILLS // 4):
        program, child = alone.start_client(alone.witness, CORES, ("alone", "copy")[round_ % 2], "embedded")
        pause(source, 0.0)
        killed_s = alone.kill(program.pid)
        wait_until(lambda: not set(alone.residue.processes()) - {child}, 3 * SLACK, "the end of all that it had")  # noqa: B023
        gone_s.append(time.monotonic() - killed_s)
        if child:
            assert alive(child)
            alone.kill(child)
    print(figures("embedded client killed, everything gone", gone_s, 1.0))
