"""One program, two executors: what the documentation of concurrent.futures says, asked of the standard one and of ours.

Where this Python's ProcessPoolExecutor lacks what newer ones have (`map(buffersize=…)`, `terminate_workers`,
`kill_workers`: 3.14), only ours is asked. The table of all behaviours: docs/futures.md.
"""

import concurrent.futures
import gc
import inspect
import itertools
import logging
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import BrokenExecutor, InvalidStateError, ProcessPoolExecutor, as_completed, wait

import pytest

import rfaas
from support import functions as f
from support import pool_functions as p
from support.leftovers import alive
from support.waiting import wait_until

TIMEOUT_S = 60


def standard(workers, **options):
    return ProcessPoolExecutor(workers, **options)


def ours(workers, **options):
    return rfaas.Executor(workers, allocator="embedded", **options)


BOTH = pytest.mark.parametrize("make", [standard, ours], ids=["standard", "rfaas"])


def where_standard_has(has):
    """Both executors if the standard one of this Python has it, else ours."""
    found = [standard, ours] if has else [ours]
    return pytest.mark.parametrize("make", found, ids=["standard", "rfaas"][-len(found) :])


BUFFERED = where_standard_has("buffersize" in inspect.signature(ProcessPoolExecutor.map).parameters)
ENDABLE = where_standard_has(hasattr(ProcessPoolExecutor, "terminate_workers"))


@pytest.fixture(scope="module", params=[standard, ours], ids=["standard", "rfaas"])
def pool(request):
    """Two workers that many tests share; they must be as good after each test as before."""
    with request.param(2) as executor:
        list(executor.map(f.sleep, [0.1] * 4))
        yield executor


# --- submit ------------------------------------------------------------------------------------------


def test_names_of_our_own_arguments_are_free_for_the_function_s(pool):
    assert pool.submit(f.echo, fn=1, self=2, kwargs=3, args=4).result(TIMEOUT_S)[1] == {
        "fn": 1,
        "self": 2,
        "kwargs": 3,
        "args": 4,
    }


@pytest.mark.parametrize("argument", [threading.Lock(), p.Unpicklable()], ids=["lock", "own words"])
def test_arguments_that_can_t_be_pickled_fail_their_future_only(pool, argument):
    futures = [pool.submit(f.add, 1), pool.submit(f.echo, argument), pool.submit(f.add, 2)]
    assert futures[1].exception(TIMEOUT_S) is not None
    assert [futures[0].result(TIMEOUT_S), futures[2].result(TIMEOUT_S)] == [1, 2]


def test_a_result_that_can_t_be_pickled_fails_its_future_only(pool):
    assert pool.submit(p.Unpicklable).exception(TIMEOUT_S) is not None
    assert pool.submit(f.add, 1).result(TIMEOUT_S) == 1


@BOTH
def test_submit_after_shutdown_says_so(make):
    executor = make(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        executor.submit(f.nothing)
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        executor.map(f.add, [1])
    executor.shutdown()
    executor.shutdown(wait=False, cancel_futures=True)


@BOTH
@pytest.mark.parametrize("wrong", [0, -1])
def test_a_number_of_workers_below_one_is_a_value_error(make, wrong):
    with pytest.raises(ValueError, match="max_workers"):
        make(wrong)


# --- exceptions --------------------------------------------------------------------------------------


def test_notes_travel(pool):
    error = pool.submit(p.raise_with_notes).exception(TIMEOUT_S)
    assert error.__notes__ == ["in the second step", "of file 7"]


def test_groups_travel_with_their_members(pool):
    with pytest.raises(ExceptionGroup) as caught:
        pool.submit(p.raise_group).result(TIMEOUT_S)
    one, inner = caught.value.exceptions
    assert (type(one), type(inner), type(inner.exceptions[0])) == (ValueError, ExceptionGroup, KeyError)
    assert "raise_group" in str(caught.value.__cause__)


def test_the_cause_is_the_remote_traceback_with_all_that_stood_behind(pool):
    text = str(pool.submit(p.raise_chain).exception(TIMEOUT_S).__cause__)
    assert [word in text for word in ("no such thing", "KeyError: 'missing'", "ValueError: outer")] == [True] * 3


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt("from afar"), GeneratorExit(), StopIteration(3), StopAsyncIteration(), MemoryError()]
)
def test_exceptions_of_every_kind_are_results(pool, error):
    told = pool.submit(p.raise_this, error).exception(TIMEOUT_S)
    assert (type(told), told.args) == (type(error), error.args)
    assert pool.submit(f.add, 1).result(TIMEOUT_S) == 1


