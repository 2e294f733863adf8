"""How workers, templates and agents end on a real machine: signals, crashes, timeouts, reclaims, and what is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rfaas.control.messages import Ending, SliceEmpty
from rfaas_transport.errors import ChannelBroken, ChannelClosed, ReasonCode
from rfaas_transport.frame import Kind
from support.agent_rig import AgentRig, environment, marked
from support.deadlines import assert_in_time
from support.leftovers import name_in_shared_memory
from support.waiting import wait_until


@pytest.fixture
def rig():
    with AgentRig() as rig:
        yield rig


@pytest.fixture
def job_rig():
    with AgentRig(job_id="17") as rig:
        yield rig


def nap(seconds, witness=None):
    import time

    if witness:
        with open(witness, "a") as file:
            file.write("started\n")
    time.sleep(seconds)
    return seconds


def started(path):
    return path.exists() and path.read_text().count("started")


def farewell_of(session, client, timeout_s=5.0):
    return session.wait_for("farewell", timeout_s, lambda words: words["channel"] == client.number)


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def channel_ended(client):
    try:
        client.channel.poll()
    except (ChannelClosed, ChannelBroken):
        return True
    return False


# --- signals --------------------------------------------------------------------------------------


def test_sigterm_to_every_process_lets_running_calls_end_within_the_grace(job_rig, tmp_path):
    rig = job_rig
    session = rig.session()
    terms, clients = session.start(workers=3)
    witness = tmp_path / "witness"
    for client in clients:
        client.call(nap, 0.5, str(witness))
    wait_until(lambda: started(witness) == 3, 10)
    for pid in [rig.process.pid, *rig.family()]:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)
    rig.process.send_signal(signal.SIGTERM)  # a second one is the same to a job of Slurm's
    results = []
    for client in clients:
        frame = client.receive(5)
        results.append((frame.kind, frame.status, frame.credits))
    assert results == [(Kind.RESULT, 0, 0)] * 3
    assert session.wait_for("notice")["leases"] == [terms.lease_id]
    farewells = [farewell_of(session, client) for client in clients]
    assert {(f["last_started"], f["last_done"]) for f in farewells} == {(1, 1)}
    assert {f["reason_code"] for f in farewells} == {ReasonCode.SLURM_PREEMPT}
    assert session.wait_for("ended")["reason"] == "reclaimed"
    assert rig.process.wait(5) == 0
    assert isinstance(rig.hear(0.1)[-1], SliceEmpty)
    assert any(isinstance(m, Ending) for m in rig.said)


def test_processes_that_a_function_starts_can_be_terminated(rig):
    _, [client] = rig.session().start()

    def popen():
        import subprocess

        child = subprocess.Popen(["sleep", "100"])
        child.terminate()
        return child.wait(5)

    def multi():
        import multiprocessing
        import time

        codes = []
        for method in "fork", "spawn":
            context = multiprocessing.get_context(method)
            child = context.Process(target=time.sleep, args=(100,))
            child.start()
            time.sleep(0.5 if method == "spawn" else 0)
            child.terminate()
            child.join(5)
            codes.append(child.exitcode)
        return codes

    def interrupts():
        import signal
        import subprocess
        import sys

        code = "import time\ntry:\n print(1, flush=True)\n time.sleep(100)\nexcept KeyboardInterrupt: print('ki')"
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        return child.communicate(timeout=5)[0]

    client.call(popen)
    assert client.result() == -signal.SIGTERM
    client.call(multi)
    assert client.result(30) == [-signal.SIGTERM, -signal.SIGTERM]
    client.call(interrupts)
    assert client.result() == b"ki\n"


def catches(pid, signo):
    """True if the process has a handler for this signal."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(line.split()[1], 16) & 1 << (signo - 1))


def test_a_handler_that_a_function_installed_is_gone_after_the_call(rig):
    _, [client] = rig.session().start()

    def own():
        import os
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return os.getpid()

    pid = client.run(own)
    wait_until(lambda: catches(pid, signal.SIGTERM), 5, "the worker's own handler")  # put back after the result is sent
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)
    assert client.run(os.getpid) == pid


