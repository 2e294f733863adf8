"""What a function learns of its call and what it saves: real workers, real deaths, real reclaims."""

import signal
import sys
import time

import pytest

import rfaas
from rfaas.session.environment import PRELOADED
from support import attempts
from support import functions as f
from support.deadlines import assert_in_time
from support.personal import Personal
from support.waiting import wait_until

TIMEOUT_S = 60
MIB = 1 << 20


@pytest.fixture
def ex():
    with rfaas.Executor(1, allocator="embedded") as executor:
        executor.submit(f.nothing).result(TIMEOUT_S)
        yield executor


# --- on one machine --------------------------------------------------------------------------------


def test_each_call_has_a_name_of_its_own_and_knows_its_lease(ex):
    one, two = (ex.submit(attempts.facts).result(TIMEOUT_S) for _ in range(2))
    assert len(one["invocation_id"]) == 48
    assert one["invocation_id"] != two["invocation_id"]
    assert one["invocation_id"][:32] == two["invocation_id"][:32]  # the client's
    assert (one["attempt"], one["restored"], one["time_left"]) == (0, None, None)
    assert one["fencing_token"] == two["fencing_token"]
    assert one["fencing_token"] >> 64 >= 1
    assert one["fencing_token"] & (1 << 64) - 1 >= 1
    preloaded = [name for name in PRELOADED if name in sys.modules]  # by an earlier test of this process
    assert [name for name in one["modules"] if name not in preloaded] == []  # asking costs a worker none of these
    assert one["threads"] == ["MainThread"]


def test_time_left_is_that_of_the_deadline(ex):
    left_s = ex.options(call_timeout_s=30).submit(attempts.facts).result(TIMEOUT_S)["time_left"]
    assert 5 < left_s <= 30


def test_a_worker_has_a_thread_only_while_a_function_runs_that_asked(ex):
    assert sorted(ex.submit(attempts.ask_for_event).result(TIMEOUT_S)) == ["MainThread", "rfaas-notice"]
    assert ex.submit(attempts.facts).result(TIMEOUT_S)["threads"] == ["MainThread"]


@pytest.mark.parametrize("name", ["invocation_id", "restored", "time_left", "reclaim_event"])
def test_a_context_ends_with_its_call(ex, name):
    pid = ex.submit(attempts.keep_context).result(TIMEOUT_S)
    with pytest.raises(RuntimeError, match="is over"):
        ex.submit(attempts.use_kept, name).result(TIMEOUT_S)
    assert ex.submit(attempts.facts).result(TIMEOUT_S)["pid"] == pid


def test_a_forked_child_can_not_speak_for_the_call(ex):
    assert "child" in ex.submit(attempts.in_child).result(TIMEOUT_S)
    assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1


def test_outside_of_a_call_there_is_none():
    with pytest.raises(RuntimeError, match=r"inside a function that an rfaas\.Executor runs"):
        rfaas.current()


# --- checkpoints ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [0, 1, 8 * MIB - 1])
def test_what_a_lost_call_saved_is_in_its_error(ex, size_bytes):
    error = ex.submit(attempts.save_and_die, bytes(size_bytes)).exception(TIMEOUT_S)
    assert type(error) is rfaas.WorkerLost
    assert error.checkpoint == bytes(size_bytes) + b"\0"


def test_the_next_attempt_gets_what_the_last_one_saved_under_the_same_name(ex):
    again = ex.options(idempotent=True, retries=5)
    restored, name, attempt = again.submit(attempts.save_and_die, b"state", 2).result(TIMEOUT_S)
    assert (restored, attempt) == (b"state\1", 2)
    assert name[:32] == ex.submit(attempts.facts).result(TIMEOUT_S)["invocation_id"][:32]
    assert ex.submit(attempts.facts).result(TIMEOUT_S)["restored"] is None


def test_a_checkpoint_beside_arguments_with_buffers_leaves_them_alone(ex):
    again = ex.options(idempotent=True, retries=5)
    data = bytearray(range(200))
    restored, _, _ = again.submit(attempts.save_and_die, bytes(data)).result(TIMEOUT_S)
    assert restored == bytes(data) + b"\0"


def test_what_is_too_long_or_no_bytes_is_refused_and_the_call_goes_on(ex):
    with pytest.raises(rfaas.PayloadTooLarge, match="8388608"):
        ex.submit(attempts.save, 8 * MIB + 1).result(TIMEOUT_S)
    with pytest.raises(TypeError, match="pickle it"):
        ex.submit(attempts.save_then_fail, "text", KeyError()).result(TIMEOUT_S)
    assert ex.submit(attempts.save, 8 * MIB).result(TIMEOUT_S) == "saved"


def test_a_deadline_s_error_has_the_checkpoint_too(ex, tmp_path):
    hurried = ex.options(call_timeout_s=1.0)
    error = hurried.submit(save_and_wait, b"half").exception(TIMEOUT_S)
    assert (type(error), error.checkpoint) == (rfaas.DeadlineExceeded, b"half")


def save_and_wait(data):
    rfaas.current().checkpoint(data)
    while True:
        time.sleep(0.01)


# --- reclaims ---------------------------------------------------------------------------------------


@pytest.fixture
def personal(tmp_path):
    cluster = Personal(tmp_path)
    cluster.start_allocator()
    yield cluster
    cluster.stop()