def test_a_function_s_cancelled_error_is_no_cancellation(pool):
    future = pool.submit(p.raise_this, concurrent.futures.CancelledError("of the function"))
    assert type(future.exception(TIMEOUT_S)) is concurrent.futures.CancelledError
    assert not future.cancelled()


# --- futures -----------------------------------------------------------------------------------------


def test_callbacks_run_in_order_once_and_late_ones_at_once(pool):
    seen = []
    future = pool.submit(f.sleep, 0.2)
    for n in range(3):
        future.add_done_callback(lambda done, n=n: seen.append((n, done is future, done.done())))
    assert future.result(TIMEOUT_S) == 0.2
    wait_until(lambda: len(seen) == 3, TIMEOUT_S)
    assert seen == [(n, True, True) for n in range(3)]
    future.add_done_callback(lambda _: seen.append(threading.get_ident()))
    assert seen[3] == threading.get_ident()


def test_a_callback_that_raises_is_logged_and_the_others_run(pool, caplog):
    seen = []

    def bad(_):
        raise ZeroDivisionError("in a callback")

    with caplog.at_level(logging.ERROR, logger="concurrent.futures"):
        future = pool.submit(f.sleep, 0.2)
        for callback in (bad, seen.append, bad, seen.append):
            future.add_done_callback(callback)
        assert future.result(TIMEOUT_S) == 0.2
        wait_until(lambda: len(seen) == 2, TIMEOUT_S)
    told = [record for record in caplog.records if record.name == "concurrent.futures"]
    assert [record.exc_info[0] for record in told] == [ZeroDivisionError] * 2
    assert pool.submit(f.add, 1).result(TIMEOUT_S) == 1


def test_a_finished_future_refuses_a_second_end(pool):
    future = pool.submit(f.add, 1)
    future.result(TIMEOUT_S)
    with pytest.raises(InvalidStateError):
        future.set_result(2)
    with pytest.raises(InvalidStateError):
        future.set_exception(ValueError())
    with pytest.raises(RuntimeError, match="unexpected state"):
        future.set_running_or_notify_cancel()
    assert not future.cancel()
    assert (future.result(), future.done(), future.running(), future.cancelled()) == (1, True, False, False)


@BOTH
def test_a_cancelled_future_is_seen_by_everybody(make, tmp_path):
    with make(1) as executor:
        blocking = executor.submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "gate")
        wait_until(lambda: f.runs(tmp_path / "witness"), TIMEOUT_S)
        futures = [executor.submit(f.add, n) for n in range(5)]
        last, seen = futures[-1], []
        last.add_done_callback(lambda future: seen.append(future.cancelled()))
        assert last.cancel()
        assert last.cancel()
        assert (seen, last.cancelled(), last.done(), last.running()) == ([True], True, True, False)
        with pytest.raises(concurrent.futures.CancelledError):
            last.result()
        with pytest.raises(concurrent.futures.CancelledError):
            last.exception()
        (tmp_path / "gate").touch()
        assert blocking.result(TIMEOUT_S) == "done"
        assert wait(futures, TIMEOUT_S).not_done == set()  # by now whoever waits is told of the cancelled one too
        assert last in set(as_completed(futures, TIMEOUT_S))


def test_wait_returns_when_it_is_asked_to(pool):
    slow, fast, bad = pool.submit(f.sleep, 0.6), pool.submit(f.add, 1), pool.submit(f.raise_custom)
    assert slow not in wait([slow, fast], TIMEOUT_S, return_when=concurrent.futures.FIRST_COMPLETED).done
    assert bad in wait([slow, bad], TIMEOUT_S, return_when=concurrent.futures.FIRST_EXCEPTION).done
    done, not_done = wait([slow, slow, fast, bad], TIMEOUT_S)
    assert (done, not_done) == ({slow, fast, bad}, set())
    assert wait([], 0) == (set(), set())


def test_as_completed_yields_each_once_and_times_out(pool):
    futures = [pool.submit(f.add, n) for n in range(5)]
    assert sorted(done.result() for done in as_completed(futures * 2, TIMEOUT_S)) == list(range(5))
    slow = pool.submit(f.sleep, 0.5)
    with pytest.raises(TimeoutError, match=r"1 \(of 1\) futures unfinished"):
        list(as_completed([slow], timeout=0.01))
    assert slow.result(TIMEOUT_S) == 0.5


