"""Frames over every medium: exchange, order, sizes, credits, who owns a buffer."""

import gc
import os
import random
from pathlib import Path

import numpy
import pytest

from rfaas_transport._core import MAX_SEGMENTS, Channel, Frame
from rfaas_transport.errors import ChannelBroken, ChannelClosed, NoCredit, PayloadTooLarge
from rfaas_transport.frame import Kind, Status
from support.media import IN_GUEST, SAID, drain, grant, receive, receive_while_flushing
from support.waiting import wait_until

MIB = 1 << 20


def test_a_channel_says_which_medium_it_is(pair, medium):
    assert [channel.medium for channel in pair] == SAID.get(medium, [medium, medium])


def test_a_frame_arrives_as_it_was_sent(pair):
    left, right = pair
    fields = {
        "attempt": 3,
        "status": 4,
        "function": 5,
        "credits": 6,
        "call_id": 2**63 + 7,
        "lease_seq": 8,
        "epoch": 2**64 - 1,
        "deadline_ns": 10,
        "out_size": 11,
    }
    assert left.send(Kind.RESULT, text="grüße", segments=[b"one", bytearray(b"two"), memoryview(b"three")], **fields)
    frame = receive(right)
    assert {name: getattr(frame, name) for name in fields} == fields
    assert (frame.kind, frame.flags, frame.in_size, frame.text) == (Kind.RESULT, 0, 11, "grüße")
    assert [bytes(segment) for segment in frame.segments] == [b"one", b"two", b"three"]
    assert right.poll() is None


def test_frames_arrive_in_order_both_ways(pair):
    left, right = pair
    for call_id in range(1, 300):
        left.send(Kind.DEFINE, call_id=call_id, segments=[bytes(call_id)])
        right.send(Kind.RESULT, call_id=call_id)
    assert [receive_while_flushing(right, left).call_id for _ in range(1, 300)] == list(range(1, 300))
    assert [receive_while_flushing(left, right).call_id for _ in range(1, 300)] == list(range(1, 300))


def test_either_side_may_speak_first_and_unasked(pair):
    for speaker, listener in (pair, pair[::-1]):
        speaker.send(Kind.HELLO, segments=[b"here I am"])
        assert bytes(receive(listener).segments[0]) == b"here I am"


@pytest.mark.parametrize(
    "sizes", [[], [0], [1], [0, 0], [0, 5, 0], [63, 64, 65, 1, 0, 200_000], [1] * 1000, [0] * 1000, [3] * MAX_SEGMENTS]
)
def test_segments_keep_their_number_sizes_and_content(pair, sizes):
    left, right = pair
    segments = [bytes([i % 251]) * size for i, size in enumerate(sizes)]
    left.send(Kind.RESULT, segments=segments)
    frame = receive_while_flushing(right, left)
    assert [bytes(segment) for segment in frame.segments] == segments
    assert frame.in_size == sum(sizes)


def test_large_payloads_cross_each_other(pair):
    left, right = pair
    payloads = [random.Random(seed).randbytes((8 if IN_GUEST else 64) * MIB) for seed in (1, 2)]
    left.send(Kind.DEFINE, segments=[payloads[0]])
    right.send(Kind.RESULT, segments=[payloads[1][: 5 * MIB], payloads[1][5 * MIB :]])
    received: dict[Channel, Frame] = {}

    def both_arrived():
        for channel in pair:
            if (frame := channel.poll()) is not None:
                received[channel] = frame
        return len(received) == 2

    wait_until(both_arrived, 60, "both payloads")
    assert received[right].segments[0] == payloads[0]
    assert b"".join(received[left].segments) == payloads[1]
    assert [channel.wants_write for channel in pair] == [False, False]


def test_segments_are_writable_aligned_and_own_their_buffer(pair):
    left, right = pair
    left.send(Kind.RESULT, segments=[b"abc", b"defg"])
    left.send(Kind.RESULT, segments=[b"wxyz"])
    frame = receive(right)
    first, second = frame.segments
    assert (first.readonly, first.format, first.ndim, first.nbytes, second.nbytes) == (False, "B", 1, 3, 4)
    later = receive(right)
    del frame, later
    right.close()
    gc.collect()
    first[0] = ord("A")
    second[3] = ord("G")
    assert (bytes(first), bytes(second)) == (b"Abc", b"defG")


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_goes_when_frames_go(pair):
    left, right = pair
    payload = bytes(MIB)
    before = resident_bytes()
    for _ in range(100):
        left.send(Kind.RESULT, segments=[payload, b"x"], text="t")
        assert receive_while_flushing(right, left).in_size == MIB + 1
    assert resident_bytes() - before < 50 * MIB


def test_arrays_over_received_segments_are_aligned(pair):
    left, right = pair
    left.send(Kind.RESULT, segments=[b"a", numpy.arange(5.0), b"b", numpy.arange(3)])
    frame = receive(right)
    arrays = [numpy.frombuffer(frame.segments[i], dtype) for i, dtype in ((1, numpy.float64), (3, numpy.int64))]
    assert all(array.ctypes.data % 64 == 0 and array.flags.writeable for array in arrays)
    assert [list(array) for array in arrays] == [[0, 1, 2, 3, 4], [0, 1, 2]]