def test_a_call_saves_what_it_has_at_the_notice_and_goes_on_elsewhere(personal, tmp_path):
    first = personal.start_agent(cores=1, grace_s=20.0)
    notices = []
    with rfaas.Executor(1, allocator=personal.state_dir, idempotent=True) as ex:
        handle = ex.on_reclaim(notices.append)
        call = ex.submit(attempts.count_until_reclaimed, tmp_path / "started", 200)
        wait_until((tmp_path / "started").exists, TIMEOUT_S)
        began_s = time.monotonic()
        first.send_signal(signal.SIGTERM)
        first.wait(TIMEOUT_S)
        given_back_s = time.monotonic() - began_s
        personal.start_agent(cores=1, grace_s=20.0)
        count, attempt, name = call.result(TIMEOUT_S)
        assert (count, attempt) == (200, 1)
        assert (tmp_path / "started").read_text() == f"1 {name}"
        assert ex.statistics()["reclaimed"] == 1
        handle.cancel()
    print(f"cores given back after {given_back_s:.2f} s of 20 s")
    assert_in_time(given_back_s, 10)  # the function did not wait for the kill
    (notice,) = notices
    assert (notice.grace_s, notice.cores, len(notice.lease_id)) == (20.0, (0,), 16)
    assert notice.node
    assert notice.reason_code is rfaas.ReasonCode.OWNER_RELEASE  # an agent without a job


def test_a_handler_saves_while_the_function_is_deaf_to_the_notice(personal, tmp_path, capsys):
    agent = personal.start_agent(cores=1, grace_s=4.0)
    with rfaas.Executor(1, allocator=personal.state_dir) as ex:
        call = ex.submit(attempts.save_in_handler, tmp_path / "started", tmp_path / "never")
        wait_until((tmp_path / "started").exists, TIMEOUT_S)
        agent.send_signal(signal.SIGTERM)
        error = call.exception(TIMEOUT_S)
        assert (type(error), error.may_have_run, error.grace_s) == (rfaas.Reclaimed, True, 4.0)
        assert 0.5 < float(error.checkpoint) <= 3.0  # drain_s is grace less 1 s
    assert "a handler that fails" in capsys.readouterr().err


def test_a_function_may_use_the_grace_to_finish(personal, tmp_path):
    agent = personal.start_agent(cores=1, grace_s=10.0)
    with rfaas.Executor(1, allocator=personal.state_dir) as ex:
        call = ex.submit(attempts.finish_at_notice, tmp_path / "started")
        wait_until((tmp_path / "started").exists, TIMEOUT_S)
        agent.send_signal(signal.SIGTERM)
        handler_ran, left_s = call.result(TIMEOUT_S)
    assert handler_ran
    assert 0 < left_s <= 9


# --- deadlines over several attempts ------------------------------------------------------------------


def test_a_deadline_counts_through_a_lost_worker(ex, tmp_path):
    began_s = time.monotonic()
    patient = ex.options(idempotent=True, retries=5, call_timeout_s=4.0)
    error = patient.submit(attempts.die_then_wait, tmp_path / "runs", 1.0).exception(TIMEOUT_S)
    took_s = time.monotonic() - began_s
    assert (type(error), error.attempt, error.phase) == (rfaas.DeadlineExceeded, 1, "STARTED")
    assert took_s >= 4.0
    assert_in_time(took_s, 4.0 + 3 * 0.9)
    (_, first_s), (_, second_s) = (line.split() for line in (tmp_path / "runs").read_text().splitlines())
    assert float(second_s) <= float(first_s) - 1.0


def test_a_deadline_counts_through_a_reclaim_and_the_wait_for_another_core(personal, tmp_path):
    agent = personal.start_agent(cores=1, grace_s=1.0)
    with rfaas.Executor(1, allocator=personal.state_dir, idempotent=True) as ex:
        ex.submit(f.nothing).result(TIMEOUT_S)
        began_s = time.monotonic()
        call = ex.options(call_timeout_s=5.0).submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "never")
        wait_until(lambda: f.runs(tmp_path / "witness"), TIMEOUT_S)
        agent.send_signal(signal.SIGTERM)
        error = call.exception(TIMEOUT_S)  # nobody has a core for it any more
        assert (type(error), error.phase, error.may_have_run) == (rfaas.DeadlineExceeded, "QUEUED", True)
        assert time.monotonic() - began_s >= 5.0
        assert_in_time(time.monotonic() - began_s, 5.0 + 3 * 0.5)


# --- exceptions that cost a retry ---------------------------------------------------------------------


def test_listed_exceptions_are_retried_and_others_are_not(ex, tmp_path):
    again = ex.options(idempotent=True, retries=3, retry_on=[OSError])
    assert again.submit(attempts.fail_times, tmp_path / "a", 2, ConnectionError("busy")).result(TIMEOUT_S) == 3
    with pytest.raises(KeyError):
        again.submit(attempts.fail_times, tmp_path / "b", 2, KeyError("no")).result(TIMEOUT_S)
    assert f.runs(tmp_path / "b") == 1
    with pytest.raises(ConnectionError):
        again.submit(attempts.fail_times, tmp_path / "c", 9, ConnectionError("busy")).result(TIMEOUT_S)
    assert f.runs(tmp_path / "c") == 4
    assert ex.statistics()["retried"] == 2 + 3
