"""A data connection breaks while its worker and everybody else lives: nothing runs twice at a time, nobody is lost."""

import os
import socket
import time

import pytest

import rfaas
from support import functions as f
from support.leftovers import alive
from support.waiting import wait_until

TIMEOUT_S = 60


@pytest.fixture(params=["tcp", "shm"])
def ex(request):
    """Workers that sleep between calls: who sends to one that polls, over memory, learns of the end a moment later."""
    with rfaas.Executor(1, allocator="embedded", transport=request.param, hot_for_s=0) as executor:
        executor.submit(f.nothing).result(TIMEOUT_S)
        yield executor


def break_channels(executor):
    """What a middlebox does that forgets a connection: both ends find it ended."""
    for port in list(executor._engine._ports._by_number.values()):
        with socket.socket(fileno=os.dup(port.channel.fileno())) as connection:
            connection.shutdown(socket.SHUT_RDWR)


def test_an_idle_worker_is_connected_anew(ex):
    pid = ex.submit(f.pid).result(TIMEOUT_S)
    break_channels(ex)
    assert ex.submit(f.pid).result(TIMEOUT_S) == pid
    assert ex.statistics()["failed"] == 0


def test_what_ran_is_ended_and_its_error_says_what_is_known(ex, tmp_path):
    call = ex.submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "never")
    wait_until(lambda: f.runs(tmp_path / "witness"), TIMEOUT_S)
    pid = int((tmp_path / "witness").read_text().split()[1])
    began_s = time.monotonic()
    break_channels(ex)
    error = call.exception(TIMEOUT_S)
    print(f"known after {time.monotonic() - began_s:.2f} s")
    assert (type(error), error.may_have_run, error.phase) == (rfaas.ConnectionLost, True, "STARTED")
    assert not alive(pid)
    assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1


def test_a_call_that_is_run_again_does_not_run_twice_at_a_time(ex, tmp_path):
    again = ex.options(idempotent=True, retries=1)
    call = again.submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "gate")
    wait_until(lambda: f.runs(tmp_path / "witness"), TIMEOUT_S)
    first = int((tmp_path / "witness").read_text().split()[1])
    break_channels(ex)
    wait_until(lambda: f.runs(tmp_path / "witness") == 2, TIMEOUT_S)
    assert not alive(first)
    (tmp_path / "gate").touch()
    assert call.result(TIMEOUT_S) == "done"
    assert ex.statistics()["retried"] == 1


def test_what_was_over_when_the_connection_broke_is_known_to_be(ex, tmp_path):
    call = ex.submit(f.witness, tmp_path / "witness")
    ran = call.result(TIMEOUT_S)
    break_channels(ex)
    calls = [ex.submit(f.witness, tmp_path / "witness") for _ in range(20)]
    assert {call.result(TIMEOUT_S) for call in calls} == {ran}
    assert f.runs(tmp_path / "witness") == 21