def test_cancelling_races_with_running_and_no_call_is_lost_or_run_in_spite(pool, tmp_path):
    """From three threads, at random moments: each call either ran once and tells it, or is cancelled and never ran.

    Which threads have a CPU first is not ours to say, so it is tried until some calls came before and some after.
    """
    for n_try in range(20):
        n_results = race_of_cancelling(pool, tmp_path / f"ran-{n_try}")
        if 0 < n_results < 300:
            return
    raise AssertionError(f"no race: {n_results} of 300 calls ran")


def race_of_cancelling(pool, path):
    """Submit 300 calls, cancel up to 300 of them; returns how many ran, each once."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    futures = [pool.submit(p.note_and_return, path, n) for n in range(300)]

    def cancel_some(rng):
        for future in rng.sample(futures, 150):
            future.cancel()

    threads = [threading.Thread(target=cancel_some, args=(random.Random(seed + n),)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wait(futures, TIMEOUT_S).not_done == set()
    results = [future.result() for future in futures if not future.cancelled()]
    assert sorted(map(int, p.lines(path))) == sorted(results)
    return len(results)


# --- map ---------------------------------------------------------------------------------------------


def test_map_reads_everything_at_once_and_submits_it(pool, tmp_path):
    read = []
    results = pool.map(p.note_and_return, itertools.repeat(tmp_path / "ran"), (read.append(n) or n for n in range(5)))
    assert read == list(range(5))
    wait_until(lambda: len(p.lines(tmp_path / "ran")) == 5, TIMEOUT_S)  # nobody has asked for a result
    assert list(results) == list(range(5))


def test_map_ends_with_the_shortest(pool):
    assert list(pool.map(f.add, [1, 2, 3], itertools.count())) == [1, 3, 5]
    assert list(pool.map(f.add)) == []


def test_an_exception_of_an_iterable_comes_out_of_map(pool):
    def numbers():
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        pool.map(f.add, numbers())
    assert pool.submit(f.add, 1).result(TIMEOUT_S) == 1


def test_map_is_over_after_an_exception(pool):
    results = pool.map(divmod, [4, 4, 4], [2, 0, 1])
    assert next(results) == (2, 0)
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


@BOTH
@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("how", ["close", "timeout"])
def test_leaving_a_map_early_cancels_what_was_not_sent(make, tmp_path, chunksize, how):
    with make(1) as executor:
        first, others = tmp_path / "gate", tmp_path / "gate of the others"
        gates = [first] * chunksize + [others] * (60 - chunksize)
        timeout = 0.5 if how == "timeout" else None
        results = executor.map(
            f.witness_then_wait, [tmp_path / "ran"] * 60, gates, timeout=timeout, chunksize=chunksize
        )
        wait_until(lambda: f.runs(tmp_path / "ran"), TIMEOUT_S)
        if how == "close":
            first.touch()
            assert next(results) == "done"
            results.close()
        else:
            with pytest.raises(TimeoutError):
                next(results)
            first.touch()
        others.touch()  # what runs of them has begun before; the rest must not
        executor.submit(f.nothing).result(TIMEOUT_S)
    assert f.runs(tmp_path / "ran") < 60


def test_the_timeout_of_map_counts_from_its_call(pool):
    results = pool.map(f.add, [1], timeout=0.05)
    late_s = time.monotonic() + 0.1
    wait_until(lambda: time.monotonic() > late_s, 10)
    assert list(results) == [1]  # what is there is given, however late one asks


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_chunksize_below_one_is_a_value_error(pool, wrong):
    with pytest.raises(ValueError, match="chunksize"):
        pool.map(f.add, [1], chunksize=wrong)


@BUFFERED
@pytest.mark.parametrize(("wrong", "kind"), [(0, ValueError), (-1, ValueError), ("1", TypeError), (1.0, TypeError)])
def test_a_buffersize_that_is_none_is_refused(make, wrong, kind):
    with make(1) as executor, pytest.raises(kind, match="buffersize"):
        executor.map(f.add, [1], buffersize=wrong)


@BUFFERED
@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_with_a_buffer_reads_endless_arguments_as_needed(make, chunksize):
    with make(2) as executor:
        numbers = itertools.count()
        results = executor.map(f.add, numbers, buffersize=3, chunksize=chunksize)
        assert next(numbers) == 3 * chunksize
        assert [next(results) for _ in range(3 * chunksize)] == list(range(3 * chunksize))
        results.close()
        assert next(numbers) <= (3 + 3 + 1) * chunksize + 1


@BUFFERED
def test_map_with_a_buffer_and_no_iterable_is_empty(make):
    with make(1) as executor:
        assert list(executor.map(f.nothing, buffersize=1)) == []


@BUFFERED
def test_an_exception_of_a_buffered_iterable_comes_where_it_is_read(make):
    def numbers():
        yield from range(3)
        raise LookupError("no more")

    with make(1) as executor:
        results = executor.map(f.add, numbers(), buffersize=2)
        assert next(results) == 0
        with pytest.raises(LookupError, match="no more"):
            list(results)


# --- initializer, life of workers --------------------------------------------------------------------


@BOTH
def test_the_initializer_runs_once_a_worker_before_its_first_call(make, tmp_path):
    with make(2, initializer=p.remember_in_file, initargs=(tmp_path / "pids",)) as executor:
        answers = list(executor.map(p.recall, ["initialized"] * 12, [0.05] * 12))
    assert {count for count, _ in answers} == {1}
    pids = [str(pid) for pid in {pid for _, pid in answers}]
    assert set(pids) <= set(p.lines(tmp_path / "pids"))
    assert len(p.lines(tmp_path / "pids")) == len(set(p.lines(tmp_path / "pids"))) <= 2


@BOTH
def test_what_an_initializer_returns_is_nobody_s_business(make):
    with make(1, initializer=p.remember, initargs=("k", "v")) as executor:
        assert executor.submit(p.recall, "k").result(TIMEOUT_S)[0] == "v"


@BOTH
def test_an_initializer_that_raises_breaks_the_executor(make):
    with make(2, initializer=p.fail_to_initialize, initargs=("no licence",)) as executor:
        first = executor.submit(p.recall, "k")
        assert isinstance(first.exception(TIMEOUT_S), BrokenExecutor)

        def refused():
            try:
                return isinstance(executor.submit(p.recall, "k").exception(TIMEOUT_S), BrokenExecutor) and None
            except BrokenExecutor as error:
                return error

        assert wait_until(refused, TIMEOUT_S)
        with pytest.raises(BrokenExecutor):
            executor.map(p.recall, ["k"])


@BOTH
def test_an_initializer_that_can_t_be_called_is_a_type_error(make):
    with pytest.raises(TypeError, match="initializer must be a callable"):
        make(1, initializer=17)


# The standard one of 3.11 can wait for ever here: python/cpython issue 115634.
@where_standard_has(sys.version_info >= (3, 15))
def test_a_worker_takes_no_more_than_its_calls_and_none_is_lost(make, tmp_path):
    options = {"initializer": p.remember_in_file, "initargs": (tmp_path / "pids",), "max_tasks_per_child": 3}
    with make(2, **options) as executor:
        answers = list(executor.map(p.recall, ["initialized"] * 14))
    per_worker = [sum(pid == other for _, other in answers) for pid in {pid for _, pid in answers}]
    assert sum(per_worker) == 14
    assert max(per_worker) <= 3
    assert {count for count, _ in answers} == {1}  # each that came later was initialized too


@BOTH
@pytest.mark.parametrize(("wrong", "kind"), [(0, ValueError), (-1, ValueError), ("3", TypeError)])
def test_a_life_of_no_calls_is_refused(make, wrong, kind):
    with pytest.raises(kind, match="max_tasks_per_child"):
        make(1, max_tasks_per_child=wrong)


# --- ends --------------------------------------------------------------------------------------------


@BOTH
def test_shutdown_waits_for_every_call_and_callback(make, tmp_path):
    executor, seen = make(1), []
    futures = [executor.submit(f.sleep, 0.1) for _ in range(4)]
    futures[-1].add_done_callback(seen.append)
    executor.shutdown(wait=True)
    assert [future.result(0) for future in futures] == [0.1] * 4
    assert seen == [futures[-1]]


@BOTH
def test_shutdown_without_waiting_returns_at_once_and_loses_nothing(make, tmp_path):
    executor = make(1)
    future = executor.submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "gate")
    executor.shutdown(wait=False)
    assert not future.done()
    (tmp_path / "gate").touch()
    assert future.result(TIMEOUT_S) == "done"


@BOTH
def test_a_with_block_that_raises_finishes_its_calls_and_lets_the_exception_through(make):
    futures = []

    def block():
        with make(1) as executor:
            futures.append(executor.submit(f.sleep, 0.3))
            raise KeyError("in the block")

    with pytest.raises(KeyError, match="in the block"):
        block()
    assert futures[0].result(0) == 0.3


@BOTH
def test_an_executor_that_nobody_holds_finishes_its_calls_and_goes(make):
    executor = make(1)
    seen = weakref.ref(executor)
    future = executor.submit(f.sleep, 0.3)
    del executor
    gc.collect()
    assert seen() is None
    assert future.result(TIMEOUT_S) == 0.3


@ENDABLE
@pytest.mark.parametrize("way", ["terminate_workers", "kill_workers"])
def test_ending_the_workers_fails_what_runs_and_cancels_what_waits(make, tmp_path, way):
    executor = make(1)
    running = executor.submit(p.note_pid_and_wait, tmp_path / "pid", tmp_path / "never")
    wait_until(lambda: p.lines(tmp_path / "pid"), TIMEOUT_S)
    waiting = [executor.submit(p.note_and_return, tmp_path / "ran", n) for n in range(20)]
    getattr(executor, way)()
    with pytest.raises(RuntimeError):
        executor.submit(f.nothing)
    assert isinstance(running.exception(TIMEOUT_S), BrokenExecutor)
    wait_until(lambda: all(future.done() for future in waiting), TIMEOUT_S)
    assert all(future.cancelled() or isinstance(future.exception(), BrokenExecutor) for future in waiting)
    executor.shutdown(wait=True)
    wait_until(lambda: not alive(p.lines(tmp_path / "pid")[0]), TIMEOUT_S)
    assert p.lines(tmp_path / "ran") == []
    getattr(executor, way)()


@ENDABLE
@pytest.mark.parametrize("way", ["terminate_workers", "kill_workers"])
def test_ending_the_workers_of_an_executor_that_has_none_is_a_shutdown(make, way):
    executor = make(1)
    getattr(executor, way)()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(f.nothing)


# --- whole programs: the same text, and the same output --------------------------------------------------

MAKE = {
    "standard": "from concurrent.futures import ProcessPoolExecutor as Executor\n",
    "rfaas": "from functools import partial\nimport rfaas\nExecutor = partial(rfaas.Executor, allocator='embedded')\n",
}

AT_EXIT = """
import atexit, threading
from support import functions as f

