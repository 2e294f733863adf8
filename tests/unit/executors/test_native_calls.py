"""Calls of a compiled function served in C, one upon the other: which are, how they end, what is left to the worker."""

import contextlib
import os
import struct
import threading

import pytest

from rfaas_executors._compiled import NativeFunction, find_symbol, load_library
from rfaas_executors._process import StatePage
from rfaas_executors.native_calls import IN_BYTES_MAX, NativeCalls
from rfaas_executors.streams import Streams
from rfaas_transport.errors import ChannelBroken, ChannelClosed
from rfaas_transport.frame import Kind, Status
from rfaas_transport.shared_library import path_for_loading, seal
from support.kernels import kernels
from support.media import MEDIA
from support.waiting import wait_until

HOLDER = "0123456789abcdef" * 2
LEASE = {"lease_seq": 7, "epoch": 3, "function": 2}
SLOT = 5
TIME_NS = 1_000_000_000
TIMEOUT_S = 10


class Rig:
    """Both ends of a channel, and the calls of one function on it."""

    def __init__(self, library, symbol, streams=None):
        self.client, self.worker = MEDIA["shm"]()
        for end in self.client, self.worker:
            end.stay_awake(True)
        self.page = StatePage.create()
        self.page.open(SLOT, 1)
        function = NativeFunction(find_symbol(library, symbol), 1, symbol)
        streams = streams or Streams(self.page)
        self.calls = NativeCalls(self.worker, self.page, SLOT, 7, 3, 2, function, streams, HOLDER)
        self.worker.send(Kind.CREDIT, credits=1)
        wait_until(lambda: self.client.poll() is not None, TIMEOUT_S)
        self.call_id = 0

    def send(self, given=b"", **fields):
        self.call_id += 1
        self.client.send(Kind.CALL, call_id=self.call_id, segments=[given] if given else [], **LEASE | fields)

    def served(self, given=b"", **fields):
        """One call, and what the loop returned when nothing came any more."""
        self.send(given, **fields)
        came = self.calls.run(0.001, TIME_NS)
        return came, self.client.poll()

    def close(self):
        self.client.close()
        self.worker.close()
        self.page.close()


@pytest.fixture(scope="module")
def library():
    fd = seal(kernels())
    yield load_library(path_for_loading(fd).encode())
    os.close(fd)


@pytest.fixture
def rig(library):
    with contextlib.closing(Rig(library, b"echo")) as rig:
        yield rig


def test_plain_calls_are_answered_between_started_and_done(rig):
    for size in 0, 1, 32, 33, 64, 4096, 4097, IN_BYTES_MAX:
        given = os.urandom(size)
        for capacity in size + 1, max(size, 1), 0:
            came, answer = rig.served(given, out_size=capacity)
            assert (came, rig.calls.n_calls) == (None, 1)
            assert (answer.kind, answer.status, answer.call_id) == (Kind.RESULT, Status.OK, rig.call_id)
            assert (answer.credits, b"".join(answer.segments)) == (1, given)
            assert rig.page.read(SLOT)[1:3] == (rig.call_id, rig.call_id)
    running_ns, _, calls, bytes_in, bytes_out = rig.page.usage()
    assert (calls, bytes_in) == (rig.call_id, bytes_out)
    assert running_ns > 0


def test_many_calls_come_one_upon_the_other(rig):
    def answer_all():
        while rig.page.read(SLOT)[2] < 200:
            rig.calls.run(0.001, 1_000_000)

    thread = threading.Thread(target=answer_all)
    thread.start()
    for n in range(200):
        rig.send(b"%d" % n, out_size=8)
        answer = wait_until(rig.client.poll, TIMEOUT_S)
        assert (answer.status, bytes(answer.segments[0])) == (Status.OK, b"%d" % n)
    thread.join(TIMEOUT_S)


@pytest.mark.parametrize(
    "fields",
    [
        {"deadline_ns": 1 << 40},
        {"attempt": 1},
        {"invocation": 9},
        {"epoch": 4},
        {"lease_seq": 8},
        {"function": 3},
        {"given": bytes(IN_BYTES_MAX + 1)},
    ],
)
def test_what_is_no_plain_call_is_left_untouched(rig, fields):
    came, answer = rig.served(**{"given": b"x", "out_size": 8, **fields})
    assert (came.kind, came.call_id, answer, rig.calls.n_calls) == (Kind.CALL, 1, None, 0)
    assert bytes(came.segments[0][:1]) == (b"x" if len(came.segments[0]) == 1 else b"\0")
    assert rig.page.read(SLOT)[1:3] == (0, 0)


