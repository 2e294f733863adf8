"""Large segments over RDMA: read by the peer's device from where they lie, registered meanwhile, and no longer."""

import contextlib
import os
import random
import socket
import subprocess
import sys

import numpy as np
import pytest

from rfaas_transport._core import Channel, pool_memory
from rfaas_transport.errors import ChannelBroken
from rfaas_transport.frame import Kind
from support.media import drain, receive, receive_while_flushing
from support.rdma_limits import with_locked_memory
from support.verbs_messages import LEND_BYTES
from support.verbs_objects import kernel_objects
from support.waiting import wait_until

pytestmark = pytest.mark.rdma
DEVICE = os.environ.get("RFAAS_RDMA_DEVICE", "")
TIMEOUT_S = 60.0
UNKNOWN_KIND = 31  # of the block that needs no credit
LENT_FRAMES = 16  # spec 007 section 7
PIECE_BYTES = 1 << 20
SOME = random.Random(7).randbytes(3 * PIECE_BYTES + 5)


@pytest.fixture
def pair():
    """Two connected ends of one process, of which the kernel has nothing more afterwards than before."""
    before = kernel_objects()
    with contextlib.ExitStack() as stack:
        left, right = (
            stack.enter_context(Channel.from_verbs(sock.detach(), device=DEVICE)) for sock in socket.socketpair()
        )
        for channel in (right, left, right):
            assert channel.wait(20)
            assert channel.poll() is None
        yield left, right
    assert kernel_objects() == before


def regions():
    return kernel_objects()["mr"]


def given_back(channel):
    """That what it lent has come back."""
    wait_until(lambda: channel.poll() is None and channel.unacknowledged_bytes() == 0, TIMEOUT_S)


@pytest.mark.parametrize("size_bytes", [LEND_BYTES - 1, LEND_BYTES, LEND_BYTES + 1, PIECE_BYTES, len(SOME)])
def test_segments_of_all_sizes_arrive_between_small_ones(pair, size_bytes):
    for sender, receiver in (pair, pair[::-1]):
        for segments in ([SOME[:size_bytes]], [b"a", SOME[:size_bytes], b"", b"bc", SOME[5 : 5 + LEND_BYTES], b"d"]):
            is_whole = sender.send(Kind.RESULT, call_id=size_bytes, segments=segments)
            assert is_whole == (max(map(len, segments)) < LEND_BYTES)
            frame = receive_while_flushing(receiver, sender, TIMEOUT_S)
            assert [bytes(segment) for segment in frame.segments] == segments
            assert (frame.call_id, frame.is_placed) == (size_bytes, False)
            assert not any(segment.readonly for segment in frame.segments)
        given_back(sender)


def test_memory_is_registered_until_the_peer_has_read_it(pair):
    left, right = pair
    before = regions()
    data = bytearray(SOME)
    assert not left.send(Kind.RESULT, segments=[data])
    assert regions() == before + 1
    assert left.unacknowledged_bytes() >= len(data)
    with pytest.raises(BufferError):
        data.append(1)  # it is lent
    assert receive(right, TIMEOUT_S).segments[0] == SOME
    given_back(left)
    data.append(1)
    assert regions() == before + 1  # what it was read to is kept for the next


def test_memory_that_payloads_are_read_to_is_used_again(pair):
    left, right = pair
    before, addresses = regions(), set()
    for _ in range(4):
        left.send(Kind.RESULT, segments=[SOME[:PIECE_BYTES]])
        frame = receive(right, TIMEOUT_S)
        addresses.add(address_of(frame.segments[0]))
        del frame
        given_back(left)
    assert len(addresses) == 1
    assert regions() == before + 1


def address_of(view):
    return np.frombuffer(view, np.uint8).ctypes.data


def test_more_frames_than_may_be_lent_go_through_the_ring_and_arrive_in_order(pair):
    left, right = pair
    n = LENT_FRAMES + 3
    for call_id in range(n):
        left.send(Kind.RESULT, call_id=call_id, segments=[SOME[call_id : call_id + LEND_BYTES]])
    for call_id in range(n):
        frame = receive_while_flushing(right, left, TIMEOUT_S)
        assert (frame.call_id, bytes(frame.segments[0])) == (call_id, SOME[call_id : call_id + LEND_BYTES])
    given_back(left)


