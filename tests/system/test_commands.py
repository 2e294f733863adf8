"""`rfaas run, explain, logs, debug dump, doctor, bench` as a user types them, beside real daemons."""

import json
import os
import pty
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from support.personal import Personal
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

SHOW_ALLOCATOR = (
    "import os, rfaas; print(os.environ['RFAAS_ALLOCATOR'], rfaas.Executor().invoke(pow, 2, 10), flush=True)"
)


@pytest.fixture
def personal(tmp_path):
    personal = Personal(tmp_path)
    yield personal
    personal.stop()


@pytest.fixture
def served(personal):
    """An allocator with an agent of two cores."""
    personal.start_allocator()
    personal.start_agent(cores=2)
    wait_until(lambda: "up" in rfaas("status", state_dir=personal.state_dir)[1], 20, "a slice")
    return personal


def environment(state_dir, **more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RFAAS_")}
    return {**kept, "RFAAS_STATE_DIR": str(state_dir), **more}


def rfaas(*arguments, state_dir, **more):
    command = [sys.executable, "-W", "error", "-m", "rfaas", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=90, env=environment(state_dir, **more), check=False
    )
    return done.returncode, done.stdout, done.stderr


# --- run ----------------------------------------------------------------------------------------------------------


def test_run_gives_a_program_the_allocator_that_serves(served):
    code, out, said = rfaas("run", "--", sys.executable, "-c", SHOW_ALLOCATOR, state_dir=served.state_dir)
    assert (code, out) == (0, f"{served.state_dir} 1024\n"), said


def test_run_makes_an_allocator_where_none_serves_and_takes_it_down(tmp_path):
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    program = f"{SHOW_ALLOCATOR}; raise SystemExit(7)"
    arguments = ("run", "--set", "local.cores=1", "--", sys.executable, "-c", program)
    code, out, said = rfaas(*arguments, state_dir=tmp_path / "none", XDG_RUNTIME_DIR=str(runtime))
    assert (code, out.split()[1:]) == (7, ["1024"]), said
    assert out.startswith(str(runtime / "rfaas-run-"))
    assert list(runtime.iterdir()) == []


def test_run_embedded_needs_no_daemon_and_takes_settings(tmp_path):
    program = "import os; print(os.environ['RFAAS_ALLOCATOR'], os.environ['RFAAS_EXECUTOR_MEMORY'])"
    arguments = ("run", "--embedded", "--set", "executor.memory=2GiB", "--", sys.executable, "-c", program)
    assert rfaas(*arguments, state_dir=tmp_path)[:2] == (0, "embedded 2147483648\n")


@pytest.mark.parametrize("how", ["--embedded", ""])
def test_run_passes_signals_on_and_ends_as_the_program_ended(tmp_path, how):
    program = tmp_path / "program.sh"
    program.write_text("#!/bin/sh\ntrap 'echo heard; exit 9' USR1\necho ready\nwhile :; do sleep 0.05; done\n")
    program.chmod(0o755)
    command = [sys.executable, "-m", "rfaas", "run", *([how] if how else []), "--", str(program)]
    for number, code in ((signal.SIGUSR1, 9), (signal.SIGTERM, -signal.SIGTERM)):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(tmp_path / "none")) as run:
            try:
                assert run.stdout.readline() == "ready\n"
                run.send_signal(number)
                assert run.wait(60) == code
            finally:
                run.kill()


def test_run_says_which_program_can_not_be_run(tmp_path):
    for how in ("--embedded", "--set=local.cores=1"):
        code, _, said = rfaas("run", how, "--", "/proc/nonexistent/program", state_dir=tmp_path / "none")
        assert (code, "can't be run: No such file" in said) == (127, True), said
    assert rfaas("run", "--embedded", "--", str(tmp_path), state_dir=tmp_path)[0] == 126
    code, _, said = rfaas("run", "--set", "executor.memori=1", "--", "true", state_dir=tmp_path)
    assert (code, "did you mean executor.memory?" in said) == (78, True), said


# --- explain ------------------------------------------------------------------------------------------------------


