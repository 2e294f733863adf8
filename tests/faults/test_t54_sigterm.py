"""T54: SIGTERM to each daemon under load. It accepts nothing new after 50 ms, what is under way ends or fails with a
type, it exits 0 within its limit; a second SIGTERM means now. The harvester: test_t54_harvester.py.

Scaled: two or three rounds of each in `make test`, twenty in a soak.
"""

import asyncio
import ctypes
import os
import signal
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

import rfaas
from rfaas.control.address import AllocatorAddress
from rfaas.control.dial import AdminClient
from rfaas.control.invariants import load
from rfaas_transport.errors import RfaasError
from support.allocator import PlayedAgent
from support.deadlines import SLACK, assert_in_time
from support.fault_ring import CORES, WORKERS, long_ttl, pause, seeded
from support.fault_ring import ring as ring  # a fixture: pytest finds it by name
from support.leftovers import alive, children
from support.raw_client import RawClient
from support.soak import goal_figures, percentile, scaled, timeout_s
from support.stream import Stream
from support.waiting import wait_until
from support.witness import Witness, witnessed

pytestmark = [pytest.mark.slow, pytest.mark.figures, pytest.mark.timeout(timeout_s())]

ROUNDS = scaled(3, 20)
NEW_GOAL_S = 0.05  # after SIGTERM nothing new is accepted any more
AT_ONCE_GOAL_S = 0.5
ALLOCATOR_LIMIT_S = 1.0  # streams are ended in order
AGENT_LIMIT_S = 1.5  # the ring's drain of a second, and the kill
SESSION_LIMIT_S = 1.5  # farewells within a second, and the last words
PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Try:
    """Something new that was asked for: when, and what came of it."""

    begun_s: float
    answer: object = None  # True, or the error