def test_an_interrupted_call_does_not_run(rig):
    rig.page.interrupt(SLOT, 1)
    came, answer = rig.served(b"x", out_size=8)
    frame, outcome, printed = came
    assert (frame.call_id, outcome, printed, answer) == (1, None, None, None)
    assert rig.page.read(SLOT)[1:3] == (0, 0)


def test_other_ends_than_an_output_are_told_to_the_worker(library):
    with contextlib.closing(Rig(library, b"fail")) as rig:
        (frame, outcome, printed), answer = rig.served(struct.pack("i", -5), out_size=8)
        assert (frame.call_id, outcome.status, printed, answer) == (1, Status.FUNCTION_ERROR, None, None)
        assert outcome.segments == (struct.pack("<i", -5),)
        assert rig.page.read(SLOT)[1:3] == (1, 0)
    with contextlib.closing(Rig(library, b"echo")) as rig:
        (_, outcome, _), _ = rig.served(bytes(9), out_size=8)
        assert (outcome.status, outcome.needed_bytes) == (Status.TOO_LARGE, 9)


def test_each_capacity_has_its_own_end_in_the_same_memory(library):
    with contextlib.closing(Rig(library, b"overrun")) as rig:
        for capacity in 100, 1, 63, 5000, 100:
            came, answer = rig.served(struct.pack("Q", 0), out_size=capacity)
            assert (came, answer.status, answer.in_size) == (None, Status.OK, capacity)
        (_, outcome, _), answer = rig.served(struct.pack("Q", 28), out_size=100)
        assert (outcome.status, answer) == (Status.BAD_RESULT, None)


def test_the_context_is_of_each_call(library):
    with contextlib.closing(Rig(library, b"context")) as rig:
        for _ in range(3):
            _, answer = rig.served(b"x", out_size=256)
            context = bytes(answer.segments[0])
            assert context[16:40] == bytes.fromhex(HOLDER) + rig.call_id.to_bytes(8, "big")
            assert struct.unpack_from("<I", context, 12) == (0,)
            assert struct.unpack_from("<QQQ", context, 40) == (0, 7, 3)


def test_an_answer_that_finds_no_room_keeps_its_memory(library):
    with contextlib.closing(Rig(library, b"fill")) as rig:
        while rig.worker.send(Kind.OUTPUT, segments=[bytes(30_000)]):  # nobody reads them
            pass
        rig.send(b"x", out_size=20_000)
        assert rig.calls.run(0.001, TIME_NS) is None
        assert rig.calls.n_calls == 1
        rig.calls.run(0.001, TIME_NS)  # takes other memory
        frames = []
        wait_until(lambda: (rig.worker.flush(), frames.append(rig.client.poll()), is_answer(frames[-1]))[2], TIMEOUT_S)
        assert bytes(frames[-1].segments[0]) == b"x" * 20_000


def is_answer(frame):
    return frame is not None and frame.kind == Kind.RESULT


def test_functions_that_print_are_found_out(library):
    outs, errs = os.pipe(), os.pipe()
    page = StatePage.create()
    streams = Streams(page, (outs[1], errs[1]))
    with contextlib.closing(Rig(library, b"echo", streams)) as rig:
        came, answer = rig.served(b"x", out_size=8)
        assert (came, answer.status) == (None, Status.OK)
        os.write(errs[1], b"!")
        (_, outcome, printed), answer = rig.served(b"x", out_size=8)
        assert (outcome.status, printed, answer) == (Status.OK, None, None)
        assert bytes(memoryview(outcome.segments[0])) == b"x"
    page.close()
    for fd in (*outs, *errs):
        os.close(fd)


def test_the_end_of_the_channel_is_told(rig):
    rig.client.close()

    def run_on():
        for _ in range(1000):
            rig.calls.run(0.0001, TIME_NS)

    with pytest.raises((ChannelClosed, ChannelBroken)):
        run_on()
