"""The I/O of an executor against scripted peers: threads, futures, callbacks, orders that real processes don't show."""

import concurrent.futures
import gc
import os
import pickle
import signal
import threading
import time

import pytest

import rfaas
from rfaas import Executor
from support.scripted_session import ScriptedSession
from support.waiting import wait_until

TIMEOUT_S = 20


@pytest.fixture
def session(monkeypatch):
    scripted = ScriptedSession()
    scripted.install(monkeypatch)
    return scripted


@pytest.fixture
def ex(session):
    executor = Executor(4, allocator="embedded")
    yield executor
    executor.shutdown(wait=False, cancel_futures=True)
    session.end()
    executor.shutdown()


def add(a, b=0):
    return a + b


def test_a_call_returns_its_result(ex, session):
    future = ex.submit(add, 1, b=2)
    session.worker()
    assert future.result(TIMEOUT_S) == 3
    assert isinstance(future, concurrent.futures.Future)
    assert ex.statistics()["answered"] == 1


def test_an_idle_worker_is_sent_its_call_by_the_submitting_thread(ex, session):
    future = ex.submit(add, 1)
    worker = session.worker()
    assert future.result(TIMEOUT_S) == 1
    futures = [ex.submit(add, n) for n in range(100)]
    assert [f.result(TIMEOUT_S) for f in futures] == list(range(100))
    assert worker.calls == sorted(worker.calls)


def test_an_exception_is_raised_as_itself_with_the_remote_traceback(ex, session):
    session_worker_later = ex.submit(lambda: {}["no such key"])
    session.worker()
    with pytest.raises(KeyError, match="no such key") as caught:
        session_worker_later.result(TIMEOUT_S)
    assert "Traceback (most recent call last)" in str(caught.value.__cause__)


