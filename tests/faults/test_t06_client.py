"""T06: kill -9 of a client that holds 8 leases, 100 times: its cores are free within TTL + 1 s and nothing is left.

Another program of the same session process notices nothing; a child of the dead one that holds copies of all its
sockets keeps nothing. Scaled: three times in `make test`.
"""

import os
import time

import pytest

from support.deadlines import SLACK, assert_in_time, wait_in_time
from support.fault_ring import TTL_S, Ring, pause, seeded
from support.fault_ring import alone as alone  # fixtures: pytest finds them by name
from support.leftovers import alive, shared_memory
from support.residue import command
from support.soak import goal_figures, percentile, scaled, timeout_s
from support.stream import Stream
from support.waiting import wait_until
from support.witness import Witness

pytestmark = [pytest.mark.slow, pytest.mark.figures, pytest.mark.timeout(timeout_s())]

KILLS = scaled(3, 100)
LEASES = 8
OTHERS = 2  # workers of the program that goes on
GOAL_S = TTL_S + 1.0
GONE_GOAL_S = 1.0


@pytest.fixture
def ring(tmp_path, event_log, monkeypatch):
    """Two agents with room for eight leases and for another program."""
    ring = Ring(tmp_path, event_log, cores=(LEASES + OTHERS) // 2)
    monkeypatch.setenv("TMPDIR", str(ring.temporary))
    ring.start()
    yield ring
    ring.stop()


def test_the_cores_of_its_leases_are_free_within_ttl_and_a_second_and_nothing_is_left(ring):
    source = seeded("client")
    free_s, gone_s = [], []
    with ring.executor(OTHERS) as executor:
        stream = Stream(executor, ring.witness, source.random())
        ring.wait_workers(executor, OTHERS)
        leases, before = ring.leases(), {}
        for round_ in range(KILLS):
            workers_before = workers(ring)
            witness = Witness(ring.directory / f"witness-{round_}")
            program, child = ring.start_client(witness.path, 1, ("alone", "fork", "copy")[round_ % 3], executors=LEASES)
            assert len(ring.leases()) == len(leases) + LEASES
            shared = shared_memory()
            pause(source, 0.0)
            killed_s = ring.kill(program.pid)
            wait_in_time(lambda: ring.leases() == leases, SLACK * GOAL_S, "the end of its leases")
            freed_s = time.monotonic()
            free_s.append(freed_s - killed_s)
            mine = workers(ring) - workers_before
            assert not mine, f"workers left: {[command(pid) for pid in mine]}"
            gone_s.append(time.monotonic() - killed_s)
            assert_ran_once_and_not_late(witness, freed_s)
            wait_until(lambda shared=shared: shared_memory() <= shared, 20, "shared memory to be unlinked, others' too")
            assert not os.listdir(ring.temporary)
            if child:
                assert alive(child)
                ring.kill(child)
            before = before or ring.descriptors()  # with the template and connection that linger
        ring.assert_no_more_descriptors(before)
        stream.finish()
    stream.tell(
        executor,
        goal_figures(f"client with {LEASES} leases killed, cores free", free_s, GOAL_S),
        goal_figures("the same, no worker of it left", gone_s, GOAL_S),
    )
    stream.check()
    assert not stream.errors, stream.errors
    assert_in_time(percentile(free_s, 99), SLACK * GOAL_S)


def workers(ring):
    """Pids of all workers of both agents."""
    return {pid for agent in ring.agents for pid in ring.workers_of(agent.pid) if alive(pid)}


def assert_ran_once_and_not_late(first, freed_s):
    """No call of a killed program ran twice, and none after its cores were free."""
    for path in (first.path, *(f"{first.path}.{number}" for number in range(1, LEASES))):
        witness = Witness(path)
        late = [line for line in witness.lines() if line.at_s > freed_s]
        assert not late, f"ran after the cores were free: {late}"
        assert all(len(pids) == 1 for pids in witness.starts().values())


def test_a_client_and_its_session_process_at_once(ring):
    """Nobody is left to say anything: the cores are free when the lease has expired."""
    source = seeded("client and session")
    free_s = []
    for round_ in range(scaled(2, 20)):
        witness = Witness(ring.directory / f"witness-{round_}")
        program, child = ring.start_client(witness.path, 1, ("alone", "copy")[round_ % 2], executors=LEASES)
        pause(source, 0.0)
        [session] = ring.session_daemons()
        ring.kill(session)
        killed_s = ring.kill(program.pid)
        wait_in_time(lambda: not ring.leases(), SLACK * GOAL_S, "the end of its leases")
        freed_s = time.monotonic()
        free_s.append(freed_s - killed_s)
        assert_ran_once_and_not_late(witness, freed_s)
        if child:
            assert alive(child)
            ring.kill(child)
    print(goal_figures("client and session process killed, cores free", free_s, GOAL_S))


def test_an_embedded_client(alone):
    source = seeded("client, embedded")
    gone_s = []
    for round_ in range(scaled(2, 20)):
        program, child = alone.start_client(alone.witness, 2, ("alone", "copy")[round_ % 2], "embedded")
        pause(source, 0.0)
        killed_s = alone.kill(program.pid)
        wait_in_time(
            lambda spared=child: not set(alone.residue.processes()) - {spared},
            3 * SLACK * GONE_GOAL_S,
            "the end of all that it had",
        )
        gone_s.append(time.monotonic() - killed_s)
        if child:
            assert alive(child)
            alone.kill(child)
    print(goal_figures("embedded client killed, everything gone", gone_s, GONE_GOAL_S))
