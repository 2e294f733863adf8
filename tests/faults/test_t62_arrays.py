"""T62: arrays that both sides map, while workers are killed and the program forks. Nobody sees what he should not.

Scaled: some 20 kills and forks in `make test`, hundreds in a soak. What a peer may claim in shared memory is tried by
tests/system/core_arrays_test.c under sanitizers.
"""

import contextlib
import gc
import os
import signal
import threading

import numpy as np
import pytest

import rfaas
from rfaas_transport._core import pool_usage
from support.fault_ring import pause, seeded
from support.soak import scaled, timeout_s
from support.waiting import wait_until

pytestmark = [pytest.mark.figures, pytest.mark.timeout(timeout_s())]

N = 20_000
KILLS = scaled(5, 300)
FORKS = scaled(5, 300)


def scale(x, factor):
    """A result in memory of the channel, of arguments that are read in place; keeps some of both."""
    y = rfaas.empty_like(x)
    np.multiply(x, factor, out=y)
    kept = globals().setdefault("kept", [])
    kept.append((x, float(x[0])))
    del kept[:-5]
    if any(one[0] != first or one[-1] != first for one, first in kept):
        raise AssertionError("what was kept has changed")
    return y


def mapped():
    """How many channels' memories this process has mapped."""
    with open("/proc/self/maps") as maps:
        return sum("rfaas-channel" in line for line in maps)


class Stream:
    """Calls in a thread of its own, on arrays that are written anew for each, until it is stopped; counts them."""

    def __init__(self, ex):
        self._ex = ex
        self._stopping = threading.Event()
        self.n_right, self.wrong = 0, []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        x, results = rfaas.empty(N), []
        while not self._stopping.is_set():
            number = self.n_right + len(self.wrong) + 1.0
            x.fill(number)
            try:
                y = self._ex.submit(scale, x, 2.0).result(60)
            except Exception as error:
                self.wrong.append(error)
                continue
            results.append((y, 2.0 * number))
            del results[:-20]
            right = all((one == value).all() for one, value in results) and (x == number).all()
            y += 1.0  # it is ours
            results[-1] = (y, 2.0 * number + 1.0)
            self.n_right += right
            if not right:
                self.wrong.append(number)

    def stop(self):
        self._stopping.set()
        self._thread.join()


@contextlib.contextmanager
def streaming(**options):
    gc.collect()
    before = pool_usage()["used_bytes"]
    with rfaas.Executor(max_workers=2, transport="shm", **options) as ex:
        streams = [Stream(ex) for _ in range(2)]
        try:
            yield ex, streams
        finally:
            for stream in streams:
                stream.stop()
        assert [stream.wrong for stream in streams] == [[], []]
        assert all(stream.n_right for stream in streams)
    wait_until(lambda: gc.collect() >= 0 and mapped() == 0 and pool_usage()["used_bytes"] == before, 10)


def test_killed_workers_change_no_array_and_their_memory_comes_back():
    source = seeded("kills")
    with streaming(idempotent=True, retries=1000) as (ex, streams):
        killed = 0
        while killed < KILLS:
            pause(source, 0.05, 0.3)
            pid = ex.submit(os.getpid).result(60)
            pause(source, 0.0, 0.01)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
    print(f"    {killed} workers killed, {sum(stream.n_right for stream in streams)} calls right, 0 wrong")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_children_write_all_over_and_the_parent_sees_nothing():
    source = seeded("forks")
    x = rfaas.empty(N)
    x.fill(7.0)
    with streaming() as (ex, streams):
        results = [ex.submit(scale, x, 1.0).result(60) for _ in range(4)]
        for _ in range(FORKS):
            pause(source, 0.0, 0.05)
            pid = os.fork()
            if pid == 0:
                try:
                    for array in (x, *results):
                        array.fill(-1.0)
                    rfaas.empty(N).fill(-1.0)
                    results.clear()
                finally:
                    os._exit(0)
            assert wait_until(lambda child=pid: os.waitpid(child, os.WNOHANG)[0], 30) == pid
            assert all((array == 7.0).all() for array in (x, *results))
        results.clear()
    print(f"    {FORKS} forks, {sum(stream.n_right for stream in streams)} calls right, 0 wrong")
