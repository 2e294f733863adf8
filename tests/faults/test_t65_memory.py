"""T65: whoever of a lease of memory dies, fills up or is slow, the program is told, and the memory is free again.

kill -9 of the memory server, of the agent, of the borrower; reclaims while threads write; a spill that finds no room.
Scaled: few rounds in `make test`. Spec: docs/spec/008-memory.md section 3.
"""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy
import pytest

import rfaas
from rfaas_transport.errors import ReasonCode
from support.deadlines import SLACK, assert_in_time, wait_in_time
from support.fault_ring import pause, seeded
from support.invariants import note_kill
from support.leftovers import alive
from support.lenders import lenders
from support.personal import Personal
from support.soak import scaled
from support.waiting import wait_until

pytestmark = [pytest.mark.figures, pytest.mark.timeout(240)]

MIB = 1 << 20
TIMEOUT_S = 60
TYPED_GOAL_S = 2.0
FREE_GOAL_S = 1.0


@pytest.fixture
def personal(tmp_path):
    cluster = Personal(tmp_path)
    cluster.start_allocator()
    yield cluster
    cluster.stop()


def lost_after(memory):
    """Seconds until reading says that the memory is lost, and the error."""
    began_s = time.monotonic()
    with pytest.raises(rfaas.MemoryLost) as lost:
        wait_until(lambda: memory.read(0, 1) is None, TIMEOUT_S, "the loss")
    return time.monotonic() - began_s, lost.value


def test_a_killed_server_is_a_typed_loss_and_the_next_region_is_zero(personal):
    source = seeded("server")
    personal.start_agent()
    took = []
    for _ in range(scaled(3, 50)):
        with rfaas.RemoteMemory("4MiB", allocator=personal.state_dir) as memory:
            assert memory.read(0, 4 * MIB) == bytes(4 * MIB)
            memory.write(0, b"\xff" * 4 * MIB)
            pause(source, 0.0, 0.1)
            [server] = lenders()
            note_kill(server)
            os.kill(server, signal.SIGKILL)
            seconds, error = lost_after(memory)
            took.append(seconds)
            assert error.reason_code is ReasonCode.WORKER_CRASHED
            assert "SIGKILL" in str(error)
    print(f"\na killed memory server was told after {max(took):.2f} s at most, of {len(took)}")
    assert_in_time(max(took), SLACK * TYPED_GOAL_S)
    assert lenders() == []


def test_a_killed_agent_takes_its_server_along_and_the_program_is_told(personal):
    agent = personal.start_agent()
    with rfaas.RemoteMemory("4MiB", allocator=personal.state_dir, when_reclaimed="spill") as memory:
        memory.write(0, b"x")
        [server] = lenders()
        note_kill(agent.pid)
        note_kill(server)
        agent.kill()
        seconds, error = lost_after(memory)
        wait_in_time(lambda: not alive(server), SLACK * FREE_GOAL_S, "the end of the memory server")
        assert error.grace_s is None
        assert_in_time(seconds, SLACK * TYPED_GOAL_S)
        print(f"\na killed agent was told after {seconds:.2f} s: {error.reason_code.text}")
    agent.wait()


BORROWER = """
import sys, time, rfaas
memory = rfaas.RemoteMemory(1 << 20, allocator=sys.argv[1])
memory.write(0, b"x")
print(1, flush=True)
time.sleep(600)
"""


def test_a_killed_borrower_s_memory_is_free_at_once(personal):
    personal.start_agent()
    took = []
    for _ in range(scaled(2, 30)):
        borrower = subprocess.Popen(
            [sys.executable, "-c", BORROWER, str(personal.state_dir)], stdout=subprocess.PIPE, text=True
        )
        assert borrower.stdout.readline() == "1\n"
        [server] = lenders()
        note_kill(borrower.pid)
        borrower.kill()
        killed_s = time.monotonic()
        wait_until(lambda server=server: not alive(server), TIMEOUT_S, "the end of the memory server")
        took.append(time.monotonic() - killed_s)
        borrower.communicate()
    print(f"\nthe memory of a killed borrower was free after {max(took):.2f} s at most, of {len(took)}")
    assert_in_time(max(took), SLACK * FREE_GOAL_S)


