"""`invoke`: a channel on loan to the thread that waits, and every way in which it goes back."""

import concurrent.futures
import inspect
import os
import queue
import signal
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

import rfaas
from rfaas.client import lane
from rfaas.client._borrowing import Borrowing
from support import functions as f
from support.waiting import wait_until

TIMEOUT_S = 30.0


@pytest.fixture(autouse=True)
def _no_event_log(monkeypatch):
    """It tells of each call, and a loan hides them."""
    monkeypatch.delenv("RFAAS_EVENT_LOG", raising=False)


@pytest.fixture(scope="module")
def ex():
    """One worker that tests share which leave it as it was."""
    with rfaas.Executor(max_workers=1, hot_for_s=0.05) as executor:
        executor.invoke(os.getpid)
        yield executor


@pytest.fixture
def own():
    """One worker for a test that harms it, or the session process."""
    with rfaas.Executor(max_workers=1, hot_for_s=0.05) as executor:
        yield executor


def lent(executor):
    """Whether a channel is on loan."""
    return executor._engine._lane.lent


def warm(executor):
    """Bring the executor to the point where `invoke` has a channel of its own."""

    def once():
        executor.invoke(f.add, 1, 1)
        return lent(executor)

    wait_until(once, TIMEOUT_S)


def test_a_thousand_calls_in_a_row(ex):
    warm(ex)
    before = ex.statistics()["answered"]
    assert [ex.invoke(f.add, n, 1) for n in range(1000)] == list(range(1, 1001))
    ex.submit(f.add, 1, 1).result()  # the loan ends, and what was done on it is counted
    assert ex.statistics()["answered"] == ex.statistics()["submitted"] == before + 1001


def test_any_keyword_is_the_functions_on_every_way(ex):
    for _ in range(3):  # on the ordinary way, then on a channel on loan
        assert ex.invoke(f.echo, 1, fn=2, self=3) == ((1,), {"fn": 2, "self": 3})
        assert ex.invoke(f.echo, **{"not a name": 1}) == ((), {"not a name": 1})
        assert ex.invoke(f.echo, [1]) == (([1],), {})
        warm(ex)
    with pytest.raises(TypeError, match="required positional argument: 'fn'"):
        ex.invoke()
    with pytest.raises(TypeError, match="required positional argument: 'fn'"):
        ex.invoke(fn=f.add)


def test_invoke_is_a_method_like_any():
    class Counting(rfaas.Executor):
        n = 0

        def invoke(self, fn, /, *args, **kwargs):
            self.n += 1
            return super().invoke(fn, *args, **kwargs)

    assert str(inspect.signature(rfaas.Executor.invoke)) == "(self, fn, /, *args, **kwargs)"
    assert "on a worker" in rfaas.Executor.invoke.__doc__
    with Counting(max_workers=1) as ex:
        assert ex.invoke(f.add, 1, 2) == 3
        bound = ex.options(idempotent=True).invoke
        assert bound(f.add, 1, 3) == 4
    assert ex.n == 1
    with pytest.raises(TypeError):
        rfaas.Executor.invoke(object(), f.add)


def io_thread_wakes():
    """How often the I/O threads of this process have slept."""
    tids = [one.native_id for one in threading.enumerate() if one.name == "rfaas-client"]
    texts = [Path(f"/proc/self/task/{tid}/status").read_text() for tid in tids]
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in texts)


def test_who_waits_for_each_call_wakes_no_other_thread_for_it(ex):
    warm(ex)
    wait_until(lambda: ex.invoke(f.add, 1, 1) and not ex._engine._lane._loan.watched, TIMEOUT_S)  # as calls before were
    before, until_s, n_calls = io_thread_wakes(), time.monotonic() + 0.5, 0
    while time.monotonic() < until_s:
        assert ex.invoke(f.add, n_calls, 1) == n_calls + 1
        n_calls += 1
    assert n_calls > 100
    assert io_thread_wakes() - before < 60  # it looks after the loan ten times a second; 1,000 times where nobody waits


