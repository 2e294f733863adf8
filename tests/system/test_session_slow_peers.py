"""A session process beside an allocator and agents that live and are slow: stopped, as it were on a crowded host."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import threading
import time

import pytest

import rfaas
from rfaas.session.dialling import AgentConnections
from rfaas.session.events import AgentThere, AgentUp
from rfaas.session.start import connect
from rfaas_transport.handshake import Accepter, handshake_socket
from support import functions as f
from support.personal import Personal
from support.waiting import wait_until

SECRET = b"s" * 32
SLOW_S = 2.5  # more than a client waits for an allocator that is not there, or for an agent that refuses
TIMEOUT_S = 30.0


@pytest.fixture
def personal(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", secrets.token_hex(8))  # a session process of this test's own
    made = Personal(tmp_path, 20.0)
    made.start_allocator()
    made.start_agent()
    yield made
    made.stop()


@contextlib.contextmanager
def stopped(process):
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def let_pass(seconds):
    start_s = time.monotonic()
    wait_until(lambda: time.monotonic() - start_s > seconds, seconds + TIMEOUT_S)


def test_an_allocator_that_is_slow_is_waited_for(personal):
    outcome = []

    def join():
        try:
            with contextlib.closing(connect(personal.choice, client_id=b"c" * 16, env={}, timeout_s=TIMEOUT_S)):
                outcome.append("welcome")
        except rfaas.RfaasError as error:
            outcome.append(error)

    joining = threading.Thread(target=join)
    with stopped(personal.allocator):
        joining.start()
        wait_until(personal.session_pids, TIMEOUT_S)
        let_pass(SLOW_S)
        assert outcome == []
    joining.join(TIMEOUT_S)
    assert outcome == ["welcome"]


def test_who_does_not_want_to_wait_for_a_slow_allocator_says_so(personal):
    with (
        stopped(personal.allocator),
        rfaas.Executor(1, allocator=personal.state_dir, acquire_timeout_s=0.5) as executor,
        pytest.raises(rfaas.AcquireTimeout),
    ):
        executor.submit(pow, 2, 10).result(TIMEOUT_S)


def test_calls_at_an_agent_that_is_slow_to_answer_are_not_lost(personal, tmp_path):
    """It is stopped while the session process dies: the next one's connection is taken by the agent's kernel alone."""
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    with rfaas.Executor(1, allocator=personal.state_dir) as executor:
        future = executor.submit(f.witness_then_wait, str(begun), str(gate))
        wait_until(begun.exists, TIMEOUT_S)
        [session] = personal.session_pids()
        with stopped(personal.agents[0]):
            os.kill(session, signal.SIGKILL)
            wait_until(lambda: personal.session_pids() not in ([session], []), TIMEOUT_S)
            let_pass(SLOW_S)
            assert not future.done()
        gate.touch()
        assert future.result(TIMEOUT_S) == "done"
        assert len(begun.read_text().splitlines()) == 1


def test_a_connection_that_an_agent_has_not_answered_yet_is_kept():
    """Longer than the whole search for one that is not there."""

    async def run():
        events, loop = [], asyncio.get_running_loop()
        connections = AgentConnections(SECRET, events.append)
        name = f"\0rfaas-test-{secrets.token_hex(8)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(name)
            listener.listen()
            listener.setblocking(False)
            address = f"unix:@{name[1:]}"
            connections.dial(address)
            start_s = time.monotonic()
            while time.monotonic() - start_s < SLOW_S:
                await asyncio.sleep(0.05)
            assert events == [AgentThere(address)]
            sock, _ = await loop.sock_accept(listener)
            with sock:
                await handshake_socket(sock, Accepter(SECRET, lambda role, params: None))
                while AgentUp(address) not in events:
                    await asyncio.sleep(0.01)
        await connections.close()

    asyncio.run(asyncio.wait_for(run(), TIMEOUT_S))
