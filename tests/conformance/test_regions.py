"""Reads and writes of a region over every medium (docs/spec/008-memory.md section 2)."""

import contextlib
import random
import threading
from pathlib import Path

import numpy
import pytest

from rfaas_transport._core import REGION_CREDITS, Channel, Region, RegionClient, RegionServer
from rfaas_transport.errors import ChannelBroken, ChannelClosed
from rfaas_transport.frame import Kind, Status
from support.media import IN_GUEST, receive

MIB = 1 << 20
LEASE_SEQ, EPOCH = 7, 2**63 + 1


class Lender:
    """A region, served in a thread until its channel ends."""

    def __init__(self, channel, size_bytes):
        self.region = Region(size_bytes)
        self.server = RegionServer(self.region, channel, LEASE_SEQ, EPOCH)
        self._channel = channel
        self._thread = threading.Thread(target=self._serve)

    def start(self):
        self._channel.send(Kind.HELLO, credits=REGION_CREDITS)
        self._thread.start()
        return self

    def _serve(self):
        with contextlib.suppress(ChannelClosed, ChannelBroken):
            while True:
                while self.server.serve():
                    pass
                self._channel.wait(1.0)

    def join(self):
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def lend(make_pair):
    """Makes a client and the lender of `size_bytes` behind it."""
    made = []

    def lend(size_bytes):
        left, right = make_pair()
        lender = Lender(right, size_bytes).start()
        client = RegionClient(left, LEASE_SEQ, EPOCH)
        made.append((client, lender))
        return client, lender

    yield lend
    while made:  # and lets go of them: a region is a descriptor
        client, lender = made.pop()
        client.close()
        lender.join()


def read(client, offset, size_bytes):
    data = bytearray(size_bytes)
    assert client.transfer([(False, offset, data)]) == 0
    return data


def test_a_region_is_zero_and_keeps_what_is_written(lend):
    client, lender = lend(100_000)
    assert read(client, 0, 100_000) == bytes(100_000)
    assert client.transfer([(True, 99_990, b"0123456789"), (True, 3, b"x")]) == 0
    assert read(client, 99_985, 15) == bytes(5) + b"0123456789"
    assert read(client, 0, 5) == b"\0\0\0x\0"
    one_sided = client.medium == "verbs"
    assert client.n_spans == one_sided
    assert lender.server.served == ((0, 0, 0) if one_sided else (5, 11, 100_020))


def test_large_arrays_travel_whole_from_and_to_their_place(lend):
    """Many pieces each way, none of a size that anything else has."""
    size_bytes = 20 * MIB + 12_345
    client, _ = lend(size_bytes)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    sent = numpy.random.default_rng(seed).integers(0, 256, size_bytes, "u1")
    assert client.transfer([(True, 0, sent)]) == 0
    got = numpy.zeros(size_bytes + 2, "u1")
    assert client.transfer([(False, 0, got[1:-1])]) == 0
    assert numpy.array_equal(got[1:-1], sent)
    assert (got[0], got[-1]) == (0, 0)


def test_what_overlaps_in_one_transfer_happens_in_its_order(lend):
    client, _ = lend(4 * MIB)
    before, after = bytearray(3 * MIB), bytearray(3 * MIB)
    operations = [
        (True, 0, b"a" * (3 * MIB)),
        (False, 0, before),
        (True, 0, b"b" * (3 * MIB)),
        (False, 0, after),
        (True, 100, b"c"),
    ]
    assert client.transfer(operations) == 0
    assert before == b"a" * (3 * MIB)
    assert after == b"b" * (3 * MIB)
    assert read(client, 99, 3) == b"bcb"


def test_any_sequence_gives_what_memory_would(lend):
    size_bytes = 3 * MIB
    client, _ = lend(size_bytes)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng, model = random.Random(seed), bytearray(size_bytes)
    for _ in range(6 if IN_GUEST else 60):
        operations, expected = [], []
        for _ in range(rng.randint(1, 40)):
            offset = rng.randrange(size_bytes)
            n = min(rng.choice([1, 7, 64, 4096, 70_000, 1_500_000]), size_bytes - offset)
            if rng.random() < 0.5:
                data = rng.randbytes(n)
                operations.append((True, offset, data))
                model[offset : offset + n] = data
            else:
                operations.append((False, offset, bytearray(n)))
                expected.append((operations[-1][2], bytes(model[offset : offset + n])))
        assert client.transfer(operations) == 0
        assert all(got == wanted for got, wanted in expected)


