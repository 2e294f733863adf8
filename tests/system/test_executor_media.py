"""An executor over each medium that reaches a worker on this node."""

import os
import signal

import numpy as np
import pytest

import rfaas
from support.invariants import _promises_are_kept as _promises_are_kept  # one event log for all tests here
from support.waiting import wait_until

MIB = 1 << 20


@pytest.fixture(scope="module", params=["auto", "shm", "tcp"])
def transport(request):
    return request.param


@pytest.fixture(scope="module")
def ex(transport):
    with rfaas.Executor(max_workers=2, transport=transport) as executor:
        executor.submit(pid_of, 0).result()
        yield executor


def segments_mapped():
    """How many channels' memories this process has mapped."""
    with open("/proc/self/maps") as maps:
        return sum("rfaas-channel" in line for line in maps)


def test_calls_work_and_memory_is_shared_unless_it_is_not_wanted(ex, transport):
    assert list(ex.map(double, range(100))) == [2 * i for i in range(100)]
    assert (segments_mapped() > 0) == (transport != "tcp")


def test_arrays_of_any_size_come_back_as_they_went(ex):
    for size in (0, 1, 1000, 100_000, 3_000_000, 40_000_000):
        sent = np.random.default_rng(size).integers(0, 256, size, np.uint8)
        got = ex.submit(np.negative, sent).result()
        assert np.array_equal(got, np.negative(sent))
        got[:1] = 7  # results are the caller's own


def test_results_outlive_their_executor(transport):
    before = segments_mapped()
    with rfaas.Executor(max_workers=1, transport=transport) as executor:
        kept = [executor.submit(np.full, 300_000, i).result() for i in range(5)]
    assert [int(array.sum()) for array in kept] == [300_000 * i for i in range(5)]
    kept.clear()
    wait_until(lambda: segments_mapped() == before, 5)


def test_a_killed_worker_is_replaced_over_the_same_medium(ex, transport):
    pids = set(ex.map(pid_of, range(20)))
    os.kill(pids.pop(), signal.SIGKILL)
    assert list(ex.map(double, range(100))) == [2 * i for i in range(100)]
    if transport == "tcp":
        assert segments_mapped() == 0


def test_many_calls_with_large_arguments_at_once(ex):
    blocks = [np.full(MIB // 8, i, float) for i in range(60)]
    assert list(ex.map(np.sum, blocks)) == [MIB / 8 * i for i in range(60)]


def double(number):
    return 2 * number


def pid_of(_):
    return os.getpid()
