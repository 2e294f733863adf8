"""A worker without template and agent: the test holds the other ends of its sockets."""

import os
import pickle
import socket
import subprocess
import sys
import threading
import time

import cloudpickle
import pytest

from rfaas_executors import attending, control
from rfaas_executors._process import StatePage, restore_signals
from rfaas_executors.agent_line import LAST_S
from rfaas_executors.worker import Worker
from rfaas_transport._core import Channel
from rfaas_transport.current_call import get_current
from rfaas_transport.errors import ChannelBroken, ChannelClosed
from rfaas_transport.frame import Kind, Status
from rfaas_transport.manifest import Manifest, digest, encode_manifest
from support.waiting import wait_until


def call(channel, function, *args, call_id=1, saved=None, **fields):
    """Define a function at index 0 and call it."""
    blob = cloudpickle.dumps(function)
    channel.send(Kind.DEFINE, segments=[encode_manifest(Manifest(blobs=(digest(blob),))), blob])
    data = cloudpickle.dumps((args, {}))
    segments = [data] if saved is None else [data, saved]
    fields |= {"checkpoint": 0 if saved is None else 1}
    channel.send(Kind.CALL, call_id=call_id, lease_seq=7, epoch=1, segments=segments, **fields)


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

    def call(self, channel, function, *args, **fields):
        call(channel, function, *args, **fields)

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


def ask_for_more(rig, channel):
    """Have the channel attended: eight calls may be there at once."""
    channel.send(Kind.TAKE_BACK)
    frame = rig.receive(channel)
    assert (frame.kind, frame.call_id, frame.credits, channel.tx_credits) == (Kind.TAKEN, 0, 7, 8)


def hold_the_gil(seconds):
    """Runs C code that keeps the interpreter's lock, so that no other thread of Python's moves."""
    import ctypes

    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return "held"


def test_what_lies_behind_a_function_that_holds_the_gil_is_given_back():
    """In a process of its own, for it stops every thread of Python's."""
    mine, theirs = socket.socketpair()
    agent, workers = control.pair()
    page = StatePage.create()
    program = (
        "import os, sys; from rfaas_executors._process import StatePage; from rfaas_executors.worker import Worker; "
        "import socket; agent = socket.socket(fileno=int(sys.argv[1])); "
        "sys.exit(Worker(agent, StatePage.from_fd(int(sys.argv[2])), {'slot': 0, 'generation': 1, 'node': 'n'}).run())"
    )
    descriptors = (workers.fileno(), os.dup(page.fileno()))
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, descriptors)], pass_fds=descriptors)
    os.close(descriptors[1])
    terms = {"lease_seq": 7, "epoch": 1, "lease": "aa", "holder": "bb"}
    control.send(agent, {"m": "channel", "channel": 5, "page_slot": 0, **terms}, (theirs.fileno(),))
    theirs.close()
    with Channel.from_fd(mine.detach()) as channel:
        wait_until(channel.poll, 10, "HELLO")
        channel.send(Kind.TAKE_BACK)
        assert wait_until(channel.poll, 5, "an answer").credits == 7
        call(channel, hold_the_gil, 1.5, call_id=1)
        for call_id in (2, 3, 4):
            call(channel, os.getpid, call_id=call_id)
        wait_until(lambda: page.read(0)[1] == 1, 5, "the first call to be started")
        asked_s = time.monotonic()
        channel.send(Kind.TAKE_BACK, call_id=3)
        frame = wait_until(channel.poll, 5, "an answer")
        took_s = time.monotonic() - asked_s
        assert (frame.kind, frame.call_id, frame.credits) == (Kind.TAKEN, 3, 1)
        assert took_s < 1.0, "the function holds the GIL for longer"
        channel.send(Kind.TAKE_BACK, call_id=1)  # it runs: its result is the answer
        assert [wait_until(channel.poll, 5, "a result").call_id for _ in range(3)] == [1, 2, 4]
        assert page.read(0)[2] == 4
        agent.close()
        assert process.wait(10) == 0
    workers.close()
    page.close()