# --- workers that end -----------------------------------------------------------------------------


def crash():
    import ctypes

    ctypes.string_at(0)


@pytest.mark.parametrize(
    ("function", "reason", "exit_status", "signo"),
    [
        (lambda: sys.exit(3), ReasonCode.WORKER_EXITED, 3, 0),
        (lambda: sys.exit("so there"), ReasonCode.WORKER_EXITED, 1, 0),
        (lambda: os._exit(4), ReasonCode.WORKER_EXITED, 4, 0),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), ReasonCode.WORKER_CRASHED, 0, signal.SIGKILL),
        (crash, ReasonCode.WORKER_CRASHED, 0, signal.SIGSEGV),
    ],
)
def test_a_worker_that_ends_in_a_call_says_farewell_and_is_replaced(rig, function, reason, exit_status, signo):
    session = rig.session()
    terms, [client] = session.start()
    client.run(os.getpid)
    began_s = time.monotonic()
    call_id = client.call(function)
    farewell = farewell_of(session, client)
    again = session.wait_for("worker-up", 5, lambda words: words["generation"] == 2)
    took_s = time.monotonic() - began_s
    assert (farewell["last_started"], farewell["last_done"]) == (call_id, call_id - 1)
    assert (farewell["reason_code"], farewell["exit_status"], farewell["signal"]) == (reason, exit_status, signo)
    assert_in_time(took_s, 1.0)
    assert session.dial(terms, again).run(lambda: 5) == 5
    assert wait_until(lambda: channel_ended(client), 1)


def test_a_killed_worker_that_had_not_read_the_call_proves_that_it_did_not_start(rig):
    session = rig.session()
    _, [client] = session.start()
    pid = client.run(os.getpid)
    os.kill(pid, signal.SIGSTOP)
    call_id = client.call(nap, 0)
    os.kill(pid, signal.SIGKILL)
    farewell = farewell_of(session, client)
    assert farewell["last_started"] < call_id
    assert farewell["last_started"] == farewell["last_done"] == 1


def test_a_worker_that_keeps_dying_is_replaced_more_and_more_slowly(rig):
    session = rig.session()
    session.start()
    for generation in range(1, 6):
        up = session.wait_for("worker-up", 10, lambda words, g=generation: words["generation"] == g)
        os.kill(up["pid"], signal.SIGKILL)
        session.wait_for("worker-down", 5, lambda words, g=generation: words["generation"] == g)
    began_s = time.monotonic()
    session.wait_for("worker-up", 10, lambda words: words["generation"] == 6)
    assert time.monotonic() - began_s > 0.2


def test_what_a_function_leaves_behind_dies_with_its_worker(rig):
    session = rig.session()
    _, [client] = session.start()

    def litter():
        import os
        import subprocess

        child = subprocess.Popen(["sleep", "1000"])
        stranger = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        if os.fork() == 0:  # a daemon in the old way
            os.setsid()
            if os.fork() == 0:
                os.execvp("sleep", ["sleep", "1000"])
            os._exit(0)
        os.wait()
        return child.pid, stranger.pid

    pids = client.run(litter)
    wait_until(lambda: len(rig.family()) == 5, 5, "template, worker, two children and a daemon")
    assert set(pids) < set(rig.family())
    client.call(os._exit, 0)
    farewell_of(session, client)
    session.wait_for("worker-up", 5, lambda words: words["generation"] == 2)
    assert len(rig.family()) == 2
    assert not set(pids) & set(rig.family())


def test_shared_memory_that_multiprocessing_tracks_is_unlinked_when_its_worker_is_killed(rig):
    session = rig.session()
    _, [client] = session.start()

    def share(name):
        from multiprocessing import shared_memory

        global kept
        kept = shared_memory.SharedMemory(name, create=True, size=4096)

    name = name_in_shared_memory("tracked")
    client.run(share, name)
    assert os.path.exists(f"/dev/shm/{name}")
    client.call(lambda: os.kill(os.getpid(), signal.SIGKILL))
    farewell_of(session, client)
    assert not os.path.exists(f"/dev/shm/{name}")