def test_what_a_function_raises_comes_as_itself_and_the_next_call_works(ex):
    warm(ex)
    for _ in range(3):
        with pytest.raises(f.CustomError) as raised:
            ex.invoke(f.raise_custom)
        assert "in raise_custom" in str(raised.value.__cause__)
        assert ex.invoke(f.add, 2, 2) == 4


def test_calls_that_take_longer_than_anybody_looks(ex):
    warm(ex)
    for pause_s in (0.0, 0.0001, 0.001, 0.05):
        ex.invoke(f.sleep, pause_s)
        assert ex.invoke(f.add, 1, 2) == 3


def test_arrays_of_all_sizes(ex):
    warm(ex)
    for size in (0, 10, 100_000, 5_000_000):
        sent = np.arange(size)
        assert np.array_equal(ex.invoke(np.negative, sent), -sent)


def test_a_call_that_is_submitted_has_the_channel_back(ex):
    warm(ex)
    for _ in range(20):
        assert ex.invoke(f.add, 1, 1) == 2
        future = ex.submit(f.add, 2, 2)
        assert ex.invoke(f.add, 3, 3) == 6
        assert future.result(TIMEOUT_S) == 4


def test_several_threads_invoke_and_submit_at_once():
    with rfaas.Executor(max_workers=2, hot_for_s=0.01) as ex:

        def use(thread):
            for n in range(150):
                call = ex.invoke if (n + thread) % 3 else lambda *args: ex.submit(*args).result(TIMEOUT_S)
                results.append((call(f.add, thread, n), thread + n))

        results = []
        threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * TIMEOUT_S)
        assert len(results) == 600
        assert all(got == wanted for got, wanted in results)


def test_a_worker_that_dies_while_its_channel_is_on_loan_is_replaced(own):
    warm(own)
    for _ in range(3):
        os.kill(own.invoke(os.getpid), signal.SIGKILL)
        with_losses(lambda: own.invoke(f.add, 1, 2), 3)


def with_losses(call, wanted):
    """The worker's death may be known only once the call was sent."""
    for _ in range(2):
        try:
            assert call() == wanted
        except rfaas.WorkerLost:
            continue
        return
    assert call() == wanted


def test_a_call_that_kills_its_worker_is_a_typed_loss(own):
    warm(own)
    with pytest.raises(rfaas.WorkerLost) as lost:
        own.invoke(os._exit, 3)
    assert lost.value.may_have_run
    assert own.invoke(f.add, 1, 2) == 3


def test_the_session_process_may_die_meanwhile(own):
    warm(own)
    os.kill(own._engine.session_pid, signal.SIGKILL)
    wait_until(lambda: with_session_back(own), TIMEOUT_S)


def with_session_back(ex):
    try:
        return ex.invoke(f.add, 1, 2) == 3
    except rfaas.RfaasError:
        return False


def test_shutdown_ends_the_loan_and_later_calls_are_refused():
    with rfaas.Executor(max_workers=1) as ex:
        warm(ex)
    with pytest.raises(RuntimeError, match="after shutdown"):
        ex.invoke(f.add, 1, 1)
    assert not lent(ex)


def test_terminated_workers_answer_no_more():
    with rfaas.Executor(max_workers=1) as ex:
        warm(ex)
        ex.terminate_workers()
        with pytest.raises(RuntimeError):
            ex.invoke(f.add, 1, 1)


def test_a_forked_child_leaves_the_parent_s_channel_alone(ex):
    warm(ex)
    child = os.fork()
    if child == 0:
        try:
            ex.invoke(f.add, 1, 1)
        except RuntimeError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert [ex.invoke(f.add, n, 1) for n in range(100)] == list(range(1, 101))


def test_a_result_whose_unpickling_submits(ex):
    warm(ex)
    again.executor = ex
    try:
        assert ex.invoke(Again).result(TIMEOUT_S) == 7
    finally:
        del again.executor


def again():
    return again.executor.submit(f.add, 3, 4)


