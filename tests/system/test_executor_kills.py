"""Kill -9 of everything, 20 times each, at random moments during calls: every future resolves, no call runs twice."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

import rfaas
from support import functions as f
from support.leftovers import children
from support.personal import Personal
from support.waiting import wait_until

TIMEOUT_S = 60
N_KILLS = 20
N_CALLS = 400

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def personal(tmp_path):
    cluster = Personal(tmp_path, ttl_s=10.0)  # as by default: a busy machine needs a while to replace a process
    cluster.start_allocator()
    cluster.start_agent(cores=2)
    yield cluster
    cluster.stop()


@pytest.fixture
def chance():
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


class Round:
    """Calls in a stream, each with a witness, and how long the last one of them took to resolve after a moment."""

    def __init__(self, ex, directory):
        self.ex = ex
        self.directory = directory
        directory.mkdir()
        self.resolved_s = {}
        self.futures = [self._submit(n) for n in range(N_CALLS)]

    def _submit(self, n):
        future = self.ex.submit(f.witness, self.directory / str(n))
        future.add_done_callback(lambda _: self.resolved_s.setdefault(n, time.monotonic()))
        return future

    def wait_for_some(self, chance):
        """Wait for a random part of the calls, then a little more."""
        enough = chance.randrange(N_CALLS // 2)
        wait_until(lambda: len(self.resolved_s) >= enough, TIMEOUT_S)
        time.sleep(chance.random() * 0.005)

    def check(self, allowed, most_errors):
        """Every future resolves; results ran once, errors are typed and true, none ran twice."""
        errors = [future.exception(TIMEOUT_S) for future in self.futures]
        for n, error in enumerate(errors):
            ran = f.runs(self.directory / str(n))
            if error is None:
                assert ran == 1, f"call {n} gave a result and ran {ran} times"
            else:
                assert isinstance(error, allowed), repr(error)
                assert error.may_have_run
                assert ran <= 1
        n_errors = sum(error is not None for error in errors)
        assert n_errors <= most_errors
        return n_errors


def stream(ex, tmp_path, chance, strike, allowed, most_errors):
    """N_KILLS rounds of calls with one strike each; returns how many calls failed."""
    failed = 0
    for number in range(N_KILLS):
        calls = Round(ex, tmp_path / f"round-{number}")
        calls.wait_for_some(chance)
        strike()
        failed += calls.check(allowed, most_errors)
    assert list(ex.map(f.add, range(20))) == list(range(20))
    return failed


def workers_below(pid):
    """Processes below an embedded session process that have no children: its workers."""
    return [child for child in children(pid) if not children(child)]


def test_workers(tmp_path, chance):
    with rfaas.Executor(2, allocator="embedded") as ex:
        ex.submit(f.nothing).result(TIMEOUT_S)
        session = ex._engine._connection.pid

        def strike():
            os.kill(chance.choice(workers_below(session)), signal.SIGKILL)

        failed = stream(ex, tmp_path, chance, strike, rfaas.WorkerLost, 1)
    print(f"{failed} of {N_KILLS * N_CALLS} calls failed")


def test_embedded_session_processes(tmp_path, chance):
    with rfaas.Executor(2, allocator="embedded") as ex:
        ex.submit(f.nothing).result(TIMEOUT_S)

        def strike():
            os.kill(ex._engine._connection.pid, signal.SIGKILL)

        failed = stream(ex, tmp_path, chance, strike, rfaas.AgentLost, 2)
    print(f"{failed} of {N_KILLS * N_CALLS} calls failed")


def test_personal_session_processes(tmp_path, chance, personal):
    with rfaas.Executor(2, allocator=personal.state_dir) as ex:
        ex.submit(f.nothing).result(TIMEOUT_S)

        def strike():
            wait_until(lambda: ex._engine._connection is not None, TIMEOUT_S)
            # Each must live long enough to renew, or after 10 s of short-lived ones the leases end, as they should.
            time.sleep(0.3 + chance.random())
            os.kill(ex._engine._connection.pid, signal.SIGKILL)

        assert stream(ex, tmp_path, chance, strike, (), 0) == 0


def test_agents(tmp_path, chance, personal):
    with rfaas.Executor(2, allocator=personal.state_dir) as ex:
        ex.submit(f.nothing).result(TIMEOUT_S)

        def strike():
            personal.agents[-1].kill()
            personal.start_agent(cores=2)

        failed = stream(ex, tmp_path, chance, strike, rfaas.AgentLost, 2)
    print(f"{failed} of {N_KILLS * N_CALLS} calls failed")


def test_allocators(tmp_path, chance, personal):
    with rfaas.Executor(2, allocator=personal.state_dir) as ex:
        ex.submit(f.nothing).result(TIMEOUT_S)

        def strike():
            personal.allocator.kill()
            personal.allocator.wait()
            personal.start_allocator()

        assert stream(ex, tmp_path, chance, strike, (), 0) == 0


CLIENT = """
import sys, rfaas
from support import functions as f
ex = rfaas.Executor(2, allocator=sys.argv[1])
ex.submit(f.nothing).result(60)
print("ready", flush=True)
for _ in range(100_000):
    ex.submit(f.sleep, 0.01)
ex.shutdown()
"""


def test_clients(tmp_path, chance, personal):
    """A killed client's cores serve another one within TTL + 1 s; each of these needs both of the slice."""
    tests = os.path.dirname(os.path.dirname(__file__))
    for _ in range(N_KILLS):
        command = [sys.executable, "-c", CLIENT, personal.state_dir]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": tests}) as client:
            assert client.stdout.readline() == b"ready\n"
            time.sleep(chance.random() * 0.1)
            client.kill()
        began_s = time.monotonic()
        with rfaas.Executor(2, allocator=personal.state_dir) as ex:
            assert len(set(ex.map(lambda s: (time.sleep(s), os.getpid())[1], [0.2] * 6))) == 2
        assert time.monotonic() - began_s <= personal.ttl_s + 1.0
