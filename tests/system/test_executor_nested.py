"""Executors inside functions: no deadlock, embedded or with an allocator all of whose cores are taken."""

import os

import pytest

import rfaas
from support import pool_functions as p
from support.leftovers import alive
from support.personal import Personal
from support.waiting import wait_until

TIMEOUT_S = 90


def test_functions_nest_three_deep_on_one_core():
    with rfaas.Executor(1, allocator="embedded") as ex:
        pids = ex.submit(p.nest, 2).result(TIMEOUT_S)
    assert len({*pids, os.getpid()}) == 4
    wait_until(lambda: not any(alive(pid) for pid in pids), 10)


@pytest.fixture
def personal(tmp_path, monkeypatch):
    cluster = Personal(tmp_path)
    cluster.start_allocator()
    cluster.start_agent(cores=2)
    monkeypatch.setenv("RFAAS_STATE_DIR", str(cluster.state_dir))
    monkeypatch.setenv("RFAAS_ENV_PASS", "RFAAS_STATE_DIR")  # so functions could find the allocator too
    monkeypatch.delenv("RFAAS_ALLOCATOR", raising=False)
    yield cluster
    cluster.stop()


def test_with_all_cores_taken_by_callers_nested_calls_run_on_theirs(personal):
    with rfaas.Executor(2) as ex:
        both = [ex.submit(p.nest, 1) for _ in range(2)]
        pids = [pid for future in both for pid in future.result(TIMEOUT_S)]
        assert ex._engine._session.mode == "personal"
        assert len(set(pids)) == 4
        error = ex.submit(p.nest_at, str(personal.state_dir)).exception(TIMEOUT_S)
        if error is not None:  # the other core may be free for it by now
            assert type(error) is rfaas.AcquireTimeout


def test_a_function_that_asks_the_allocator_for_the_cores_of_its_callers_is_told_in_time(personal):
    with rfaas.Executor(2) as ex:
        errors = [ex.submit(p.nest_at, str(personal.state_dir)) for _ in range(2)]
        assert any(type(future.exception(TIMEOUT_S)) is rfaas.AcquireTimeout for future in errors)