# --- call_timeout_s ---------------------------------------------------------------------------------


def test_a_call_past_its_deadline_is_killed_with_its_worker(rig):
    session = rig.session()
    terms, [client] = session.start()
    client.run(os.getpid)
    began_s = time.monotonic()
    call_id = client.call(nap, 60, deadline_s=0.2)
    farewell = farewell_of(session, client)
    took_s = time.monotonic() - began_s
    assert farewell["reason_code"] == ReasonCode.CALL_TIMEOUT
    assert (farewell["last_started"], farewell["last_done"]) == (call_id, call_id - 1)
    assert took_s >= 0.2
    assert_in_time(took_s, 1.0)
    up = session.wait_for("worker-up", 2, lambda words: words["generation"] == 2)
    assert session.dial(terms, up).run(lambda: 1) == 1


def test_calls_within_their_deadlines_are_left_alone(rig):
    _, [client] = rig.session().start()
    for _ in range(20):
        client.call(nap, 0.02, deadline_s=1.0)
        assert client.result() == 0.02
    client.call(nap, 1.2)  # no deadline, whatever the calls before had
    assert client.result() == 1.2


# --- templates and agents that die ------------------------------------------------------------------


def test_a_killed_template_takes_its_workers_along_and_is_replaced(rig):
    session = rig.session()
    terms, clients = session.start(workers=2)
    pids = {client.run(os.getpid) for client in clients}
    [template] = set(rig.family()) - pids
    os.kill(template, signal.SIGKILL)
    for client in clients:
        assert farewell_of(session, client)["signal"] == signal.SIGKILL
    assert not pids & set(rig.family())
    ups = [session.wait_for("worker-up", 5, lambda w, s=s: w["generation"] == 2 and w["slot"] == s) for s in (0, 1)]
    assert {session.dial(terms, up).run(lambda: 7) for up in ups} == {7}


@pytest.mark.parametrize("hindrance", [None, signal.SIGSTOP])
def test_a_killed_agent_leaves_nothing_alive_for_a_second(rig, hindrance):
    session = rig.session()
    _, clients = session.start(workers=2)
    pids = {client.run(lambda: (subprocess.Popen(["sleep", "1000"]), os.getpid())[1]) for client in clients}
    for client in clients:
        client.call(nap, 60)
    if hindrance:
        [template] = [pid for pid in rig.family() if parent_of(pid) == rig.process.pid]
        os.kill(template, hindrance)
    wait_until(lambda: len(rig.family()) == 5, 5)
    began_s = time.monotonic()
    rig.process.kill()
    wait_until(lambda: not rig.family(), 1.0, "template, workers and what functions started to be dead")
    print(f"{len(pids)} workers and all else dead after {(time.monotonic() - began_s) * 1000:.0f} ms")


def test_a_template_that_hangs_dies_soon_after_its_agent_with_its_workers(rig, tmp_path):
    (tmp_path / "hanging.py").write_text(
        "import os, time\n"
        "forks = []\n"
        "os.register_at_fork(after_in_parent=lambda: (forks.append(1), len(forks) == 2 and time.sleep(1000)))\n"
    )
    env = environment(preload=["hanging"])
    env["path"].insert(0, str(tmp_path))
    session = rig.session()
    _, [client] = session.start(env=env)
    client.run(os.getpid)
    terms = rig.propose()
    wait_until(lambda: any(getattr(m, "lease_id", b"") == terms.lease_id for m in rig.hear(0.01)), 5)
    session.attach(terms, env)
    wait_until(lambda: len(rig.family()) == 3, 10)  # the second fork is done, and its maker asleep
    rig.process.kill()
    wait_until(lambda: not rig.family(), 1.0, "template and workers to be dead")


