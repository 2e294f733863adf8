"""One message a packet, with descriptors, over a real socket pair."""

import os
import socket

import msgpack
import pytest

from rfaas.session import packets
from rfaas.session.connection import SessionConnection, SessionEnded
from rfaas_transport.errors import PayloadTooLarge, ProtocolError
from rfaas_transport.messages import PACKET_LIMIT_BYTES
from support.waiting import wait_until

WELCOME = {"pid": 5, "mode": "personal", "allocator": "here"}


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_a_message_arrives_whole_with_its_descriptor(pair):
    ours, theirs = pair
    read, write = os.pipe()
    packets.send(ours, packets.pack({"m": "channel", "data": b"\0" * 1000}), [write])
    os.close(write)
    message, descriptors = packets.receive(theirs)
    assert message == {"m": "channel", "data": b"\0" * 1000}
    os.write(descriptors[0], b"x")
    assert os.get_inheritable(descriptors[0]) is False
    packets.close_all(descriptors)
    assert os.read(read, 10) == b"x"
    assert os.read(read, 10) == b""  # nobody else holds it
    os.close(read)


def test_messages_keep_their_borders(pair):
    ours, theirs = pair
    for number in range(3):
        packets.send(ours, packets.pack({"m": "x", "n": number}))
    assert [packets.receive(theirs)[0]["n"] for _ in range(3)] == [0, 1, 2]


def test_a_message_may_be_as_long_as_a_packet(pair):
    ours, theirs = pair
    room = PACKET_LIMIT_BYTES - len(packets.pack({"m": "x", "t": b"\0" * 70_000})) + 70_000
    packets.send(ours, packets.pack({"m": "x", "t": b"\1" * room}))
    assert len(packets.receive(theirs)[0]["t"]) == room
    with pytest.raises(PayloadTooLarge):
        packets.pack({"m": "x", "t": b"\1" * (room + 1)})


@pytest.mark.parametrize(
    "data",
    [b"\xc1", msgpack.packb([1]), msgpack.packb({"k": 1}), msgpack.packb({"m": 1}), msgpack.packb({"m": "x"}) + b"\0"],
    ids=["unused code", "no map", "no m", "m is no text", "trailing byte"],
)
def test_what_is_no_message_is_refused_and_its_descriptors_closed(pair, data):
    ours, theirs = pair
    read, write = os.pipe()
    packets.send(ours, data, [write])
    os.close(write)
    with pytest.raises(ProtocolError):
        packets.receive(theirs)
    assert os.read(read, 1) == b""
    os.close(read)


def test_the_peer_s_end_is_none(pair):
    ours, theirs = pair
    ours.close()
    assert packets.receive(theirs) is None


def test_the_kernel_tells_who_the_peer_is(pair):
    assert packets.peer(pair[0]) == (os.getpid(), os.getuid())


def test_a_connection_receives_nothing_until_something_is_there(pair):
    ours, theirs = pair
    connection = SessionConnection(ours, WELCOME)
    assert (connection.pid, connection.mode, connection.allocator) == (5, "personal", "here")
    assert connection.receive() is None
    packets.send(theirs, packets.pack({"m": "queued"}))
    assert connection.receive() == ({"m": "queued"}, [])


def test_a_connection_keeps_what_the_peer_does_not_read_yet(pair):
    ours, theirs = pair
    connection = SessionConnection(ours, WELCOME)
    sent = 0
    while not connection.wants_write:
        connection.send({"m": "want", "n": sent, "fill": b"\0" * 10_000})
        sent += 1
    connection.send({"m": "want", "n": sent, "fill": b""})
    received = []
    theirs.setblocking(False)

    def all_there():
        connection.flush()
        try:
            received.append(packets.receive(theirs)[0]["n"])
        except BlockingIOError:
            return False
        return len(received) == sent + 1

    wait_until(all_there, 5)
    assert received == list(range(sent + 1))
    assert not connection.wants_write


def test_a_connection_says_when_the_session_process_has_gone(pair):
    ours, theirs = pair
    connection = SessionConnection(ours, WELCOME)
    packets.send(theirs, packets.pack({"m": "queued"}))
    theirs.close()
    assert connection.receive() == ({"m": "queued"}, [])
    with pytest.raises(SessionEnded, match="pid 5"):
        connection.receive()
    with pytest.raises(SessionEnded):
        connection.send({"m": "leave"})
    connection.close()
    connection.close()
    assert connection.fileno() == -1
