"""A client that asks a worker's or a memory server's device for memory without its key: real processes and leases."""

import contextlib
import json
import os
import socket
import threading

import pytest

import rfaas
from rfaas_transport import verbs
from rfaas_transport._core import Channel
from rfaas_transport.errors import ReasonCode
from support.media import read_exactly
from support.verbs_messages import MESSAGE_BYTES, address_message, address_of
from support.waiting import wait_until

pytestmark = pytest.mark.rdma
DEVICE = os.environ.get("RFAAS_RDMA_DEVICE", "")
TIMEOUT_S = 120.0


class Falsifier:
    """Between this program and who serves it while they set up: of the first connection it changes the server's key."""

    def __init__(self):
        self._threads, self._sockets = [], []

    def adopt(self, fd):
        real = socket.socket(fileno=fd)
        real.setblocking(True)
        if self._threads:
            return Channel.from_verbs(real.detach(), device=DEVICE)
        ours, theirs = socket.socketpair()
        self._sockets = [real, theirs]
        self._threads = [
            threading.Thread(target=self._pass_on, args=(real, theirs, True)),
            threading.Thread(target=self._pass_on, args=(theirs, real, False)),
        ]
        channel = Channel.from_verbs(ours.detach(), device=DEVICE)
        for thread in self._threads:
            thread.start()
        return channel

    def _pass_on(self, source, sink, changes):
        if changes:
            address = address_of(read_exactly(source, MESSAGE_BYTES))
            sink.sendall(address_message(address._replace(rkey=address.rkey ^ 0x55)))
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def stop(self):
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def falsifier(monkeypatch):
    made = Falsifier()
    monkeypatch.setattr(verbs, "adopt", made.adopt)
    yield made
    made.stop()


def events(folder, name):
    lines = [line for path in folder.iterdir() for line in path.read_text().splitlines()]
    return [event for event in map(json.loads, lines) if event["ev"] == name]


def is_counted_and_over(folder):
    [violation] = wait_until(lambda: events(folder, "key_violation"), TIMEOUT_S)
    assert violation["count"] == 1
    return wait_until(lambda: violation["lease"] in [event["lease"] for event in events(folder, "free")], TIMEOUT_S)


def test_a_wrong_key_for_lent_memory_ends_the_lease_and_is_counted(falsifier, tmp_path, monkeypatch):
    folder = tmp_path / "events"
    monkeypatch.setenv("RFAAS_EVENT_LOG", str(folder))

    def write_until_lost():
        with rfaas.RemoteMemory("1MiB", allocator="embedded", transport="verbs", acquire_timeout_s=TIMEOUT_S) as memory:
            wait_until(lambda: memory.write(0, b"x") is None, TIMEOUT_S, "the loss")

    with pytest.raises(rfaas.MemoryLost) as lost:  # by the constructor, or by a write
        write_until_lost()
    print(f"told: {lost.value}")
    assert lost.value.reason_code is ReasonCode.KEY_VIOLATION
    assert is_counted_and_over(folder)


def test_a_wrong_key_ends_the_lease_and_is_counted(falsifier, tmp_path, monkeypatch):
    folder = tmp_path / "events"
    monkeypatch.setenv("RFAAS_EVENT_LOG", str(folder))
    with rfaas.Executor(1, allocator="embedded", transport="verbs") as executor:
        assert executor.submit(pow, 2, 10).result(TIMEOUT_S) == 1024  # over another connection
        assert is_counted_and_over(folder)