def test_both_ways_at_once(pair):
    for channel in pair:
        for call_id in range(3):
            channel.send(Kind.RESULT, call_id=call_id, segments=[SOME])
    for call_id in range(3):
        for channel, other in (pair, pair[::-1]):
            frame = receive_while_flushing(channel, other, TIMEOUT_S)
            assert (frame.call_id, bytes(frame.segments[0])) == (call_id, SOME)
    for channel in pair:
        given_back(channel)


def test_a_kind_that_nobody_knows_is_dropped_unread_and_comes_back(pair):
    left, right = pair
    left.send(UNKNOWN_KIND, call_id=3, segments=[SOME])
    left.send(Kind.RESULT, call_id=4)
    assert receive(right, TIMEOUT_S).call_id == 4
    assert receive(left, TIMEOUT_S).kind == Kind.ERROR
    given_back(left)


@pytest.mark.parametrize("awake", [False, True])
def test_a_receiver_that_waits_is_woken_at_the_end_of_the_reading(pair, awake):
    left, right = pair
    right.stay_awake(awake)
    left.send(Kind.RESULT, segments=[SOME])
    frame = None
    while frame is None:
        assert awake or right.wait(TIMEOUT_S)
        frame = right.spin(1.0) if awake else right.poll()
    assert frame.segments[0] == SOME
    assert left.wait(TIMEOUT_S)  # it is told
    given_back(left)


def test_a_sender_that_closes_takes_everything_back(pair):
    left, right = pair
    data = bytearray(SOME)
    left.send(Kind.RESULT, segments=[data])
    left.close()
    data.append(1)
    frames, error = drain(right, TIMEOUT_S)
    assert (frames, type(error)) == ([], ChannelBroken)


def test_a_payload_outlives_its_channel(pair):
    left, right = pair
    left.send(Kind.RESULT, segments=[SOME])
    frame = receive(right, TIMEOUT_S)
    left.close()
    right.close()
    assert frame.segments[0] == SOME


def test_pool_memory_is_registered_once_and_open_to_the_peer_only_while_it_is_lent(pair):
    left, right = pair
    left.send(Kind.RESULT, segments=[SOME])
    receive(right, TIMEOUT_S)
    given_back(left)
    before = regions()  # with what it was read to
    memory = pool_memory(len(SOME))
    memoryview(memory)[:] = SOME
    for first in (0, 1, 4096):
        left.send(Kind.RESULT, segments=[memoryview(memory)[first:]])
        assert regions() == before + 1
        assert receive(right, TIMEOUT_S).segments[0] == SOME[first:]
        given_back(left)
        assert regions() == before + 1  # it stays, for the next
    del memory
    other = pool_memory(len(SOME))  # the same block: it was kept
    left.send(Kind.RESULT, segments=[other])
    receive(right, TIMEOUT_S)
    assert regions() == before + 1


PROGRAM = """
import sys
from rfaas_transport._core import Channel
channel = Channel.from_verbs(int(sys.argv[1]), device=sys.argv[2])
while True:
    channel.wait(1)
    if (frame := channel.poll()) is not None:
        channel.send(3, call_id=frame.call_id, segments=[bytes(each) for each in frame.segments])
"""


@pytest.fixture
def limited():
    """A channel to a process that sends back what comes, and may register hardly more than its rings."""
    ours, theirs = socket.socketpair()
    command = [*with_locked_memory(1 << 20), sys.executable, "-c", PROGRAM, str(theirs.fileno()), DEVICE]
    child = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    theirs.close()
    try:
        with Channel.from_verbs(ours.detach(), device=DEVICE) as channel:
            yield channel
    finally:
        child.kill()
        child.wait()


def test_a_side_that_may_lock_little_memory_reads_by_pieces_and_sends_through_the_ring(limited):
    limited.send(Kind.RESULT, call_id=1, segments=[b"x", SOME])
    frame = receive(limited, TIMEOUT_S)
    assert [bytes(segment) for segment in frame.segments] == [b"x", SOME]