@pytest.mark.parametrize("when_reclaimed", ["lose", "spill", "move"])
def test_reclaims_while_threads_write_lose_nothing_that_was_promised(personal, when_reclaimed):
    """Each thread counts up in a place of its own; what a write had returned for must be there, or the loss be told."""
    source = seeded(f"reclaim, {when_reclaimed}")
    grace_s = 20.0 if when_reclaimed == "move" else 3.0  # the next agent may take long to start
    agents = [personal.start_agent(2, grace_s)]
    memory = rfaas.RemoteMemory("64MiB", when_reclaimed=when_reclaimed, allocator=personal.state_dir)
    done, ends = [0] * 4, []

    def count(n):
        try:
            while not stop.is_set():
                memory.write(n * 16 * MIB, (done[n] + 1).to_bytes(8, "little"))
                memory.write(n * 16 * MIB + 8, numpy.full(300_000, (done[n] + 1) % 256, "u1"))
                done[n] += 1
        except rfaas.MemoryLost as error:
            ends.append(error)

    stop = threading.Event()
    threads = [threading.Thread(target=count, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    rounds = scaled(2, 20) if when_reclaimed == "move" else 1
    for _ in range(rounds):
        pause(source)
        if when_reclaimed == "move":
            agents.append(personal.start_agent(2, grace_s))
        agents[-2 if when_reclaimed == "move" else -1].send_signal(signal.SIGTERM)
        agents[-2 if when_reclaimed == "move" else -1].wait(30)
    pause(source)
    stop.set()
    for thread in threads:
        thread.join(TIMEOUT_S)
    with memory:
        if when_reclaimed == "lose":
            assert [type(error) for error in ends] == [rfaas.MemoryLost] * 4
            return
        assert ends == []
        assert memory.stage == {"spill": "spilled", "move": "serving"}[when_reclaimed]
        for n in range(4):
            assert int.from_bytes(memory.read(n * 16 * MIB, 8), "little") == done[n]
            assert memory.read(n * 16 * MIB + 8, 300_000) == bytes([done[n] % 256]) * 300_000
        print(f"\n{when_reclaimed}: {sum(done)} writes of 4 threads, none lost, {rounds} reclaims")


def test_a_spill_without_room_is_told_and_the_grace_is_the_program_s(personal, tmp_path):
    agent = personal.start_agent(2, 2.0)
    program = f"""
import resource, sys, rfaas
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, resource.RLIM_INFINITY))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
memory = rfaas.RemoteMemory("2GiB", when_reclaimed="spill", spill_dir={str(tmp_path)!r}, allocator=sys.argv[1])
memory.write(5, b"content")
print("written", flush=True)
try:
    while memory.read(5, 7) == b"content":
        pass
except rfaas.MemoryLost as lost:
    print(lost, lost.reason_code.name)
"""
    borrower = subprocess.Popen(
        [sys.executable, "-c", program, str(personal.state_dir)], stdout=subprocess.PIPE, text=True
    )
    assert borrower.stdout.readline() == "written\n"
    began_s = time.monotonic()
    agent.send_signal(signal.SIGTERM)
    said, _ = borrower.communicate(timeout=TIMEOUT_S)
    assert time.monotonic() - began_s > 0.8  # it could read through the drain, a second less than the grace
    assert "File too large" in said
    assert "OWNER_RELEASE" in said
    agent.wait(20)


def test_closing_while_others_read_and_write_ends_them_all(personal):
    personal.start_agent()
    source = seeded("close")
    for _ in range(scaled(2, 30)):
        memory = rfaas.RemoteMemory("64MiB", allocator=personal.state_dir, transport=source.choice(["auto", "tcp"]))
        ends = []

        def work(write, memory=memory, ends=ends):
            data = numpy.zeros(32 * MIB, "u1")
            try:
                while True:
                    memory.write(0, data) if write else memory.readinto(0, data)
            except RuntimeError as error:
                ends.append(str(error))

        threads = [threading.Thread(target=work, args=(write,)) for write in (True, False, False)]
        for thread in threads:
            thread.start()
        pending = [memory.write_async(0, b"x") for _ in range(20)]
        pause(source, 0.0, 0.2)
        memory.close()
        for thread in threads:
            thread.join(TIMEOUT_S)
        assert ends == ["the remote memory is closed"] * 3
        for future in pending:
            future.exception(TIMEOUT_S)  # each ends, as it may
        wait_until(lambda: not lenders(), TIMEOUT_S, "the end of the memory server")


def test_a_channel_that_breaks_is_made_again_and_nothing_is_lost(personal):
    """The session process and the server live on; what was under way is done on the next channel."""
    personal.start_agent()
    source = seeded("channel")
    with rfaas.RemoteMemory("64MiB", allocator=personal.state_dir, transport="tcp") as memory:
        data = numpy.random.default_rng(source.randrange(1 << 32)).integers(0, 256, 64 * MIB, "u1")
        broken = 0

        def break_channels():
            nonlocal broken
            while not stop.wait(0.3):
                for wire in list(memory._keeper._wires.values()):
                    wire.abort()  # as if the medium had failed: the transfer under way ends, the channel is closed
                    broken += 1

        stop = threading.Event()
        breaker = threading.Thread(target=break_channels)
        breaker.start()
        again = numpy.empty_like(data)
        for _ in range(scaled(4, 40)):
            memory.write(0, data)
            memory.readinto(0, again)
            assert numpy.array_equal(again, data)
        stop.set()
        breaker.join()
        assert memory.stage == "serving"
        print(f"\n{broken} channels broken")