def test_explain_says_why_nothing_runs(served, tmp_path):
    state_dir = served.state_dir
    assert "no program asks for workers; 2 cores are free" in rfaas("explain", state_dir=state_dir)[1]
    events = tmp_path / "events"
    program = (
        "import rfaas, time\nex = rfaas.Executor(max_workers=5, memory='1MiB')\n"
        "calls = [ex.submit(time.sleep, 60) for _ in range(5)]\ninput()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        env=environment(state_dir, RFAAS_EVENT_LOG=str(events)),
    ) as waiting:
        try:
            out = wait_until(lambda: told(state_dir, "waits for 3 of 5 workers"), 30, "calls to wait")
            assert "all that is here is leased" in out
            assert "remedy: cores come free when programs end" in out
            lease = json.loads(rfaas("leases", "--json", state_dir=state_dir)[1])["leases"][0]
            assert f"(pid {waiting.pid})" in lease["holder_name"]
            assert lease["holder_name"] in rfaas("leases", state_dir=state_dir)[1]
            assert lease["holder_name"] in rfaas("explain", lease["lease"][:8], state_dir=state_dir)[1]
            said = rfaas("explain", lease["lease"][:8], state_dir=state_dir)[1]
            assert "is ACTIVE: its workers serve; 2 workers" in said
            assert "go over shm: the workers are on this node" in said
            assert "0 of 2 cores" in rfaas("explain", lease["node"], state_dir=state_dir)[1]
            client = json.loads(next(events.glob("client-*")).read_text().splitlines()[0])["client"]
            calls = {"RFAAS_EVENT_LOG": str(events)}
            assert "sent, attempt 1, lease" in rfaas("explain", f"{client}:1", state_dir=state_dir, **calls)[1]
            assert "waits for a free worker" in rfaas("explain", f"{client[:6]}:5", state_dir=state_dir, **calls)[1]
            assert rfaas("explain", f"{client}:99", state_dir=state_dir, **calls)[0] == 78
            assert "RFAAS_EVENT_LOG" in rfaas("explain", f"{client}:1", state_dir=state_dir)[2]
        finally:
            waiting.kill()


def told(state_dir, text):
    out = rfaas("explain", state_dir=state_dir)[1]
    return out if text in out else None


def test_explain_without_an_allocator_says_so(tmp_path):
    code, out, _ = rfaas("explain", "--json", state_dir=tmp_path)
    assert (code, "rfaas up" in json.loads(out)["reasons"][0]["remedy"]) == (0, True)
    assert rfaas("explain", "n7", state_dir=tmp_path)[0] == 69


def test_explain_names_a_daemon_that_was_killed(tmp_path):
    state_dir = tmp_path / "state"
    assert rfaas("up", "--cores", "1", state_dir=state_dir)[0] == 0
    try:
        record = json.loads((state_dir / "daemons.json").read_text())
        agent = next(daemon for daemon in record["daemons"] if daemon["name"] == "agent")
        os.kill(agent["pid"], signal.SIGKILL)
        out = wait_until(lambda: told(state_dir, "the agent has ended"), 20, "the agent's end")
        assert "rfaas logs agent" in out
        code, out, _ = rfaas("doctor", "--json", state_dir=state_dir)
        found = {finding["check"]: finding for finding in json.loads(out)["findings"]}
        assert (code, found["daemons"]["severity"]) == (1, "error")
        assert "rfaas logs agent" in found["daemons"]["remedy"]
    finally:
        assert rfaas("down", "--purge", state_dir=state_dir)[0] == 0


# --- logs, debug dump, doctor -------------------------------------------------------------------------------------


@pytest.fixture
def logs(tmp_path):
    directory = tmp_path / "state" / "log"
    directory.mkdir(parents=True, mode=0o700)
    (tmp_path / "state").chmod(0o700)
    (directory / "allocator.log").write_text("2026-01-01 00:00:01,000 one\n2026-01-01 00:00:03,000 three\n  and more\n")
    (directory / "agent.log").write_text("2026-01-01 00:00:02,000 two\n2026-01-01 00:00:04,000 four\n")
    return directory


