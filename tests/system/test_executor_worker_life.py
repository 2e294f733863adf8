"""Beyond the standard executor: initializers, lives of workers and their ends, where workers die and come back."""

import asyncio
import logging
import os
import signal
import threading
import time
from concurrent.futures import wait

import pytest

import rfaas
from support import attempts
from support import functions as f
from support import pool_functions as p
from support.deadlines import assert_in_time
from support.leftovers import alive, children
from support.personal import Personal
from support.waiting import wait_until

TIMEOUT_S = 60


def ours(workers, **options):
    return rfaas.Executor(workers, allocator="embedded", **options)


# --- the initializer ---------------------------------------------------------------------------------


def test_the_error_says_what_the_initializer_raised_and_where(caplog):
    with ours(2, initializer=p.fail_to_initialize, initargs=("no licence",)) as ex:
        futures = [ex.submit(f.add, n) for n in range(10)]
        errors = [future.exception(TIMEOUT_S) for future in futures]
        with pytest.raises(rfaas.ExecutorBroken, match="no licence") as later:
            ex.submit(f.add, 1)
        with pytest.raises(rfaas.ExecutorBroken):
            ex.invoke(f.add, 1)
    assert {type(error) for error in errors} == {rfaas.ExecutorBroken}
    assert len({id(error) for error in errors}) == 10
    for error in (*errors, later.value):
        assert "the initializer fail_to_initialize raised LookupError: no licence" in error.message
        assert (error.may_have_run, type(error.__cause__)) == (False, LookupError)
        assert "in fail_to_initialize" in str(error.__cause__.__cause__)
    assert [record.levelno for record in caplog.records if "no licence" in record.message] == [logging.ERROR]


def test_closures_initialize_too_and_functions_see_what_they_left(tmp_path):
    path = tmp_path / "note"

    def initialize(text):
        path.write_text(text)

    with ours(1, initializer=initialize, initargs=["from a list"]) as ex:
        assert ex.submit(path.read_text).result(TIMEOUT_S) == "from a list"


@pytest.mark.parametrize("options", [{"initializer": p.remember, "initargs": ("k", threading.Lock())}])
def test_an_initializer_that_can_t_be_pickled_is_told_by_the_constructor(options):
    with pytest.raises(rfaas.SerializationError, match="arguments can't be pickled"):
        ours(1, **options)
    lock = threading.Lock()
    with pytest.raises(rfaas.SerializationError, match=r"initializer .* can't be pickled"):
        ours(1, initializer=lambda: lock)


def test_arguments_that_explode_on_the_worker_break_the_executor():
    with ours(1, initializer=p.remember, initargs=("k", p.Explodes())) as ex:
        error = ex.submit(f.nothing).exception(TIMEOUT_S)
    assert type(error) is rfaas.ExecutorBroken
    assert "unpickled where it must not be" in str(error)


@pytest.mark.parametrize("deadly", [(os._exit, (3,)), (os.kill, (0, signal.SIGKILL)), (exit, (4,))])
def test_an_initializer_that_kills_three_workers_breaks_the_executor(deadly):
    function, arguments = deadly
    if function is os.kill:
        function, arguments = (lambda: os.kill(os.getpid(), signal.SIGKILL)), ()
    elif function is exit:
        function, arguments = (lambda: (_ for _ in ()).throw(SystemExit(4))), ()
    with ours(1, initializer=function, initargs=arguments) as ex:
        error = ex.submit(f.nothing).exception(TIMEOUT_S)
    assert (type(error), type(error.__cause__)) == (rfaas.ExecutorBroken, rfaas.PoisonFunction)
    assert not error.may_have_run


def test_a_worker_in_place_of_a_dead_one_is_initialized_before_its_first_call(tmp_path):
    with ours(2, initializer=p.remember_in_file, initargs=(tmp_path / "pids",)) as ex:
        for n in range(3):
            lost = ex.submit(f.witness_then_die, tmp_path / f"witness-{n}")
            assert type(lost.exception(TIMEOUT_S)) is rfaas.WorkerLost
        answers = list(ex.map(p.recall, ["initialized"] * 20, [0.02] * 20))
    assert {count for count, _ in answers} == {1}
    pids = p.lines(tmp_path / "pids")
    assert len(pids) == len(set(pids))
    assert {str(pid) for _, pid in answers} <= set(pids)


