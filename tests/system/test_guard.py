"""The neighbour guard of a real agent: a job that marks its iterations, functions that slow it, what is done then."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import rfaas
from support import host_job
from support.deadlines import assert_in_time
from support.personal import Personal
from support.waiting import wait_until

TIMEOUT_S = 60


@pytest.fixture
def personal(tmp_path, monkeypatch):
    marks, log = tmp_path / "marks", tmp_path / "events"
    marks.mkdir()
    log.mkdir()
    monkeypatch.setenv("RFAAS_GUARD_MARKS_DIR", str(marks))
    monkeypatch.setenv("RFAAS_EVENT_LOG", str(log))
    cluster = Personal(tmp_path)
    cluster.start_allocator()
    yield cluster
    cluster.stop()


@pytest.fixture
def host(tmp_path):
    """Starts the job; what it shares with functions is the page."""
    started = []

    def start(harm_s, fresh_s):
        command = [sys.executable, host_job.__file__, tmp_path / "page", harm_s, fresh_s]
        started.append(subprocess.Popen(list(map(str, command))))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def verdicts(tmp_path):
    """What the guard said so far, as the agents' event logs have it."""
    lines = [line for path in (tmp_path / "events").glob("agent-*.jsonl") for line in path.read_text().splitlines()]
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return [event for event in events if event["ev"] == "neighbours"]


def first(tmp_path, verdict):
    return next((event for event in verdicts(tmp_path) if event["verdict"] == verdict), None)


def explain(personal, *arguments):
    command = [sys.executable, "-m", "rfaas", "explain", *arguments, "--state-dir", personal.state_dir, "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    return json.loads(done.stdout)["reasons"]


def executor(personal, **changes):
    return rfaas.Executor(1, allocator=personal.state_dir, memory="64MiB", **changes)


def state_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_functions_that_slow_a_job_are_throttled_and_a_reclaim_does_not_wait(personal, host, tmp_path, monkeypatch):
    monkeypatch.setenv("RFAAS_GUARD_ACT", "throttle")  # it shall stay: what is held is looked at
    agent = personal.start_agent(1, 5.0, "--node", "n1", "--drain-s", "0")
    host(0.006, 0.005)  # felt for a moment longer: on a busy machine a worker does not run all the time
    with executor(personal) as ex:
        pid = ex.submit(os.getpid).result(TIMEOUT_S)
        call = ex.submit(host_job.disturb, tmp_path / "page", 600.0)
        throttled = wait_until(lambda: first(tmp_path, "throttle"), TIMEOUT_S, "the guard to throttle")
        assert throttled["host"].startswith("python")
        assert throttled["slowdown"] > 0.5
        assert 0 < throttled["share"] < 1
        wait_until(lambda: state_of(pid) == "T", TIMEOUT_S, "the worker to be held")
        wait_until(lambda: state_of(pid) != "T", TIMEOUT_S, "the worker to be let go")
        said = [reason["text"] for reason in explain(personal, "n1")]
        assert any(text.startswith("neighbours: python") and "(by marks)" in text for text in said), said
        assert not call.done()
        began_s = time.monotonic()
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(TIMEOUT_S) == 0
        took_s = time.monotonic() - began_s
        print(f"the slice was back {took_s:.3f} s after its owner asked for it")
        assert_in_time(took_s, 3 * 1.0)  # the promise is a second, with nothing to drain
        with pytest.raises(rfaas.RfaasError):
            call.result(TIMEOUT_S)


def test_what_throttling_does_not_help_is_moved_and_not_placed_there_again(personal, host, tmp_path):
    personal.start_agent(1, 5.0, "--node", "n1", "--drain-s", "0.2")
    host(0.006, 0.05)  # it is felt long after it ran: a pause of 9 ms does not help
    with executor(personal, load="memory", idempotent=True, acquire_timeout_s=300) as ex:
        call = ex.submit(host_job.disturb, tmp_path / "page", 600.0)
        moved = wait_until(lambda: first(tmp_path, "move"), TIMEOUT_S, "the guard to move the lease")
        assert "its leases move" in moved["words"]

        def waits():
            return [reason for reason in explain(personal) if "lies beside jobs that it would slow" in reason["text"]]

        [waiting] = wait_until(waits, TIMEOUT_S, "the call to wait for another node")
        assert "guard.*" in waiting["remedy"]
        assert not call.done()
        with executor(personal, load="memory", acquire_timeout_s=1.0) as other, pytest.raises(rfaas.AcquireTimeout):
            other.submit(os.getpid).result(TIMEOUT_S)
        call.cancel()
        ex.terminate_workers()


def test_within_the_bounds_of_the_site_nobody_is_held(personal, host, tmp_path, monkeypatch):
    monkeypatch.setenv("RFAAS_GUARD_SLOWDOWN", "900%")
    monkeypatch.setenv("RFAAS_GUARD_TAIL", "900%")
    personal.start_agent(1, 5.0, "--node", "n1", "--drain-s", "0")
    host(0.006, 0.001)
    with executor(personal) as ex:
        assert ex.submit(host_job.disturb, tmp_path / "page", 2.0).result(TIMEOUT_S) > 0
    assert {event["verdict"] for event in verdicts(tmp_path)} == {"watch"}
