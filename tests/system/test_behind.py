"""Calls that lie behind others at their worker: bursts over the core's own way, long calls, cancels, deaths.

With the event log that every system test has there are no loans, so these calls are the core's.
"""

import ctypes
import os
import signal
import time
from collections import Counter
from concurrent.futures import wait

import pytest

import rfaas
from support.soak import scaled
from support.waiting import wait_until

DEADLINE_S = 30.0
TRIES = 50  # a busy machine may let no call lie behind another for a while


def pid_after(seconds):
    """Short or long, and of one function, so that short ones lie behind long ones; holds the interpreter's lock."""
    if seconds:
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return os.getpid()


@rfaas.raw
def raw_pid_after(given, room):
    pid = pid_after(float(bytes(given)))
    room[:8] = pid.to_bytes(8, "little")
    return 8


def python_call(executor, seconds):
    return executor.submit(pid_after, seconds)


def raw_call(executor, seconds):
    return executor.submit(raw_pid_after, str(seconds).encode(), out_size=64)


@pytest.fixture
def single():
    with rfaas.Executor(max_workers=1) as executor:
        yield executor


def running(executor):
    return executor.statistics()["running"]


def behind_a_long_call(executor, seconds, n=6, call=python_call):
    """A long call and short ones of which at least one lies behind it, or behind a short one at another worker."""
    for _ in range(TRIES):
        wait([call(executor, 0.0) for _ in range(64)], DEADLINE_S)
        futures = [call(executor, seconds), *(call(executor, 0.0) for _ in range(n))]
        if running(executor) > executor._engine._config.max_workers:
            return futures
        wait(futures, DEADLINE_S)
    raise AssertionError("no call ever lay behind another")


def both_workers(executor):
    pids = set()
    wait_until(lambda: len(pids) == 2 or pids.update(executor.map(pid_after, [0.01] * 4)), DEADLINE_S, "two workers")
    return pids


def test_a_burst_keeps_all_workers_busy():
    n = scaled(1_000, 100_000)
    with rfaas.Executor(max_workers=2) as executor:
        both = both_workers(executor)
        most = 0
        futures = []
        for i in range(n):
            futures.append(python_call(executor, 0.0003))
            if i % 100 == 0:
                most = max(most, running(executor))
        ran = Counter(future.result(DEADLINE_S) for future in futures)
    print(f"{dict(ran)}, at most {most} at the two workers")
    assert set(ran) == both
    assert min(ran.values()) > n / 5
    assert most <= 16


@pytest.mark.parametrize(("transport", "call"), [("shm", python_call), ("tcp", raw_call)])
def test_short_calls_behind_a_long_one_run_on_the_other_worker(transport, call):
    """The long one holds the interpreter's lock: no thread of Python's could give them back."""
    with rfaas.Executor(max_workers=2, transport=transport) as executor:
        both_workers(executor)
        for _ in range(TRIES):
            before = executor.statistics()["redispatched"]
            long_one, *short = behind_a_long_call(executor, 0.6, 16, call)
            wait(short, DEADLINE_S)
            assert not long_one.done(), "they waited for the long one"
            long_one.result(DEADLINE_S)
            if executor.statistics()["redispatched"] > before:
                return
    raise AssertionError("nothing was ever taken back")


def test_a_call_behind_another_can_be_cancelled(single):
    long_one, *short = behind_a_long_call(single, 0.6)
    assert not short[0].running()
    asked_s = time.monotonic()
    assert short[0].cancel()
    took_s = time.monotonic() - asked_s
    print(f"cancelled in {1e3 * took_s:.1f} ms")
    assert short[0].cancelled()
    assert not long_one.done()
    assert not long_one.cancel()
    assert len({future.result(DEADLINE_S) for future in (long_one, *short[1:])}) == 1
    assert short[1].cancel() is False


def test_an_interrupt_of_a_call_behind_another_costs_no_worker(single):
    long_one, *short = behind_a_long_call(single, 0.6)
    assert short[0].cancel(interrupt=True)
    pids = {future.result(DEADLINE_S) for future in (long_one, *short[1:])}
    assert short[0].cancelled()
    assert pids == {python_call(single, 0.0).result(DEADLINE_S)}


def test_shutdown_cancels_what_lies_behind(single):
    long_one, *short = behind_a_long_call(single, 0.6)
    single.shutdown(cancel_futures=True)
    assert long_one.done()
    assert not long_one.cancelled()
    assert all(future.cancelled() for future in short)


@pytest.mark.serial  # calls lie behind others for as long as those are quick
@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_of_the_calls_at_a_killed_worker_only_the_one_that_ran_is_lost(transport):
    with rfaas.Executor(max_workers=1, transport=transport) as executor:
        pid = python_call(executor, 0.0).result(DEADLINE_S)
        long_one, *short = behind_a_long_call(executor, 5.0)
        assert short.pop().cancel()  # the worker's word: the long one runs
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(rfaas.WorkerLost) as lost:
            long_one.result(DEADLINE_S)
        assert lost.value.may_have_run
        pids = {future.result(DEADLINE_S) for future in short}
    assert len(pids) == 1
    assert pid not in pids
