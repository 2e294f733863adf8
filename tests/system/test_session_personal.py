"""The session process of personal mode between real clients, agents and allocator: deaths on every side."""

import ctypes
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

import pytest

from rfaas.config import StateDir
from rfaas.session.connection import SessionEnded
from rfaas.session.start import connect
from rfaas_transport.errors import AllocatorUnavailable, ConfigError
from support.deadlines import assert_in_time
from support.leftovers import alive, children
from support.personal import Personal
from support.raw_client import RawClient
from support.waiting import wait_until

TESTS = str(Path(__file__).parents[1])
TTL_S = 2.0


@pytest.fixture
def personal(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", secrets.token_hex(8))  # a session process of this test's own
    made = Personal(tmp_path, TTL_S)
    made.start_allocator()
    yield made
    made.stop()


@pytest.fixture
def client(personal):
    personal.start_agent()
    made = RawClient(personal.choice)
    yield made
    made.close()


def start(program, personal, **variables):
    prelude = f"import sys; sys.path.insert(0, {TESTS!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + textwrap.dedent(program), str(personal.state_dir)],
        text=True,
        stdout=subprocess.PIPE,
        env={**os.environ, **variables},
    )


# --- serving --------------------------------------------------------------------------------------------------


def test_a_program_calls_on_an_agent_elsewhere(client, personal):
    first, second = client.acquire(2)
    assert client.call(first, lambda a, b: a + b, 2, 3) == 5
    assert client.call(second, os.getpid) in children(personal.agents[0].pid)
    assert client.connection.mode == "personal"


def test_an_agent_over_tcp_serves_too(personal):
    personal.start_agent(2, 5.0, "--listen", "127.0.0.1")
    client = RawClient(personal.choice)
    [number] = client.acquire()
    assert client.channels[number][1]["medium"] == "tcp"
    assert client.call(number, lambda: 7) == 7
    client.close()


def test_programs_share_one_session_process_and_each_gets_its_own_leases(client, personal):
    program = start(
        """
        import sys
        from pathlib import Path
        from rfaas.config import StateDir
        from support.raw_client import RawClient
        client = RawClient(StateDir(Path(sys.argv[1])))
        [number] = client.acquire()
        print(client.connection.pid, client.call(number, __import__("os").getpid))
        client.close()
        """,
        personal,
    )
    [number] = client.acquire()
    mine = client.call(number, os.getpid)
    output, _ = program.communicate(timeout=60)
    session_pid, theirs = map(int, output.split())
    assert session_pid == client.connection.pid
    assert theirs != mine


def test_who_asks_for_more_than_there_is_is_queued(client):
    client.acquire(2)
    client.want(3)
    [queued] = client.wait_for("queued")
    assert queued["executor"] == 1
    assert queued["reason"]


def test_it_stays_after_its_last_client_for_the_next_one(client, personal):
    client.close()
    again = RawClient(personal.choice)
    assert again.connection.pid == client.connection.pid
    again.close()


def test_it_leaves_some_seconds_after_its_last_client(personal):
    client = RawClient(personal.choice)
    client.connection.send({"m": "leave"})
    client.close()
    wait_until(lambda: not alive(client.connection.pid), 8)
    log = (personal.state_dir / "log" / "session.log").read_text()
    assert "session process leaves" in log


# --- no allocator ---------------------------------------------------------------------------------------------


def test_a_state_directory_without_an_allocator_is_unavailable(tmp_path):
    with pytest.raises(AllocatorUnavailable, match="rfaas up"):
        connect(StateDir(tmp_path), client_id=b"c" * 16, env={})


def test_an_allocator_that_was_killed_is_unavailable_with_a_remedy(personal):
    personal.allocator.kill()
    personal.allocator.wait()
    with pytest.raises(AllocatorUnavailable) as caught:
        connect(personal.choice, client_id=b"c" * 16, env={})
    assert caught.value.hint


def test_a_secret_that_others_can_read_is_a_configuration_error_with_the_log_s_path(personal):
    (personal.state_dir / "secret").chmod(0o644)
    with pytest.raises(AllocatorUnavailable) as caught:
        connect(personal.choice, client_id=b"c" * 16, env={})
    assert "chmod 600" in str(caught.value)
    assert "session.log" in str(caught.value)
    (personal.state_dir / "secret").chmod(0o600)


def test_an_interpreter_that_is_none_is_a_configuration_error(personal):
    with pytest.raises(ConfigError):
        connect(personal.choice, client_id=b"c" * 16, env={}, daemon_python="/proc/nonexistent/python")


def test_an_interpreter_without_rfaas_is_unavailable(personal):
    with pytest.raises(AllocatorUnavailable, match=r"session\.log"):
        connect(personal.choice, client_id=b"c" * 16, env={}, daemon_python="/usr/bin/python3")
    assert "No module named" in (personal.state_dir / "log" / "session.log").read_text()


# --- deaths ---------------------------------------------------------------------------------------------------