class Again:
    def __reduce__(self):
        return again, ()


def test_ctrl_c_in_a_call_ends_the_waiting_and_the_next_call_works(own):
    warm(own)
    main = threading.main_thread().ident
    for delay_s in (0.0, 0.0001, 0.001, 0.02):
        timer = threading.Timer(0.05 + delay_s, lambda: signal.pthread_kill(main, signal.SIGINT))
        timer.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                call_for_ever(own)
        finally:
            timer.join()
        assert own.invoke(f.add, 2, 3) == 5


def call_for_ever(ex):
    while True:
        ex.invoke(f.add, 1, 1)


def test_calls_with_a_deadline_or_retries_keep_them(own):
    warm(own)
    with pytest.raises(rfaas.DeadlineExceeded):
        own.options(call_timeout_s=0.2).invoke(time.sleep, 30)
    assert own.options(idempotent=True, retries=2).invoke(f.add, 1, 1) == 2


def test_an_idle_loan_costs_nothing(ex):
    warm(ex)
    time.sleep(0.1)  # the worker's hot time is over
    before_s = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before_s < 0.1


# --- submit on loan -----------------------------------------------------------------------------------


def test_a_burst_is_answered_in_full_and_counted(ex):
    warm(ex)
    before = ex.statistics()["answered"]
    futures = [ex.submit(f.add, n, 1) for n in range(2000)]
    assert [future.result(TIMEOUT_S) for future in futures] == list(range(1, 2001))
    wait_until(lambda: ex.statistics()["answered"] == before + 2000, TIMEOUT_S)


def test_large_results_that_are_taken_late_are_those_of_their_calls(ex):
    sizes = [9000, 5000, 70_000, 6000, 5000] * 3
    warm(ex)
    ex.submit(f.add, bytes(1), bytes(1)).result()
    futures = [ex.submit(f.add, bytes([n]) * size, b"") for n, size in enumerate(sizes)]
    assert futures[-1].result() == bytes([len(sizes) - 1]) * sizes[-1]
    assert [future.result() for future in futures] == [bytes([n]) * size for n, size in enumerate(sizes)]


def is_under_way(future):
    """Without asking the future, which would help it."""
    request = future._request
    return future._own_state != "FINISHED" if request is None else not request.done


def test_who_computes_instead_of_waiting_finds_results_all_the_same(ex):
    warm(ex)
    futures = [ex.submit(f.add, n, 1) for n in range(50)]
    wait_until(lambda: not any(is_under_way(future) for future in futures), TIMEOUT_S)  # nobody asked them
    assert [future.result(0) for future in futures] == list(range(1, 51))