class Trying:
    """Asks for something new again and again, in threads of its own, until it is stopped.

    Args:
        ask: returns once it was accepted, or raises RfaasError.
    """

    def __init__(self, ask, threads=2):
        self._ask = ask
        self._stopping = threading.Event()
        self.tries = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self):
        while not self._stopping.is_set():
            one = Try(time.monotonic())
            self.tries.append(one)
            try:
                self._ask()
                one.answer = True
            except Exception as error:
                one.answer = error
                self._stopping.wait(0.005)

    def accepted_before(self, at_s):
        """Whether anything that was begun by then was accepted."""
        return any(one.answer is True and one.begun_s < at_s for one in self.tries)

    def last_accepted_s(self, at_s):
        """How long after a moment the last try that was accepted began; 0 if it was before."""
        assert self.accepted_before(at_s), "nothing was accepted before the signal"
        return max(0.0, *(one.begun_s - at_s for one in self.tries if one.answer is True))

    def stop(self, timeout_s=20.0):
        """Ask no more; each try has ended, in order or with a type."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout_s)
            assert not thread.is_alive(), "a question was never answered"
        untyped = [
            one.answer for one in self.tries if one.answer is not True and not isinstance(one.answer, RfaasError)
        ]
        assert not untyped, f"errors without a type: {untyped[:3]}"


def assert_figures(daemon, new_s, exit_s, limit_s):
    print(goal_figures(f"SIGTERM to {daemon}, the last new thing accepted", new_s, NEW_GOAL_S))
    print(goal_figures(f"SIGTERM to {daemon}, exit 0", exit_s, limit_s))
    assert_in_time(percentile(new_s, 99), SLACK * NEW_GOAL_S)
    assert_in_time(percentile(exit_s, 99), SLACK * limit_s)


# --- allocator ---------------------------------------------------------------------------------------------------


@long_ttl
def test_allocator(ring):
    source = seeded("allocator")
    new_s, exit_s = [], []
    with ring.executor(WORKERS) as executor:
        stream = Stream(executor, ring.witness, source.random())
        ring.wait_workers(executor, WORKERS)
        leases = ring.leases()
        for _ in range(ROUNDS):
            trying = Trying(ring.snapshot, threads=1)  # gRPC loses sockets where loops of two threads begin and end
            wait_until(lambda trying=trying: trying.accepted_before(time.monotonic()), 20, "answers")
            pause(source)
            at_s = ring.kill(ring.allocator.pid, signal.SIGTERM)
            assert ring.allocator.wait(SLACK * ALLOCATOR_LIMIT_S + 5) == 0
            exit_s.append(time.monotonic() - at_s)
            trying.stop()
            new_s.append(trying.last_accepted_s(at_s))
            ring.start_allocator()
            ring.wait_registered()
            assert ring.leases() == leases
        stream.finish()
    stream.tell(executor)
    stream.check()
    assert not stream.errors, stream.errors
    assert_figures("the allocator", new_s, exit_s, ALLOCATOR_LIMIT_S)


def test_allocator_that_waits_for_agents_leaves_at_the_second(ring):
    """`Stop` waits for the slices to end; one of them never does."""
    for agent in ring.agents:
        ring.kill(agent.pid, signal.SIGSTOP)

    async def stop():
        address = AllocatorAddress.load(ring.state_dir)
        deaf = PlayedAgent()
        await deaf.connect(address)
        async with AdminClient(address) as admin:
            assert await admin.stop(timeout_s=600.0) == 3
        at_s = ring.kill(ring.allocator.pid, signal.SIGTERM)
        assert await asyncio.to_thread(ring.allocator.wait, SLACK * AT_ONCE_GOAL_S + 5) == 0
        return time.monotonic() - at_s

    took_s = asyncio.run(stop())
    for agent in ring.agents:
        ring.kill(agent.pid, signal.SIGCONT)
    print(f"an allocator that waits for agents, told again: exit 0 after {took_s:.3f} s (goal {AT_ONCE_GOAL_S} s)")
    assert_in_time(took_s, SLACK * AT_ONCE_GOAL_S)


# --- agent -------------------------------------------------------------------------------------------------------


@long_ttl
def test_agent(ring, event_log):
    source = seeded("agent")
    new_s, exit_s, ended = [], [], []
    with ring.executor(WORKERS) as executor:
        stream = Stream(executor, ring.witness, source.random(), some_s=0.3)
        ring.wait_workers(executor, WORKERS)
        serving = [0, 1]
        for _ in range(ROUNDS):
            pause(source)
            number = serving.pop(0)
            agent, mine = ring.agents[number], set(children(ring.agents[number].pid))
            at_s = ring.kill(agent.pid, signal.SIGTERM)
            at_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            assert agent.wait(SLACK * AGENT_LIMIT_S + 5) == 0
            exit_s.append(time.monotonic() - at_s)
            assert not [pid for pid in mine if alive(pid)]
            starts = [line.at_s - at_s for line in stream.witness.lines() if line.word == "start" and line.pid in mine]
            new_s.append(max([0.0, *starts]))
            ended.append((agent.pid, at_ns))
            serving.append(len(ring.agents))  # a slice that went back is over for good: here is another
            ring.start_slice(serving[-1])
            ring.wait_workers(executor, WORKERS)
        stream.wait_answers(20)
        stream.finish()
    stream.tell(executor)
    stream.check()
    assert not stream.errors, f"calls shorter than the drain failed: {stream.errors}"
    accepted = [(e["pid"], e["t_boot_ns"]) for e in load(event_log, []) if e["ev"] == "grant_accepted"]
    late = [(pid, ns) for pid, ns in accepted for agent, at_ns in ended if pid == agent and ns > at_ns]
    assert not late, f"leases accepted after the SIGTERM: {late}"
    assert_figures("an agent", new_s, exit_s, AGENT_LIMIT_S)


def test_agent_that_drains_leaves_at_the_second(ring):
    patient = ring.start_agent(CORES, 600.0)
    ring.wait_registered()
    for agent in ring.agents[:2]:
        agent.terminate()
        assert agent.wait(10) == 0
    executor, witness, notices = ring.executor(1), Witness(ring.witness), []
    try:
        executor.on_reclaim(notices.append)
        call = executor.submit(witnessed, witness.path, 1, 600)
        wait_until(witness.lines, 20, "the call to start")
        ring.kill(patient.pid, signal.SIGTERM)
        wait_until(lambda: notices, 10, "the notice")
        assert patient.poll() is None
        assert not call.done()
        at_s = ring.kill(patient.pid, signal.SIGTERM)
        error = call.exception(SLACK * AT_ONCE_GOAL_S + 5)
        assert patient.wait(SLACK * AT_ONCE_GOAL_S + 5) == 0
        took_s = time.monotonic() - at_s
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
    assert (type(error), error.may_have_run) == (rfaas.Reclaimed, True)
    print(f"an agent that drains, told again: exit 0 after {took_s:.3f} s (goal {AT_ONCE_GOAL_S} s)")
    assert_in_time(took_s, SLACK * AT_ONCE_GOAL_S)


# --- session process ---------------------------------------------------------------------------------------------


@pytest.fixture
def adopting(ring):
    """The ring, whose session processes are this one's children, once their starters have left them: it sees how they
    end. What is left of them it ends and buries.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield ring
    assert prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0
    started = {process.pid for process in (ring.allocator, *ring.agents, *ring.programs)}
    for tasks in Path("/proc/self/task").glob("*/children"):
        for pid in set(map(int, tasks.read_text().split())) - started:
            os.kill(pid, signal.SIGTERM)
            exit_status(pid, 10)


