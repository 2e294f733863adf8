"""The settings of [tcp] reach the sockets of data connections, and no others."""

import socket

import pytest

from rfaas.control.data_sockets import socket_options
from rfaas.settings import Settings
from rfaas_transport._core import Channel
from rfaas_transport.errors import ConfigError
from rfaas_transport.socket_options import _SO_ZEROCOPY, KERNELS_OPTIONS, SocketOptions
from support.media import tcp_sockets

ENVIRONMENT = {
    "RFAAS_TCP_PRIORITY": "5",
    "RFAAS_TCP_USER_TIMEOUT_S": "12.5",
    "RFAAS_TCP_ZEROCOPY": "yes",
    "RFAAS_TCP_BUSY_POLL_US": "50",
}


def test_nothing_is_set_unless_asked_for():
    assert socket_options(Settings.load({})) == KERNELS_OPTIONS
    left, right = tcp_sockets()
    with left, right:
        KERNELS_OPTIONS.apply(left)
        for level, option in (
            (socket.SOL_SOCKET, socket.SO_PRIORITY),
            (socket.SOL_SOCKET, _SO_ZEROCOPY),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        ):
            assert left.getsockopt(level, option) == right.getsockopt(level, option) == 0


def test_what_is_asked_for_stays_with_the_socket_when_it_becomes_a_channel():
    options = socket_options(Settings.load(ENVIRONMENT))
    assert options == SocketOptions(priority=5, busy_poll_us=50, zerocopy=True, user_timeout_s=12.5)
    left, right = tcp_sockets()
    copy = left.dup()
    options.apply(left)  # busy polling may be refused here: then it is done without
    with right, copy, Channel.from_fd(left.detach()):
        assert copy.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == 5
        assert copy.getsockopt(socket.SOL_SOCKET, _SO_ZEROCOPY) == 1
        assert copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 12_500


def test_unix_sockets_are_left_alone():
    left, right = socket.socketpair()
    with left, right:
        SocketOptions(priority=5).apply(left)
        assert left.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == 0


@pytest.mark.parametrize("wrong", [{"RFAAS_TCP_PRIORITY": "7"}, {"RFAAS_TCP_BUSY_POLL_US": "-1"}])
def test_a_wrong_value_is_refused(wrong):
    with pytest.raises(ConfigError):
        socket_options(Settings.load(wrong))