@pytest.mark.parametrize("way", ["callback", "wait", "as_completed", "result of another thread"])
def test_whoever_wants_to_be_told_is(ex, way):
    warm(ex)
    futures = [ex.submit(f.add, n, 1) for n in range(20)]
    if way == "callback":
        told = []
        for future in futures:
            future.add_done_callback(lambda ended: told.append(ended.result()))
        wait_until(lambda: len(told) == 20, TIMEOUT_S)
        assert sorted(told) == list(range(1, 21))
    elif way == "wait":
        assert len(concurrent.futures.wait(futures, TIMEOUT_S).done) == 20
    elif way == "as_completed":
        assert sum(future.result() for future in concurrent.futures.as_completed(futures, TIMEOUT_S)) == sum(
            range(1, 21)
        )
    else:
        results = []
        threads = [threading.Thread(target=lambda: results.append(futures[-1].result(TIMEOUT_S))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
        assert results == [20] * 4
    assert all(future.done() and not future.running() and not future.cancelled() for future in futures)


def test_a_waiting_call_can_be_cancelled_and_a_running_one_by_force(own, tmp_path):
    own.invoke(f.witness_then_wait, tmp_path / "first", tmp_path)  # the channel knows it from now on
    warm(own)
    running = own.submit(f.witness_then_wait, tmp_path / "ran", tmp_path / "never")
    waiting = [own.submit(f.add, n, 1) for n in range(3)]
    wait_until((tmp_path / "ran").exists, TIMEOUT_S, "the first call to run")
    assert waiting[1].cancel()
    assert waiting[1].cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        waiting[1].result(0)
    assert not running.cancel()
    assert running.cancel(interrupt=True)
    with pytest.raises(rfaas.Cancelled):
        running.result(TIMEOUT_S)
    assert [waiting[0].result(TIMEOUT_S), waiting[2].result(TIMEOUT_S)] == [1, 3]


def test_a_timeout_is_kept_and_the_result_comes_later(ex):
    warm(ex)
    future = ex.submit(f.sleep, 0.3)
    for timeout_s in (0, 0.001, 0.05):
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(timeout_s)
    assert future.exception(TIMEOUT_S) is None


def test_a_burst_asks_for_workers_as_any_queue_does():
    with rfaas.Executor(max_workers=3, hot_for_s=0.05) as ex:
        warm(ex)
        assert ex.statistics()["workers"] == 1
        pids = {future.result(TIMEOUT_S) for future in [ex.submit(f.sleep_then_pid, 0.02) for _ in range(150)]}
        assert len(pids) == 3


def test_a_worker_that_dies_in_a_burst_costs_one_call(own):
    warm(own)
    futures = [own.submit(f.add, n, 1) for n in range(100)]
    lethal = own.submit(os._exit, 1)
    later = [own.submit(f.add, n, 2) for n in range(100)]
    assert [future.result(TIMEOUT_S) for future in futures] == list(range(1, 101))
    assert isinstance(lethal.exception(TIMEOUT_S), rfaas.WorkerLost)
    assert [future.result(TIMEOUT_S) for future in later] == list(range(2, 102))


def test_in_a_forked_child_what_was_on_loan_is_the_parent_s(ex):
    warm(ex)
    future = ex.submit(f.sleep, 0.2)
    child = os.fork()
    if child == 0:
        os._exit(0 if isinstance(future.exception(5), RuntimeError) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert future.result(TIMEOUT_S) == 0.2


def test_shutdown_awaits_what_is_on_loan_and_cancels_what_waits():
    with rfaas.Executor(max_workers=1, hot_for_s=0.05) as ex:
        warm(ex)
        futures = [ex.submit(f.add, n, 1) for n in range(300)]
    assert [future.result(0) for future in futures] == list(range(1, 301))
    with rfaas.Executor(max_workers=1, hot_for_s=0.05) as ex:
        ex.invoke(f.sleep, 0.0)
        warm(ex)
        running = ex.submit(f.sleep, 0.3)
        waiting = [ex.submit(f.add, n, 1) for n in range(10)]
        ex.shutdown(cancel_futures=True)
        assert running.result(0) == 0.3
        assert all(future.cancelled() for future in waiting)


_UNDER_WAY = 1  # of _core.pxd


class Contended(Borrowing):
    """A loan. Once it is `taken`, another thread takes the answer, after the call's own has gone to sleep."""

    taken = False

    def __init__(self, loan, *others):
        super().__init__(loan, *others)
        self.loan = loan

    def call(self, request):
        if not self.taken:
            return super().call(request)
        assert self.loan.submit(self.generation, request)
        self.sleeper, self.request = threading.get_ident(), request
        return _UNDER_WAY

    def wait(self, request, timeout_s):
        return False if self.taken else super().wait(request, timeout_s)

    def give_up(self):
        if not self.taken:
            super().give_up()
        else:  # its borrower has just looked whether it was
            self.taken = False
            threading.Thread(target=self.answer).start()

    def answer(self):
        wait_until(lambda: sys._current_frames()[self.sleeper].f_code is threading.Condition.wait.__code__, TIMEOUT_S)
        self.loan.wait(self.request)


def test_an_answer_that_another_thread_takes_ends_the_invoke_that_sleeps(monkeypatch):
    loans = []

    def contended(*about):
        loans.append(Contended(*about))
        return loans[-1]

    monkeypatch.setattr(lane, "Borrowing", contended)
    monkeypatch.setattr(lane, "TEND_S", 10.0)  # the I/O thread would save it
    monkeypatch.setattr(lane, "IDLE_S", 10.0)
    with rfaas.Executor(max_workers=1, hot_for_s=0.05) as ex:
        warm(ex)
        loans[-1].taken = True
        results = []
        caller = threading.Thread(target=lambda: results.append(ex.invoke(f.add, 1, 2)), daemon=True)
        caller.start()
        caller.join(TIMEOUT_S / 3)
        hung = caller.is_alive()
        if hung:
            loans[-1].loan.recall()
            ex.terminate_workers()
    assert not hung
    assert results == [3]
    assert not loans[-1].taken


def picky():
    """Return what can't be unpickled."""
    return f.PickyError(1, 2)


@rfaas.raw
def much(inp, out):
    return len(out) + 1


CALLS_THAT_FAIL_HERE = [
    (picky, rfaas.SerializationError, {}),
    (bytes, rfaas.PayloadTooLarge, {"args": (100_000,)}),
    (much, rfaas.PayloadTooLarge, {"args": (b"",), "kwargs": {"out": bytearray(8)}}),
]


@pytest.mark.parametrize(("function", "kind", "given"), CALLS_THAT_FAIL_HERE, ids=["unpicklable", "large", "room"])
def test_errors_of_ours_name_the_node_on_a_loan_too(function, kind, given):
    args, kwargs = given.get("args", ()), given.get("kwargs", {})
    with rfaas.Executor(max_workers=1, hot_for_s=0.05, payload_limit=10_000) as ex:
        ordinary = ex.options(call_timeout_s=TIMEOUT_S).submit(function, *args, **kwargs).exception(TIMEOUT_S)
        warm(ex)
        with pytest.raises(kind) as invoked:
            ex.invoke(function, *args, **kwargs)
        warm(ex)
        submitted = ex.submit(function, *args, **kwargs).exception(TIMEOUT_S)
        assert ordinary.node
        for error in invoked.value, submitted:
            assert (str(error), error.node, error.may_have_run) == (str(ordinary), ordinary.node, True)
            assert type(error.__cause__) is type(ordinary.__cause__)


def test_a_future_that_somebody_else_resolves_keeps_that_end(ex):
    warm(ex)
    future = ex.submit(f.sleep, 0.05)
    told = []
    future.set_result("mine")
    future.add_done_callback(told.append)
    assert ex.invoke(f.add, 1, 2) == 3  # the worker has answered
    assert (future.result(), future.done(), told) == ("mine", True, [future])


def test_a_loop_that_makes_a_function_a_call_keeps_few_of_them(ex):
    made = weakref.WeakSet()
    for n in range(800):
        function = eval("lambda x: x + 1")  # another object, and the same function to a worker
        made.add(function)
        assert ex.invoke(function, n) == n + 1
    assert lent(ex), "else nothing was shown"
    del function
    assert len(made) <= 300


@pytest.mark.parametrize("hot", [False, True])
def test_a_callback_that_waits_for_another_call_is_told_that_it_would_wait_for_itself(ex, hot):
    """The thread that runs callbacks ends all calls of its executor. The standard executors wait for ever here."""
    said = queue.SimpleQueue()

    def wait(future):
        other = ex.submit(f.sleep, 0.2)
        for ask in (other.result, lambda: other.result(5), other.exception, lambda: ex.invoke(f.sleep, 0.2)):
            try:
                said.put(ask())
            except RuntimeError as error:
                said.put(str(error))
        other.add_done_callback(lambda done: said.put(done.result()))

    if hot:
        warm(ex)
    ex.submit(f.sleep, 0.1).add_done_callback(wait)
    for _ in range(4):
        assert "it would wait for itself" in said.get(timeout=TIMEOUT_S)
    assert said.get(timeout=TIMEOUT_S) == 0.2
    assert ex.invoke(f.add, 1, 2) == 3
