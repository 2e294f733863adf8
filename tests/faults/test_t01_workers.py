"""T01: kill -9 of a random worker every 200 ms during 10,000 calls, 8 in flight.

By default each call that was lost is a `WorkerLost` that says it may have run, and none ran twice; idempotent calls all
have their right results. Scaled: a thousand calls in `make test`. Detection: from the kill to the future's end.
"""

import pytest

from rfaas import WorkerLost
from support.deadlines import SLACK, assert_in_time
from support.fault_ring import WORKERS, pause, seeded
from support.fault_ring import alone as alone  # fixtures: pytest finds them by name
from support.fault_ring import ring as ring
from support.leftovers import alive, children
from support.soak import SOAK, goal_figures, percentile, scaled, timeout_s
from support.stream import Stream
from support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.figures, pytest.mark.timeout(timeout_s())]

CALLS = scaled(1_000, 10_000)
EVERY_S = 0.2
RUN_S = scaled(120, 900)
LOCAL_GOAL_S, REMOTE_GOAL_S = 0.1, 0.5


def test_default_calls_each_lost_one_is_told_and_none_runs_twice(ring):
    killed = kill_during(ring, ring.executor(WORKERS), idempotent=False, agents=[agent.pid for agent in ring.agents])
    assert_detected("same node", killed, {ring.agents[0].pid}, LOCAL_GOAL_S)
    assert_detected("over TCP", killed, {ring.agents[1].pid}, REMOTE_GOAL_S)


def test_default_calls_embedded(alone):
    killed = kill_during(alone, alone.executor(WORKERS, "embedded"), idempotent=False)
    assert_detected("embedded", killed, {agent for _, agent, _ in killed}, LOCAL_GOAL_S)


def test_idempotent_calls_all_have_right_results(ring):
    kill_during(ring, ring.executor(WORKERS), idempotent=True, agents=[agent.pid for agent in ring.agents])


def kill_during(ring, executor, *, idempotent, agents=None):
    """Kill while the calls run and look at every call; returns (pid, its agent, seconds until its call failed or None).

    A run that killed fewer workers than it was to fails.
    """
    source, kills = seeded("workers"), []
    with executor:
        stream = Stream(executor, ring.witness, source.random(), count=CALLS, idempotent=lambda _: idempotent)
        ring.wait_workers(executor, WORKERS)
        before = ring.descriptors()
        while not stream.all_submitted:
            pause(source, EVERY_S, EVERY_S)
            agent, victim = random_worker(ring, source, agents or ring.embedded_pids())
            kills.append((victim, {victim, *children(victim)}, agent, ring.kill(victim)))
        wait_until(lambda: not stream.pending(), RUN_S, "every future to resolve")
        ring.wait_workers(executor, WORKERS)
        ring.assert_no_more_descriptors(before)
        stream.finish(RUN_S)
    starts = stream.check()
    assert len(stream.calls) == CALLS
    assert len(kills) >= CALLS // 100
    assert all(type(call.error) is WorkerLost for call in stream.errors), stream.errors
    assert all(call.error.phase in ("STARTED", "DONE") for call in stream.errors), stream.errors
    victims = set().union(*(family for _, family, _, _ in kills))
    # between the page and the function's first line: microseconds, but a fresh worker unpickles the function there
    assert len(stream.unseen(starts, victims)) <= 1 + len(kills) // 4
    assert len(stream.errors) <= len(kills)
    right = sum(call.right for call in stream.calls)
    runs = max(len(pids) for pids in starts.values())
    unresolved = sum(not call.resolved_s for call in stream.calls)
    stream.tell(
        executor,
        f"{len(kills)} workers killed during {CALLS} {'idempotent ' if idempotent else ''}calls: {right} right, "
        f"{len(stream.errors)} WorkerLost, {unresolved} never resolved; a call ran at most {runs} times",
    )
    assert idempotent or stream.errors, "no kill met a call"
    lost_on = {pid: call for call in stream.errors for pid in starts[call.number]}
    return [(pid, agent, lost_on[pid].resolved_s - at_s if pid in lost_on else None) for pid, _, agent, at_s in kills]


def random_worker(ring, source, agents):
    """An agent and a worker of it that lives."""

    def living():
        return [(agent, pid) for agent in agents for pid in ring.workers_of(agent) if alive(pid)]

    return source.choice(wait_until(living, 10, "a worker"))


def assert_detected(where, killed, agents, goal_s):
    told_s = [seconds for _, agent, seconds in killed if agent in agents and seconds is not None]
    if not told_s:  # a dozen kills may all meet idle workers there, a hundred don't
        assert not SOAK, f"{where}: no kill met a call"
        return
    print(goal_figures(f"worker killed, its call failed, {where}", told_s, goal_s))
    assert_in_time(percentile(told_s, 99), SLACK * goal_s)
