"""Stream sockets: partial writes, borrowed buffers, what the kernel has, and peers that break the rules."""

import contextlib
import fcntl
import os
import select
import socket
import struct

import pytest

from rfaas_transport._core import Channel, crc32c
from rfaas_transport.errors import ChannelBroken, ChannelClosed
from rfaas_transport.frame import Decoder, Header, Kind, Status, encode
from support.media import drain, read_exactly, receive, tcp_sockets
from support.waiting import wait_until

MIB = 1 << 20


def shrink(sock):
    """The smallest send buffer that the kernel grants: every larger frame is sent in parts."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)


def move(channel, sock, operation):
    """Let `channel` send by `operation` and take what has arrived at `sock`; waits until one of both is possible."""
    readable, _, _ = select.select([sock], [channel], [], 20)
    assert operation() in (True, False, None)
    return sock.recv(1 << 16) if readable else b""


@pytest.fixture
def channel_and_socket(sockets):
    left, right = sockets
    with Channel.from_fd(left.detach()) as channel:
        yield channel, right


@pytest.fixture
def narrow(sockets):
    """As channel_and_socket, with tiny buffers."""
    for sock in sockets:
        shrink(sock)
    with Channel.from_fd(sockets[0].detach()) as channel:
        yield channel, sockets[1]


def test_a_full_socket_queues_the_rest_and_borrows_the_buffers_until_it_left(narrow):
    channel, sock = narrow
    data = bytearray(os.urandom(MIB))
    small = bytearray(b"behind it")
    expected = b"".join(encode(Header(kind=Kind.RESULT, call_id=1), [data])) + b"".join(
        encode(Header(kind=Kind.RESULT, call_id=2), [small, b""])
    )
    assert channel.send(Kind.RESULT, call_id=1, segments=[data]) is False
    assert channel.send(Kind.RESULT, call_id=2, segments=[small, b""]) is False
    assert channel.wants_write
    for borrowed in (data, small):
        with pytest.raises(BufferError):
            borrowed.clear()
    assert channel.unacknowledged_bytes() >= channel.statistics()["queued_bytes"] > 0
    received = b""
    while len(received) < len(expected):
        received += move(channel, sock, channel.flush)
    assert received == expected
    assert channel.flush()
    assert not channel.wants_write
    data.clear()
    small.clear()
    wait_until(lambda: channel.unacknowledged_bytes() == 0, 5)
    assert channel.statistics()["queued_bytes"] == 0


def test_many_segments_in_parts(narrow):
    channel, sock = narrow
    segments = [bytes([i % 256]) * (i % 700) for i in range(3000)]
    channel.send(Kind.RESULT, segments=segments)
    decoder, frames = Decoder(), []
    while not frames:
        frames = decoder.feed(move(channel, sock, channel.flush))
    assert frames[0].segments == tuple(segments)


def test_poll_sends_what_is_queued_too(narrow):
    channel, sock = narrow
    data = os.urandom(300_000)
    channel.send(Kind.RESULT, segments=[data])
    decoder, frames = Decoder(), []
    while not frames:
        frames = decoder.feed(move(channel, sock, channel.poll))
    assert frames[0].segments == (data,)


def test_close_lets_go_of_borrowed_buffers_and_the_peer_sees_a_broken_frame(narrow):
    channel, sock = narrow
    data = bytearray(MIB)
    assert not channel.send(Kind.RESULT, segments=[data])
    channel.close()
    data.clear()
    with Channel.from_fd(sock.detach()) as peer:
        assert isinstance(drain(peer)[1], ChannelBroken)


def test_a_channel_that_nobody_holds_lets_go_of_borrowed_buffers():
    left, right = socket.socketpair()
    shrink(left)
    data = bytearray(MIB)
    with right:
        holder = [Channel.from_fd(left.detach())]
        assert not holder[0].send(Kind.RESULT, segments=[data])
        holder.clear()
        data.clear()


def test_a_peer_that_hangs_up_frees_what_is_queued(narrow):
    channel, sock = narrow
    data = bytearray(MIB)
    assert not channel.send(Kind.RESULT, segments=[data])
    sock.close()

    def broken():
        try:
            channel.flush()
        except ChannelBroken:
            return True
        return False

    wait_until(broken, 5)
    data.clear()
    assert not channel.wants_write
    assert channel.unacknowledged_bytes() == 0


def test_what_the_kernel_took_is_delivered_after_close(channel_and_socket):
    channel, sock = channel_and_socket
    assert channel.send(Kind.RESULT, segments=[bytes(10_000)])
    channel.close()
    assert len(read_exactly(sock, 64 + 10_000)) == 10_064
    assert sock.recv(1) == b""


def test_unacknowledged_bytes_fall_to_zero_when_the_peer_has_all(channel_and_socket):
    channel, sock = channel_and_socket
    channel.send(Kind.RESULT, segments=[bytes(1000)])
    read_exactly(sock, 1064)
    wait_until(lambda: channel.unacknowledged_bytes() == 0, 5)


def test_not_one_byte_is_read_beyond_a_frame(channel_and_socket):
    """So that a descriptor is readable exactly while there is something to do, and can change hands."""
    channel, sock = channel_and_socket
    first = b"".join(encode(Header(kind=Kind.RESULT, call_id=1), [b"a", b"bc"]))
    sock.sendall(first + b"not ours")
    assert receive(channel).call_id == 1
    copy = socket.socket(fileno=os.dup(channel.fileno()))
    with copy:
        assert wait_until(lambda: copy.recv(100), 5) == b"not ours"


def test_a_descriptor_that_was_adopted_is_non_blocking_and_not_inherited(sockets):
    left, _ = sockets
    os.set_inheritable(left.fileno(), True)
    with Channel.from_fd(left.detach()) as channel:
        assert not os.get_inheritable(channel.fileno())
        assert fcntl.fcntl(channel.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK


def test_tcp_sends_at_once_and_notices_a_dead_host():
    left, right = tcp_sockets()
    with right, Channel.from_fd(left.detach(), user_timeout_s=1.5) as channel:
        copy = socket.socket(fileno=os.dup(channel.fileno()))
        with copy:
            assert copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert copy.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1500


def test_a_reset_connection_is_broken_after_what_had_arrived():
    left, right = tcp_sockets()
    with Channel.from_fd(left.detach()) as channel:
        right.sendall(b"".join(encode(Header(kind=Kind.RESULT, call_id=1), [b"x"])))
        right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        right.close()
        frames, error = drain(channel)
        assert ([frame.call_id for frame in frames], type(error)) == ([1], ChannelBroken)


def test_half_a_frame_then_the_end_is_broken_after_the_whole_ones(channel_and_socket):
    channel, sock = channel_and_socket
    whole = b"".join(encode(Header(kind=Kind.RESULT, call_id=1), [b"whole"]))
    sock.sendall(whole + whole[:-1])
    sock.close()
    frames, error = drain(channel)
    assert ([frame.call_id for frame in frames], type(error)) == ([1], ChannelBroken)


def test_a_payload_above_the_receivers_limit_is_refused_from_its_head(sockets):
    left, right = sockets
    with Channel.from_fd(left.detach(), max_payload_bytes=1000) as channel:
        right.sendall(encode(Header(kind=Kind.RESULT), [bytes(1001)])[0])
        with pytest.raises(ChannelBroken, match="max_payload_bytes"):
            wait_until(channel.poll, 5)


def test_a_huge_payload_that_nobody_has_memory_for_breaks_the_channel_alone(sockets):
    left, right = sockets
    with Channel.from_fd(left.detach(), max_payload_bytes=1 << 62) as channel:
        head = bytearray(encode(Header(kind=Kind.RESULT), [b"x"])[0])
        head[48:56] = (1 << 61).to_bytes(8, "little")
        head[8:12] = bytes(4)
        head[8:12] = crc32c(head).to_bytes(4, "little")
        right.sendall(head)
        with pytest.raises(ChannelBroken, match="no memory"):
            wait_until(channel.poll, 5)


def test_a_call_without_a_credit_is_answered_and_dropped(channel_and_socket):
    channel, sock = channel_and_socket
    sock.sendall(b"".join(encode(Header(kind=Kind.CALL, call_id=8), [b"unasked"])))
    sock.sendall(b"".join(encode(Header(kind=Kind.RESULT, call_id=9))))
    assert receive(channel).call_id == 9
    (answer,) = Decoder().feed(sock.recv(4096))
    assert (answer.header.kind, answer.header.status, answer.header.call_id) == (Kind.ERROR, Status.BAD_FRAME, 8)
    assert answer.header.credits == 0


def test_an_extension_that_must_be_understood_is_answered_and_its_credit_returned(channel_and_socket):
    channel, sock = channel_and_socket
    channel.send(Kind.CREDIT, credits=1)
    read_exactly(sock, 64)
    sock.sendall(b"".join(encode(Header(kind=Kind.CALL, call_id=8), [b"x"], extensions=[(0x8005, b"group")])))
    sock.sendall(b"".join(encode(Header(kind=Kind.RESULT, call_id=9), extensions=[(0x0005, b"skipped")])))
    assert receive(channel).call_id == 9
    (answer,) = Decoder().feed(sock.recv(4096))
    assert (answer.header.status, answer.header.credits) == (Status.UNKNOWN_EXTENSION, 1)
    assert "0x8005" in answer.text


def test_a_peer_that_sends_nonsense_and_reads_nothing_is_given_up(narrow):
    channel, sock = narrow
    sock.setblocking(False)
    nonsense = b"".join(encode(Header(kind=200))) * 64
    at = 0

    def given_up():
        nonlocal at
        with contextlib.suppress(BlockingIOError):
            at = (at + sock.send(nonsense[at:])) % len(nonsense)
        try:
            while channel.poll() is not None or channel.wait(0.0):
                pass
        except ChannelBroken as error:
            return error
        return None

    assert "reads no answer" in str(wait_until(given_up, 30))


def test_a_flood_of_dropped_frames_does_not_keep_poll_for_ever(channel_and_socket):
    channel, sock = channel_and_socket
    sock.sendall(b"".join(encode(Header(kind=200))) * 500)
    sock.sendall(b"".join(encode(Header(kind=Kind.RESULT, call_id=1))))
    assert channel.poll() is None
    assert channel.statistics()["frames_dropped"] < 500
    assert receive(channel).call_id == 1


def test_bytes_after_bye_are_not_looked_at(channel_and_socket):
    channel, sock = channel_and_socket
    sock.sendall(b"".join(encode(Header(kind=Kind.BYE))) + b"rubbish" * 20)
    for _ in range(2):
        with pytest.raises(ChannelClosed):
            channel.poll()
