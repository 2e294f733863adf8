"""Functions over bytes on a channel on loan, one call upon the other: the same answers as on the ordinary way."""

import os
import struct

import numpy as np
import pytest

import rfaas
from support import functions as f
from support.kernels import kernels
from support.waiting import wait_until

TIMEOUT_S = 30.0


@pytest.fixture(autouse=True)
def _no_event_log(monkeypatch):
    """It tells of each call, and a loan hides them."""
    monkeypatch.delenv("RFAAS_EVENT_LOG", raising=False)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "libkernels.so"
    path.write_bytes(kernels())
    return path


@pytest.fixture
def ex(request):
    with rfaas.Executor(
        1, hot_for_s=0.05, allocator="embedded", transport=getattr(request, "param", "shm")
    ) as executor:
        yield executor


@rfaas.raw
def shout(inp, out):
    out[: len(inp)] = bytes(inp).upper()
    return len(inp)


def hot(executor, function, given=b"warm"):
    """Bring the executor to the point where this function is called on a loan."""

    def once():
        executor.submit(function, given).exception(TIMEOUT_S)
        return executor._engine._lane.lent

    wait_until(once, TIMEOUT_S)


@pytest.mark.parametrize("ex", ["shm", "tcp"], indirect=True)
def test_many_calls_of_all_sizes_in_a_row(ex, path):
    for function in shout, rfaas.native(path, "echo"):
        hot(ex, function)
        for n in range(300):
            given = (b"%d" % n) * (n % 7)
            assert ex.invoke(function, given) == given
        assert ex._engine._lane.answered() > 20  # empty inputs, and a busy machine, end a loan
        for size in 0, 1, 63, 4095, 4096, 4097, 70_000, 1 << 20:
            given = bytes(65 + n % 26 for n in range(min(size, 5000))) * (size // min(size, 5000) if size else 0)
            for n in range(3):
                result = ex.invoke(function, np.frombuffer(given, "u1") if n == 1 else given)
                assert (type(result), result.readonly, result == given) == (memoryview, False, True)


def test_a_result_stays_what_it_is_whoever_still_looks_at_it_and_however(ex, path):
    """Memory of outputs is used again: of those that nobody can see any more."""
    function = rfaas.native(path, "echo")
    ways = (
        lambda result: result,
        lambda result: result[2:6],
        lambda result: result.cast("Q"),
        lambda result: np.frombuffer(result, "u1"),
        lambda result: result.obj,
    )
    hot(ex, function)
    kept = []
    for n in range(200):
        result = ex.invoke(function, b"%08d" % n)
        result[0] = ord("x")
        kept.append((n, ways[n % len(ways)](result)))
        if n % 3 == 0:  # two of the same size that nobody keeps
            assert [bytes(ex.invoke(function, bytes([n]) * 8)) for _ in range(2)] == [bytes([n]) * 8] * 2
        if n % 7 == 0:
            kept = kept[-5:]
    for n, seen in kept:
        said = b"x%07d" % n
        assert bytes(seen) in (said, said[2:6])


def test_the_memory_of_small_results_is_used_again(ex, path):
    function = rfaas.native(path, "echo")
    hot(ex, function)

    def place(given):
        return np.frombuffer(ex.invoke(function, given), "u1").ctypes.data

    places, others = set(), []
    for _ in range(20):
        places.add(place(b"12345678"))
        others += [bytearray(8) for _ in range(1000)]  # what was freed would be theirs now
    assert len(places) <= 6  # a busy machine ends a loan now and then
    assert place(b"1") not in places


def test_bursts_keep_their_order_and_their_buffers(ex, path):
    for function in shout, rfaas.native(path, "echo"):
        hot(ex, function)
        rooms = [bytearray(8) for _ in range(100)]
        futures = [ex.submit(function, b"%08d" % n, out=room) for n, room in enumerate(rooms)]
        assert [future.result(TIMEOUT_S) for future in futures] == [8] * 100
        assert [int(room) for room in rooms] == list(range(100))
        futures = [ex.submit(function, b"%08d" % n) for n in range(100)]
        assert [int(bytes(future.result(TIMEOUT_S))) for future in futures] == list(range(100))


def test_capacities_differ_from_call_to_call(ex, path):
    echo = rfaas.native(path, "echo")
    hot(ex, echo)
    for n in range(60):
        size = 1 + n % 90
        assert ex.invoke(echo, bytes(size), out_size=size) == bytes(size)
        with pytest.raises(rfaas.PayloadTooLarge, match=f"takes {size + 1} bytes, and there was room for {size}"):
            ex.invoke(echo, bytes(size + 1), out_size=size)
        room = bytearray(b"-" * size)
        assert ex.invoke(echo, b"x", out=room) == 1
        assert room == b"x" + b"-" * (size - 1)


def test_errors_are_the_same_and_the_next_call_works(ex, path):
    fail, echo = rfaas.native(path, "fail"), rfaas.native(path, "echo")
    raising = rfaas.raw(lambda inp, out: out[2**40])
    lying = rfaas.raw(lambda inp, out: "text")
    for function in fail, raising, lying:
        hot(ex, echo)
        for n in range(1, 8):
            for call in ex.invoke, lambda *args: ex.submit(*args).result(TIMEOUT_S):
                with pytest.raises((rfaas.FunctionError, IndexError, rfaas.SerializationError)) as told:
                    call(function, struct.pack("i", n))
                if function is fail:
                    assert told.value.value == n
            assert ex.invoke(echo, b"x") == b"x"
    error = ex.submit(echo, "text").exception(TIMEOUT_S)
    assert type(error) is rfaas.SerializationError
    with pytest.raises(rfaas.SerializationError, match="bytes-like"):
        ex.invoke(echo, "text")


def test_kinds_take_turns_on_one_channel(ex, path):
    echo = rfaas.native(path, "echo")
    for function, given in (echo, b"x"), (shout, b"x"), (f.pid, None):
        hot(ex, echo)
        for n in range(20):
            assert ex.invoke(echo, b"%d" % n) == b"%d" % n
            assert ex.invoke(shout, b"a%d" % n) == b"A%d" % n
            assert ex.invoke(f.add, n, 1) == n + 1
            assert function is f.pid or ex.invoke(function, given)


def test_inputs_are_aligned_and_the_context_is_of_each_call(ex, path):
    pointers, context = rfaas.native(path, "pointers", out_size=64), rfaas.native(path, "context", out_size=256)
    hot(ex, pointers)
    for size in (1, 63, 64, 1000, 4096, 5000, 100_000) * 5:
        assert struct.unpack("QQQ", ex.invoke(pointers, bytes(size))) == (0, 0, 0)
    hot(ex, context)
    ids = [bytes(ex.invoke(context, b"x"))[16:40] for _ in range(50)]
    assert len(set(ids)) == 50
    assert ids == sorted(ids)
    assert len({one[:16] for one in ids}) == 1


def test_what_it_prints_is_at_the_caller_without_a_newline_too(ex, path, capfd):
    say = rfaas.native(path, "mutter", out_size=8)
    hot(ex, say)
    capfd.readouterr()
    for n in range(20):
        ex.invoke(say, b"<%d>" % n)
    ex.submit(f.nothing).result(TIMEOUT_S)
    wait_until(lambda text=[]: (text.append(capfd.readouterr().out), "<19>" in "".join(text))[1], TIMEOUT_S)


def test_a_worker_that_dies_in_it_is_told_and_replaced(ex, path):
    echo = rfaas.native(path, "echo")
    hot(ex, echo)
    for symbol in "crash", "exit_at_once", "overrun":
        with pytest.raises(rfaas.WorkerLost, match=f"{symbol} crashed|status 4"):
            ex.invoke(rfaas.native(path, symbol, out_size=64), struct.pack("Q", 4096))
        wait_until(lambda: ex.submit(echo, b"x").result(TIMEOUT_S) == b"x", TIMEOUT_S)
    assert os.getpid() != ex.invoke(f.pid)
