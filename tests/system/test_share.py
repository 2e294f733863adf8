"""The lender of a job's part, without Slurm: when it goes or is killed, its agent gives the part back in good order."""

import os
import signal
import subprocess
import sys
import time

import pytest

import rfaas
from support import functions as f
from support.deadlines import SLACK, assert_in_time
from support.leftovers import alive, children
from support.personal import Personal
from support.waiting import wait_until

TIMEOUT_S = 30
GRACE_S = 20  # nobody is to be killed at its end
LEAVES_S = 1.0


@pytest.fixture
def personal(tmp_path):
    cluster = Personal(tmp_path)
    cluster.start_allocator("--listen", "127.0.0.1")
    yield cluster
    cluster.stop()


@pytest.fixture
def lender(personal):
    """`rfaas share --here` of a job that Slurm does not know, with an agent that serves."""
    command = [sys.executable, "-m", "rfaas_executors.share", "--state-dir", str(personal.state_dir)]
    command += ["--cores", "1", "--memory-bytes", str(1 << 30), "--grace-s", str(GRACE_S)]
    environ = {**os.environ, "SLURM_JOB_ID": f"of-no-slurm-{os.getpid()}"}
    with open(personal.logs / "lender.log", "ab") as log:
        process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    yield process
    if process.poll() is None:
        process.kill()
    process.wait(TIMEOUT_S)


def agent_of(lender):
    return wait_until(lambda: children(lender.pid, depth=1), TIMEOUT_S, "the agent")[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["asked", "killed"])
def test_its_agent_lets_the_running_call_end_and_goes(personal, lender, tmp_path, number):
    with rfaas.Executor(1, allocator=personal.state_dir) as ex:
        running = ex.submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "gate")
        wait_until(lambda: f.runs(tmp_path / "witness"), TIMEOUT_S, "the call to run")
        agent = agent_of(lender)
        below = [agent, *children(agent)]
        os.kill(lender.pid, number)
        time.sleep(0.5)
        assert alive(agent)
        (tmp_path / "gate").touch()
        begun_s = time.monotonic()
        assert running.result(TIMEOUT_S) == "done"
        assert lender.wait(TIMEOUT_S) == (0 if number == signal.SIGTERM else -number)
        wait_until(lambda: not any(alive(pid) for pid in below), TIMEOUT_S, "the agent's end")
        took_s = time.monotonic() - begun_s
        print(f"agent and worker gone {took_s:.3f} s after the call (goal {LEAVES_S:g} s)")
        assert_in_time(took_s, SLACK * LEAVES_S)


def test_functions_can_be_signalled_and_read_nothing(personal, lender):
    def mask_and_input():
        import signal
        import sys

        return sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), sys.stdin.read()

    with rfaas.Executor(1, allocator=personal.state_dir) as ex:
        assert ex.submit(mask_and_input).result(TIMEOUT_S) == ([], "")
