"""Borrowed memory over RDMA: read and written without the lender, lost with a reason, and given back."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import rfaas
from support.deadlines import SLACK
from support.invariants import _promises_are_kept as _promises_are_kept  # a fixture, of this module's one event log
from support.lenders import has_gone, lenders
from support.waiting import wait_until

pytestmark = pytest.mark.rdma
IN_GUEST = bool(os.environ.get("RFAAS_RDMA_GUEST"))
TIMES = 10 if IN_GUEST else SLACK  # emulated CPUs
TOLD_S = 2.0  # the goal for a lender's death
BACK_S = 0.1
MIB = 1 << 20
TIMEOUT_S = 120.0


def spans(memory):
    [wire] = memory._keeper._wires.values()
    return wire.n_spans


def cpu_s(pid):
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@pytest.fixture(scope="module")
def kept(daemons_are_read, _promises_are_kept):
    """A region of its own keeps the embedded session process; its lender, which is known by the event log as others."""
    with rfaas.RemoteMemory("1MiB", allocator="embedded", transport="verbs", acquire_timeout_s=TIMEOUT_S) as memory:
        memory.write(0, b"x")
        [pid] = lenders()
        yield pid


@pytest.fixture
def memory(kept):
    with rfaas.RemoteMemory("72MiB", allocator="embedded", transport="verbs", acquire_timeout_s=TIMEOUT_S) as made:
        yield made


def its_lender(kept):
    [pid] = {*lenders()} - {kept}
    return pid


def test_bytes_come_back_and_the_lender_does_nothing_for_it(memory, kept):
    assert memory.medium == "verbs"
    assert memory.read(0, 1000) == bytes(1000)
    data = np.random.default_rng(7).integers(0, 256, 8 * MIB, "u1")
    offset = 60 * MIB + 1  # across two spans
    memory.write(offset, data)
    server = its_lender(kept)
    used_s, began_s = cpu_s(server), time.monotonic()
    again = np.zeros_like(data)
    for _ in range(2):
        memory.write(offset, data)
        memory.readinto(offset, again)
    took_s, used_s = time.monotonic() - began_s, cpu_s(server) - used_s
    assert np.array_equal(again, data)
    assert spans(memory) == 2
    print(f"\n32 MiB in {took_s * 1000:.0f} ms, of which the lender's process had {used_s * 1e6:.0f} us")
    assert used_s < 0.01 * took_s


def test_many_small_pieces_in_their_order(memory):
    pairs = [(index * 977, np.full(8, index % 251, "u1")) for index in range(2000)]
    memory.writev(pairs)
    got = [(offset, np.zeros_like(data)) for offset, data in pairs]
    memory.readv(got)
    assert all(np.array_equal(data, mine) for (_, data), (_, mine) in zip(pairs, got, strict=True))
    memory.writev([(5, b"a" * 100_000), (6, b"b")])
    assert memory.read(5, 3) == b"aba"


def test_a_killed_lender_is_a_typed_loss_and_soon(memory, kept):
    memory.write(0, b"x" * MIB)
    server = its_lender(kept)
    os.kill(server, signal.SIGKILL)
    began_s = time.monotonic()
    with pytest.raises(rfaas.MemoryLost) as lost:
        wait_until(lambda: memory.read(0, MIB) is None, TIMEOUT_S, "the loss")
    told_s = time.monotonic() - began_s
    print(f"\ntold after {told_s:.2f} s: {lost.value}")
    assert told_s <= TIMES * TOLD_S


def test_after_a_reclaim_pinned_memory_is_back_too(personal):
    """The kernel takes keys back, then frees pages, and only then the process is dead: all that is in the time."""
    agent = personal.start_agent(2, 0.0)
    try:
        before = {*lenders()}
        with rfaas.RemoteMemory("64MiB", allocator=personal.state_dir, transport="verbs") as memory:
            memory.write(0, np.ones(64 * MIB, "u1"))
            assert spans(memory) == 1
            [server] = {*lenders()} - before
            began_s = time.monotonic()
            agent.send_signal(signal.SIGTERM)
            wait_until(lambda: has_gone(server), TIMEOUT_S)
            back_s = time.monotonic() - began_s
            print(f"\n64 MiB that were open to RDMA were back after {back_s * 1000:.0f} ms")
            assert back_s <= TIMES * BACK_S
            with pytest.raises(rfaas.MemoryLost):
                wait_until(lambda: memory.read(0, 1) is None, TIMEOUT_S, "the loss")
    finally:
        agent.terminate()
        agent.wait(TIMEOUT_S)