@pytest.mark.parametrize("wrong", ["text", 7, None, memoryview(b"12345678")[::2]])
def test_what_is_no_contiguous_buffer_is_refused_and_nothing_is_sent(pair, wrong):
    left, right = pair
    with pytest.raises((TypeError, BufferError)):
        left.send(Kind.RESULT, segments=[b"fine", wrong])
    left.send(Kind.RESULT, call_id=9)
    assert receive(right).call_id == 9


@pytest.mark.parametrize("field", ["call_id", "status", "credits", "attempt"])
@pytest.mark.parametrize("value", [-1, 2**64])
def test_a_number_out_of_range_is_refused_and_nothing_is_sent(pair, field, value):
    with pytest.raises(OverflowError):
        pair[0].send(Kind.RESULT, **{field: value})
    assert pair[1].poll() is None


# ---- credits ----


def test_a_call_needs_a_credit_and_without_one_nothing_is_sent(pair):
    left, right = pair
    data = bytearray(b"mine")
    with pytest.raises(NoCredit):
        left.send(Kind.CALL, call_id=1, segments=[data])
    data.extend(b" again")  # not borrowed
    assert right.poll() is None
    right.send(Kind.HELLO, credits=2)
    assert left.tx_credits == 0
    receive(left)
    assert left.tx_credits == 2
    left.send(Kind.CALL, call_id=2)
    left.send(Kind.CALL, call_id=3)
    with pytest.raises(NoCredit):
        left.send(Kind.CALL, call_id=4)
    assert [receive(right).call_id for _ in range(2)] == [2, 3]
    right.send(Kind.RESULT, call_id=2, credits=1)
    receive(left)
    assert left.tx_credits == 1


@pytest.mark.parametrize("kind", [Kind.CALL, 32, 63, 64, 95])
def test_calls_objects_and_peers_are_credited_and_credits_are_each_sides_own(pair, kind):
    left, right = pair
    grant(left, right)
    with pytest.raises(NoCredit):
        left.send(kind)
    right.send(kind)
    assert right.tx_credits == 0


@pytest.mark.parametrize("kind", [kind for kind in Kind if not Kind.is_credited(kind) and kind != Kind.BYE])
def test_all_other_kinds_need_no_credit(pair, kind):
    left, right = pair
    left.send(kind, call_id=5)
    assert (receive(right).kind, left.tx_credits) == (kind, 0)


def test_at_most_65535_credits_are_held(pair):
    left, right = pair
    for _ in range(3):
        right.send(Kind.CREDIT, credits=40_000)
        receive(left)
    assert left.tx_credits == 65_535


# ---- what is not understood ----


@pytest.mark.parametrize("kind", [0, 10, 31, 100, 128, 255])
def test_an_unknown_kind_is_answered_and_the_channel_stays_up(pair, kind):
    left, right = pair
    left.send(kind, call_id=12, segments=[bytes(100_000)])
    left.send(Kind.RESULT, call_id=13)
    assert receive_while_flushing(right, left).call_id == 13
    answer = receive(left)
    assert (answer.kind, answer.status, answer.call_id) == (Kind.ERROR, Status.UNKNOWN_KIND, 12)
    assert str(kind) in answer.text
    assert right.statistics()["frames_dropped"] == 1


@pytest.mark.parametrize("kind", [35, 64, 95])
def test_a_credit_that_an_unknown_kind_used_comes_back(pair, kind):
    left, right = pair
    grant(right, left)
    left.send(kind, call_id=14)
    right.wait(5.0)
    assert right.poll() is None
    answer = receive(left)
    assert (answer.status, answer.credits, left.tx_credits) == (Status.UNKNOWN_KIND, 1, 1)


# ---- limits ----


def test_a_payload_above_the_senders_limit_is_refused_before_anything_is_sent(make_pair):
    left, right = make_pair(max_payload_bytes=1000)
    data = bytearray(1001)
    for segments in ([data], [data[:500], data[:501]]):
        with pytest.raises(PayloadTooLarge):
            left.send(Kind.RESULT, segments=segments)
    data.clear()  # not borrowed
    left.send(Kind.RESULT, segments=[bytes(1000)])
    assert receive(right).in_size == 1000


def test_counters_tell_what_went_through(pair):
    left, right = pair
    grant(right, left, 3)
    left.send(Kind.CALL, call_id=1, segments=[b"12345"])
    left.send(Kind.DEFINE, segments=[b"123"])
    receive(right)
    receive(right)
    sent, received = left.statistics(), right.statistics()
    assert (sent["frames_sent"], sent["payload_bytes_sent"], sent["tx_credits"]) == (2, 8, 2)
    assert (received["frames_received"], received["payload_bytes_received"], received["rx_credits"]) == (2, 8, 2)
    assert (sent["frames_received"], received["frames_sent"]) == (1, 1)


def test_an_answer_that_nobody_takes_does_not_hide_what_was_sent(pair):
    left, right = pair
    left.send(200)
    left.send(Kind.RESULT, call_id=15)
    left.close()
    frames, error = drain(right)
    assert [frame.call_id for frame in frames] == [15]
    assert isinstance(error, ChannelBroken | ChannelClosed)