@pytest.mark.parametrize(
    ("is_write", "offset", "size_bytes"),
    [(False, 1000, 1), (False, 999, 2), (True, 1000, 1), (True, 0, 1001), (False, 2**64 - 1, 1), (True, 2**64 - 1, 2)],
)
def test_a_range_outside_is_refused_and_nothing_is_touched(lend, is_write, offset, size_bytes):
    client, _ = lend(1000)
    data = bytearray(b"?" * size_bytes)
    assert client.transfer([(is_write, offset, data)]) == Status.OUT_OF_RANGE
    assert data == b"?" * size_bytes
    assert read(client, 0, 1000) == bytes(1000)


def test_a_span_is_opened_once_and_only_from_its_beginning(make_pair):
    left, right = make_pair()
    lender = Lender(right, 65 * MIB).start()
    receive(left)
    at = {"lease_seq": LEASE_SEQ, "epoch": EPOCH}
    left.send(Kind.SPAN, call_id=1, deadline_ns=1, **at)
    left.send(Kind.SPAN, call_id=2, deadline_ns=128 * MIB, **at)
    left.send(Kind.SPAN, call_id=3, deadline_ns=64 * MIB, segments=[b"x"], **at)
    left.send(Kind.SPAN, call_id=4)
    for call_id in (5, 6):
        left.send(Kind.SPAN, call_id=call_id, deadline_ns=64 * MIB, **at)
    answers = [receive(left) for _ in range(6)]
    opened = Status.OK if left.medium == "verbs" else Status.NO_SPAN
    wrong = [Status.OUT_OF_RANGE] * 3
    assert [answer.status for answer in answers] == [*wrong, Status.STALE, opened, opened]
    assert left.tx_credits == REGION_CREDITS
    if opened is Status.OK:
        first, again = (bytes(answer.segments[0]) for answer in answers[4:])
        assert first == again
        assert len(first) == 24
        assert int.from_bytes(first[8:16], "little") == MIB  # to the region's end
        assert first[20:] == bytes(4)
    assert lender.server.served == (0, 0, 0)
    left.close()
    lender.join()


def test_reads_and_writes_cross_from_span_to_span(lend):
    """Two spans and a bit; the first bytes of each, and what lies across."""
    client, lender = lend(129 * MIB)
    rng = random.Random(seed := random.randrange(2**32))
    print(f"seed {seed}")
    data = rng.randbytes(300_000)
    for end in (64 * MIB, 128 * MIB):
        offset = end - 150_001
        assert client.transfer([(True, offset, data)]) == 0
        assert read(client, offset, len(data)) == data
        assert read(client, end, 8) == data[150_001:150_009]
    assert read(client, 129 * MIB - 1, 1) == b"\0"
    if client.medium == "verbs":
        assert client.n_spans == 3
        assert lender.server.served == (0, 0, 0)


@pytest.mark.parametrize(("lease_seq", "epoch"), [(LEASE_SEQ - 1, EPOCH), (LEASE_SEQ, EPOCH - 1), (0, 0)])
def test_an_old_lease_reads_and_changes_nothing(make_pair, lease_seq, epoch):
    left, right = make_pair()
    lender = Lender(right, 100).start()
    client = RegionClient(left, lease_seq, epoch)
    data = bytearray(b"?" * 100)
    assert client.transfer([(True, 0, b"x" * 100)]) == Status.STALE
    assert client.transfer([(False, 0, data)]) == Status.STALE
    assert data == b"?" * 100
    assert lender.server.served == (0, 0, 0)
    client.close()
    lender.join()