def test_when_a_replacement_can_t_be_initialized_what_waits_fails(tmp_path):
    with ours(1, initializer=p.fail_unless_first, initargs=(tmp_path / "licence",)) as ex:
        assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1
        lost = ex.submit(f.witness_then_die, tmp_path / "witness")
        behind = [ex.submit(f.add, n) for n in range(5)]
        assert type(lost.exception(TIMEOUT_S)) is rfaas.WorkerLost
        assert {type(future.exception(TIMEOUT_S)) for future in behind} == {rfaas.ExecutorBroken}
        assert "only one licence" in str(behind[0].exception())


def test_calls_wait_while_a_slow_initializer_runs_and_can_be_cancelled(tmp_path):
    with ours(1, initializer=p.note_pid_and_wait, initargs=(tmp_path / "pid", tmp_path / "gate")) as ex:
        futures = [ex.submit(f.add, n) for n in range(3)]
        wait_until(lambda: p.lines(tmp_path / "pid"), TIMEOUT_S)
        assert not futures[0].running()
        assert futures[1].cancel()
        (tmp_path / "gate").touch()
        assert [futures[0].result(TIMEOUT_S), futures[2].result(TIMEOUT_S)] == [0, 2]


def test_an_initializer_that_hangs_keeps_nobody_from_shutting_down(tmp_path):
    ex = ours(1, initializer=p.note_pid_and_wait, initargs=(tmp_path / "pid", tmp_path / "never"))
    future = ex.submit(f.add, 1)
    wait_until(lambda: p.lines(tmp_path / "pid"), TIMEOUT_S)
    ex.shutdown(wait=True, cancel_futures=True)
    assert future.cancelled()
    wait_until(lambda: not alive(p.lines(tmp_path / "pid")[0]), 5)


# --- a life of n calls -------------------------------------------------------------------------------


def test_no_call_is_lost_while_workers_come_and_go_and_die(tmp_path):
    """Workers live for one call; every tenth call kills its worker instead."""
    with ours(2, max_tasks_per_child=1) as ex:
        futures = [
            ex.submit(f.witness_then_die, tmp_path / f"w{n}") if n % 10 == 9 else ex.submit(f.pid) for n in range(30)
        ]
        errors = [future.exception(TIMEOUT_S) for future in futures]
        pids = [future.result() for future, error in zip(futures, errors, strict=True) if error is None]
    assert [type(error) for error in errors if error is not None] == [rfaas.WorkerLost] * 3
    assert len(set(pids)) == len(pids) == 27


def test_a_chunk_is_one_call():
    with ours(1, max_tasks_per_child=1) as ex:
        pids = [pid for _, pid in ex.map(p.recall, ["k"] * 9, chunksize=3)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]


# --- terminate ---------------------------------------------------------------------------------------


def test_the_hardest_function_ends_within_a_second_and_nothing_is_left(tmp_path):
    ex = ours(2)
    running = [ex.submit(p.ignore_everything, tmp_path / "pids") for _ in range(2)]
    pids = wait_until(lambda: len(p.lines(tmp_path / "pids")) == 2 and p.lines(tmp_path / "pids"), TIMEOUT_S)
    session = ex._engine.session_pid
    below = children(session)
    began_s = time.monotonic()
    ex.terminate_workers()
    errors = [future.exception(TIMEOUT_S) for future in running]
    told_s = time.monotonic() - began_s
    ex.shutdown(wait=True)
    wait_until(lambda: not any(alive(pid) for pid in (*pids, session, *below)), TIMEOUT_S)
    ended_s = time.monotonic() - began_s
    print(
        f"terminate_workers: futures failed after {told_s * 1e3:.0f} ms, everything gone after {ended_s * 1e3:.0f} ms"
    )
    assert [(type(e), e.may_have_run, e.phase) for e in errors] == [(rfaas.ExecutorBroken, True, "SENT")] * 2
    assert_in_time(told_s, 3 * 0.1)
    assert_in_time(ended_s, 3 * 1.0)