def test_a_slice_goes_back_without_waiting_for_a_template_that_is_slow_to_leave(rig, tmp_path):
    (tmp_path / "cold.py").write_text(  # a file system that takes seconds for each further module
        "import sys, time\n"
        "class Cold:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'rfaas_executors.placing':\n"
        "            time.sleep(1.5)\n"
        "sys.meta_path.insert(0, Cold())\n"
    )
    env = environment(preload=["cold"])
    env["path"].insert(0, str(tmp_path))
    _, [client] = rig.session().start(env=env)
    assert client.run(lambda: 7) == 7
    began_s = time.monotonic()
    rig.process.send_signal(signal.SIGTERM)
    assert rig.process.wait(10) == 0
    took_s = time.monotonic() - began_s
    print(f"gone {took_s * 1000:.0f} ms after SIGTERM")
    assert_in_time(took_s, 1.0)


def test_slurms_sigcont_is_harmless(rig):
    session = rig.session()
    _, [client] = session.start()
    for pid in [rig.process.pid, *rig.family()]:
        os.kill(pid, signal.SIGCONT)
    client.call(nap, 1.0)
    assert client.result() == 1.0


def test_a_later_agent_of_the_same_slice_sweeps_what_killed_processes_left(rig):
    from rfaas_executors.leftovers import sweep

    _, [client] = rig.session().start()
    worker, pid = client.run(lambda: (os.getpid(), subprocess.Popen(["sleep", "1000"], start_new_session=True).pid))
    rig.process.send_signal(signal.SIGSTOP)  # or it would sweep by itself
    os.kill(parent_of(worker), signal.SIGKILL)
    rig.process.kill()
    wait_until(lambda: marked(rig.slice_id) == [pid], 1.0)
    assert sweep(rig.slice_id) is True
    assert not marked(rig.slice_id)


# --- reclaim ----------------------------------------------------------------------------------------


def test_an_idle_agent_is_gone_within_milliseconds_of_sigterm():
    took_s = []
    for _ in range(3):
        with AgentRig() as rig:
            _, clients = rig.session().start(workers=4)
            for client in clients:
                client.run(os.getpid)
            began_s = time.monotonic()
            rig.process.send_signal(signal.SIGTERM)
            assert rig.process.wait(5) == 0
            took_s.append(time.monotonic() - began_s)
            assert not rig.family()
    print(f"gone after {[round(s * 1000) for s in took_s]} ms")
    assert_in_time(min(took_s), 0.25)  # some 20 ms; a busy machine may spoil two of the three


def test_a_reclaim_lets_short_calls_end_and_kills_long_ones_at_drain_s(tmp_path):
    witness = tmp_path / "witness"
    with AgentRig(grace_s=2.0, drain_s=0.6) as rig:
        session = rig.session()
        _, [short, long, idle] = session.start(workers=3)
        short.call(nap, 0.3, str(witness))
        long.call(nap, 60, str(witness))
        wait_until(lambda: started(witness) == 2, 10)
        began_s = time.monotonic()
        rig.process.send_signal(signal.SIGTERM)
        assert short.receive(2).status == 0
        notice = session.wait_for("notice", 1)
        assert notice["grace_s"] == 2.0
        said = {client: farewell_of(session, client) for client in (short, long, idle)}
        took_s = time.monotonic() - began_s
        assert (said[short]["last_started"], said[short]["last_done"]) == (1, 1)
        assert (said[long]["last_started"], said[long]["last_done"]) == (1, 0)
        assert (said[idle]["last_started"], said[idle]["last_done"]) == (0, 0)
        assert said[long]["grace_s"] == 2.0
        assert took_s > 0.5
        assert_in_time(took_s, 1.5)
        assert rig.process.wait(5) == 0