def test_other_frames_are_answered_and_the_channel_stays_up(make_pair):
    left, right = make_pair()
    lender = Lender(right, 100).start()
    assert receive(left).credits == REGION_CREDITS
    at = {"lease_seq": LEASE_SEQ, "epoch": EPOCH}
    left.send(Kind.CALL, call_id=1, segments=[b"x"])
    left.send(Kind.DEFINE, call_id=2)
    left.send(Kind.WRITE, call_id=3, segments=[b"a", b"b"], **at)
    left.send(Kind.READ, call_id=4, out_size=10, segments=[b"a"], **at)
    left.send(Kind.READ, call_id=5, **at)
    left.send(Kind.READ, call_id=6, out_size=10, **at)
    answers = [receive(left) for _ in range(6)]
    assert [(a.kind, a.call_id, a.status) for a in answers] == [
        (Kind.ERROR, 1, Status.BAD_FRAME),
        (Kind.ERROR, 2, Status.BAD_FRAME),
        (Kind.RESULT, 3, Status.OUT_OF_RANGE),
        (Kind.RESULT, 4, Status.OUT_OF_RANGE),
        (Kind.RESULT, 5, Status.OUT_OF_RANGE),
        (Kind.RESULT, 6, Status.OK),
    ]
    assert bytes(answers[-1].segments[0]) == bytes(10)
    assert left.tx_credits == REGION_CREDITS
    left.close()
    lender.join()


def test_a_peer_that_answers_with_other_bytes_than_were_asked_for_breaks_the_channel(make_pair):
    left, right = make_pair()
    client = RegionClient(left, 1, 1)
    right.send(Kind.HELLO, credits=4)
    data = bytearray(b"?" * 100)

    def lie():
        call_id = receive(right).call_id
        right.send(Kind.RESULT, call_id=call_id, credits=1, segments=[b"x" * 99])

    liar = threading.Thread(target=lie)
    liar.start()
    with pytest.raises(ChannelBroken):
        client.transfer([(False, 0, data)])
    liar.join()
    assert data == b"?" * 100


def test_an_end_in_the_middle_is_told_and_the_buffers_are_free(make_pair):
    left, right = make_pair()
    client = RegionClient(left, LEASE_SEQ, EPOCH)
    right.send(Kind.HELLO, credits=4)
    ender = threading.Thread(target=lambda: (receive(right), right.close()))
    ender.start()
    data = bytearray(8 * MIB)
    with pytest.raises((ChannelClosed, ChannelBroken)):
        client.transfer([(False, 0, data)])
    ender.join()
    data.append(1)  # nothing exports it any more
    with pytest.raises((ChannelClosed, ChannelBroken)):
        client.transfer([(False, 0, data)])


def test_a_transfer_that_hangs_can_be_given_up_from_another_thread(make_pair):
    left, right = make_pair()
    client = RegionClient(left, LEASE_SEQ, EPOCH)
    right.send(Kind.HELLO, credits=4)
    timer = threading.Timer(0.05, client.abort)
    timer.start()
    with pytest.raises(ChannelClosed):
        client.transfer([(False, 0, bytearray(10)), (True, 0, b"x" * (8 * MIB))])
    timer.join()
    assert left.closed


def test_bad_operations_do_nothing(lend):
    client, lender = lend(100)
    for operations in (
        [(True, 0)],
        [(True, "0", b"x")],
        [(True, 0, "text")],
        [(False, 0, b"read-only")],
        [(True, -1, b"")],
    ):
        with pytest.raises((TypeError, ValueError, BufferError, OverflowError)):
            client.transfer(operations)
    assert client.transfer([]) == 0
    assert client.transfer([(True, 500, b"")]) == 0  # nothing, nowhere
    assert lender.server.served == (0, 0, 0)


def test_a_region_goes_with_its_last_user():
    size_bytes = 1 << 40  # only what is written takes memory

    def mapped():
        spans = (line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines())
        return any(int(end, 16) - int(begin, 16) >= size_bytes for begin, end in spans)

    left, right = Channel.pair()
    region = Region(size_bytes)
    server = RegionServer(region, right, 1, 1)
    assert mapped()
    del region
    assert mapped()
    del server
    assert not mapped()
    left.close()
