"""Agents and programs that were told which network, and which options of its sockets, calls take."""

import socket

import numpy as np
import pytest

import rfaas
from rfaas.control.address import AllocatorAddress
from rfaas_executors.command import _listen_host, _parser
from rfaas_transport.errors import AllocatorUnavailable, ConfigError
from rfaas_transport.socket_options import _SO_ZEROCOPY
from support.personal import Personal
from support.waiting import wait_until


@pytest.fixture
def personal(tmp_path):
    made = Personal(tmp_path)
    made.start_allocator()
    yield made
    made.stop()


def data_socket(executor):
    """A copy of the socket of its one channel."""
    ports = executor._engine._ports._by_token
    [port] = wait_until(lambda: list(ports.values()), 60, "a channel")
    return socket.fromfd(port.channel.fileno(), socket.AF_INET, socket.SOCK_STREAM)


def test_calls_take_the_network_and_the_options_that_were_named(personal, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", personal.state_dir.parent.name)  # a session process that reads these
    monkeypatch.setenv("RFAAS_SESSION_INTERFACE", "127.0.0.0/8")
    monkeypatch.setenv("RFAAS_TCP_ZEROCOPY", "yes")
    monkeypatch.setenv("RFAAS_TCP_PRIORITY", "4")
    personal.start_agent(1, 5.0, "--listen", "lo")
    with rfaas.Executor(1, allocator=personal.state_dir) as executor:
        sent = np.arange(1 << 20)
        for _ in range(3):
            got = executor.submit(np.negative, sent).result(60)
            assert np.array_equal(got, -sent)
        with data_socket(executor) as sock:
            assert (sock.getsockname()[0], sock.getpeername()[0]) == ("127.0.0.1", "127.0.0.1")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == 4
            assert sock.getsockopt(socket.SOL_SOCKET, _SO_ZEROCOPY) == 1


def test_a_network_that_is_not_here_is_said_at_once(personal, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", personal.state_dir.parent.name)
    monkeypatch.setenv("RFAAS_SESSION_INTERFACE", "203.0.113.0/24")
    with (
        rfaas.Executor(1, allocator=personal.state_dir, acquire_timeout_s=30) as executor,
        pytest.raises(AllocatorUnavailable, match=r"no address in 203\.0\.113\.0/24"),
    ):
        executor.submit(pow, 2, 5).result(60)


@pytest.mark.parametrize(
    ("option", "setting", "host"),
    [
        ("auto", "lo", "127.0.0.1"),  # Slurm's slices: an interface or a network means an address on each node
        ("auto", "127.0.0.0/8", "127.0.0.1"),
        ("lo", None, "127.0.0.1"),
        ("10.9.8.7", "lo", "10.9.8.7"),
        (None, "lo", ""),  # who is not told to listen for other hosts does not
    ],
)
def test_an_agent_listens_where_the_option_and_the_setting_say(monkeypatch, tmp_path, option, setting, host):
    if setting is not None:
        monkeypatch.setenv("RFAAS_AGENT_LISTEN", setting)
    arguments = ["--state-dir", str(tmp_path), "--cores", "1", "--memory-bytes", "1"]
    options = _parser().parse_args(arguments + ([] if option is None else ["--listen", option]))
    assert _listen_host(options, nobody) == host


def test_a_network_that_an_agent_is_not_on_is_refused(monkeypatch, tmp_path):
    arguments = ["--state-dir", str(tmp_path), "--cores", "1", "--memory-bytes", "1", "--listen", "203.0.113.0/24"]
    with pytest.raises(ConfigError, match="--listen: this host has no address"):
        _listen_host(_parser().parse_args(arguments), nobody)


def nobody() -> AllocatorAddress:
    raise AssertionError("the allocator was asked")