def test_logs_are_merged_by_time_with_their_daemon_s_name(logs):
    state_dir = logs.parent
    assert rfaas("logs", state_dir=state_dir)[1].splitlines() == [
        "allocator | 2026-01-01 00:00:01,000 one",
        "agent     | 2026-01-01 00:00:02,000 two",
        "allocator | 2026-01-01 00:00:03,000 three",
        "allocator |   and more",
        "agent     | 2026-01-01 00:00:04,000 four",
    ]
    assert rfaas("logs", "-n", "1", "agent", state_dir=state_dir)[1] == "agent | 2026-01-01 00:00:04,000 four\n"
    assert len(json.loads(rfaas("logs", "--json", state_dir=state_dir)[1])["lines"]) == 5
    code, _, said = rfaas("logs", "agnet", state_dir=state_dir)
    assert (code, "did you mean agent?" in said) == (78, True)


def test_logs_follow_what_comes_and_end_with_ctrl_c(logs):
    command = [sys.executable, "-m", "rfaas", "logs", "-f", "-n", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(logs.parent)) as following:
        try:
            assert following.stdout.readline().endswith("four\n")
            (logs / "harvester.log").write_text("begins later\n")
            assert following.stdout.readline() == "harvester | begins later\n"
            with (logs / "agent.log").open("a") as file:
                file.write("new\n")
            assert following.stdout.readline().split() == ["agent", "|", "new"]
            (logs / "agent.log").write_text("cut\n")
            assert following.stdout.readline().split() == ["agent", "|", "cut"]
            following.send_signal(signal.SIGINT)
            assert following.wait(20) == 130
        finally:
            following.kill()


def test_a_dump_holds_what_is_needed_and_no_secret(served, tmp_path):
    secret = (served.state_dir / "secret").read_bytes()
    (served.state_dir / "log").mkdir(exist_ok=True)
    (served.state_dir / "log" / "allocator.log").write_bytes(b"oops " + secret + b" " + secret.hex().encode() + b"\n")
    output = tmp_path / "dump.tar.gz"
    code, _, said = rfaas("debug", "dump", "-o", str(output), state_dir=served.state_dir)
    assert code == 0, said
    assert output.stat().st_mode & 0o777 == 0o600
    with tarfile.open(output) as archive:
        members = {name.removeprefix("rfaas-debug/"): archive.extractfile(name).read() for name in archive.getnames()}
    assert {"versions.json", "settings.json", "snapshot.json", "doctor.json", "log/allocator.log"} <= set(members)
    assert json.loads(members["snapshot.json"])["slices"][0]["cores"] == 2
    assert members["log/allocator.log"] == b"oops (hidden) (hidden)\n"
    everything = b"".join(members.values())
    assert not any(form in everything for form in (secret, secret.hex().encode()))
    assert (served.state_dir / "tls.key").exists() is False or b"PRIVATE KEY" not in everything
    assert rfaas("debug", "dump", "-o", str(output), state_dir=served.state_dir)[0] == 78  # nothing is overwritten


def test_doctor_finds_what_is_wrong_and_says_what_to_do(served):
    state_dir = served.state_dir
    code, out, said = rfaas(
        "doctor", "--json", state_dir=state_dir, RFAAS_OF_NOBODY="1", SLURM_CONF="/proc/nonexistent"
    )
    assert (said, json.loads(out)["healthy"]) == ("", code == 0)
    found = {finding["check"]: finding for finding in json.loads(out)["findings"]}
    assert (found["Slurm"]["severity"], "no file" in found["Slurm"]["text"]) in (("error", True), ("info", False))
    for check in ("interpreter", "packages", "locks", "state directory", "allocator"):
        assert found[check]["severity"] == "ok", found[check]
    assert all(f["remedy"] for f in found.values() if f["severity"] in ("warning", "error"))
    state_dir.chmod(0o755)
    try:
        code, out, _ = rfaas("doctor", state_dir=state_dir)
    finally:
        state_dir.chmod(0o700)
    assert (code, f"state directory: chmod 700 {state_dir}" in out) == (1, True), out


# --- bench --------------------------------------------------------------------------------------------------------


