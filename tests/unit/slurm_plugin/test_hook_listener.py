"""The socket that slurmctld's hooks speak to: who is heard, what is understood, and that nobody can hold it up."""

import asyncio
import contextlib
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfaas_slurm_plugin.harvest import hook_listener
from rfaas_slurm_plugin.harvest.hook_listener import HookListener, HookPacket, parse
from rfaas_transport.errors import ConfigError

NAME = f"@hooks-unit-{os.getpid()}"
WARN = b"rfaas-hook/1 warn job=7 uid=1000 nodes=n[1-3,7] partition=rigid"
TIMEOUT_S = 10.0


def connect(name):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.settimeout(TIMEOUT_S)
    client.connect("\0" + name[1:] if name.startswith("@") else name)
    return client


def ask(name, packet):
    with connect(name) as client, contextlib.suppress(ConnectionError):
        client.send(packet)
        return client.recv(5000)
    return b""


def talk(name, uids, packets):
    """Send each packet; return the answers and what was heard."""
    heard = []

    async def work():
        listener = HookListener(name, uids, heard.append)
        listener.open()
        try:
            return [await asyncio.to_thread(ask, name, packet) for packet in packets]
        finally:
            listener.close()

    return asyncio.run(work()), heard


@pytest.mark.parametrize("kind", ["abstract", "path"])
def test_what_slurmctlds_hooks_say_is_heard(kind, tmp_path):
    name = NAME if kind == "abstract" else str(tmp_path / "hooks.sock")
    answers, heard = talk(name, {os.getuid()}, [WARN, b"rfaas-hook/1 free job=7"])
    assert answers == [b"rfaas-hook/1 done"] * 2
    fields = {"job": "7", "uid": "1000", "nodes": "n[1-3,7]", "partition": "rigid"}
    assert heard == [HookPacket("warn", fields), HookPacket("free", {"job": "7"})]
    assert [packet.nodes for packet in heard] == [("n1", "n2", "n3", "n7"), ()]
    assert not (tmp_path / "hooks.sock").exists()


def test_nodes_that_are_no_hostlist_are_none():
    assert HookPacket("warn", {"nodes": "n[3-1]"}).nodes == HookPacket("warn", {"nodes": "n[1"}).nodes == ()


def test_nobody_else_is_heard():
    assert talk(NAME, {os.getuid() + 1}, [WARN]) == ([b""], [])


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"rfaas-hook/1 evict job=7", b"unknown-verb"),
        (b"rfaas-hook/2 warn", b"bad-packet"),
        (b"rfaas-hook/1", b"bad-packet"),
        (b"rfaas-hook/1 warn  job=7", b"bad-packet"),
        (b"rfaas-hook/1 warn job=7\n", b"bad-packet"),
        (b"rfaas-hook/1 warn JOB=7", b"bad-packet"),
        (b"rfaas-hook/1 warn job=\xff", b"bad-packet"),
        (b"rfaas-hook/1 warn job=" + b"7" * 5000, b"bad-packet"),
    ],
)
def test_what_is_no_packet_is_answered_and_not_heard(packet, reason):
    assert talk(NAME, {os.getuid()}, [packet]) == ([b"rfaas-hook/1 error reason=" + reason], [])


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(packet):
    with contextlib.suppress(ValueError):
        assert parse(b"rfaas-hook/1 warn " + packet).verb == "warn"


def test_who_says_nothing_is_left_after_a_while(monkeypatch):
    monkeypatch.setattr(hook_listener, "PATIENCE_S", 0.05)

    async def work():
        listener = HookListener(NAME, {os.getuid()}, lambda _: None)
        listener.open()
        try:
            with connect(NAME) as silent:
                assert await asyncio.to_thread(silent.recv, 1) == b""
        finally:
            listener.close()

    asyncio.run(work())


def test_of_many_that_say_nothing_the_last_are_turned_away():
    async def work():
        listener = HookListener(NAME, {os.getuid()}, lambda _: None)
        listener.open()
        try:
            with contextlib.ExitStack() as stack:
                for _ in range(hook_listener.MOST_CONNECTIONS):
                    stack.enter_context(await asyncio.to_thread(connect, NAME))
                assert await asyncio.to_thread(ask, NAME, WARN) == b""
        finally:
            listener.close()

    asyncio.run(work())


def test_a_dead_listeners_socket_is_taken_over_and_a_living_ones_is_not(tmp_path):
    name = str(tmp_path / "hooks.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(name)
    assert talk(name, {os.getuid()}, [WARN])[0] == [b"rfaas-hook/1 done"]

    async def twice():
        first, second = (HookListener(name, {0}, lambda _: None) for _ in range(2))
        first.open()
        try:
            with pytest.raises(ConfigError, match=r"hooks\.sock"):
                second.open()
        finally:
            first.close()

    asyncio.run(twice())
