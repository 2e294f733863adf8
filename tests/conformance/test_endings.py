"""How a channel ends on every medium: BYE, close, the peer's death; what is still delivered, what is let go."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from rfaas_transport._core import Channel
from rfaas_transport.errors import ChannelBroken, ChannelClosed, ConfigError
from rfaas_transport.frame import Kind
from support.media import MEDIA, drain, grant, receive
from support.waiting import wait_until


def test_bye_is_the_end_after_what_was_sent_before(pair):
    left, right = pair
    left.send(Kind.RESULT, call_id=1)
    left.send(Kind.RESULT, call_id=2, segments=[b"x"])
    left.send(Kind.BYE)
    frames, error = drain(right)
    assert [frame.call_id for frame in frames] == [1, 2]
    assert isinstance(error, ChannelClosed)
    for operation in (right.poll, right.flush, lambda: right.send(Kind.RESULT)):
        with pytest.raises(ChannelClosed, match="BYE"):
            operation()
    assert not right.closed


def test_after_its_own_bye_a_side_sends_nothing_and_still_receives(pair):
    left, right = pair
    left.send(Kind.BYE)
    with pytest.raises(ChannelClosed):
        left.send(Kind.RESULT)
    right.send(Kind.RESULT, call_id=3)
    assert receive(left).call_id == 3


def test_a_closed_peer_is_an_orderly_end_after_what_it_had_sent(pair):
    left, right = pair
    for call_id in range(1, 21):
        left.send(Kind.RESULT, call_id=call_id, segments=[bytes(100)])
    left.close()
    frames, error = drain(right)
    assert [frame.call_id for frame in frames] == list(range(1, 21))
    assert isinstance(error, ChannelClosed)
    with pytest.raises(ChannelClosed):
        right.poll()


def test_frames_that_arrived_come_before_the_failure_of_sending(pair):
    left, right = pair
    left.send(Kind.RESULT, call_id=1)
    left.send(Kind.RESULT, call_id=2)
    left.close()

    def sending_fails():
        try:
            right.send(Kind.RESULT, segments=[bytes(1000)])
        except ChannelBroken:
            return True
        return False

    wait_until(sending_fails, 5)
    with pytest.raises(ChannelBroken):
        right.flush()
    frames, error = drain(right)
    assert [frame.call_id for frame in frames] == [1, 2]
    assert isinstance(error, ChannelBroken)


def test_close_is_repeatable_and_nothing_works_afterwards(pair):
    left, right = pair
    left.close()
    left.close()
    assert (left.closed, left.fileno(), left.wants_write, left.unacknowledged_bytes()) == (True, -1, False, 0)
    for operation in (left.poll, left.flush, lambda: left.send(Kind.RESULT)):
        with pytest.raises(ChannelClosed):
            operation()
    assert left.wait(0.0)  # poll has something to tell
    assert left.statistics()["frames_sent"] == 0
    right.close()


def test_a_channel_is_a_context_manager(pair):
    with pair[0] as channel:
        assert not channel.closed
    assert channel.closed


def test_a_channel_that_nobody_holds_closes_itself(medium):
    left, right = MEDIA[medium]()
    left.send(Kind.RESULT, call_id=4)
    del left
    frames, error = drain(right)
    assert (len(frames), type(error)) == (1, ChannelClosed)
    right.close()


def test_channels_and_frames_are_not_made_by_hand():
    for kind in (Channel, type(_a_frame())):
        with pytest.raises(TypeError):
            kind()


def _a_frame():
    left, right = Channel.pair()
    with left, right:
        left.send(Kind.RESULT)
        return receive(right)


@pytest.mark.parametrize("make", [lambda: os.pipe(), lambda: _datagram_pair()], ids=["pipe", "datagram"])
def test_what_is_no_stream_socket_is_refused_and_stays_the_callers(make):
    fds = make()
    with pytest.raises(ConfigError):
        Channel.from_fd(fds[0])
    for fd in fds:
        os.close(fd)  # still open


def _datagram_pair():
    return [sock.detach() for sock in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)]


def test_a_listening_socket_and_a_wrong_number_are_refused():
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(ConfigError):
        Channel.from_fd(server.fileno())
    with pytest.raises(ConfigError):
        Channel.from_fd(987_654)


def test_the_end_of_the_peers_process_ends_the_channel(sockets):
    ours, theirs = sockets
    program = (
        "import os, signal, sys; from rfaas_transport._core import Channel;"
        "channel = Channel.from_fd(int(sys.argv[1])); channel.send(96, credits=1, segments=[b'up']); signal.pause()"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    try:
        theirs.close()
        with Channel.from_fd(ours.detach()) as channel:
            assert bytes(receive(channel).segments[0]) == b"up"
            channel.send(Kind.CALL, call_id=1)
            child.send_signal(signal.SIGKILL)
            frames, error = drain(channel)
            # Unread bytes make the peer's kernel reset the connection: the end is an end either way.
            assert (frames, type(error) in (ChannelClosed, ChannelBroken)) == ([], True)
    finally:
        child.kill()
        child.wait()


def test_a_forked_child_that_keeps_the_descriptor_keeps_the_channel_open_until_it_ends(sockets):
    """Why a channel's end is no proof of anything, and farewells come on another connection."""
    ours, theirs = sockets
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[theirs.fileno()])
    try:
        with Channel.from_fd(ours.detach()) as channel:
            theirs.close()
            assert not channel.wait(0.0)
            assert channel.poll() is None
            child.stdin.close()
            child.wait(10)
            assert isinstance(drain(channel)[1], ChannelClosed)
    finally:
        child.kill()
        child.wait()


def test_a_forked_child_may_close_its_copy_and_disturbs_nobody(pair):
    left, right = pair
    left.send(Kind.RESULT, call_id=1)
    child = os.fork()
    if child == 0:
        left.close()
        right.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert receive(right).call_id == 1
    assert not right.wait(0.0)
    assert right.poll() is None
    right.send(Kind.RESULT, call_id=2)
    assert receive(left).call_id == 2


def test_credits_and_ends_are_independent(pair):
    left, right = pair
    grant(right, left)
    right.close()
    assert left.tx_credits == 1
    drain(left)
    with pytest.raises(ChannelClosed):
        left.send(Kind.CALL)
    assert left.tx_credits == 1