def test_workers_can_be_ended_while_they_are_not_there_yet_and_from_a_callback(tmp_path):
    ex = ours(1)
    future = ex.submit(f.add, 1)
    ex.kill_workers()
    ex.shutdown(wait=True)
    assert future.cancelled() or future.exception(0) is not None or future.result(0) == 1
    ex, seen = ours(1), []
    future = ex.submit(f.add, 1)
    future.add_done_callback(lambda _: seen.append(ex.terminate_workers()))
    assert future.result(TIMEOUT_S) == 1
    wait_until(lambda: seen, TIMEOUT_S)
    ex.shutdown(wait=True)
    assert not [thread for thread in threading.enumerate() if thread is ex._engine._thread]


def test_a_view_ends_the_workers_of_its_executor(tmp_path):
    ex = ours(1)
    running = ex.options(idempotent=True, retries=5).submit(p.note_pid_and_wait, tmp_path / "pid", tmp_path / "never")
    wait_until(lambda: p.lines(tmp_path / "pid"), TIMEOUT_S)
    ex.options(call_timeout_s=5).terminate_workers()
    assert type(running.exception(TIMEOUT_S)) is rfaas.ExecutorBroken
    ex.shutdown()


def test_the_cores_of_ended_workers_go_to_others_at_once(tmp_path):
    cluster = Personal(tmp_path)
    try:
        cluster.start_allocator()
        cluster.start_agent(cores=2)
        ex = rfaas.Executor(2, allocator=cluster.state_dir)
        running = [ex.submit(p.ignore_everything, tmp_path / "pids") for _ in range(2)]
        pids = wait_until(lambda: len(p.lines(tmp_path / "pids")) == 2 and p.lines(tmp_path / "pids"), TIMEOUT_S)
        ex.kill_workers()
        assert {type(future.exception(TIMEOUT_S)) for future in running} == {rfaas.ExecutorBroken}
        with rfaas.Executor(2, allocator=cluster.state_dir, acquire_timeout_s=20) as other:
            assert list(other.map(f.add, range(10))) == list(range(10))
        assert not any(alive(pid) for pid in pids)
        ex.shutdown()
    finally:
        cluster.stop()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # 3.12 and later warn of threads
def test_a_forked_child_can_t_end_its_parent_s_workers(tmp_path):
    with ours(1) as ex:
        running = ex.submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "gate")
        wait_until(lambda: f.runs(tmp_path / "witness"), TIMEOUT_S)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                ex.terminate_workers()
                asyncio.run(ex.ashutdown())
                ex.shutdown()
                try:
                    ex.submit(f.nothing)
                except RuntimeError as error:
                    status = 0 if "after fork" in str(error) else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        (tmp_path / "gate").touch()
        assert running.result(TIMEOUT_S) == "done"
        assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1


# --- from the inside: finalizers and signal handlers interrupt a thread that holds the lock -----------


def test_what_a_finalizer_or_signal_handler_asks_is_done_by_the_other_thread(tmp_path):
    with ours(1) as ex:
        blocking = ex.submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "gate")
        wait_until(lambda: f.runs(tmp_path / "witness"), TIMEOUT_S)
        waiting = ex.submit(f.add, 1)
        with ex._engine._lock:  # where a collection or a signal may interrupt submit, cancel or shutdown
            late = ex.submit(f.add, 2)
            assert not waiting.cancel()  # not known yet
            assert ex.statistics()["submitted"] == 2
        wait_until(waiting.cancelled, TIMEOUT_S)
        (tmp_path / "gate").touch()
        assert (blocking.result(TIMEOUT_S), late.result(TIMEOUT_S)) == ("done", 2)
        with ex._engine._lock:
            ex.shutdown(wait=True)
        with pytest.raises(RuntimeError, match="after shutdown"):
            ex.submit(f.nothing)


def test_an_interrupt_that_overtakes_its_submit_waits_for_it():
    with ours(2) as ex:
        ex.submit(f.nothing).result(TIMEOUT_S)
        futures = []
        for n in range(100):
            with ex._engine._lock:  # as above: the submit is left to the other thread
                futures.append(ex.submit(f.add, n))
                if n % 2:
                    assert futures[-1].cancel(interrupt=True)
            futures[-1].cancel(interrupt=True)
        wait(futures, TIMEOUT_S)
        for n, future in enumerate(futures):
            error = None if future.cancelled() else future.exception(0)
            assert future.cancelled() or type(error) is rfaas.Cancelled or future.result(0) == n
        assert ex.submit(f.add, 7).result(TIMEOUT_S) == 7
        counts = ex.statistics()
    assert counts["submitted"] == counts["answered"] + counts["failed"] + counts["cancelled"] == 102


