"""Executors that grow and shrink while calls run: none is lost or run twice, and what goes back is others' to have."""

import os
import signal
import subprocess
import sys
import threading

import pytest

import rfaas
from support import functions as f
from support.leftovers import alive
from support.personal import Personal
from support.waiting import wait_until

TIMEOUT_S = 60


@pytest.fixture
def personal(tmp_path):
    cluster = Personal(tmp_path)
    cluster.start_allocator()
    cluster.start_agent(cores=3, grace_s=3.0)
    yield cluster
    cluster.stop()


def await_ready(ex, workers):
    wait_until(lambda: ex.capacity.ready == ex.capacity.have == workers and not ex.capacity.returning, TIMEOUT_S)


def say(*arguments, state_dir):
    command = [sys.executable, "-m", "rfaas", *arguments, "--state-dir", str(state_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout


@pytest.mark.parametrize("kind", ["embedded", "personal"])
def test_no_call_is_lost_or_run_twice_while_an_executor_grows_and_shrinks(kind, request, tmp_path):
    allocator = "embedded" if kind == "embedded" else request.getfixturevalue("personal").state_dir
    witness = tmp_path / "witness"
    with rfaas.Executor(allocator=allocator) as ex:
        futures = []
        for workers in (2, 1, 3, 0, 3, 1):
            futures += [ex.submit(f.witness, witness) for _ in range(150)]  # behind one another at quick workers
            futures += [ex.submit(f.sleep, 0.05) for _ in range(4)]
            ex.resize(workers)
            if workers:
                wait_until(lambda: ex.capacity.ready >= 1, TIMEOUT_S)
                wait_until(lambda n=workers: ex.capacity.have <= n, TIMEOUT_S)
        assert all(future.result(TIMEOUT_S) for future in futures)
        await_ready(ex, 1)
        ex.resize(0)
        wait_until(lambda: ex.capacity == rfaas.Capacity(), TIMEOUT_S, "an executor without a worker")
    assert f.runs(witness) == 6 * 150
    assert ex.statistics()["failed"] == 0


def test_a_long_call_ends_where_it_runs_and_its_worker_goes_then(tmp_path):
    with rfaas.Executor(allocator="embedded") as ex:
        ex.resize(2)
        await_ready(ex, 2)
        long = ex.submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "gate")
        wait_until(lambda: f.runs(tmp_path / "witness"), TIMEOUT_S)
        ex.resize(0)
        wait_until(lambda: ex.capacity.returning == 1, TIMEOUT_S)  # the idle one is gone
        waits = ex.submit(f.add, 1)
        assert not waits.done()
        (tmp_path / "gate").touch()
        assert long.result(TIMEOUT_S) == "done"
        ex.resize(1)
        assert waits.result(TIMEOUT_S) == 1
    assert f.runs(tmp_path / "witness") == 1


def test_channels_on_loan_come_back_when_their_worker_is_to_go():
    with rfaas.Executor(allocator="embedded") as ex:
        ex.resize(2)
        await_ready(ex, 2)
        over = threading.Event()
        seen = []

        def invoke_all_the_time():
            while not over.is_set():
                seen.append(ex.invoke(f.add, 1))

        thread = threading.Thread(target=invoke_all_the_time)
        thread.start()
        try:
            wait_until(lambda: len(seen) > 200, TIMEOUT_S)
            ex.resize(1)
            await_ready(ex, 1)
            before = len(seen)
            wait_until(lambda: len(seen) > before + 200, TIMEOUT_S)
        finally:
            over.set()
            thread.join()
        assert set(seen) == {1}


def test_what_one_program_gives_back_another_gets_and_status_shows_both(personal):
    with (
        rfaas.Executor(allocator=personal.state_dir) as ex,
        rfaas.Executor(allocator=personal.state_dir) as other,
    ):
        ex.resize(3)
        await_ready(ex, 3)
        other.resize(2)
        wait_until(lambda: other.capacity.why, TIMEOUT_S)
        assert (other.capacity.wanted, other.capacity.have) == (2, 0)
        ex.resize(1)
        await_ready(other, 2)
        await_ready(ex, 1)
        status = say("status", state_dir=personal.state_dir)
        assert " wants 1 workers, in leases of at most 1, and has 1" in status
        assert " wants 2 workers, in leases of at most 1, and has 2" in status
        assert " wants 2 workers, in leases of at most 1, and has 2" in say("explain", state_dir=personal.state_dir)


def test_what_was_given_back_is_not_used_again_when_the_session_process_dies_with_it(personal, tmp_path):
    with rfaas.Executor(allocator=personal.state_dir) as ex:
        ex.resize(3)
        await_ready(ex, 3)
        before = ex._engine.session_pid
        os.kill(before, signal.SIGSTOP)  # it is told, and passes nothing on
        ex.resize(1)
        wait_until(lambda: not ex._engine._give_back, TIMEOUT_S)
        assert ex.capacity.returning == 2
        os.kill(before, signal.SIGKILL)
        futures = [ex.submit(f.witness, tmp_path / "witness") for _ in range(300)]
        assert all(future.result(TIMEOUT_S) for future in futures)
        await_ready(ex, 1)
        assert ex._engine.session_pid != before
        ex.resize(3)
        await_ready(ex, 3)
        assert all(ex.map(f.witness, [tmp_path / "witness"] * 300))
        assert ex.statistics()["failed"] == 0
    assert f.runs(tmp_path / "witness") == 600


def test_gains_and_reclaims_are_told_and_a_callback_that_raises_harms_nothing(personal, caplog):
    with rfaas.Executor(allocator=personal.state_dir) as ex:
        told = []
        ex.on_gain(lambda notice: sys.exit(3))
        ex.on_gain(lambda notice: told.append(("gain", notice.workers, notice.lease_id)))
        ex.on_reclaim(lambda notice: told.append(("reclaim", len(notice.cores), notice.lease_id)))
        ex.resize(2)
        wait_until(lambda: len(told) == 2, TIMEOUT_S)
        assert ex.submit(f.add, 2).result(TIMEOUT_S) == 2
        (agent,) = personal.agents
        agent.send_signal(signal.SIGTERM)
        wait_until(lambda: len(told) == 4, TIMEOUT_S)
        agent.wait(TIMEOUT_S)
        wait_until(lambda: ex.capacity.have == 0, TIMEOUT_S)
        assert ex.capacity.wanted == 2
        personal.start_agent(cores=2)  # what was taken is wanted still
        await_ready(ex, 2)
        wait_until(lambda: len(told) == 6, TIMEOUT_S)
    assert [(kind, n) for kind, n, _ in told] == [("gain", 1)] * 2 + [("reclaim", 1)] * 2 + [("gain", 1)] * 2
    assert {lease for *_, lease in told[:2]} == {lease for *_, lease in told[2:4]}
    assert "a callback of on_reclaim or on_gain failed" in caplog.text


def test_an_adaptive_executor_follows_its_calls(caplog):
    def policy(observation):
        seen.append(observation)
        if observation.queued + observation.running == 0:
            return 0
        if observation.running == 1:
            raise ValueError("a fault of the policy's")
        return 99

    seen = []
    with rfaas.adaptive(1, 3, policy, every_s=0.05, allocator="embedded") as ex:
        await_ready(ex, 1)
        futures = [ex.submit(f.sleep, 0.3) for _ in range(6)]
        wait_until(lambda: ex.capacity.wanted == 1 and ex.capacity.running == 1, TIMEOUT_S)
        wait_until(lambda: "policy of an adaptive executor failed" in caplog.text, TIMEOUT_S)
        ex.resize(3)  # by hand: the policy answers again
        assert [future.result(TIMEOUT_S) for future in futures] == [0.3] * 6
        await_ready(ex, 1)
    assert max(observation.throughput_per_s for observation in seen) > 0


def test_an_adaptive_executor_that_is_left_does_its_last_calls_with_as_many_workers_as_they_need():
    with rfaas.adaptive(0, 3, every_s=0.05, allocator="embedded") as ex:
        futures = [ex.submit(lambda: (f.sleep(0.3), os.getpid())[1]) for _ in range(6)]
    assert len({future.result(0) for future in futures}) > 1


def test_a_policy_that_exits_is_said_and_keeps_steering(caplog):
    def policy(observation):
        if not asked:
            asked.append(observation)
            sys.exit(3)
        return 2

    asked = []
    with rfaas.adaptive(1, 3, policy, every_s=0.05, allocator="embedded") as ex:
        await_ready(ex, 2)
    assert "policy of an adaptive executor failed" in caplog.text


@pytest.mark.parametrize("wrong", [{"every_s": "1"}, {"every_s": None}, {"every_s": True}, {"executor": 5}])
def test_arguments_of_another_kind_start_no_adaptive_executor(wrong):
    with pytest.raises(TypeError, match=f"{next(iter(wrong))} must be"):
        rfaas.adaptive(1, 2, **wrong)


def test_the_end_of_an_executor_that_wants_no_worker_ends_the_calls_that_wait():
    with rfaas.Executor(allocator="embedded") as ex:
        ex.resize(0)
        waits = [ex.submit(f.add, n) for n in range(3)]
        assert not waits[0].done()
    assert [call.result(0) for call in waits] == [0, 1, 2]


def test_nested_executors_are_not_concerned():
    with rfaas.Executor(allocator="embedded") as ex:
        ex.resize(1)
        assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1
        pids = ex.submit(_resize_inside).result(TIMEOUT_S)
        assert len(set(pids)) == 2
        assert ex.capacity.wanted == 1
    wait_until(lambda: not any(alive(pid) for pid in pids), 10)


def _resize_inside():
    with rfaas.Executor() as inner:
        inner.resize(2)
        wait_until(lambda: inner.capacity.ready == 2, TIMEOUT_S)
        return list(inner.map(lambda s: (f.sleep(s), os.getpid())[1], [0.2] * 2))


@pytest.mark.parametrize("wrong", [-1, 65_536, True, 1.5, "2"])
def test_numbers_that_make_no_sense_start_nothing(wrong):
    with rfaas.Executor(allocator="embedded") as ex:
        with pytest.raises((rfaas.ConfigError, TypeError), match="workers"):
            ex.resize(wrong)
        with pytest.raises((rfaas.ConfigError, TypeError), match="lease_workers"):
            ex.resize(1, lease_workers=wrong)
        assert ex._engine._thread is None
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        ex.resize(1)