CLIENT = """
    import os, sys, time
    from pathlib import Path
    from rfaas.config import StateDir
    from support.raw_client import RawClient
    client = RawClient(StateDir(Path(sys.argv[1])))
    first, second = client.acquire(2)
    client.submit(second, lambda: __import__("time").sleep(1000))
    if "WITH_FORK" in os.environ and os.fork() == 0:
        os.close(1)
        time.sleep(1000)
    print(client.call(first, os.getpid), flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("fork", [False, True], ids=["alone", "with a fork that lives on"])
def test_a_killed_client_s_cores_are_free_within_ttl_and_a_second(personal, fork):
    personal.start_agent()
    with start(CLIENT, personal, **({"WITH_FORK": "1"} if fork else {})) as program:
        worker = int(program.stdout.readline())
        forked = children(program.pid)
        assert bool(forked) == fork
        program.kill()
        program.wait()
    killed_s = time.monotonic()
    try:
        wait_until(lambda: not alive(worker), 3 * TTL_S)
        with closing(RawClient(personal.choice)) as other:
            other.acquire(2, timeout_s=3 * TTL_S)
        print(f"\nanother client had both cores {time.monotonic() - killed_s:.1f} s later, at {TTL_S} s of TTL")
        assert all(alive(pid) for pid in forked)
    finally:
        for pid in forked:
            os.kill(pid, signal.SIGKILL)


def test_client_and_session_process_killed_together_free_the_cores_by_expiry(personal):
    agent = personal.start_agent()
    with start(CLIENT, personal) as program:
        worker = int(program.stdout.readline())
        for pid in (*personal.session_pids(), program.pid):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(worker), TTL_S + 1)
    assert agent.poll() is None


def test_a_client_that_holds_the_gil_for_three_ttls_keeps_its_lease(client):
    [number] = client.acquire()
    pid = client.call(number, os.getpid)
    ctypes.PyDLL(None).usleep(int(3 * TTL_S * 1e6))  # PyDLL keeps the GIL
    assert client.call(number, os.getpid) == pid
    assert client.said("ended") == []


def test_a_killed_session_process_is_replaced_and_leases_and_channels_live_on(client, personal):
    first, second = client.acquire(2)
    running = client.submit(second, lambda: (time.sleep(TTL_S * 1.5), "done")[1])
    pid = client.call(first, os.getpid)
    os.kill(client.connection.pid, signal.SIGKILL)
    with pytest.raises(SessionEnded):
        wait_until(lambda: client.pump(), 1)
    again = RawClient(personal.choice, client_id=client.client_id, resume=client.resume_entries())
    assert again.connection.pid != client.connection.pid
    again.want(2)
    assert client.wait_result(second, running) == "done"
    assert client.call(first, os.getpid) == pid
    # The lease is the same, no channel was made a second time, and losses are told by the new process.
    assert again.said("lease") + again.said("channel") + again.said("ended") == []
    os.kill(pid, signal.SIGKILL)
    [farewell] = again.wait_for("farewell", timeout_s=1.0)
    assert farewell["channel"] == first
    assert len(again.wait_for("channel")) == 1
    again.close()


def test_more_leases_than_a_packet_takes_are_resumed(personal):
    entry = {"lease_seq": 1, "epoch": 1, "slice": b"s" * 16, "address": "unix:@nobody-listens-here", "node": "gone"}
    entry |= {"executor": 1, "workers": 1, "ttl_s": TTL_S}
    leases = [secrets.token_bytes(16) for _ in range(1500)]
    resume = [{**entry, "lease": lease, "channels": [[number, 0, 1]]} for number, lease in enumerate(leases)]
    client = RawClient(personal.choice, resume=resume)
    client.wait_for("ended", len(leases), timeout_s=5.0)
    assert {number for message in client.said("lost") for number in message["channels"]} == set(range(len(leases)))
    client.close()


def test_a_killed_agent_is_lost_within_two_seconds_and_another_serves(client, personal):
    first, second = client.acquire(2)
    killed_s = time.monotonic()
    personal.agents[0].kill()
    personal.agents[0].wait()
    lost = client.wait_for("lost", timeout_s=2.0)
    assert_in_time(time.monotonic() - killed_s, 2.0)
    assert {number for message in lost for number in message["channels"]} == {first, second}
    assert {message["reason_code"] for message in lost} == {16}
    personal.start_agent()
    client.wait_for("channel", 4)
    assert client.call(list(client.channels)[-1], lambda: 1) == 1


def test_a_killed_allocator_disturbs_no_lease_and_the_next_one_knows_it(client, personal):
    first, _ = client.acquire(2)
    pid = client.call(first, os.getpid)
    personal.allocator.kill()
    personal.allocator.wait()
    deadline_s = time.monotonic() + 2 * TTL_S
    while time.monotonic() < deadline_s:
        assert client.call(first, os.getpid) == pid
    personal.start_allocator()
    personal.start_agent()
    client.want(3)
    client.wait_for("channel", 3)
    assert client.call(first, os.getpid) == pid
    assert client.said("ended") == []


def test_sigterm_gives_everything_back(client, personal):
    [number] = client.acquire()
    pid = client.call(number, os.getpid)
    os.kill(client.connection.pid, signal.SIGTERM)
    with pytest.raises(SessionEnded):
        wait_until(lambda: client.pump(), 5)
    assert [m["m"] for m in client.messages][-2:] == ["farewell", "ended"]
    wait_until(lambda: not alive(pid), 1)
    other = RawClient(personal.choice)
    other.acquire(2, timeout_s=5)
    other.close()


def test_a_reclaimed_slice_is_announced_with_its_grace(client, personal, tmp_path):
    [number] = client.acquire()
    begun = tmp_path / "begun"
    call = client.submit(number, lambda: (begun.touch(), time.sleep(0.5), "kept")[-1])
    wait_until(begun.exists, 10)
    personal.agents[0].send_signal(signal.SIGTERM)
    [notice] = client.wait_for("notice", timeout_s=1.0)
    assert (notice["channels"], notice["grace_s"]) == ([number], 5.0)
    assert client.wait_result(number, call) == "kept"
    [farewell] = client.wait_for("farewell")
    assert (farewell["last_started"], farewell["last_done"]) == (call, call)
    assert client.wait_for("ended")[0]["reason"] == "reclaimed"
