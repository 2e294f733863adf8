"""Small entries of shared memory against their vectors: what the core writes, what it reads, what it refuses."""

import mmap
import os
import socket

import pytest

from rfaas_transport._core import Channel, shm_segment
from rfaas_transport.errors import ChannelBroken
from rfaas_transport.frame import Header, Kind
from support.media import receive
from support.vectors import load, raw

VECTORS = load("shared-memory")
ENTRIES = {vector["name"]: vector for vector in VECTORS["entries"]}
REFUSED = {vector["name"]: vector for vector in VECTORS["refused"]}

ENTRIES_AT, LINE_BYTES, ENTRY_BYTES = 256, 64, 128  # of direction 0, which lies first (006 section 2)


def entry_at(number):
    return slice(ENTRIES_AT + number * ENTRY_BYTES, ENTRIES_AT + (number + 1) * ENTRY_BYTES)


class Maker:
    """Hands that write into direction 0, with the maker's end of the socket."""

    def __init__(self, memory, sock):
        self._memory, self._sock = memory, sock

    def publish(self, number, entry):
        """As a writer does: the sequence number last."""
        place = entry_at(number)
        sequence = slice(place.start + LINE_BYTES, place.start + LINE_BYTES + 8)
        self._memory[place] = entry[:LINE_BYTES] + self._memory[sequence] + entry[LINE_BYTES + 8 :]
        self._memory[sequence] = (number + 1).to_bytes(8, "little")
        self._sock.send(b"\1")


@pytest.fixture
def maker_and_channel():
    """The hands, and the channel that reads what they write."""
    left, right = socket.socketpair()
    memory_fd = shm_segment(0)
    with (
        mmap.mmap(memory_fd, ENTRIES_AT + ENTRY_BYTES) as memory,
        left,
        Channel.from_shm(right.detach(), memory_fd, 1) as channel,
    ):
        yield Maker(memory, left), channel


@pytest.fixture
def channel_and_memory():
    """A channel that holds a credit, and the memory that it writes to."""
    left, right = socket.socketpair()
    memory_fd = shm_segment(0)
    with (
        mmap.mmap(memory_fd, ENTRIES_AT + ENTRY_BYTES) as memory,
        Channel.from_shm(right.detach(), os.dup(memory_fd), 1) as peer,
        Channel.from_shm(left.detach(), memory_fd, 0) as channel,
    ):
        peer.send(Kind.CREDIT, credits=1)
        receive(channel)
        yield channel, memory


def looked_at(vector):
    """A mask of the bytes of an entry that mean something."""
    pieces = ((b"\0" if about == "not looked at" else b"\xff", len(piece) // 2) for piece, about in vector["bytes"])
    return b"".join(mask * size for mask, size in pieces)


@pytest.mark.parametrize("name", ENTRIES)
def test_the_core_writes_the_vector(name, channel_and_memory):
    channel, memory = channel_and_memory
    vector = ENTRIES[name]
    header = {field: value for field, value in vector["header"].items() if field not in ("kind", "in_size")}
    channel.send(vector["header"]["kind"], segments=[bytes.fromhex(one) for one in vector["segments"]], **header)
    written = memory[entry_at(0)]
    assert bytes(a & b for a, b in zip(written, looked_at(vector), strict=True)).hex() == raw(vector).hex()


@pytest.mark.parametrize("name", ENTRIES)
def test_the_core_reads_the_vector(name, maker_and_channel):
    maker, channel = maker_and_channel
    vector = ENTRIES[name]
    channel.send(Kind.CREDIT, credits=1)
    maker.publish(0, raw(vector))
    frame, expected = receive(channel), Header(**vector["header"])
    for field in vars(expected):
        assert getattr(frame, field) == getattr(expected, field), field
    assert [bytes(segment).hex() for segment in frame.segments] == vector["segments"]
    assert frame.text == ""


@pytest.mark.parametrize("name", REFUSED)
def test_the_core_refuses_what_can_not_be(name, maker_and_channel):
    maker, channel = maker_and_channel
    maker.publish(0, raw(REFUSED[name]))
    with pytest.raises(ChannelBroken, match="what can't be"):
        receive(channel)
