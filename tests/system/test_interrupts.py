"""`cancel(interrupt=True)`: a running call's worker ends, and nothing else does."""

import os
import random
import signal
import threading
import time
from concurrent.futures import CancelledError, wait
from pathlib import Path

import pytest

import rfaas
from support import functions as f
from support.deadlines import assert_in_time
from support.leftovers import alive
from support.personal import Personal
from support.waiting import wait_until

TIMEOUT_S = 60


@pytest.fixture
def ex():
    with rfaas.Executor(2, allocator="embedded") as executor:
        list(executor.map(f.sleep, [0.1] * 4))
        yield executor


def start(executor, path):
    """A call that runs for ever; its future, and the pid of its worker."""
    call = executor.submit(f.witness_then_wait, path, path.with_suffix(".never"))
    wait_until(lambda: f.runs(path), TIMEOUT_S)
    return call, int(path.read_text().split()[1])


def pids(executor):
    """Pids of the workers that serve now."""
    return set(executor.map(lambda s: (time.sleep(s), os.getpid())[1], [0.2] * 4))


def test_the_call_ends_the_pool_is_whole_again_and_the_others_go_on(ex, tmp_path):
    other, other_pid = start(ex, tmp_path / "other")
    call, pid = start(ex, tmp_path / "call")
    assert call.cancel() is False
    began_s = time.monotonic()
    assert call.cancel(interrupt=True) is True
    error = call.exception(TIMEOUT_S)
    took_s = time.monotonic() - began_s
    assert (type(error), error.may_have_run, error.phase) == (rfaas.Cancelled, True, "STARTED")
    assert error.reason_code is rfaas.ReasonCode.CALL_INTERRUPTED
    assert not alive(pid)
    print(f"ended {took_s * 1e3:.0f} ms after it was asked for")
    assert_in_time(took_s, 3 * 1.0)
    assert ex.submit(f.add, 1).result(3 * 1.0) == 1  # by the replacement: the other worker is busy
    assert not other.done()
    assert alive(other_pid)
    (tmp_path / "other.never").touch()
    assert other.result(TIMEOUT_S) == "done"
    assert len(pids(ex)) == 2


def test_what_waits_is_cancelled_and_what_is_over_stays_so(ex, tmp_path):
    busy = [start(ex, tmp_path / str(n))[0] for n in range(2)]
    waiting = ex.submit(f.witness, tmp_path / "waiting")
    assert waiting.cancel(interrupt=True) is True
    with pytest.raises(CancelledError):
        waiting.result(0)
    for n, call in enumerate(busy):
        (tmp_path / f"{n}.never").touch()
        assert call.result(TIMEOUT_S) == "done"
        assert call.cancel(interrupt=True) is False
        assert call.result(0) == "done"
    assert f.runs(tmp_path / "waiting") == 0


def test_an_idempotent_call_that_is_interrupted_is_not_run_again(ex, tmp_path):
    call, _ = start(ex.options(idempotent=True, retries=5), tmp_path / "call")
    assert call.cancel(interrupt=True)
    assert type(call.exception(TIMEOUT_S)) is rfaas.Cancelled
    assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1
    assert f.runs(tmp_path / "call") == 1


def test_a_worker_that_dies_at_the_same_moment_makes_no_difference(ex, tmp_path):
    for n in range(5):
        call, pid = start(ex, tmp_path / str(n))
        killer = threading.Thread(target=os.kill, args=(pid, signal.SIGKILL))
        killer.start()
        asked = call.cancel(interrupt=True)
        killer.join()
        error = call.exception(TIMEOUT_S)
        assert type(error) in ((rfaas.Cancelled,) if asked else (rfaas.Cancelled, rfaas.WorkerLost))
        assert error.may_have_run
    assert len(pids(ex)) == 2


def test_interrupts_at_random_moments_hit_the_call_they_name_and_no_other(ex, tmp_path):
    """Short calls one after the other on two workers; interrupts race with their starts and ends."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    draw, ended = random.Random(seed), []
    for n in range(60):
        paths = [tmp_path / f"{n}.{m}" for m in range(5)]
        calls = [ex.submit(witness_then_sleep, path, draw.uniform(0.0, 0.004)) for path in paths]
        chosen = draw.randrange(1, 5)
        wait_until(calls[draw.randrange(chosen)].done, TIMEOUT_S)
        calls[chosen].cancel(interrupt=True)
        how = [outcome(call) for call in calls]
        assert how[:chosen] + how[chosen + 1 :] == ["result"] * 4
        for path, ending in zip(paths, how, strict=True):
            assert f.runs(path) in {"result": (1,), "cancelled": (0,), "interrupted": (0, 1)}[ending]
        ended.append(how[chosen])
    print({how: ended.count(how) for how in set(ended)})
    assert len(pids(ex)) == 2


def witness_then_sleep(path, duration_s):
    f.witness(path)
    time.sleep(duration_s)


def outcome(call):
    wait([call], TIMEOUT_S)
    if call.cancelled():
        return "cancelled"
    error = call.exception(0)
    if error is None:
        return "result"
    assert isinstance(error, rfaas.Cancelled), error
    return "interrupted" if error.may_have_run else "cancelled"


def test_without_a_session_process_it_is_asked_for_again(tmp_path):
    personal = Personal(tmp_path)
    personal.start_allocator()
    personal.start_agent(cores=1)
    try:
        with rfaas.Executor(1, allocator=personal.state_dir) as ex:
            call, pid = start(ex, tmp_path / "call")
            os.kill(ex._engine.session_pid, signal.SIGKILL)
            assert call.cancel(interrupt=True) is True
            error = call.exception(TIMEOUT_S)
            assert (type(error), error.may_have_run) == (rfaas.Cancelled, True)
            assert error.phase in ("STARTED", "SENT")  # SENT: the new session process took longer than 2 s
            wait_until(lambda: not alive(pid), TIMEOUT_S, "the end of the worker")
            assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1
    finally:
        personal.stop()


def test_a_deaf_function_does_not_outlive_the_interrupt(ex, tmp_path):
    call = ex.submit(ignore_everything, tmp_path / "pid")
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), TIMEOUT_S)
    pid = int((tmp_path / "pid").read_text())
    assert call.cancel(interrupt=True)
    assert type(call.exception(TIMEOUT_S)) is rfaas.Cancelled
    assert not alive(pid)


def ignore_everything(path):
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    Path(path).write_text(str(os.getpid()))
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            continue
