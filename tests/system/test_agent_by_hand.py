"""Hosts without Slurm: agents started by hand join and leave, and the inventory says who could (003, Inventory)."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

import rfaas
from rfaas.control.address import AllocatorAddress
from rfaas.control.dial import AdminClient
from support import functions as f
from support.leftovers import alive, children
from support.personal import Personal
from support.waiting import wait_until

TIMEOUT_S = 60


class Hand:
    """`rfaas agent … --json` as somebody runs it; `said` is what it printed."""

    def __init__(self, log, *options):
        self.command = [sys.executable, "-W", "error", "-m", "rfaas", "agent", "--json", *map(str, options)]
        with open(log, "ab") as errors:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self.said = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        self.said.extend(json.loads(line) for line in self.process.stdout)

    def heard(self, event):
        return next((words for words in self.said if words.get("event") == event), None)

    def joined(self):
        return wait_until(lambda: self.heard("joined"), TIMEOUT_S, "the agent to join")

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        status = self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        self.process.stdout.close()
        return status


@pytest.fixture
def personal(tmp_path):
    cluster = Personal(tmp_path)
    yield cluster
    cluster.stop()


@pytest.fixture
def start(personal, tmp_path):
    """Starts agents by hand, and ends in the end those that live."""
    started = []

    def start(*options, allocator=personal.state_dir):
        log = tmp_path / f"hand-{len(started)}.log"
        started.append(Hand(log, "--allocator", allocator, "--memory", "1GiB", *options))
        return started[-1]

    yield start
    for hand in started:
        below = children(hand.process.pid) if hand.process.poll() is None else []
        hand.end()
        wait_until(lambda below=below: not any(alive(pid) for pid in below), 10, "the end of its workers")


def snapshot(personal):
    async def ask():
        async with AdminClient(AllocatorAddress.load(personal.state_dir)) as admin:
            return await admin.snapshot()

    return asyncio.run(ask())


def run(*arguments, given=None):
    command = [sys.executable, "-W", "error", "-m", "rfaas", *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=TIMEOUT_S)
    return done.returncode, done.stdout, done.stderr


# --- joining and leaving -------------------------------------------------------------------------


def test_hosts_join_serve_and_leave_and_running_calls_end_in_the_grace(personal, start, tmp_path):
    personal.start_allocator()
    first = start("--cores", 1, "--name", "alpha", "--label", "a", "--grace", "20s")
    about = first.joined()
    assert (about["node"], about["cores"], about["memory_bytes"], about["grace_s"]) == ("alpha", 1, 2**30, 20.0)
    with rfaas.Executor(2, allocator=personal.state_dir, memory="64MiB") as ex:
        running = ex.submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "gate")
        wait_until(lambda: f.runs(tmp_path / "witness"), TIMEOUT_S)
        second = start("--cores", 1, "--name", "beta", "--label", "b")
        second.joined()
        assert ex.submit(f.add, 2, 3).result(TIMEOUT_S) == 5  # the first host's worker is busy
        first.process.send_signal(signal.SIGTERM)
        wait_until(lambda: first.heard("leaving"), TIMEOUT_S, "it to begin to leave")
        (tmp_path / "gate").touch()
        assert running.result(TIMEOUT_S) == "done"
        assert first.end() == 0
        assert [words["event"] for words in first.said] == ["joined", "leaving", "left"]
        assert first.said[1]["reason"] == "owner-release"
        assert [view.slice.node for view in snapshot(personal).slices] == ["beta"]
        assert ex.submit(f.add, 3, 4).result(TIMEOUT_S) == 7


def test_what_functions_print_does_not_mix_with_its_words(personal, start):
    personal.start_allocator()
    hand = start("--cores", 1)
    hand.joined()
    with rfaas.Executor(1, allocator=personal.state_dir, memory="64MiB") as ex:
        ex.submit(print, "no JSON").result(TIMEOUT_S)
    assert hand.end() == 0
    assert {words["event"] for words in hand.said} == {"joined", "leaving", "left"}


def test_a_host_that_sees_no_state_directory_joins_by_address_and_credentials(personal, start, tmp_path):
    personal.start_allocator("--listen", "127.0.0.1")
    credentials = tmp_path / "credentials"
    credentials.mkdir(mode=0o700)
    for name in "secret", "tls.key", "tls.crt":
        shutil.copy(personal.state_dir / name, credentials / name)
    where = AllocatorAddress.load(personal.state_dir).tls
    hand = start("--cores", 1, "--credentials", credentials, allocator=where)
    assert hand.joined()["address"].startswith("tcp:127.0.0.1:")
    with rfaas.Executor(1, allocator=personal.state_dir, memory="64MiB") as ex:
        assert ex.submit(f.add, 2, 3).result(TIMEOUT_S) == 5
    assert hand.end(signal.SIGINT) == 0


def test_what_the_command_line_leaves_out_comes_from_the_environment_and_rfaas_toml(personal, tmp_path, monkeypatch):
    """The allocator's address, its credentials, name and memory by file; cores by variable; the grace by option."""
    personal.start_allocator("--listen", "127.0.0.1")
    where = AllocatorAddress.load(personal.state_dir).tls
    (tmp_path / "rfaas.toml").write_text(
        f'[agent]\nallocator = "{where}"\ncredentials = "state"\nname = "lent"\nidle = true\n'
        '[local]\ncores = 3\nmemory = "96MiB"\ngrace_s = 7\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RFAAS_LOCAL_CORES", "1")
    hand = Hand(tmp_path / "hand.log", "--grace", "2s")
    try:
        joined = hand.joined()
        about = (joined["node"], joined["cores"], joined["memory_bytes"], joined["grace_s"])
        assert about == ("lent", 1, 96 << 20, 2.0)
        with rfaas.Executor(1, allocator=personal.state_dir, memory="64MiB") as ex:
            assert ex.submit(f.scheduling_policy).result(TIMEOUT_S) == os.SCHED_IDLE
    finally:
        assert hand.end() == 0


def test_one_that_was_killed_is_succeeded_by_the_next_and_what_it_held_is_free(personal, start):
    personal.start_allocator()
    first = start("--cores", 1)
    before = first.joined()
    with rfaas.Executor(1, allocator=personal.state_dir, memory="64MiB") as ex:
        assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1
        below = children(first.process.pid)
        first.end(signal.SIGKILL)
        wait_until(lambda: not any(alive(pid) for pid in below), 5, "the end of its workers")
        again = start("--cores", 1).joined()
        assert again["slice"] == before["slice"]
        assert again["epoch"] > before["epoch"]
        assert ex.submit(f.add, 2).result(TIMEOUT_S) == 2
        (view,) = snapshot(personal).slices
        assert (view.state, len(view.leases)) == ("up", 1)


def test_one_that_left_in_good_order_may_come_back(personal, start):
    personal.start_allocator()
    first = start("--cores", 1)
    before = first.joined()
    with rfaas.Executor(1, allocator=personal.state_dir, memory="64MiB") as ex:
        assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1
        assert first.end() == 0
        assert snapshot(personal).slices == ()
        again = start("--cores", 1).joined()
        assert (again["slice"], again["epoch"] > before["epoch"]) == (before["slice"], True)
        assert ex.submit(f.add, 2).result(TIMEOUT_S) == 2


def test_a_second_one_is_refused_and_the_first_one_s_workers_live(personal, start):
    personal.start_allocator()
    start("--cores", 1).joined()
    with rfaas.Executor(1, allocator=personal.state_dir, memory="64MiB") as ex:
        worker = ex.submit(os.getpid).result(TIMEOUT_S)
        code, _, said = run("agent", "--allocator", personal.state_dir)
        assert code == 78
        assert "serves this allocator from this host already" in said
        assert "--label" in said
        assert ex.submit(os.getpid).result(TIMEOUT_S) == worker


def test_it_leaves_when_its_time_is_over(personal, start):
    personal.start_allocator()
    hand = start("--cores", 1, "--for", "3s", "--grace", "1s")
    hand.joined()
    assert hand.process.wait(TIMEOUT_S) == 0
    assert wait_until(lambda: hand.heard("left"), 5)
    assert hand.heard("leaving")["reason"] == "job-timelimit"


def test_without_an_allocator_at_the_address_it_says_so_and_leaves(personal, start, tmp_path):
    personal.start_allocator("--listen", "127.0.0.1")
    where = AllocatorAddress.load(personal.state_dir).tls
    personal.allocator.kill()
    personal.allocator.wait()
    hand = start("--credentials", personal.state_dir, "--abandoned-after", "2s", allocator=where)
    assert hand.process.wait(TIMEOUT_S) == 0
    assert wait_until(lambda: hand.heard("left"), 5)
    assert hand.heard("waiting")["why"]
    personal.start_allocator()


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--allocator", "/nowhere/at/all"], 78, "neither a state directory nor HOST:PORT"),
        (["--allocator", "head:99999"], 78, "there is no port 99999"),
        (["--allocator", "{empty}"], 78, "secret can't be read"),
        (["--allocator", "head:4000", "--credentials", "{empty}"], 78, "secret can't be read"),
        (["--credentials", "{empty}"], 78, "--credentials goes with --allocator HOST:PORT"),
        (["--allocator", "{empty}", "--memory", "much"], 78, "--memory"),
        (["--allocator", "{empty}", "--grace", "soon"], 78, "--grace"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, options, code, text):
    status, _, said = run("agent", *(option.format(empty=tmp_path) for option in options))
    assert (status, text in said) == (code, True), said


def test_a_state_directory_whose_allocator_ended_is_no_use(personal):
    personal.start_allocator()
    personal.allocator.terminate()
    personal.allocator.wait()
    code, _, said = run("agent", "--allocator", personal.state_dir)
    assert code == 69
    assert "no allocator serves" in said
    personal.start_allocator()


# --- inventory -----------------------------------------------------------------------------------


def test_hosts_go_out_and_in_as_json(personal, start, tmp_path):
    personal.start_allocator()
    start("--cores", 2, "--name", "alpha").joined()
    at = ("--state-dir", personal.state_dir)
    code, text, _ = run("inventory", "export", *at)
    exported = json.loads(text)
    assert (code, exported["schema"], exported["complete"]) == (0, "rfaas-inventory/1", False)
    (host,) = exported["hosts"]
    assert (host["name"], host["source"], host["cores"], host["memory"]) == ("alpha", "agent", 2, 2**30)
    assert [(one["state"], one["free_cores"]) for one in host["joined"]] == [("up", 2)]

    exported["hosts"].append({"name": "omega", "cores": 8, "memory": "16GiB"})
    assert run("inventory", "import", "-", *at, given=json.dumps(exported))[0] == 0
    again = json.loads(run("inventory", "list", "--json", *at)[1])
    assert [(host["name"], host["source"], len(host["joined"])) for host in again["hosts"]] == [
        ("alpha", "file", 1),
        ("omega", "file", 0),
    ]
    table = run("inventory", "list", *at)[1].splitlines()
    assert table[0].split() == ["HOST", "SOURCE", "CORES", "MEM_MIB", "STATE", "JOINED", "FREE"]
    assert [line.split() for line in table[1:]] == [
        ["alpha", "file", "2", "1024", "up", "2", "2"],
        ["omega", "file", "8", "16384", "absent", "0", "0"],
    ]


def test_a_complete_inventory_denies_what_waited(personal, tmp_path):
    personal.start_allocator()
    at = ("--state-dir", personal.state_dir)
    path = tmp_path / "hosts.json"
    path.write_text('{"schema": "rfaas-inventory/1", "hosts": [{"name": "n1", "cores": 4, "memory": "8GiB"}]}')
    with rfaas.Executor(1, cores=5, allocator=personal.state_dir, memory="64MiB") as ex:
        waiting = ex.submit(f.add, 1)
        wait_until(lambda: snapshot(personal).waiting, TIMEOUT_S, "the request to wait")
        assert run("inventory", "import", path, *at) == (0, "1 hosts imported; 1 are known\n", "")
        assert not waiting.done()
        assert run("inventory", "import", "--complete", path, *at)[1] == "1 hosts imported, complete; 1 are known\n"
        with pytest.raises(rfaas.LeaseDenied):
            waiting.result(TIMEOUT_S)
    personal.allocator.kill()
    personal.allocator.wait()
    personal.start_allocator()
    assert run("inventory", "list", *at)[1].splitlines()[-1] == "complete: what none of these can hold is denied"


def test_a_host_that_is_gone_for_good_can_be_forgotten_but_no_other(personal, start):
    personal.start_allocator()
    hand = start("--cores", 1, "--name", "alpha")
    hand.joined()
    at = ("--state-dir", personal.state_dir)
    with rfaas.Executor(1, allocator=personal.state_dir, memory="64MiB") as ex:
        assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1
        code, _, said = run("inventory", "forget", "alpha", *at)
        assert (code, "is connected" in said) == (78, True)
        below = children(hand.process.pid)
        hand.end(signal.SIGKILL)
        wait_until(lambda: not any(alive(pid) for pid in below), 5, "the end of its workers")
        wait_until(lambda: snapshot(personal).slices[0].state == "unreachable", TIMEOUT_S)
        assert run("inventory", "forget", "alpha", *at) == (0, "forgotten: 1 slices of alpha\n", "")
        assert snapshot(personal).slices == ()
    assert run("inventory", "forget", "alpha", *at)[0] == 78


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"hosts": []}',
        '{"schema": "rfaas-inventory/1"}',
        '{"schema": "rfaas-inventory/1", "hosts": [{"name": "a", "cores": 0, "memory": 1}]}',
        '{"schema": "rfaas-inventory/1", "hosts": [{"name": "a", "cores": 1}]}',
        '{"schema": "rfaas-inventory/1", "hosts": [{"name": "a", "cores": 1, "memory": "much"}]}',
        '{"schema": "rfaas-inventory/1", "hosts": [{"name": "a", "cores": 1, "memory": 1}, '
        '{"name": "a", "cores": 1, "memory": 1}]}',
        '{"schema": "rfaas-inventory/1", "complete": "yes", "hosts": []}',
    ],
)
def test_a_file_that_is_no_inventory_is_refused_and_changes_nothing(tmp_path, text):
    path = tmp_path / "hosts.json"
    path.write_text(text)
    code, _, said = run("inventory", "import", path, "--state-dir", tmp_path)
    assert (code, "the inventory" in said, "remedy" in said) == (78, True, True), said
