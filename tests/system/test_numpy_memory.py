"""Arrays that numpy makes in a function lie where the caller can have them: they stay the function's all the same."""

import gc
import multiprocessing
import os
import signal
import threading

import numpy as np
import pytest

import rfaas

N = 50_000  # of float64


@pytest.fixture
def ex():
    with rfaas.Executor(max_workers=1, transport="shm") as executor:
        for _ in range(3):  # numpy is there, and some of the arena is ready
            executor.submit(full, 4 * N, 0.0).result()
        yield executor


kept: list = []


def lies_in_arena(array):
    """Whether an array lies in memory that is shared with the caller."""
    at = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for line in maps:
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            if begin <= at < end:
                return "rfaas-channel" in line
    return False


def full(n, value):
    return np.full(n, value)


def is_in_arena(n):
    return lies_in_arena(np.empty(n))


def new(n, value):
    made = np.full(n, value)
    return made, lies_in_arena(made)


def new_and_kept(n, value):
    made = np.full(n, value)
    kept.append(made)
    return made, lies_in_arena(made)


def kept_values(add=0.0, clear=False):
    found = []
    for array in kept:
        found.append((float(array.min()), float(array.max())))
        array += add
    if clear:
        kept.clear()
    return found


def test_a_new_array_goes_over_as_it_is_and_is_the_callers_own(ex):
    results = [ex.submit(new, N, float(number)).result() for number in range(4)]
    assert results[0][1]  # in the arena: or this tests nothing
    for number, (array, _) in enumerate(results):
        assert array.flags.writeable
        assert (array == number).all()
        array += 10.0
    for number in range(20):
        assert (ex.submit(new, N, float(number)).result()[0] == number).all()
    assert [float(array.sum()) for array, _ in results] == [N * (10.0 + number) for number in range(4)]


def test_what_a_function_keeps_is_its_own(ex):
    results = [ex.submit(new_and_kept, N, float(number)).result() for number in range(3)]
    assert results[0][1]
    for array, _ in results:
        array.fill(-1.0)
    for _ in range(20):
        ex.submit(new, N, 7.0).result()
    assert ex.submit(kept_values, 100.0).result() == [(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)]
    assert all((array == -1.0).all() for array, _ in results)
    again = ex.submit(kept_values, clear=True).result()
    assert again == [(100.0, 100.0), (101.0, 101.0), (102.0, 102.0)]


