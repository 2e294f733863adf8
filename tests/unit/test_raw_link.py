"""Bare round trips: what comes back is what was sent, over memory, a socket and pipes, polling and sleeping."""

import errno
import mmap
import os
import socket
import threading
from array import array

import pytest

from rfaas_transport import _rawlink
from rfaas_transport._rawlink import MemoryLink, StreamLink

SIZES = (1, 63, 4096, 200_000)
ROUNDS = 30


def run(client, server, payload, **options):
    served = []
    thread = threading.Thread(target=lambda: served.append(server.serve()))
    thread.start()
    answer, took = bytearray(len(payload)), array("q", bytes(8 * ROUNDS))
    assert client.ping(payload, answer, took[:3]) == 3  # several series over one link
    n = client.ping(payload, answer, took, last=True, **options)
    thread.join(20)
    assert served == [n + 3]
    assert answer == payload
    return n, took


@pytest.mark.parametrize("sleeps", [True, False])
@pytest.mark.parametrize("size_bytes", SIZES)
def test_memory_brings_back_what_was_sent(size_bytes, sleeps):
    memory = mmap.mmap(-1, _rawlink.memory_bytes(size_bytes))
    client = MemoryLink(memory, size_bytes, sleeps=sleeps)
    client.prepare()
    n, took = run(client, MemoryLink(memory, size_bytes, sleeps=sleeps), bytearray(os.urandom(size_bytes)))
    assert n == ROUNDS
    assert min(took) > 0


@pytest.mark.parametrize("sleeps", [True, False])
@pytest.mark.parametrize("size_bytes", SIZES)
@pytest.mark.parametrize("medium", ["socket", "pipes"])
def test_streams_bring_back_what_was_sent(medium, size_bytes, sleeps):
    left, right = socket.socketpair()
    (in_left, out_right), (in_right, out_left) = os.pipe(), os.pipe()
    ends = [(left.fileno(), left.fileno()), (right.fileno(), right.fileno())]
    if medium == "pipes":
        ends = [(in_left, out_left), (in_right, out_right)]
    try:
        client, server = (StreamLink(*end, size_bytes, sleeps=sleeps) for end in ends)
        n, took = run(client, server, bytearray(b"\0" + os.urandom(size_bytes - 1)))
    finally:
        left.close()
        right.close()
        for fd in (in_left, out_right, in_right, out_left):
            os.close(fd)
    assert n == ROUNDS
    assert min(took) > 0


def test_a_series_ends_with_its_budget_and_pauses_before_each_round_trip():
    memory = mmap.mmap(-1, _rawlink.memory_bytes(64))
    client = MemoryLink(memory, 64, sleeps=True)
    client.prepare()
    n, took = run(client, MemoryLink(memory, 64, sleeps=True), bytearray(64), pause_s=0.002, budget_s=0.005)
    assert 1 <= n <= 3
    assert all(one < 1e9 for one in took[:n])
    assert not any(took[n:])


@pytest.mark.parametrize("sleeps", [True, False])
def test_a_silent_peer_is_a_timeout(sleeps):
    memory = mmap.mmap(-1, _rawlink.memory_bytes(64))
    link = MemoryLink(memory, 64, sleeps=sleeps, patience_s=0.05)
    link.prepare()
    with pytest.raises(OSError, match="the raw link failed") as caught:
        link.ping(bytes(64), bytearray(64), array("q", [0]))
    assert caught.value.errno == errno.ETIMEDOUT


def test_a_peer_that_is_gone_ends_a_stream():
    left, right = socket.socketpair()
    right.close()
    with left, pytest.raises(OSError, match="the raw link failed"):
        StreamLink(left.fileno(), left.fileno(), 8, patience_s=1.0).serve()


def test_too_little_memory_and_too_short_buffers_are_refused():
    with pytest.raises(ValueError, match="too few"):
        MemoryLink(bytearray(4096), 64)
    link = MemoryLink(bytearray(_rawlink.memory_bytes(64)), 64)
    with pytest.raises(ValueError, match="shorter"):
        link.ping(b"", bytearray(64), array("q", [0]))
    with pytest.raises(ValueError, match="at least one byte"):
        StreamLink(0, 0, 0)


def test_the_clock_has_a_price():
    assert 0 <= _rawlink.clock_cost_ns() < 100_000