class NeedsTwo(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def raise_unpicklable():
    error = NeedsTwo("a", "b")
    error.lock = threading.Lock()
    raise error


def test_an_exception_that_can_t_be_rebuilt_is_a_remote_error(ex, session):
    future = ex.submit(raise_unpicklable)
    session.worker()
    error = future.exception(TIMEOUT_S)
    assert (type(error), error.remote_type) == (rfaas.RemoteError, "NeedsTwo")
    assert "raise_unpicklable" in error.remote_traceback


def test_what_can_t_be_pickled_is_the_future_s_error_and_starts_nothing(ex, session):
    error = ex.submit(add, threading.Lock()).exception(TIMEOUT_S)
    assert type(error) is rfaas.SerializationError
    assert isinstance(error.__cause__, TypeError)
    assert type(ex.submit("no function").exception(TIMEOUT_S)) is rfaas.SerializationError
    assert session.joins == []


def test_a_large_function_is_fetched_by_the_worker(ex, session):
    ballast = os.urandom(3 << 20)
    future = ex.submit(lambda: len(ballast))
    worker = session.worker()
    assert future.result(TIMEOUT_S) == 3 << 20
    assert len(worker.fetched) == 1


def test_more_functions_than_a_channel_announces_at_a_time_all_run(ex, session):
    session_futures = [ex.submit(eval(f"lambda: {n}")) for n in range(600)]
    session.worker()
    assert [f.result(TIMEOUT_S) for f in session_futures] == list(range(600))


def test_a_farewell_before_the_channel_s_last_result_loses_nothing(ex, session):
    """The agent's word overtakes the result that the worker had sent."""
    ex.submit(add, 1)
    worker = session.worker()
    wait_until(lambda: ex.statistics()["answered"], TIMEOUT_S)
    worker.hold.clear()
    future = ex.submit(add, 5)
    session.farewell(worker, last_started=2, last_done=2)
    session.say(m="notice", lease=b"?" * 16, channels=[], node="n1", cores=[], grace_s=1.0, reason_code=1)
    wait_until(lambda: ex.statistics()["notices"], TIMEOUT_S, "the farewell to be read")
    worker.hold.set()
    assert future.result(TIMEOUT_S) == 5


def test_a_dead_worker_s_call_fails_as_its_farewell_says(ex, session):
    future = ex.submit(add, 1)
    worker = session.worker()
    future.result(TIMEOUT_S)
    worker.hold.clear()
    lost = ex.submit(add, 2)
    worker.started = 2
    worker.die()
    worker.hold.set()
    session.farewell(worker, signal=11)
    error = lost.exception(TIMEOUT_S)
    assert (type(error), error.may_have_run, error.phase) == (rfaas.WorkerLost, True, "STARTED")
    assert "signal 11" in str(error)


def test_a_call_that_the_dead_worker_never_started_runs_elsewhere(ex, session):
    first = ex.submit(add, 1)
    worker = session.worker()
    first.result(TIMEOUT_S)
    worker.hold.clear()
    moved = ex.submit(add, 2)
    wait_until(moved.running, TIMEOUT_S)
    worker.die()
    worker.hold.set()
    session.farewell(worker)
    wait_until(lambda: not moved.running(), TIMEOUT_S, "the future to wait again")
    session.worker()
    assert moved.result(TIMEOUT_S) == 2
    assert ex.statistics()["redispatched"] == 1


def test_a_waiting_call_is_cancelled_and_the_waiters_hear_of_it(ex, session):
    future = ex.submit(add, 1)
    called = []
    future.add_done_callback(called.append)
    assert future.cancel()
    assert future.cancelled()
    assert called == [future]
    done, _ = concurrent.futures.wait([future], TIMEOUT_S)
    assert done == {future}
    assert future.cancel()


def test_a_sent_call_can_t_be_cancelled(ex, session):
    ex.submit(add, 1)
    worker = session.worker()
    wait_until(lambda: ex.statistics()["answered"], TIMEOUT_S)
    worker.hold.clear()
    future = ex.submit(add, 2)
    assert future.running()
    assert not future.cancel()
    worker.hold.set()
    assert future.result(TIMEOUT_S) == 2
    assert not future.cancel()


def test_callbacks_that_raise_are_logged_and_harm_nobody(ex, session, caplog):
    future = ex.submit(add, 1)
    future.add_done_callback(lambda _: 1 / 0)
    session.worker()
    assert future.result(TIMEOUT_S) == 1
    assert ex.submit(add, 2).result(TIMEOUT_S) == 2
    assert "exception calling callback" in caplog.text


def test_a_callback_may_submit(ex, session):
    chained = []
    future = ex.submit(add, 1)
    future.add_done_callback(lambda done: chained.append(ex.submit(add, done.result(), 1)))
    session.worker()
    wait_until(lambda: chained, TIMEOUT_S)
    assert chained[0].result(TIMEOUT_S) == 2


def test_a_session_that_can_t_be_joined_fails_what_waits_and_the_next_call_tries_again(ex, session):
    session.refuse = rfaas.AllocatorUnavailable("nobody home", hint="start one")
    error = ex.submit(add, 1).exception(TIMEOUT_S)
    assert type(error) is rfaas.AllocatorUnavailable
    future = ex.submit(add, 2)
    session.worker()
    assert future.result(TIMEOUT_S) == 2


def test_an_unforeseen_failure_of_joining_reaches_the_futures(ex, session):
    session.refuse = OSError("disk on fire")
    error = ex.submit(add, 1).exception(TIMEOUT_S)
    assert type(error) is rfaas.AllocatorUnavailable
    assert "disk on fire" in str(error)


def test_a_session_that_dies_is_replaced_and_waiting_calls_go_on(ex, session):
    ex.submit(add, 1)
    worker = session.worker()
    wait_until(lambda: ex.statistics()["answered"], TIMEOUT_S)
    worker.hold.clear()
    lost, waiting = ex.submit(add, 2), ex.submit(add, 3)
    session.die()
    error = lost.exception(2.0)
    assert type(error) is rfaas.AgentLost
    session.worker()
    assert waiting.result(TIMEOUT_S) == 3
    assert len(session.joins) == 2


def test_a_personal_session_s_death_is_not_noticed_by_calls(session):
    session.mode = "personal"
    with Executor(4, allocator="embedded") as ex:
        first = ex.submit(add, 1)
        worker = session.worker()
        lease = {"lease": b"L" * 16, "lease_seq": 1, "epoch": 1, "slice": b"S" * 16, "address": "unix:@x", "node": "n1"}
        session.say(m="lease", executor=1, cores=[0], workers=1, ttl_s=10.0, expires_in_s=10.0, **lease)
        assert first.result(TIMEOUT_S) == 1
        wait_until(lambda: ex._engine._core._leases, TIMEOUT_S)
        session.die()
        assert ex.submit(add, 2).result(TIMEOUT_S) == 2
        wait_until(lambda: len(session.joins) == 2, TIMEOUT_S)
        (resumed,) = session.joins[1]["resume"]
        assert resumed["channels"] == [[worker.number, worker.number, 1]]
        assert session.joins[0]["client_id"] == session.joins[1]["client_id"]


def test_nonsense_from_the_session_process_ends_that_connection_only(ex, session):
    future = ex.submit(add, 1)
    session.worker()
    assert future.result(TIMEOUT_S) == 1
    session.say(m="farewell", channel="what")
    wait_until(lambda: ex.statistics()["sessions_lost"], TIMEOUT_S)
    future = ex.submit(add, 2)
    wait_until(lambda: len(session.joins) == 2, TIMEOUT_S)
    wait_until(lambda: session._sock is not None, TIMEOUT_S)
    session.worker()
    assert future.result(TIMEOUT_S) == 2


def test_a_denied_request_fails_what_waits_with_the_remedy(ex, session):
    future = ex.submit(add, 1)
    wait_until(lambda: session.wants, TIMEOUT_S)
    session.say(m="denied", executor=1, code="environment-failed", hint="No module named 'yourpackage'")
    error = future.exception(TIMEOUT_S)
    assert type(error) is rfaas.EnvironmentFailed
    assert "yourpackage" in str(error)


def test_after_shutdown_no_call_is_taken(session):
    ex = Executor(2, allocator="embedded")
    future = ex.submit(add, 1)
    session.worker()
    ex.shutdown()
    assert future.result(0) == 1
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        ex.submit(add, 1)
    ex.shutdown()
    assert session.messages.queue[-1] == {"m": "leave"}


def test_shutdown_of_an_executor_that_never_ran_anything_starts_nothing(session):
    Executor(2, allocator="embedded").shutdown()
    assert session.joins == []


def test_shutdown_can_cancel_what_was_not_sent(session):
    ex = Executor(2, allocator="embedded")
    futures = [ex.submit(add, n) for n in range(5)]
    ex.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in futures)


