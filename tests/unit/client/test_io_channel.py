"""Which channel a client makes of a connection that it is handed: never a plain one where encryption was asked for."""

import os
import socket

import pytest

from rfaas.client.events import ChannelOpened
from rfaas.client.opening import open_channel
from rfaas.client.records import ChannelInfo
from rfaas.config import configure
from rfaas_transport import tls
from rfaas_transport.errors import ConfigError


def opened(medium, key=b""):
    return ChannelOpened(ChannelInfo(1, b"l" * 16, 1, 1, 0, 1, "n1", medium), key)


@pytest.fixture
def sock():
    left, right = socket.socketpair()
    with left, right:
        yield left


@pytest.fixture
def encrypting(monkeypatch):
    monkeypatch.setattr(tls, "require", lambda: None)  # whether it can be had here is another test's
    return configure({}, transport_security="encrypt")


def test_a_session_process_that_knows_no_encryption_gets_no_plain_channel_of_it(sock, encrypting):
    for medium in "tcp", "verbs":
        with pytest.raises(ConfigError, match="plain connection"):
            open_channel(opened(medium), sock.fileno(), encrypting)
    sock.getpeername()  # the descriptor stays the caller's


@pytest.mark.parametrize("key", [b"", b"short"])
def test_an_encrypted_channel_without_a_proper_key_is_none(sock, encrypting, key):
    with pytest.raises(ConfigError, match="key of a channel"):
        open_channel(opened("tls", key), sock.fileno(), encrypting)


def test_what_stays_on_the_node_is_plain(sock, encrypting):
    with open_channel(opened("unix"), os.dup(sock.fileno()), encrypting) as channel:
        assert channel.medium == "unix"


def test_a_key_does_not_show_where_events_are_logged():
    assert "secret" not in repr(opened("tls", b"secret" * 5))
