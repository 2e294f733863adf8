"""What only the shared-memory medium has: payloads read in place, blocks that come back, memory that can't shrink."""

import ctypes
import fcntl
import mmap
import os
import socket

import pytest

from rfaas_transport._core import Channel, shm_segment
from rfaas_transport.errors import ChannelBroken, ChannelClosed, ConfigError
from rfaas_transport.frame import Kind
from support.media import drain, receive
from support.waiting import wait_until

MIB = 1 << 20
ARENA_BYTES = 8 * MIB


@pytest.fixture
def ends():
    """The maker's end and the peer's, with an arena of 8 MiB."""
    sockets, memory_fd = socket.socketpair(), shm_segment(ARENA_BYTES)
    peer_fd = os.dup(memory_fd)
    maker = Channel.from_shm(sockets[0].detach(), memory_fd, 0)
    peer = Channel.from_shm(sockets[1].detach(), peer_fd, 1)
    with maker, peer:
        yield maker, peer


def is_in_segment(view):
    """Whether the bytes lie in the channel's memory."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    with open("/proc/self/maps") as maps:
        for line in maps:
            first, last = (int(end, 16) for end in line.split()[0].split("-"))
            if first <= address < last:
                return "rfaas-channel" in line
    raise AssertionError("no such address")


def send_and_receive(sender, receiver, data):
    sender.send(Kind.RESULT, segments=[data])

    def poll():
        sender.flush()
        return receiver.poll()

    frame = wait_until(poll, 10)
    assert frame.segments[0] == data
    return frame


def test_large_payloads_of_the_maker_are_read_in_place_and_small_ones_are_not(ends):
    maker, peer = ends
    large, small = os.urandom(MIB), os.urandom(1000)
    assert is_in_segment(send_and_receive(maker, peer, large).segments[0])
    assert not is_in_segment(send_and_receive(maker, peer, small).segments[0])


def test_the_peers_first_large_payload_makes_room_for_the_next(ends):
    maker, peer = ends
    large = os.urandom(MIB)
    assert [is_in_segment(send_and_receive(peer, maker, large).segments[0]) for _ in range(3)] == [False, True, True]


def test_segments_in_place_are_aligned_and_their_own(ends):
    maker, peer = ends
    parts = [os.urandom(size) for size in (0, 1, 40_001, 63, 64, 0, 100_000)]
    maker.send(Kind.RESULT, segments=parts)
    frame = receive(peer)
    assert [bytes(segment) for segment in frame.segments] == parts
    for segment in frame.segments:
        assert not segment or ctypes.addressof(ctypes.c_char.from_buffer(segment)) % 64 == 0


def test_frames_that_are_kept_exhaust_the_arena_and_nothing_else(ends):
    maker, peer = ends
    pieces = [os.urandom(MIB) for _ in range(12)]
    kept = [send_and_receive(maker, peer, piece) for piece in pieces]
    in_place = [is_in_segment(frame.segments[0]) for frame in kept]
    assert in_place == [True] * 8 + [False] * 4
    assert [bytes(frame.segments[0]) for frame in kept] == pieces
    del kept[3:5]
    assert is_in_segment(send_and_receive(maker, peer, bytes(2 * MIB)).segments[0])


def test_blocks_come_back_when_frames_go(ends):
    maker, peer = ends
    large = os.urandom(3 * MIB)
    for _ in range(100):
        assert is_in_segment(send_and_receive(maker, peer, large).segments[0])


def test_a_frame_that_is_not_understood_gives_its_block_back(ends):
    maker, peer = ends
    for _ in range(20):
        maker.send(110, segments=[bytes(3 * MIB)])  # of a kind that is not known yet
        assert peer.poll() is None
        assert receive(maker).kind == Kind.ERROR
    assert is_in_segment(send_and_receive(maker, peer, bytes(ARENA_BYTES)).segments[0])


def test_what_was_read_in_place_outlives_the_channel(ends):
    maker, peer = ends
    large = os.urandom(MIB)
    frame = send_and_receive(maker, peer, large)
    maker.close()
    assert isinstance(drain(peer)[1], ChannelClosed)
    peer.close()
    assert frame.segments[0] == large
    frame.segments[0][:4] = b"mine"
    assert bytes(frame.segments[0][:4]) == b"mine"


def test_a_side_that_stays_awake_is_not_rung_and_is_told_before_it_sleeps(ends):
    maker, peer = ends
    assert not peer.stay_awake(True)
    maker.send(Kind.RESULT, call_id=1)
    bell = socket.socket(fileno=os.dup(peer.fileno()))
    with bell, pytest.raises(BlockingIOError):
        bell.recv(1, socket.MSG_PEEK)
    assert peer.stay_awake(False)  # there is something already
    assert receive(peer).call_id == 1
    assert not peer.stay_awake(False)
    maker.send(Kind.RESULT, call_id=2)
    assert peer.wait(5.0)


def test_a_side_that_stays_awake_learns_of_the_end(ends):
    maker, peer = ends
    peer.stay_awake(True)
    maker.send(Kind.RESULT, call_id=1)
    maker.close()
    frames, error = drain(peer)
    assert ([frame.call_id for frame in frames], type(error)) == ([1], ChannelClosed)


def test_a_sender_that_stays_awake_learns_that_its_peer_is_gone(ends):
    maker, peer = ends
    maker.stay_awake(True)
    peer.close()
    with pytest.raises((ChannelBroken, ChannelClosed)):
        maker.send(Kind.RESULT)


def test_memory_that_could_shrink_is_refused_and_stays_the_callers():
    left, right = socket.socketpair()
    open_fd = os.memfd_create("open", os.MFD_ALLOW_SEALING)
    os.ftruncate(open_fd, 1 << 20)
    with left, right, pytest.raises(ConfigError, match="sealed segment"):
        Channel.from_shm(left.fileno(), open_fd, 0)
    fcntl.fcntl(open_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    left, right = socket.socketpair()
    with left, right, pytest.raises(ConfigError, match="sealed segment"):
        Channel.from_shm(left.fileno(), open_fd, 0)  # of a wrong size
    os.close(open_fd)


def test_a_segment_can_be_neither_cut_nor_grown():
    memory_fd = shm_segment(0)
    size_bytes = os.fstat(memory_fd).st_size
    for other_bytes in (0, size_bytes - mmap.PAGESIZE, size_bytes + mmap.PAGESIZE):
        with pytest.raises(PermissionError):
            os.ftruncate(memory_fd, other_bytes)
    os.close(memory_fd)


@pytest.mark.parametrize("arena_bytes", [1, 4095, (1 << 30) + 4096])
def test_arenas_of_other_sizes_are_refused(arena_bytes):
    with pytest.raises(OSError, match="Invalid"):
        shm_segment(arena_bytes)


def test_a_channel_without_an_arena_works():
    sockets, memory_fd = socket.socketpair(), shm_segment(0)
    left = Channel.from_shm(sockets[0].detach(), os.dup(memory_fd), 0)
    right = Channel.from_shm(sockets[1].detach(), memory_fd, 1)
    with left, right:
        data = os.urandom(3 * MIB)
        assert not is_in_segment(send_and_receive(left, right, data).segments[0])


def test_only_what_is_used_takes_memory():
    memory_fd = shm_segment()
    assert os.fstat(memory_fd).st_blocks == 0
    os.close(memory_fd)


def test_only_a_unix_stream_socket_will_do(make_pair):
    memory_fd = shm_segment(0)
    for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        left, right = socket.socketpair(socket.AF_UNIX, kind)
        with left, right, pytest.raises(ConfigError, match="unix stream socket"):
            Channel.from_shm(left.fileno(), memory_fd, 0)
    with pytest.raises(ConfigError):
        Channel.from_shm(987_654, memory_fd, 0)
    os.close(memory_fd)
