"""A worker without template and agent: the test holds the other ends of its sockets."""

import os
import socket
import threading

import cloudpickle
import pytest

from rfaas_executors import control
from rfaas_executors._process import StatePage, restore_signals
from rfaas_executors.worker import Worker
from rfaas_transport._core import Channel
from rfaas_transport.errors import ChannelClosed
from rfaas_transport.frame import Kind, Status
from rfaas_transport.manifest import Manifest, digest, encode_manifest
from support.waiting import wait_until


class Rig:
    def __init__(self):
        self.agent, self.theirs = control.pair()
        self.page = StatePage.create()
        page = StatePage.from_fd(os.dup(self.page.fileno()))
        worker = Worker(self.theirs, page, {"slot": 0, "generation": 1, "node": "n"})
        self.status = []
        self.thread = threading.Thread(target=lambda: self.status.append(worker.run()))
        self.channels = []

    def channel(self, number=5):
        mine, theirs = socket.socketpair()
        terms = {"lease_seq": 7, "epoch": 1, "lease": "aa", "holder": "bb"}
        message = {"m": "channel", "channel": number, "page_slot": len(self.channels), **terms}
        control.send(self.agent, message, (theirs.fileno(),))
        theirs.close()
        self.channels.append(Channel.from_fd(mine.detach()))
        return self.channels[-1]

    def call(self, channel, function, *args, call_id=1):
        blob = cloudpickle.dumps(function)
        channel.send(Kind.DEFINE, segments=[encode_manifest(Manifest(blobs=(digest(blob),))), blob])
        data = cloudpickle.dumps((args, {}))
        channel.send(Kind.CALL, call_id=call_id, lease_seq=7, epoch=1, segments=[data])

    def receive(self, channel):
        return wait_until(channel.poll, 5, "a frame")


@pytest.fixture
def rig():
    rig = Rig()
    yield rig
    rig.agent.close()
    if rig.thread.ident is not None:
        rig.thread.join(5)
        assert not rig.thread.is_alive()
    rig.theirs.close()
    for channel in rig.channels:
        channel.close()
    rig.page.close()
    restore_signals()


def test_it_says_hello_then_serves_and_writes_started_and_done(rig):
    channel = rig.channel()
    rig.thread.start()
    hello = rig.receive(channel)
    assert (hello.kind, hello.credits) == (Kind.HELLO, 1)
    rig.call(channel, lambda x: x + 1, 1, call_id=9)
    assert rig.receive(channel).status == Status.OK
    assert rig.page.read(0)[:3] == (5, 9, 9)


def test_a_drain_ends_it_in_order(rig):
    channel = rig.channel()
    rig.thread.start()
    rig.receive(channel)
    control.send(rig.agent, {"m": "drain"})
    rig.thread.join(5)
    assert rig.status == [0]
    with pytest.raises(ChannelClosed):
        wait_until(channel.poll, 5)


def test_without_an_agent_it_gives_back_what_it_has_not_started(rig):
    channel = rig.channel()
    rig.thread.start()
    rig.receive(channel)
    blocker = rig.channel(6)
    rig.receive(blocker)
    read_end, write_end = os.pipe()
    rig.call(blocker, os.read, read_end, 1)
    wait_until(lambda: rig.page.read(1)[1] == 1, 5, "the first call to be started")
    rig.call(channel, os.getpid, call_id=3)
    rig.agent.close()
    os.write(write_end, b"x")
    frame = rig.receive(blocker)
    assert (frame.status, frame.credits) == (Status.OK, 0)  # it ran before: its result is good
    frame = rig.receive(channel)
    assert (frame.kind, frame.status, frame.call_id, frame.credits) == (Kind.RESULT, Status.NOT_STARTED, 3, 0)
    assert rig.page.read(0)[1] == 0
    rig.thread.join(5)
    assert rig.status == [0]
    os.close(read_end)
    os.close(write_end)