def test_the_worker_that_replaces_an_interrupted_one_is_initialized_too(tmp_path):
    with ours(1, initializer=p.remember, initargs=("k", 5)) as ex:
        call = ex.submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "never")
        wait_until(lambda: f.runs(tmp_path / "witness"), TIMEOUT_S)
        assert call.cancel(interrupt=True)
        assert type(call.exception(TIMEOUT_S)) is rfaas.Cancelled
        assert ex.submit(p.recall, "k").result(TIMEOUT_S)[0] == 5


def test_a_call_goes_on_from_its_checkpoint_on_an_initialized_worker():
    with ours(1, initializer=p.remember, initargs=("k", 5), max_tasks_per_child=1) as ex:
        call = ex.options(idempotent=True, retries=2).submit(attempts.save_and_die, b"state", 2)
        assert call.result(TIMEOUT_S)[::2] == (b"state\x01", 2)
        assert ex.submit(p.recall, "k").result(TIMEOUT_S)[0] == 5


def test_ending_the_workers_runs_no_call_again_that_raised_what_it_is_retried_for(tmp_path):
    ex = ours(1)
    retried = ex.options(idempotent=True, retries=1_000_000, retry_on=[OSError])
    call = retried.submit(attempts.fail_times, str(tmp_path / "runs"), 1_000_000, OSError("again"))
    wait_until(lambda: ex.statistics()["retried"] >= 2, TIMEOUT_S)
    ex.terminate_workers()
    error = call.exception(3 * 1.0)  # as it ran, paused, or was looked at
    assert type(error) in (rfaas.ExecutorBroken, rfaas.Cancelled, OSError)
    ex.shutdown()
    counts = ex.statistics()
    assert (counts["queued"], counts["running"], counts["answered"] + counts["failed"]) == (0, 0, 1)


def test_a_signal_handler_may_submit(tmp_path):
    """Timer signals every millisecond, each of which submits, while the main thread submits and cancels."""
    from_handler, from_main = [], []
    with ours(2) as ex:
        ex.submit(f.nothing).result(TIMEOUT_S)

        def handler(*_):
            if len(from_handler) < 300:
                n = len(from_handler)  # the next signal may come before the append
                from_handler.append((n, ex.submit(f.add, n)))

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            while len(from_handler) < 300:
                from_main.append(ex.submit(f.add, len(from_main)))
                from_main[-1 - len(from_main) // 2].cancel()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert [future.result(TIMEOUT_S) for _, future in from_handler] == [n for n, _ in from_handler]
        assert all(future.cancelled() or future.result(TIMEOUT_S) == n for n, future in enumerate(from_main))


def test_a_callback_that_asks_for_the_end_of_its_thread_ends_no_call(caplog):
    with ours(1) as ex:
        future = ex.submit(f.sleep, 0.2)
        seen = []

        def leave(_):
            raise SystemExit(1)

        for callback in (leave, seen.append):
            future.add_done_callback(callback)
        assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1
        assert seen == [future]
    assert any("exception calling callback" in record.message for record in caplog.records)


def test_an_executor_can_t_be_pickled_and_says_what_to_do():
    with ours(1) as ex:
        error = ex.submit(f.echo, ex).exception(TIMEOUT_S)
        assert type(error) is rfaas.SerializationError
        assert "make one inside the function" in str(error)


# --- what a worker keeps --------------------------------------------------------------------------------------


def test_functions_come_and_go_without_filling_their_worker():
    def holding(n, size_bytes):
        data = bytes([n]) * size_bytes
        return lambda: (data[0], len(data), os.getpid())

    size_bytes = 2 << 20  # more than goes along with a definition
    with ours(1, memory="256MiB") as ex:
        first = holding(0, size_bytes)
        pids = {ex.submit(first).result(TIMEOUT_S)[2]}
        for n in range(1, 160):
            *got, pid = ex.submit(holding(n, size_bytes)).result(TIMEOUT_S)
            assert got == [n, size_bytes]
            pids.add(pid)
        *got, pid = ex.submit(first).result(TIMEOUT_S)  # forgotten meanwhile
        assert got == [0, size_bytes]
    assert pids == {pid}