def test_bench_latency_measures_workers_of_an_allocator(served):
    arguments = ("bench", "latency", "--quick", "--sizes", "1,64KiB", "--state", "hot", "--call", "invoke", "--json")
    code, out, said = rfaas(*arguments, state_dir=served.state_dir)
    assert code == 0, said
    told = json.loads(out)
    assert (told["medium"], [row["size_bytes"] for row in told["rows"]]) == ("shm", [1, 65536])
    code, out, said = rfaas("bench", "cold", "--quick", "--json", state_dir=served.state_dir)
    assert code == 0, said
    first = json.loads(out)["starts"]["first"]
    joined = next(name for name in first if name.startswith("session+lease"))  # its daemons keep no log for us
    assert first["total"]["p50_ns"] >= first[joined]["p50_ns"] > 0


# --- progress -----------------------------------------------------------------------------------------------------

PROGRESS = """
import concurrent.futures, sys, rfaas
with concurrent.futures.ThreadPoolExecutor() as ex:
    got = sorted(f.result() for f in rfaas.progress([ex.submit(pow, 2, n) for n in range(5)], description="powers"))
print(got, "rich" in sys.modules)
"""


def test_progress_is_quiet_where_nobody_watches_and_draws_in_a_terminal():
    quiet = subprocess.run([sys.executable, "-c", PROGRESS], capture_output=True, text=True, timeout=60, check=True)
    assert (quiet.stdout, quiet.stderr) == ("[1, 2, 4, 8, 16] False\n", "")
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        watched = subprocess.Popen([sys.executable, "-c", PROGRESS], stdout=subprocess.PIPE, stderr=theirs, env=env)
        out, _ = watched.communicate(timeout=60)
        os.close(theirs)
        drawn = read_all(terminal)
    assert out == b"[1, 2, 4, 8, 16] True\n"
    assert b"powers" in drawn
    assert b"5/5" in drawn


def read_all(terminal):
    found = b""
    while True:
        try:
            data = terminal.read(4096)
        except OSError:  # the other end is closed
            return found
        if not data:
            return found
        found += data


# --- what it costs to start -----------------------------------------------------------------------------------------


def seconds_of(code):
    """Time of an interpreter that runs this, and ends."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    return time.perf_counter() - begun


@pytest.mark.figures
def test_importing_rfaas_costs_little(tmp_path):
    """At most three times the standard library's pool, pickle and socket (the best of several; printed, loosely held).

    Loosely: three times that goal, since another program may run beside us.
    """
    codes = {
        "nothing": "pass",
        "standard": "from concurrent.futures import ProcessPoolExecutor; import pickle, socket",
        "rfaas": "import rfaas",
        "Executor": "from rfaas import Executor",
        "command": "from rfaas.cli import main; main(['--help'], standalone_mode=False)",
    }
    best = dict.fromkeys(codes, float("inf"))
    for _ in range(7):  # by turns: what disturbs one disturbs all
        for name, code in codes.items():
            best[name] = min(
                best[name],
                seconds_of(code if name != "command" else f"import io, sys; sys.stdout = io.StringIO(); {code}"),
            )
    cost = {name: best[name] - best["nothing"] for name in codes}
    for name in ("rfaas", "Executor", "command"):
        ratio = cost[name] / cost["standard"]
        print(f"{name}: {cost[name] * 1e3:.1f} ms, {ratio:.2f} times {cost['standard'] * 1e3:.1f} ms")
    assert cost["rfaas"] <= 9 * cost["standard"]


def test_importing_rfaas_loads_nothing_heavy():
    program = "import sys, rfaas; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )
    for name in ("grpc", "google.protobuf", "numpy", "tomllib", "rich", "click", "asyncio", "difflib"):
        assert name not in loaded
    program = (
        "import sys; from rfaas.cli import main\ntry: main(['--help'])\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for name in (
        "grpc",
        "google.protobuf",
        "numpy",
        "rich",
        "asyncio",
        "rfaas.executor",
        "rfaas.cli.up",
        "rfaas.cli.down",
    ):
        assert name not in set(done.stderr.split())


def test_every_command_teaches_by_its_help():
    from importlib.metadata import entry_points

    names = sorted(entry.name for entry in entry_points(group="rfaas.commands"))
    assert {"bench", "config", "debug", "doctor", "down", "explain", "leases", "logs", "run", "status", "up"} <= set(
        names
    )
    for name in names:
        code, out, said = rfaas(name, "--help", state_dir=Path("/proc/nonexistent"))
        assert (code, said) == (0, "")
        assert "Usage: " in out
