"""Arrays of `rfaas.empty`, and what else need not be copied: whose it is, how long, and what it looks like."""

import array
import gc
import mmap
import os
import resource
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import rfaas
from rfaas_transport._core import pool_usage
from support.invariants import _promises_are_kept as _promises_are_kept  # one event log for all tests here
from support.waiting import wait_until

N = 50_000  # of float64: large enough not to travel in the rings


@pytest.fixture(scope="module")
def ex():
    with rfaas.Executor(max_workers=1, transport="shm") as executor:
        executor.submit(os.getpid).result()
        yield executor


@pytest.fixture(scope="module", params=["shm", "tcp"])
def any_ex(request):
    with rfaas.Executor(max_workers=1, transport=request.param) as executor:
        executor.submit(os.getpid).result()
        yield executor


kept: list = []


def keep(x):
    kept.append(x)
    return x.sum()


def keep_part(x):
    kept.append(memoryview(x[100:200]))
    return 0.0


def kept_values(clear=False):
    found = [[float(part[0]), float(part[-1])] for part in kept]
    if clear:
        kept.clear()
    return found


def describe(x):
    kind = type(x).__name__
    if isinstance(x, np.ndarray):
        return kind, x.shape, str(x.dtype), x.flags.writeable, bool(x.flags.f_contiguous), float(x.sum())
    if isinstance(x, memoryview):
        return kind, x.shape, x.format, not x.readonly, x.tobytes()
    return kind, x


def in_place(n):
    y = rfaas.empty(n)
    y.fill(4.0)
    return y


def where(n):
    return type(rfaas.empty(n).base).__name__


def in_place_and_kept(n):
    y = rfaas.empty(n)
    y.fill(4.0)
    kept.append(y)
    return y


def in_place_parts(n):
    y = rfaas.empty((2, n))
    y[0], y[1] = 1.0, 2.0
    return y[0], y[1], y[:1]


def write_to(x):
    x[0] = 1.0


def echo(x):
    return x


# --- arguments ------------------------------------------------------------------------------------


def test_an_array_of_ours_is_read_in_place_and_arrives_read_only(any_ex):
    x = rfaas.empty((N, 2))
    x.fill(2.0)
    kind, shape, dtype, writable, _, total = any_ex.submit(describe, x).result()
    assert (kind, shape, dtype, total) == ("ndarray", (N, 2), "float64", 4.0 * N)
    any_ex.submit(describe, x).result()
    if any_ex.submit(where, N).result() == "ArenaMemory" or not writable:  # on shm
        with pytest.raises(ValueError, match="read-only"):
            any_ex.submit(write_to, x).result()
    x[0] = 5.0  # it is still ours
    assert any_ex.submit(describe, x).result()[-1] == 4.0 * N + 6.0


@pytest.mark.parametrize("make", [rfaas.empty, np.empty])
def test_what_a_function_keeps_of_its_arguments_never_changes(ex, make):
    arrays = [make(N) for _ in range(3)]
    for round_number in range(3):
        for x in arrays:
            x.fill(round_number)
            assert ex.submit(keep, x).result() == N * round_number
            x.fill(-1.0)
            ex.submit(keep_part, x).result()
            x.fill(-2.0)
    del arrays
    gc.collect()
    others = [make(N) for _ in range(6)]  # in the same memory
    for x in others:
        x.fill(-3.0)
        ex.submit(describe, x).result()
    expected = [value for number in range(3) for value in [[float(number)] * 2, [-1.0, -1.0]] * 3]
    assert ex.submit(kept_values, clear=True).result() == expected


watched: list = []


def _watch(x):
    seen: set = set()
    stop = threading.Event()

    def look():
        while not stop.is_set():
            seen.update((float(x[0]), float(x[-1])))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    watched.append((thread, stop, seen))


def _end():
    thread, stop, seen = watched.pop()
    stop.set()
    thread.join()
    return seen