def late():
    try:
        ex.submit(f.add, 1)
    except RuntimeError as error:
        print("refused:", str(error).partition(" after ")[0])  # the standard one says "shutdown" here

ex = Executor(1)
atexit.register(late)
future = ex.submit(f.sleep, 0.3)
future.add_done_callback(lambda done: print("callback:", done.result()))
print("end of main")
"""

FAILS = """
from support import functions as f
ex = Executor(1)
ex.submit(f.sleep, 0.2).add_done_callback(lambda done: print("callback:", done.result(), flush=True))
raise SystemExit(3)
"""

THREADS = """
import threading
from support import functions as f
ex = Executor(2)
def use(n):
    print(f"{list(ex.map(f.add, range(n), range(n)))}\\n", end="")  # one write: the other thread prints too
threads = [threading.Thread(target=use, args=(n,)) for n in (3, 3)]
for t in threads: t.start()
for t in threads: t.join()
with ex:
    pass
try:
    with ex:
        ex.submit(f.nothing)
except RuntimeError as error:
    print(error)
"""


INITIALIZED = """
from functools import partial

handle, table, depth = None, {}, 1

def open_handle(name):
    global handle
    handle = name.upper()
    fill(2)

def fill(n):
    global depth
    depth = 5
    table["n"] = n