def test_a_call_that_arrives_while_its_worker_drains_is_proven_not_started(rig, tmp_path):
    witness = tmp_path / "witness"
    session = rig.session()
    terms, [client] = session.start()
    second = session.dial(terms, session.workers(1)[0])
    client.call(nap, 0.5, str(witness))
    wait_until(lambda: started(witness) == 1, 10)
    rig.process.send_signal(signal.SIGTERM)
    session.wait_for("notice")
    second.call(nap, 0)
    assert client.receive(2).status == 0
    assert farewell_of(session, client)["last_done"] == 1
    assert farewell_of(session, second)["last_started"] == 0


def test_a_released_lease_kills_running_calls_and_frees_its_cores(rig):
    session = rig.session()
    terms, clients = session.start(workers=4)
    for client in clients:
        client.call(nap, 60)
    session.send({"m": "release", "lease": terms.lease_id, "reason_code": int(ReasonCode.CLIENT_GONE)})
    ended = session.wait_for("ended", 2)
    assert (ended["reason"], ended["reason_code"]) == ("released", ReasonCode.CLIENT_GONE)
    wait_until(lambda: rig.freed(terms), 1)
    session.start(workers=4)


def test_a_lease_that_nobody_renews_expires_with_its_calls(rig):
    session = rig.session()
    terms, [client] = session.start()
    client.call(nap, 60)
    session.attach(terms, ttl_s=0.5)
    ended = session.wait_for("ended", 3)
    assert (ended["reason"], ended["reason_code"]) == ("expired", ReasonCode.LEASE_EXPIRED)
    assert farewell_of(session, client)["reason_code"] == ReasonCode.LEASE_EXPIRED


def test_heartbeats_keep_a_lease_and_a_new_connection_takes_it_over_with_its_channels(rig):
    first = rig.session()
    terms, [client] = first.start()
    client.call(nap, 1.5)
    first.close()
    second = rig.session()
    second.attach(terms, ttl_s=0.6)
    assert second.wait_for("attached")["lease"] == terms.lease_id
    assert len(second.workers(1)) == 1

    def result_with_heartbeats():
        second.send({"m": "heartbeat", "leases": [terms.lease_id, b"x" * 16]})
        return client.channel.poll()

    assert wait_until(result_with_heartbeats, 5).status == 0
    assert second.wait_for("heartbeat-ack")["unknown"] == [b"x" * 16]
    assert not [words for words in second.hear() if words["m"] == "ended"]


def test_templates_are_shared_by_leases_and_leave_when_nobody_needs_them():
    with AgentRig(template_linger_s=0.2) as rig:
        session = rig.session()
        first, _ = session.start()
        second, _ = session.start()
        assert len(rig.family()) == 3
        other, _ = session.start(env=environment(vars={"PATH": os.environ["PATH"], "SPECIAL": "1"}))
        assert len(rig.family()) == 5
        for terms in first, second, other:
            session.send({"m": "release", "lease": terms.lease_id, "reason_code": 6})
        wait_until(lambda: not rig.family(), 3)


def test_nothing_is_left_open_in_the_agent_after_many_leases(rig):
    session = rig.session()
    session.start()

    def descriptors():
        return len(os.listdir(f"/proc/{rig.process.pid}/fd"))

    def round_trip():
        terms, [client] = session.start(workers=1)
        assert client.run(lambda: 1) == 1
        session.send({"m": "release", "lease": terms.lease_id, "reason_code": 6})
        wait_until(lambda: rig.freed(terms), 5)
        client.close()

    round_trip()
    before = descriptors()
    for _ in range(5):
        round_trip()
    assert wait_until(lambda: descriptors() == before, 2)


def test_strangers_without_the_secret_get_nothing(rig):
    from rfaas_transport.errors import AuthenticationFailed, NotFound
    from rfaas_transport.handshake import Dialer, handshake_blocking
    from support.agent_rig import connect

    with connect(rig.address) as sock, pytest.raises(AuthenticationFailed):
        handshake_blocking(sock, Dialer(b"x" * 32, "session", {}))
    params = {"lease": b"y" * 16, "slot": 0, "generation": 1, "channel": 1}
    with connect(rig.address) as sock, pytest.raises(NotFound):
        handshake_blocking(sock, Dialer(rig.secret, "data", params))