def test_an_executor_that_is_forgotten_finishes_its_calls_and_leaves(session):
    ex = Executor(2, allocator="embedded")
    thread_count = threading.active_count()
    futures = [ex.submit(add, n) for n in range(5)]
    del ex
    gc.collect()
    session.worker()
    assert [f.result(TIMEOUT_S) for f in futures] == [0, 1, 2, 3, 4]
    wait_until(lambda: threading.active_count() <= thread_count, TIMEOUT_S, "the I/O thread to end")


def test_descriptors_and_threads_return_to_their_number(session):
    def used():
        return len(os.listdir("/proc/self/fd"))

    with Executor(2, allocator="embedded") as ex:
        future = ex.submit(add, 1)
        session.worker()
        future.result(TIMEOUT_S)
    gc.collect()
    before = used()
    for _ in range(5):
        session.workers.clear()
        session._sock = None
        with Executor(2, allocator="embedded") as ex:
            future = ex.submit(add, 1)
            worker = session.worker()
            future.result(TIMEOUT_S)
            future = None
        wait_until(lambda: worker.channel.closed, TIMEOUT_S)  # noqa: B023
    gc.collect()
    wait_until(lambda: used() <= before, TIMEOUT_S, "descriptors to be closed")


def test_a_keyboard_interrupt_in_result_leaves_the_executor_usable(ex, session):
    future = ex.submit(add, 1)
    timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        future.result(TIMEOUT_S)
    timer.join()
    session.worker()
    assert future.result(TIMEOUT_S) == 1
    assert ex.submit(add, 2).result(TIMEOUT_S) == 2


def test_invoke_returns_the_value_and_raises_the_function_s_exception(ex, session):
    threading.Thread(target=session.worker).start()
    assert ex.invoke(add, 1, b=1) == 2
    with pytest.raises(ZeroDivisionError):
        ex.invoke(divmod, 1, 0)