def use(x):
    return x, handle, table, depth

class User:
    def __init__(self, x):
        self.seen = use(x)
    def method(self, y):
        return y, handle, self.seen

def make(x):
    return User(x).method(x)

if __name__ == "__main__":
    with Executor(2, initializer=open_handle, initargs=("disk",)) as ex:
        print(ex.submit(use, 1).result())
        print(list(ex.map(use, range(3), chunksize=2)))
        print(ex.submit(partial(use, x=4)).result())
        print(ex.submit(make, 5).result())
        print(ex.submit(User(6).method, 7).result())
    print(handle, table, depth)
"""


@pytest.mark.parametrize(
    ("program", "status"),
    [(AT_EXIT, 0), (FAILS, 3), (THREADS, 0), (INITIALIZED, 0)],
    ids=["exit", "fails", "threads", "initializer"],
)
def test_a_program_prints_the_same_with_either(tmp_path, program, status):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    outputs = {}
    for name, head in MAKE.items():
        path = tmp_path / f"{name}.py"
        if "__main__" not in program:  # start methods that import the main program again need that
            program = 'if __name__ == "__main__":\n' + textwrap.indent(program, "    ")
        path.write_text(head + program)
        command = [sys.executable, "-W", "error", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=tmp_path, env=environment)
        assert done.returncode == status, done.stderr
        outputs[name] = (done.stdout, done.stderr)
    assert outputs["rfaas"] == outputs["standard"]
    assert outputs["rfaas"][0]
