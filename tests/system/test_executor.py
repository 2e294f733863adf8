"""What programs rely on, on real processes: the standard executor takes the same tests where it has an answer too."""

import asyncio
import concurrent.futures
import functools
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed, wait

import numpy as np
import pytest

import rfaas
from support import functions as f
from support.deadlines import assert_in_time
from support.invariants import _promises_are_kept as _promises_are_kept  # one event log for all tests here
from support.waiting import wait_until

TIMEOUT_S = 60


def make_rfaas(workers):
    return rfaas.Executor(workers, allocator="embedded")


@pytest.fixture(scope="module", params=[ProcessPoolExecutor, make_rfaas], ids=["standard", "rfaas"])
def both(request):
    with request.param(2) as executor:
        executor.submit(f.nothing).result(TIMEOUT_S)
        yield executor


@pytest.fixture(scope="module")
def ex():
    with make_rfaas(2) as executor:
        yield executor


# --- as with the standard executor -----------------------------------------------------------------


def test_a_call_returns_what_the_function_returns(both):
    assert both.submit(f.add, 1, b=2).result(TIMEOUT_S) == 3
    assert both.submit(f.echo, 1, None, key=["v"]).result(TIMEOUT_S) == ((1, None), {"key": ["v"]})


def test_functions_run_in_another_process(both):
    assert both.submit(f.pid).result(TIMEOUT_S) != os.getpid()


def test_an_exception_is_raised_as_itself_with_its_remote_traceback(both):
    with pytest.raises(f.CustomError) as caught:
        both.submit(f.raise_custom).result(TIMEOUT_S)
    assert (caught.value.number, caught.value.text) == (7, "seven")
    assert "in raise_custom" in str(caught.value.__cause__)
    assert 'raise CustomError(7, "seven")' in str(caught.value.__cause__)


def test_the_remote_traceback_tells_the_remote_cause(both):
    with pytest.raises(ValueError, match="outer") as caught:
        both.submit(f.raise_chained).result(TIMEOUT_S)
    assert "CustomError" in str(caught.value.__cause__)


def test_map_keeps_the_order(both):
    assert list(both.map(f.add, range(50), range(50))) == [2 * n for n in range(50)]
    assert list(both.map(f.add, range(50), chunksize=7)) == list(range(50))
    assert list(both.map(f.add, [])) == []


def test_map_raises_where_the_exception_belongs(both):
    results = both.map(divmod, [4, 4, 4], [2, 0, 1])
    assert next(results) == (2, 0)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_with_a_timeout(both):
    results = both.map(f.sleep, [0.0, 0.6], timeout=0.3)
    assert next(results) == 0.0
    with pytest.raises(TimeoutError):
        next(results)


def test_as_completed_and_wait(both):
    futures = [both.submit(f.add, n) for n in range(20)]
    assert sorted(future.result() for future in as_completed(futures, TIMEOUT_S)) == list(range(20))
    done, not_done = wait(futures, TIMEOUT_S)
    assert (len(done), len(not_done)) == (20, 0)
    done, _ = wait([both.submit(f.nothing), both.submit(f.sleep, 0.2)], return_when=concurrent.futures.FIRST_COMPLETED)
    assert done


def test_callbacks_run_with_the_future(both):
    seen = []
    future = both.submit(f.add, 2)
    future.add_done_callback(seen.append)
    future.result(TIMEOUT_S)
    wait_until(lambda: seen == [future], TIMEOUT_S)


def test_asyncio_takes_the_futures(both):
    async def main():
        loop = asyncio.get_running_loop()
        direct = await loop.run_in_executor(both, f.add, 1, 1)
        return direct, await asyncio.gather(*(asyncio.wrap_future(both.submit(f.add, n)) for n in range(5)))

    assert asyncio.run(main()) == (2, [0, 1, 2, 3, 4])


def test_result_times_out_and_the_call_goes_on(both):
    future = both.submit(f.sleep, 0.3)
    with pytest.raises(TimeoutError):
        future.result(0.01)
    assert future.result(TIMEOUT_S) == 0.3


