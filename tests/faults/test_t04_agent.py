"""T04: kill -9 of an agent, 100 times: its workers gone within 1 s, futures typed within 2 s, and its successor grants
nothing before everything of the dead one is gone, also what functions left running.

Scaled: four times in `make test`.
"""

import os
import select
import subprocess
import threading
import time
from pathlib import Path

import pytest

from rfaas import AgentLost
from rfaas.control.invariants import load
from support.deadlines import SLACK, assert_in_time
from support.fault_ring import CORES, TTL_S, WORKERS, pause, seeded, wait_dead
from support.fault_ring import ring as ring  # a fixture: pytest finds it by name
from support.leftovers import children
from support.soak import goal_figures, percentile, scaled, timeout_s
from support.stream import Stream
from support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.figures, pytest.mark.timeout(timeout_s())]

KILLS = scaled(4, 100)
GONE_GOAL_S = 1.0
TYPED_GOAL_S = 2.0


def leave_running(gate):
    """Leave behind a process that nothing but a sweep ends, and hold this worker until all have one."""
    left = subprocess.Popen(["sleep", "600"], start_new_session=True, stdin=subprocess.DEVNULL)
    Path(gate, str(os.getpid())).touch()
    wait_until(lambda: len(os.listdir(gate)) >= WORKERS, 20)
    return os.getpid(), left.pid


def test_its_workers_end_its_calls_fail_and_its_successor_sweeps_before_it_grants(ring, event_log):
    source = seeded("agent")
    victims, resolved_s, back_s, deaths = set(), [], [], []
    with ring.executor(WORKERS) as executor:
        stream = Stream(executor, ring.witness, source.random(), some_s=0.7)
        ring.wait_workers(executor, WORKERS)
        before = ring.descriptors()
        for round_ in range(KILLS):
            ring.wait_workers(executor, WORKERS)
            orphans = leave_orphans(ring, executor, round_)
            pause(source)
            number = source.randrange(len(ring.agents))
            agent = ring.agents[number].pid
            family = children(agent)
            orphan = [orphan for worker, orphan in orphans if worker in family]
            assert orphan, "no process was left behind on this agent"
            victims.update(family)
            pending = [call for call in stream.pending() if not call.idempotent]  # the others run again
            watched = Deaths([pid for pid in family if pid not in orphan], orphan)
            killed_s = ring.kill(agent)
            killed_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            wait_dead(watched.family, SLACK * GONE_GOAL_S, "the agent's family")
            successor = ring.start_slice(number)
            resolved_s.append(stream.settle(pending, killed_s, SLACK * TYPED_GOAL_S))
            ring.wait_workers(executor, WORKERS)
            back_s.append(time.monotonic() - killed_s)
            deaths.append((killed_ns, watched.ended(), successor.pid))
        stream.wait_answers(50)
        ring.assert_no_more_descriptors(before)
        stream.finish()
    starts = stream.check()
    unseen = stream.unseen(starts, victims)
    gone_s = [(family_ns - killed_ns) / 1e9 for killed_ns, (family_ns, _), _ in deaths]
    stream.tell(
        executor,
        goal_figures("agent killed, its workers gone", gone_s, GONE_GOAL_S),
        goal_figures("agent killed, futures resolved", resolved_s, TYPED_GOAL_S),
        goal_figures("agent killed, capacity back", back_s, TTL_S + 1.0),
        f"failed and not seen to start, since nobody could tell: {len(unseen)}",
    )
    assert_in_time(percentile(gone_s, 99), SLACK * GONE_GOAL_S)
    assert all(type(call.error) is AgentLost for call in stream.errors), stream.errors
    elsewhere = [call for call in unseen if starts[call.number]]
    assert not elsewhere, f"failed with the agent, but ran elsewhere: {elsewhere}"
    assert len(stream.errors) <= KILLS * CORES
    assert_swept_first(load(event_log, []), [(max(ended), pid) for _, ended, pid in deaths])


def leave_orphans(ring, executor, round_):
    """One process left behind on each worker; returns (worker, its orphan)."""
    gate = ring.directory / f"gate-{round_}"
    gate.mkdir()
    view = executor.options(idempotent=True, retries=10)
    left = [view.submit(leave_running, str(gate)) for _ in range(WORKERS)]
    return [call.result(30) for call in left]


class Deaths:
    """Sees processes die, on CLOCK_BOOTTIME, from its making on."""

    def __init__(self, family, orphans):
        self.family, self._orphans = family, orphans
        self._waiting = {os.pidfd_open(pid): pid for pid in (*family, *orphans)}
        self._died_ns = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        poll = select.poll()
        for descriptor in self._waiting:
            poll.register(descriptor, select.POLLIN)
        while self._waiting:
            for descriptor, _ in poll.poll():
                self._died_ns[self._waiting.pop(descriptor)] = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
                poll.unregister(descriptor)
                os.close(descriptor)

    def ended(self):
        """When the last of the family died, and when the last of the orphans did."""
        self._thread.join(20)
        assert not self._waiting, f"still alive: {self._waiting}"
        return max(self._died_ns[pid] for pid in self.family), max(self._died_ns[pid] for pid in self._orphans)


def assert_swept_first(events, successors):
    """No agent accepted a lease before the last process of its predecessor was dead."""
    accepted = {}
    for event in events:
        if event["ev"] == "grant_accepted" and event["role"] == "agent":
            accepted.setdefault(event["pid"], event["t_boot_ns"])
    margins_s = [(accepted[pid] - dead_ns) / 1e9 for dead_ns, pid in successors if pid in accepted]
    assert margins_s, "no successor accepted anything"
    print(f"the last process of the dead agent gone {min(margins_s):.3f} s or more before its successor's first grant")
    assert min(margins_s) > 0