def exit_status(pid, timeout_s):
    """Wait for the end of a child that was adopted."""

    def ended():
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # it was somebody else's to bury
            return (None,)
        return found and (os.waitstatus_to_exitcode(status),)

    return wait_until(ended, timeout_s, f"the end of {pid}")[0]


@long_ttl
def test_session(adopting):
    ring = adopting
    source = seeded("session")
    new_s, exit_s = [], []

    def join():
        client = RawClient(ring.choice)
        joined.append(client.connection.pid)
        client.close()

    with ring.executor(WORKERS) as executor:
        stream = Stream(executor, ring.witness, source.random(), some_s=0.3)
        for _ in range(ROUNDS):
            ring.wait_workers(executor, WORKERS)
            stream.wait_answers(20)
            joined = []
            join()
            victim = joined[0]
            trying = Trying(join, threads=1)
            wait_until(lambda trying=trying: trying.accepted_before(time.monotonic()), 20, "joins")
            pause(source)
            at_s = ring.kill(victim, signal.SIGTERM)
            assert exit_status(victim, SLACK * SESSION_LIMIT_S + 5) == 0
            exit_s.append(time.monotonic() - at_s)
            trying.stop()
            begun = [one.begun_s for one in trying.tries if one.answer is True]
            by_victim = [begun_s for begun_s, pid in zip(begun, joined[1:], strict=True) if pid == victim]
            new_s.append(max(0.0, *(begun_s - at_s for begun_s in by_victim)))
        ring.wait_workers(executor, WORKERS)
        stream.wait_answers(20)
        stream.finish()
    kinds = sorted({type(call.error).__name__ for call in stream.errors})
    stream.tell(executor, f"calls that its leases took with them: {len(stream.errors)} {kinds}")
    stream.check()
    assert len(stream.errors) <= ROUNDS * WORKERS
    assert_figures("a session process", new_s, exit_s, SESSION_LIMIT_S)


def test_session_that_waits_for_farewells_leaves_at_the_second(adopting):
    """The agents are stopped, so none comes; within a second it would leave without, which is as long as it waits."""
    ring = adopting
    with ring.executor(WORKERS) as executor:
        list(executor.map(time.sleep, [0.2] * WORKERS))
        [victim] = ring.session_pids()
        for agent in ring.agents:
            ring.kill(agent.pid, signal.SIGSTOP)
        first_s = ring.kill(victim, signal.SIGTERM)
        pause(seeded("session"), 0.1, 0.1)
        at_s = ring.kill(victim, signal.SIGTERM)
        assert exit_status(victim, SLACK * AT_ONCE_GOAL_S) == 0
        took_s, since_first_s = time.monotonic() - at_s, time.monotonic() - first_s
        for agent in ring.agents:
            ring.kill(agent.pid, signal.SIGCONT)
    print(
        f"a session process that waits for farewells, told again: exit 0 after {took_s:.3f} s "
        f"(goal {AT_ONCE_GOAL_S} s), {since_first_s:.3f} s after the first"
    )


# --- template and workers ----------------------------------------------------------------------------------------


def test_template_and_workers_leave_it_to_their_agent(ring):
    """Slurm's SIGTERM reaches every process of a step; only the agent acts on it (DESIGN section 3)."""
    source = seeded("template")
    with ring.executor(WORKERS) as executor:
        stream = Stream(executor, ring.witness, source.random(), some_s=0.3)
        ring.wait_workers(executor, WORKERS)
        stream.wait_answers(50)
        family = sorted(pid for agent in ring.agents for pid in children(agent.pid))
        gaps_s = []
        for _ in range(20 * ROUNDS):
            pause(source, 0.0, 0.05)
            at_s = ring.kill(source.choice(family), signal.SIGTERM)
            stream.wait_answers(1)
            gaps_s.append(time.monotonic() - at_s)
        stream.wait_answers(50)
        assert sorted(pid for agent in ring.agents for pid in children(agent.pid)) == family
        stream.finish()
    starts = stream.check()
    stream.tell(executor, f"{20 * ROUNDS} SIGTERM, next result after {statistics.median(gaps_s):.3f} s in the median")
    assert not stream.errors, stream.errors
    assert all(len(pids) == 1 for pids in starts.values())
