"""Executors on the allocator of a state directory: what a killed daemon, a reclaim or a full cluster means to calls."""

import os
import signal
import time

import pytest

import rfaas
from support import functions as f
from support.deadlines import assert_in_time
from support.leftovers import alive
from support.personal import Personal
from support.waiting import wait_until

TIMEOUT_S = 60


@pytest.fixture
def personal(tmp_path):
    cluster = Personal(tmp_path)
    cluster.start_allocator()
    cluster.start_agent(cores=2, grace_s=3.0)
    yield cluster
    cluster.stop()


@pytest.fixture
def ex(personal):
    with rfaas.Executor(2, allocator=personal.state_dir) as executor:
        list(executor.map(f.sleep, [0.1] * 4))
        yield executor


def session_pid(executor):
    return executor._engine.session_pid


def test_a_running_allocator_is_found_by_its_state_directory(personal, monkeypatch):
    monkeypatch.setenv("RFAAS_STATE_DIR", str(personal.state_dir))
    monkeypatch.delenv("RFAAS_ALLOCATOR", raising=False)
    with rfaas.Executor(1) as ex:
        assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1
        assert ex._engine._session.mode == "personal"


def test_calls_on_live_leases_do_not_notice_the_session_process_s_death(ex, tmp_path):
    running = ex.submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "gate")
    wait_until(lambda: f.runs(tmp_path / "witness"), TIMEOUT_S)
    before = session_pid(ex)
    os.kill(before, signal.SIGKILL)
    assert [ex.submit(f.add, n).result(TIMEOUT_S) for n in range(50)] == list(range(50))
    (tmp_path / "gate").touch()
    assert running.result(TIMEOUT_S) == "done"
    wait_until(lambda: ex._engine.session_pid and session_pid(ex) != before, TIMEOUT_S)
    assert ex.statistics()["failed"] == 0


def test_leases_outlive_a_killed_session_process_by_more_than_their_ttl(ex, personal):
    before = {pid for pid in ex.map(lambda s: (time.sleep(s), os.getpid())[1], [0.2] * 4)}
    os.kill(session_pid(ex), signal.SIGKILL)
    resumed_s = time.monotonic() + 2 * personal.ttl_s
    while time.monotonic() < resumed_s:
        assert ex.submit(f.sleep, 0.05).result(TIMEOUT_S) == 0.05
    after = {pid for pid in ex.map(lambda s: (time.sleep(s), os.getpid())[1], [0.2] * 4)}
    assert after == before


def test_calls_do_not_notice_the_allocator_s_death_and_its_restart(ex, personal):
    personal.allocator.kill()
    personal.allocator.wait()
    assert [ex.submit(f.add, n).result(TIMEOUT_S) for n in range(50)] == list(range(50))
    personal.start_allocator()
    assert [ex.submit(f.add, n).result(TIMEOUT_S) for n in range(50)] == list(range(50))
    assert ex.statistics()["failed"] == 0


def test_a_killed_agent_s_calls_fail_within_two_seconds_and_waiting_ones_go_to_another(ex, personal, tmp_path):
    running = [ex.submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "never") for _ in range(2)]
    wait_until(lambda: f.runs(tmp_path / "witness") == 2, TIMEOUT_S)
    waiting = [ex.submit(f.add, n) for n in range(20)]
    (agent,) = personal.agents
    agent.kill()
    began_s = time.monotonic()
    errors = [future.exception(TIMEOUT_S) for future in running]
    assert_in_time(time.monotonic() - began_s, 2.0)
    assert {type(error) for error in errors} == {rfaas.AgentLost}
    assert all(error.may_have_run for error in errors)
    personal.start_agent(cores=2)
    assert [future.result(TIMEOUT_S) for future in waiting] == list(range(20))
    pids = [int(line.split()[1]) for line in (tmp_path / "witness").read_text().splitlines()]
    assert not any(alive(pid) for pid in pids)


def test_a_reclaim_during_short_calls_loses_none(ex, personal, tmp_path):
    """Calls shorter than the grace: all right, none twice, though they are not idempotent."""
    witness = tmp_path / "witness"
    futures = [ex.submit(f.witness, witness) for _ in range(3000)]
    (agent,) = personal.agents
    wait_until(lambda: ex.statistics()["answered"] > 200, TIMEOUT_S)
    agent.send_signal(signal.SIGTERM)
    agent.wait(20)
    assert not all(future.done() for future in futures)
    personal.start_agent(cores=2)
    assert all(future.result(TIMEOUT_S) for future in futures)
    assert f.runs(witness) == 3000
    assert ex.statistics()["notices"] >= 1


def test_a_reclaim_during_a_long_call_is_typed_and_an_idempotent_one_runs_again(ex, personal, tmp_path):
    lost = ex.submit(f.witness_then_wait, tmp_path / "one", tmp_path / "gate")
    again = ex.options(idempotent=True).submit(f.witness_then_wait, tmp_path / "two", tmp_path / "gate")
    wait_until(lambda: f.runs(tmp_path / "one") and f.runs(tmp_path / "two"), TIMEOUT_S)
    (agent,) = personal.agents
    agent.send_signal(signal.SIGTERM)
    error = lost.exception(TIMEOUT_S)
    assert (type(error), error.may_have_run, error.phase) == (rfaas.Reclaimed, True, "STARTED")
    assert error.grace_s is not None
    personal.start_agent(cores=2)
    wait_until(lambda: f.runs(tmp_path / "two") == 2, TIMEOUT_S)
    (tmp_path / "gate").touch()
    assert again.result(TIMEOUT_S) == "done"
    assert f.runs(tmp_path / "one") == 1


def test_without_free_cores_calls_wait_and_acquire_timeout_says_why(ex, personal):
    with rfaas.Executor(1, allocator=personal.state_dir, acquire_timeout_s=1.0) as other:
        began_s = time.monotonic()
        error = other.submit(f.nothing).exception(TIMEOUT_S)
        assert time.monotonic() - began_s >= 1.0
        assert_in_time(time.monotonic() - began_s, 3.0)
    assert (type(error), error.may_have_run) == (rfaas.AcquireTimeout, False)


def test_cores_are_free_for_others_after_shutdown(personal):
    for _ in range(3):
        with rfaas.Executor(2, allocator=personal.state_dir) as ex:
            assert list(ex.map(f.add, range(10))) == list(range(10))


def test_an_allocator_that_is_gone_for_good_is_a_typed_error(personal):
    personal.allocator.terminate()
    personal.allocator.wait()
    with rfaas.Executor(1, allocator=personal.state_dir) as ex:
        error = ex.submit(f.nothing).exception(TIMEOUT_S)
    assert type(error) is rfaas.AllocatorUnavailable
    assert "rfaas up" in str(error)