def test_a_thread_that_reads_what_the_function_kept_sees_one_value(ex):
    x = rfaas.empty(N)
    x.fill(1.0)
    ex.submit(_watch, x).result()
    for value in range(2, 10):
        x.fill(value)
        ex.submit(describe, x).result()
    assert ex.submit(_end).result() == {1.0}


def test_slices_views_and_several_arrays_of_one_memory(ex):
    x = rfaas.empty((4, N))
    x[...] = np.arange(4)[:, None]
    part, rows, column = ex.submit(lambda *parts: [float(p.sum()) for p in parts], x[1, 7:], x[2:], x[:, 0]).result()
    assert (part, rows, column) == (N - 7, 5 * N, 6)
    many = [x[i % 4] for i in range(20)]  # more than a frame can place
    assert ex.submit(lambda all_of: [float(p[0]) for p in all_of], many).result() == [i % 4 for i in range(20)]


def test_orders_types_and_shapes_are_those_of_numpy(ex):
    for x in (rfaas.empty((300, 200), order="F"), rfaas.empty((100, 90, 3), np.int16), rfaas.empty(80_000, "V3")):
        plain = np.empty(x.shape, x.dtype, "F" if x.flags.f_contiguous else "C")
        assert (x.strides, x.flags.writeable, x.ctypes.data % 64) == (plain.strides, True, 0)
        other = rfaas.empty_like(x)
        assert (other.shape, other.dtype, other.strides) == (x.shape, x.dtype, x.strides)
    for shape in (0, (), (3, 0), 5, np.int64(4)):
        assert rfaas.empty(shape).shape == np.empty(shape).shape
    for wrong in (-1, (2, -3)):
        with pytest.raises(ValueError, match="negative"):
            rfaas.empty(wrong)
    with pytest.raises(ValueError, match="Python objects"):
        rfaas.empty(N, object)
    assert rfaas.empty_like([[1.0, 2.0]], np.int8).shape == (1, 2)


# --- results ----------------------------------------------------------------------------------------


def test_results_are_writable_and_the_callers_own(any_ex):
    for function in (in_place, np.zeros, in_place_and_kept):
        results = [any_ex.submit(function, N).result() for _ in range(4)]
        for number, result in enumerate(results):
            assert result.flags.writeable
            result.fill(number)
        any_ex.submit(describe, np.ones(N)).result()
        assert [float(result.sum()) for result in results] == [N * number for number in range(4)]
    assert (
        any_ex.submit(kept_values, clear=True).result() == [[4.0, 4.0]] * 4
    )  # nor does the caller change the worker's


def test_returned_arguments_are_writable_copies(any_ex):
    for x in (rfaas.empty(N), np.empty(N)):
        x.fill(6.0)
        for result in (any_ex.submit(echo, x).result(), any_ex.submit(echo, {"deep": [x]}).result()["deep"][0]):
            assert result.flags.writeable
            result[0] = 0.0
            assert x[0] == 6.0


def test_parts_of_one_memory_come_back_as_arrays_of_their_own(ex):
    for _ in range(3):
        one, two, again = ex.submit(in_place_parts, N).result()
        one.fill(9.0)
        assert (two[0], again[0, 0]) == (2.0, 1.0)


def test_what_is_made_for_results_comes_back_unsent(ex):
    assert wait_until(lambda: ex.submit(in_place, N).result() is not None and ex.submit(where, N).result(), 5)
    for _ in range(300):  # more than there are blocks
        assert ex.submit(where, N).result() == "ArenaMemory"


