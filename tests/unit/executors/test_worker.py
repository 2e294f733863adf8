"""A worker without template and agent: the test holds the other ends of its sockets."""

import os
import pickle
import socket
import threading
import time

import cloudpickle
import pytest

from rfaas_executors import control
from rfaas_executors._process import StatePage, restore_signals
from rfaas_executors.agent_line import LAST_S
from rfaas_executors.worker import Worker
from rfaas_transport._core import Channel
from rfaas_transport.current_call import get_current
from rfaas_transport.errors import ChannelBroken, ChannelClosed
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

    def call(self, channel, function, *args, call_id=1, saved=None, **fields):
        blob = cloudpickle.dumps(function)
        channel.send(Kind.DEFINE, segments=[encode_manifest(Manifest(blobs=(digest(blob),))), blob])
        data = cloudpickle.dumps((args, {}))
        segments = [data] if saved is None else [data, saved]
        fields |= {"checkpoint": 0 if saved is None else 1}
        channel.send(Kind.CALL, call_id=call_id, lease_seq=7, epoch=1, segments=segments, **fields)

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


def about():
    call = get_current()
    return call.invocation_id, call.attempt, call.fencing_token, call.restored


def test_a_call_of_a_later_attempt_knows_the_first_one_s_name_and_what_it_saved(rig):
    channel = rig.channel()
    rig.thread.start()
    rig.receive(channel)
    rig.call(channel, about, call_id=9, attempt=3, invocation=4, saved=b"state")
    assert pickle.loads(rig.receive(channel).segments[0]) == (f"bb{4:016x}", 3, 1 << 64 | 7, b"state")
    rig.call(channel, about, call_id=10, saved=b"")
    assert pickle.loads(rig.receive(channel).segments[0]) == (f"bb{10:016x}", 0, 1 << 64 | 7, b"")
    rig.call(channel, about, call_id=11)
    assert pickle.loads(rig.receive(channel).segments[0])[3] is None
    assert get_current() is None


def test_an_interrupted_call_is_given_back_unrun_and_the_worker_leaves(rig):
    channel = rig.channel()
    rig.thread.start()
    rig.receive(channel)
    assert rig.page.interrupt(0, 9) is False
    rig.call(channel, os._exit, 1, call_id=9)
    frame = rig.receive(channel)
    assert (frame.status, frame.credits) == (Status.NOT_STARTED, 0)
    rig.thread.join(5)
    assert rig.status == [0]
    assert rig.page.read(0)[1] == 0


def test_one_that_ends_as_it_is_interrupted_sends_its_result_and_the_worker_leaves(rig):
    channel = rig.channel()
    rig.thread.start()
    rig.receive(channel)
    read_end, write_end = os.pipe()
    rig.call(channel, os.read, read_end, 1, call_id=9)
    wait_until(lambda: rig.page.read(0)[1] == 9, 5, "the call to be started")
    assert rig.page.interrupt(0, 9) is True
    os.write(write_end, b"x")
    frame = rig.receive(channel)
    assert (frame.status, frame.credits) == (Status.OK, 0)
    rig.thread.join(5)
    assert rig.status == [0]
    os.close(read_end)
    os.close(write_end)


def wait_for_notice():
    call = get_current()
    before = call.time_left()
    call.reclaim_event.wait()
    return before, call.time_left()


def test_the_notice_reaches_a_function_that_waits_for_it_beside_a_channel_that_comes(rig):
    channel = rig.channel()
    rig.thread.start()
    rig.receive(channel)
    rig.call(channel, wait_for_notice, call_id=9)
    wait_until(lambda: rig.page.read(0)[1] == 9, 5, "the call to be started")
    late = rig.channel(6)
    now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    control.send(rig.agent, {"m": "drain", "kill_at_s": now_s + 100})
    before, after = pickle.loads(rig.receive(channel).segments[0])
    assert before is None
    assert 50 < after <= 100
    rig.thread.join(5)
    assert rig.status == [0]
    with pytest.raises((ChannelClosed, ChannelBroken)):  # nobody took it
        wait_until(late.poll, 5)


def test_an_agent_that_ends_is_a_notice_too(rig):
    channel = rig.channel()
    rig.thread.start()
    rig.receive(channel)
    rig.call(channel, wait_for_notice, call_id=9)
    wait_until(lambda: rig.page.read(0)[1] == 9, 5, "the call to be started")
    rig.agent.close()
    _, after = pickle.loads(rig.receive(channel).segments[0])
    assert after <= LAST_S


def test_a_connection_that_came_without_its_descriptor_is_given_up(rig):
    channel = rig.channel()
    rig.thread.start()
    rig.receive(channel)
    terms = {"lease_seq": 7, "epoch": 1, "lease": "aa", "holder": "bb"}
    control.send(rig.agent, {"m": "channel", "channel": 6, "page_slot": 1, **terms})
    assert control.receive(rig.agent)[0] == {"m": "closed", "channel": 6}
    rig.call(channel, os.getpid, call_id=1)
    assert rig.receive(channel).status == Status.OK