def test_what_can_t_be_pickled_is_the_future_s_error(both):
    assert both.submit(f.echo, threading.Lock()).exception(TIMEOUT_S) is not None
    assert both.submit(f.return_lock).exception(TIMEOUT_S) is not None
    assert both.submit(f.add, 1).result(TIMEOUT_S) == 1


@pytest.mark.parametrize("make", [ProcessPoolExecutor, make_rfaas], ids=["standard", "rfaas"])
def test_queued_calls_are_cancelled_at_shutdown_and_running_ones_end(make, tmp_path):
    executor = make(1)
    running = executor.submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "gate")
    wait_until(lambda: f.runs(tmp_path / "witness"), TIMEOUT_S)
    queued = [executor.submit(f.witness, tmp_path / "queued") for _ in range(20)]
    executor.shutdown(wait=False, cancel_futures=True)
    (tmp_path / "gate").touch()
    assert running.result(TIMEOUT_S) == "done"
    wait_until(lambda: all(future.done() for future in queued), TIMEOUT_S)
    n_cancelled = sum(future.cancelled() for future in queued)
    assert n_cancelled >= 18  # the standard one has a few in its pipe
    assert f.runs(tmp_path / "queued") == 20 - n_cancelled
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(f.nothing)


# --- beyond it ---------------------------------------------------------------------------------------


def test_lambdas_closures_and_local_classes_travel(ex):
    n = 5

    class Point:
        def __init__(self, x):
            self.x = x

    assert ex.submit(lambda x: x + n, 1).result(TIMEOUT_S) == 6
    moved = ex.submit(lambda p: Point(p.x + 1), Point(1)).result(TIMEOUT_S)
    assert type(moved) is Point
    assert moved.x == 2


def test_an_exception_class_of_the_caller_s_own_is_caught_by_its_class(ex):
    class LocalError(Exception):
        pass

    def fail():
        raise LocalError("mine")

    with pytest.raises(LocalError, match="mine"):
        ex.submit(fail).result(TIMEOUT_S)


def test_methods_and_partials_see_the_state_of_the_moment(ex):
    numbers = [1]
    assert ex.submit(numbers.count, 1).result(TIMEOUT_S) == 1
    numbers.append(1)
    assert ex.submit(numbers.count, 1).result(TIMEOUT_S) == 2
    assert ex.submit(functools.partial(f.add, 2), b=3).result(TIMEOUT_S) == 5


def test_an_exception_that_can_t_be_rebuilt_is_a_remote_error(ex):
    error = ex.submit(f.raise_picky).exception(TIMEOUT_S)
    assert (type(error), error.remote_type.rpartition(".")[2]) == (rfaas.RemoteError, "PickyError")
    assert "in raise_picky" in error.remote_traceback


def test_a_result_that_can_t_be_pickled_says_so(ex):
    error = ex.submit(f.return_lock).exception(TIMEOUT_S)
    assert type(error) is rfaas.SerializationError
    assert error.may_have_run


def test_large_arrays_travel_both_ways_and_are_writable_on_both_sides(ex):
    array = np.arange(4_000_000, dtype=np.float64)  # 32 MB
    scaled = ex.submit(f.scale_in_place, array, 2.0).result(TIMEOUT_S)
    assert np.array_equal(scaled, array * 2)
    scaled[0] = -1.0
    assert array[0] == 0.0


def test_arrays_cross_while_others_do(ex):
    arrays = [np.full(1_000_000, n, dtype=np.float64) for n in range(6)]
    results = list(ex.map(f.scale_in_place, arrays, [3.0] * 6))
    assert [r[0] for r in results] == [3.0 * n for n in range(6)]
    assert all(r.flags.writeable for r in results)


def test_arrays_that_are_not_contiguous_travel(ex):
    array = np.arange(100).reshape(10, 10)[::2, ::-3]
    assert np.array_equal(ex.submit(f.scale_in_place, array, 2).result(TIMEOUT_S), array * 2)


def test_ten_thousand_calls(ex):
    futures = [ex.submit(f.add, n, 1) for n in range(10_000)]
    assert [future.result(TIMEOUT_S) for future in futures] == list(range(1, 10_001))