def test_results_that_are_kept_beyond_the_arena_cost_copies_and_stop_nothing():
    environment = {"RFAAS_EXECUTOR_ARENA": "1MiB"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with rfaas.Executor(max_workers=1, transport="shm") as small:
            results = [small.submit(in_place, N).result() for _ in range(10)]
            large = np.arange(1_000_000.0)  # larger than the arena, both ways
            assert np.array_equal(small.submit(echo, large).result(), large)
            assert all(float(result[-1]) == 4.0 for result in results)


# --- memory -------------------------------------------------------------------------------------------


def test_memory_comes_back_when_arrays_and_calls_are_gone(ex):
    gc.collect()
    before = pool_usage()["used_bytes"]
    x = rfaas.empty(N)
    future = ex.submit(keep, x)
    del x
    future.result()
    del future
    ex.submit(kept_values, clear=True).result()
    wait_until(lambda: gc.collect() >= 0 and pool_usage()["used_bytes"] == before, 5)
    assert pool_usage()["cached_bytes"] <= 1 << 28


def test_arrays_and_results_outlive_their_executor_and_killed_workers():
    with rfaas.Executor(max_workers=1, transport="shm", idempotent=True, retries=3) as executor:
        x = rfaas.empty(N)
        x.fill(3.0)
        executor.submit(in_place, N).result()
        results = [executor.submit(in_place, N).result()]
        pid = executor.submit(os.getpid).result()
        executor.submit(keep, x).result()
        running = executor.submit(_slow_sum, x, pid)
        wait_until(running.running, 5)
        os.kill(pid, signal.SIGKILL)
        assert running.result(20) == 3.0 * N
        results.append(executor.submit(in_place, N).result())
    assert [float(result.sum()) for result in results] == [4.0 * N] * 2
    assert float(x.sum()) == 3.0 * N


def test_a_function_that_keeps_more_than_it_has_memory_for_fails_and_its_worker_leaves(ex):
    x = rfaas.empty(4_000_000)
    x.fill(1.0)
    pid = ex.submit(os.getpid).result()
    with pytest.raises(MemoryError, match="arguments that the function keeps"):
        ex.submit(_keep_without_memory, x).result()
    assert ex.submit(os.getpid).result() != pid
    assert ex.submit(describe, x).result()[-1] == 4_000_000


def _keep_without_memory(x):
    kept.append(x)
    with open("/proc/self/status") as status:
        data_kib = next(int(line.split()[1]) for line in status if line.startswith("VmData"))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, ((data_kib << 10) + (8 << 20), hard))


def _slow_sum(x, first_pid):
    if os.getpid() == first_pid:
        threading.Event().wait()
    return float(x.sum())


FORK = """
import os, sys
import numpy as np
import rfaas

def make(n):
    y = rfaas.empty(n)
    y.fill(4.0)
    return y

with rfaas.Executor(max_workers=1, transport="shm") as ex:
    x = rfaas.empty(50_000)
    x.fill(1.0)
    ex.submit(make, 50_000).result()
    result = ex.submit(make, 50_000).result()
    pid = os.fork()
    if pid == 0:
        x.fill(-1.0)
        result.fill(-1.0)
        more = [rfaas.empty(50_000) for _ in range(20)]
        for y in more:
            y.fill(-1.0)
        del x, result, more
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    others = [ex.submit(make, 50_000).result() for _ in range(5)]
    assert float(x.sum()) == 50_000 and float(result.sum()) == 200_000, (x[0], result[0])
    assert ex.submit(np.sum, x).result() == 50_000
print("right")
"""


def test_a_forked_child_changes_nothing_of_its_parents():
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.returncode) == ("right\n", 0), run.stderr


def test_a_large_argument_counts_for_its_owner_not_for_the_worker():
    with rfaas.Executor(max_workers=1, transport="shm", memory="96MiB") as executor:
        x = rfaas.empty(40_000_000)  # 305 MiB, of which each side counts for half
        x.fill(1.0)
        assert executor.submit(_read_for_a_while, x).result(60) == 40_000_000.0


def _read_for_a_while(x):
    import time

    end_s = time.monotonic() + 0.4
    total = 0.0
    while time.monotonic() < end_s:
        total = float(x.sum())
    return total


# --- other buffers ------------------------------------------------------------------------------------