def test_many_threads_submit_at_once(ex, session):
    wrong = []

    def submitter(base):
        futures = [ex.submit(add, base, n) for n in range(200)]
        wrong.extend(f for n, f in enumerate(futures) if f.result(TIMEOUT_S) != base + n)

    threads = [threading.Thread(target=submitter, args=(1000 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        session.worker()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_map_keeps_the_order_and_honours_chunks(ex, session):
    threading.Thread(target=session.worker).start()
    assert list(ex.map(add, range(10), range(10))) == [2 * n for n in range(10)]
    before = ex.statistics()["submitted"]
    assert list(ex.map(add, range(10), range(10), chunksize=4)) == [2 * n for n in range(10)]
    assert ex.statistics()["submitted"] - before == 3


def test_map_with_a_buffer_reads_its_arguments_as_needed(ex, session):
    threading.Thread(target=session.worker).start()
    read = []

    def numbers():
        for n in range(10):
            read.append(n)
            yield n

    results = ex.map(add, numbers(), buffersize=3)
    assert len(read) == 3
    assert next(results) == 0
    assert len(read) <= 4
    assert list(results) == list(range(1, 10))


def test_map_times_out_and_cancels_what_waits(ex, session):
    results = ex.map(add, range(3), timeout=0.05)
    with pytest.raises(TimeoutError):
        next(results)
    wait_until(lambda: ex.statistics()["cancelled"] == 3, TIMEOUT_S)


@pytest.mark.parametrize("wrong", [{"chunksize": 0}, {"buffersize": 0}])
def test_map_refuses_what_makes_no_sense(ex, wrong):
    with pytest.raises(ValueError, match=">= 1"):
        ex.map(add, [1], **wrong)


def test_options_make_a_view_of_the_same_workers(ex, session):
    view = ex.options(idempotent=True, retries=2, call_timeout_s="1m")
    future = view.submit(add, 1)
    session.worker()
    assert future.result(TIMEOUT_S) == 1
    assert ex.statistics()["submitted"] == 1
    assert view.options(call_timeout_s=None)._settings.retries == 2
    assert view.options(idempotent=False)._settings.retries == 0
    with pytest.raises(rfaas.ConfigError):
        ex.options(retries=1)


def test_a_view_keeps_its_executor_alive(session):
    view = Executor(2, allocator="embedded").options(idempotent=True)
    gc.collect()
    future = view.submit(add, 1)
    session.worker()
    assert future.result(TIMEOUT_S) == 1
    view.shutdown()


def test_a_deadline_passes_while_nobody_takes_the_call(ex, session):
    error = ex.options(call_timeout_s=0.05).submit(add, 1).exception(TIMEOUT_S)
    assert (type(error), error.phase, error.may_have_run) == (rfaas.DeadlineExceeded, "QUEUED", False)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # 3.12 and later warn of threads
def test_a_forked_child_can_t_use_it_and_the_parent_still_can(ex, session):
    first = ex.submit(add, 1)
    worker = session.worker()
    first.result(TIMEOUT_S)
    worker.hold.clear()
    pending = ex.submit(add, 2)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        said = []
        try:
            ex.submit(add, 3)
        except RuntimeError as error:
            said.append(str(error))
        said.append(repr(pending.exception(1)))
        os.write(write_end, pickle.dumps(said))
        os._exit(0)
    os.close(write_end)
    said = pickle.loads(os.read(read_end, 65536))
    os.close(read_end)
    os.waitpid(child, 0)
    assert "after fork" in said[0]
    assert said[1].startswith("RuntimeError")
    worker.hold.set()
    assert pending.result(TIMEOUT_S) == 2
    assert ex.submit(add, 4).result(TIMEOUT_S) == 4


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # 3.12 and later warn of threads
def test_a_forked_child_keeps_no_connection_alive(session):
    ex = Executor(2, allocator="embedded")
    future = ex.submit(add, 1)
    worker = session.worker()
    future.result(TIMEOUT_S)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    os.close(read_end)
    try:
        ex.shutdown()
        wait_until(lambda: worker.channel.closed, TIMEOUT_S, "the worker to see the end though the child lives")
    finally:
        os.close(write_end)
        os.waitpid(child, 0)


def test_a_blocked_interpreter_does_not_delay_the_constructor(session):
    began_s = time.monotonic()
    Executor(1, allocator="embedded")
    assert time.monotonic() - began_s < 0.1