def test_many_threads_submit(ex):
    wrong = []

    def submitter(base):
        futures = [ex.submit(f.add, base, n) for n in range(100)]
        wrong.extend(n for n, future in enumerate(futures) if future.result(TIMEOUT_S) != base + n)

    threads = [threading.Thread(target=submitter, args=(1000 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_both_workers_work(ex):
    pids = set(ex.map(lambda s: (time.sleep(s), os.getpid())[1], [0.2] * 4))
    assert len(pids) == 2


def test_invoke_waits_for_the_value(ex):
    assert ex.invoke(f.add, 20, b=1) == 21
    with pytest.raises(f.CustomError):
        ex.invoke(f.raise_custom)


@pytest.mark.figures
def test_a_short_call_does_not_wait_behind_a_long_one(ex, tmp_path):
    """A call that lasts and 100 no-ops on 2 warm workers: the no-ops are done in 0.1 s."""
    list(ex.map(f.sleep, [0.1, 0.1]))  # both workers are warm
    longest_s = []
    for attempt in range(3):
        gate = tmp_path / f"gate-{attempt}"
        long_call = ex.submit(f.witness_then_wait, tmp_path / f"witness-{attempt}", gate)
        began_s = time.perf_counter()
        futures = [ex.submit(f.nothing) for _ in range(100)]
        wait(futures)
        longest_s.append(time.perf_counter() - began_s)
        assert not long_call.done()
        gate.touch()
        long_call.result(TIMEOUT_S)
    print(f"100 no-ops beside a long call: {[round(s * 1e3, 1) for s in longest_s]} ms")
    assert_in_time(sorted(longest_s)[1], 3 * 0.1)  # the promise is 0.1 s; a busy machine may spoil one of the three


def test_a_call_that_waits_can_be_cancelled(ex, tmp_path):
    running = [ex.submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "gate") for _ in range(2)]
    wait_until(lambda: f.runs(tmp_path / "witness") == 2, TIMEOUT_S)
    waiting = ex.submit(f.witness, tmp_path / "cancelled")
    assert not waiting.running()
    assert waiting.cancel()
    assert not running[0].cancel()
    (tmp_path / "gate").touch()
    assert [future.result(TIMEOUT_S) for future in running] == ["done", "done"]
    assert f.runs(tmp_path / "cancelled") == 0


def test_executors_nest(ex):
    assert ex.submit(f.call_nested, [-1, -2, -3]).result(TIMEOUT_S) == [1, 2, 3]


def test_two_executors_at_a_time(ex):
    with make_rfaas(1) as other:
        assert other.submit(f.add, 1).result(TIMEOUT_S) == ex.submit(f.add, 1).result(TIMEOUT_S)
        assert other.submit(f.pid).result(TIMEOUT_S) != ex.submit(f.pid).result(TIMEOUT_S)


def test_an_executor_grows_only_as_calls_need_it():
    with make_rfaas(4) as executor:
        for n in range(5):
            assert executor.submit(f.add, n).result(TIMEOUT_S) == n
        assert executor.statistics()["workers"] == 1
        list(executor.map(f.sleep, [0.2] * 8))
        assert executor.statistics()["workers"] == 4


def test_options_apply_to_their_calls_only(ex):
    hurried = ex.options(call_timeout_s=0.3)
    with pytest.raises(rfaas.DeadlineExceeded):
        hurried.submit(f.sleep, 30).result(TIMEOUT_S)
    assert ex.submit(f.sleep, 0.5).result(TIMEOUT_S) == 0.5


def test_the_user_s_process_loads_no_daemon_s_modules(ex, tmp_path):
    """What is loaded after real calls, in a fresh interpreter."""
    import subprocess
    import sys

    program = (
        "import sys, rfaas\n"
        "with rfaas.Executor(1, allocator='embedded') as ex:\n"
        "    assert ex.submit(pow, 2, 3).result(60) == 8\n"
        "heavy = {'grpc', 'google.protobuf', 'numpy', 'asyncio', 'rfaas_executors', 'rfaas_allocator'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")