def test_calls_that_lie_behind_another_run_in_order_with_what_was_defined_between(rig):
    channel = rig.channel()
    rig.thread.start()
    rig.receive(channel)
    ask_for_more(rig, channel)
    read_end, write_end = os.pipe()
    rig.call(channel, os.read, read_end, 1, call_id=1)
    wait_until(lambda: rig.page.read(0)[1] == 1, 5, "the first call to be started")
    rig.call(channel, lambda: "one", call_id=2)
    rig.call(channel, lambda: "another", call_id=3)  # of another function, at the same index
    wait_until(lambda: channel.unacknowledged_bytes() == 0, 5, "all to be read while the function runs")
    os.write(write_end, b"x")
    values = [pickle.loads(rig.receive(channel).segments[0]) for _ in range(3)]
    assert values == [b"x", "one", "another"]
    os.close(read_end)
    os.close(write_end)


def test_calls_behind_one_that_waits_for_its_function_wait_too_and_can_be_taken_back(rig):
    channel = rig.channel()
    rig.thread.start()
    rig.receive(channel)
    ask_for_more(rig, channel)
    blob = cloudpickle.dumps(len)
    channel.send(Kind.DEFINE, function=1, segments=[encode_manifest(Manifest(blobs=(digest(blob),)))])
    for call_id, text in ((1, "a"), (2, "ab"), (3, "abc")):
        arguments = [cloudpickle.dumps(((text,), {}))]
        channel.send(Kind.CALL, function=1, call_id=call_id, lease_seq=7, epoch=1, segments=arguments)
    assert rig.receive(channel).kind == Kind.FETCH
    channel.send(Kind.TAKE_BACK, call_id=2)
    frame = rig.receive(channel)
    assert (frame.kind, frame.call_id) == (Kind.TAKEN, 2)
    channel.send(Kind.BLOB, segments=[blob])
    frames = [rig.receive(channel) for _ in range(2)]
    assert [(frame.call_id, pickle.loads(frame.segments[0])) for frame in frames] == [(1, 1), (3, 3)]


def test_without_an_agent_it_gives_back_what_lies_behind_too(rig):
    channel = rig.channel()
    rig.thread.start()
    rig.receive(channel)
    ask_for_more(rig, channel)
    read_end, write_end = os.pipe()
    rig.call(channel, os.read, read_end, 1, call_id=1)
    wait_until(lambda: rig.page.read(0)[1] == 1, 5, "the first call to be started")
    for call_id in (2, 3):
        rig.call(channel, os.getpid, call_id=call_id)
    wait_until(lambda: channel.unacknowledged_bytes() == 0, 5, "all to be read while the function runs")
    rig.agent.close()
    os.write(write_end, b"x")
    frames = [rig.receive(channel) for _ in range(3)]
    assert [(frame.call_id, frame.status) for frame in frames] == [(1, Status.OK), (2, 7), (3, 7)]
    assert rig.page.read(0)[1] == 1
    os.close(read_end)
    os.close(write_end)


def test_a_call_that_lay_behind_another_has_less_time_left(rig):
    channel = rig.channel()
    rig.thread.start()
    rig.receive(channel)
    ask_for_more(rig, channel)
    rig.call(channel, time.sleep, 0.5, call_id=1)
    wait_until(lambda: rig.page.read(0)[1] == 1, 5, "the first call to be started")
    rig.call(channel, lambda: get_current().time_left(), call_id=2, deadline_ns=10_000_000_000)
    rig.receive(channel)
    assert 5 < pickle.loads(rig.receive(channel).segments[0]) < 9.9


def tasks():
    return set(os.listdir("/proc/self/task"))


def test_a_function_that_forks_does_so_without_the_thread_that_attends_its_channel(rig):
    """And its channel is attended as before then."""
    channel = rig.channel()
    rig.thread.start()
    rig.receive(channel)
    before = tasks()
    ask_for_more(rig, channel)
    (attendant,) = tasks() - before
    rig.call(channel, tasks_around_a_fork, call_id=1)
    after, while_forking = pickle.loads(rig.receive(channel).segments[0])
    assert attendant not in while_forking
    assert len(after - while_forking) == 1


def tasks_around_a_fork():
    """The threads of this process after a fork, and those that are there while its handlers run."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    after = tasks()
    attending._stop_all()
    while_forking = tasks()
    attending._start_all()
    return after, while_forking
