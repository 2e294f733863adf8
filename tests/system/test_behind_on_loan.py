"""A burst on channels on loan, where calls lie behind others: all come back, once each, and all workers serve."""

import ctypes
import os
import time
from collections import Counter

import pytest

import rfaas
from support.soak import scaled
from support.waiting import wait_until

DEADLINE_S = 30.0


@pytest.fixture(autouse=True)
def _no_event_log(monkeypatch):
    """It tells of each call, and a loan hides them."""
    monkeypatch.delenv("RFAAS_EVENT_LOG", raising=False)


def pid_after(seconds):
    if seconds:
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return os.getpid()


def warm(executor):
    """All workers are there, and their channels are on loan."""
    pids = set()
    n = executor._engine._config.max_workers
    wait_until(lambda: len(pids) == n or pids.update(executor.map(pid_after, [0.02] * 2 * n)), DEADLINE_S, "workers")

    def is_lent():
        executor.submit(pid_after, 0).result(DEADLINE_S)
        return executor._engine._lane.lent

    wait_until(is_lent, DEADLINE_S, "a loan")
    return pids


def burst(executor, n, seconds=0):
    return [executor.submit(pid_after, seconds) for _ in range(n)]


BURSTS = 5  # a worker that is without a CPU for the 20 ms that all calls of one take gets none of them


@pytest.mark.serial
def test_a_burst_keeps_all_workers_busy_and_comes_back_once_each():
    n = scaled(10_000, 100_000)
    with rfaas.Executor(max_workers=2) as executor:
        both = warm(executor)
        before = executor.statistics()
        least = []
        while max(least, default=0) <= n / 100 and len(least) < BURSTS:
            began_s = time.monotonic()
            ran = Counter(future.result(DEADLINE_S) for future in burst(executor, n))
            took_s = time.monotonic() - began_s
            assert set(ran) <= both
            least.append(min(ran[pid] for pid in both))
            print(f"{n / took_s:.0f} calls/s, {sorted(ran.values())}")
        executor.submit(pid_after, 0).add_done_callback(id)  # the loan ends, and what was done on it is counted
        n_all = len(least) * n + 1
        wait_until(lambda: executor.statistics()["answered"] == before["answered"] + n_all, DEADLINE_S, "the count")
        assert executor.statistics()["submitted"] == before["submitted"] + n_all
    assert max(least) > n / 100


def test_a_worker_that_was_busy_when_a_loan_began_takes_part_as_soon_as_calls_wait():
    with rfaas.Executor(max_workers=2) as executor:
        both = warm(executor)
        executor._engine._lane.recall(0.0)
        long_one = executor.submit(pid_after, 0.3)

        def is_lent():
            executor.submit(pid_after, 0).result(DEADLINE_S)
            return len(executor._engine._lane._ports) == 1

        wait_until(is_lent, DEADLINE_S, "a loan of the other channel")
        while not long_one.done():
            executor.submit(pid_after, 0).result(DEADLINE_S)
        assert len(executor._engine._lane._ports) == 1
        assert {future.result(DEADLINE_S) for future in burst(executor, 200, 0.002)} == both