def test_buffers_arrive_as_what_they_are_or_as_memoryviews(any_ex):
    data = os.urandom(100_000)
    assert any_ex.submit(describe, data).result() == ("bytes", data)
    assert any_ex.submit(describe, bytearray(data)).result() == ("bytearray", bytearray(data))
    numbers = array.array("d", range(20_000))
    assert any_ex.submit(describe, numbers).result() == ("array", numbers)
    assert any_ex.submit(describe, memoryview(data)).result() == ("memoryview", (100_000,), "B", False, data)
    writable = memoryview(bytearray(data)).cast("d", (5, 2500))
    assert any_ex.submit(describe, writable).result() == ("memoryview", (5, 2500), "d", True, data)
    for strided in memoryview(data)[::2], memoryview(bytearray(data))[::2]:
        writes = not strided.readonly
        assert any_ex.submit(describe, strided).result() == ("memoryview", (50_000,), "B", writes, data[::2])
    assert any_ex.submit(describe, memoryview(b"")).result()[-1] == b""
    assert any_ex.submit(describe, memoryview(np.zeros((3, 0), "i4"))).result()[0] == "memoryview"
    with mmap.mmap(-1, 100_000) as mapped:
        mapped[:] = data
        future = any_ex.submit(describe, mapped)
        assert future.result()[-1] == data
        del future
        gc.collect()
    nested = any_ex.submit(echo, {"in": [memoryview(data)], "x": np.ones(N)}).result()
    assert (bytes(nested["in"][0]), float(nested["x"].sum())) == (data, N)


def test_a_memoryview_of_records_says_what_to_do(any_ex):
    records = memoryview(np.zeros(N, [("a", "i4"), ("b", "f8")]))
    with pytest.raises(rfaas.SerializationError, match="cast"):
        any_ex.submit(describe, records).result()


class Foreign:
    """An array of another library, as DLPack sees it; on a device, if that is said."""

    def __init__(self, data, device=(1, 0)):
        self.data, self.device = data, device

    def __dlpack__(self, **options):
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


def test_arrays_of_other_libraries_travel_as_numpy_arrays(any_ex):
    data = np.arange(float(N))
    seen = rfaas.from_dlpack(Foreign(data))
    assert np.shares_memory(seen, data)
    assert any_ex.submit(describe, seen).result()[-1] == float(data.sum())
    with pytest.raises(ValueError, match="device"):
        rfaas.from_dlpack(Foreign(data, (2, 0)))
    with pytest.raises(TypeError, match="no __dlpack__"):
        rfaas.from_dlpack([1.0])


def test_without_numpy_the_error_says_so_and_rfaas_imports():
    program = (
        "import sys; sys.modules['numpy'] = None\nimport rfaas\n"
        "for make in (lambda: rfaas.empty(3), lambda: rfaas.empty_like([1]), lambda: rfaas.from_dlpack(3)):\n"
        "    try: make()\n    except rfaas.ConfigError as error: print('numpy' in str(error), bool(error.hint))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "True True\n" * 3


@pytest.mark.parametrize("shape", [-1, (2, -1), 1 << 62, 1 << 70, (1 << 32, 1 << 32), (N,) * 65, 2.5, "ten"], ids=str)
def test_a_shape_that_numpy_refuses_is_refused_as_numpy_does(shape):
    with pytest.raises((ValueError, TypeError)) as told:
        np.empty(shape)
    with pytest.raises(told.type):
        rfaas.empty(shape)


@pytest.mark.parametrize("order", ["K", "A", "X", 3])
def test_an_order_is_refused_of_large_arrays_as_of_small_ones(order):
    for n in 1, N:
        with pytest.raises((ValueError, TypeError)):
            rfaas.empty((n, 2), order=order)


def test_a_shape_may_be_all_that_numpy_takes_for_one():
    for shape in np.int64(N), np.array(N), [N, 2], np.array([N, 2]), (), 0, (0, N):
        assert rfaas.empty(shape).shape == np.empty(shape).shape