def parts(n):
    both = np.zeros((2, n))
    both[0], both[1] = 1.0, 2.0
    return both[0], both[1], both[:, : n // 2], both.T, memoryview(both[1]), lies_in_arena(both)


def small_part(n):
    return np.arange(100.0 * n)[n : 2 * n]


def test_parts_views_and_orders_arrive_as_what_they_are(ex):
    for _ in range(3):
        one, two, strided, turned, view, in_arena = ex.submit(parts, N).result()
        assert in_arena
        one.fill(9.0)
        assert (float(two.sum()), float(strided.sum()), float(turned.sum())) == (2.0 * N, 1.5 * N, 3.0 * N)
        assert turned.shape == (N, 2)
        assert view[0] == 2.0
        part = ex.submit(small_part, N // 10).result()
        assert (float(part[0]), float(part[-1])) == (N // 10, 2 * (N // 10) - 1)


def make_in_every_way(n):
    dirty = [np.full(n, 3.0) for _ in range(3)]
    assert all(map(lies_in_arena, dirty))
    del dirty
    zeros = np.zeros(n)
    right = [lies_in_arena(zeros), not zeros.any()]
    zeros.fill(1.0)
    zeros.resize(2 * n)
    right += [float(zeros.sum()) == n, zeros.size == 2 * n]
    zeros.resize(n // 2)
    right += [float(zeros.sum()) == n // 2]
    right += [np.fromiter(range(n), float).sum() == n * (n - 1) / 2]
    right += [np.empty(n).ctypes.data % 64 == 0, np.empty((0, n)).size == 0, np.zeros(3).sum() == 0.0]
    objects = np.array([str(i) for i in range(n)], dtype=object)
    right += [lies_in_arena(objects), objects[n - 1] == str(n - 1)]
    structured = np.zeros(n, [("a", "i4"), ("b", "f8")])
    structured["b"] = 2.0
    right += [structured["b"].sum() == 2.0 * n]
    return right, structured, objects[:3]


def test_numpy_makes_zeros_resizes_and_holds_objects_as_ever(ex):
    for _ in range(3):
        right, structured, objects = ex.submit(make_in_every_way, N).result()
        assert all(right), right
        assert structured["b"].sum() == 2.0 * N
        assert list(objects) == ["0", "1", "2"]


def _begin_to_watch(n):
    array = np.full(n, 1.0)
    seen, stop = set(), threading.Event()

    def look():
        array_of_a_thread = np.full(n, 5.0)
        while not stop.is_set():
            seen.update((float(array.min()), float(array.max()), float(array_of_a_thread.max())))
        kept.clear()  # frees what the function made

    thread = threading.Thread(target=look)
    thread.start()
    kept.extend((array, thread, stop, seen))
    return array, lies_in_arena(array)


def _end_to_watch():
    _, thread, stop, seen = kept
    stop.set()
    thread.join()
    return seen, [is_in_arena(N) for _ in range(40)]


def test_a_thread_that_goes_on_sees_only_what_was_its_own(ex):
    array, in_arena = ex.submit(_begin_to_watch, N).result()
    assert in_arena
    array.fill(-1.0)
    for number in range(30):
        ex.submit(new, N, float(number)).result()[0].fill(-2.0)
    seen, in_arena = ex.submit(_end_to_watch).result()
    assert seen == {1.0, 5.0}
    assert all(in_arena)


def _fork(n):
    arrays = [np.full(n, float(number)) for number in range(3)]
    assert all(map(lies_in_arena, arrays))
    mine, theirs = multiprocessing.Pipe()
    go_on, wait = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(wait)
        os.read(go_on, 1)  # until the parent has written and freed
        theirs.send([(float(array.min()), float(array.max())) for array in arrays])
        arrays[2] += 5.0
        del arrays
        more = np.full(n, 8.0)
        theirs.send((float(more.sum()), lies_in_arena(more)))
        os._exit(0)
    arrays[0].fill(-1.0)
    last = arrays[2]
    del arrays
    other = [np.full(n, -2.0) for _ in range(5)]
    os.close(wait)
    os.close(go_on)
    seen, own = mine.recv(), mine.recv()
    os.waitpid(pid, 0)
    return seen, own, last, other[0]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_that_a_function_forks_has_what_there_was(ex):
    for _ in range(5):
        seen, own, last, other = ex.submit(_fork, N).result()
        assert seen == [(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)]
        assert own == (8.0 * N, False)
        assert (float(last.min()), float(last.max()), float(other.max())) == (2.0, 2.0, -2.0)
        del last, other  # the arena has room again


def keep_many(n):
    kept.extend(np.full(n, 1.0) for _ in range(500))


def test_beyond_the_arena_functions_work_as_ever(ex):
    assert ex.submit(is_in_arena, N).result()
    assert not ex.submit(is_in_arena, 40_000_000).result()  # a file of 320 MB is larger than it
    many = ex.submit(lambda n: [np.full(n, float(i)) for i in range(100)], N).result()
    assert [float(array[-1]) for array in many] == list(range(100))
    ex.submit(keep_many, N).result()
    assert (ex.submit(new, N, 3.0).result()[0] == 3.0).all()
    assert len(ex.submit(kept_values, clear=True).result()) == 500
    assert ex.submit(is_in_arena, N).result()
    del many
    gc.collect()


def test_without_an_arena_numpy_is_left_alone():
    with rfaas.Executor(max_workers=1, transport="tcp") as over_tcp:
        for number in range(3):
            array, in_arena = over_tcp.submit(new, N, float(number)).result()
            assert not in_arena
            assert (array == number).all()


def test_results_outlive_a_worker_that_is_killed():
    with rfaas.Executor(max_workers=1, transport="shm", idempotent=True, retries=3) as executor:
        results = [executor.submit(new, N, float(number)).result()[0] for number in range(4)]
        os.kill(executor.submit(os.getpid).result(), signal.SIGKILL)
        results += [executor.submit(new, N, float(number)).result()[0] for number in range(4, 8)]
    assert [float(array.sum()) for array in results] == [N * number for number in range(8)]
