"""Environments whose template can not fork: served by workers that are spawned, and told why."""

import json
import os
import subprocess
import sys

import pytest

from rfaas.control.messages import WorkersSpawned
from support.agent_rig import AgentRig, environment
from support.personal import Personal
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

THREADED = """
import threading
threading.Thread(target=threading.Event().wait, name="poller", daemon=True).start()
"""
WHY = "importing sklearn left 1 thread running"
LOADED = "{!r} in __import__('sys').modules"  # for `eval`: a function of this file would bring pytest along


# --- the agent's word -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preload", "why"),
    [
        pytest.param(["numpy"], None, id="numpy"),
        pytest.param(["numpy", "mpi4py"], None, id="mpi4py"),
        pytest.param(["numpy", "polls_from_import"], "importing polls_from_import left 1 thread running", id="threads"),
    ],
)
def test_only_what_leaves_threads_running_is_spawned(tmp_path, preload, why):
    """mpi4py is never imported in a template: here it would leave a thread, as some MPI libraries do."""
    for name in "mpi4py", "polls_from_import":
        (tmp_path / f"{name}.py").write_text(THREADED)
    env = environment(preload=preload)
    env["path"] = [str(tmp_path), *env["path"]]
    with AgentRig() as rig:
        session = rig.session()
        terms, clients = session.start(workers=2, env=env)
        assert [client.run(pow, 2, 10) for client in clients] == [1024, 1024]
        for name in preload:
            assert clients[0].run(eval, LOADED.format(name)) is (name != "mpi4py")
        said = [message for message in rig.hear(0.05) if isinstance(message, WorkersSpawned)]
        assert [(message.lease_id, message.why) for message in said] == ([(terms.lease_id, why)] if why else [])


# --- as a user sees it ----------------------------------------------------------------------------


def rfaas(*arguments, **more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RFAAS_")}
    command = [sys.executable, "-W", "error", "-m", "rfaas", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=kept | more)
    return done.returncode, done.stdout, done.stderr


PROGRAM = """
import {imports}, rfaas
ex = rfaas.Executor(1, allocator={allocator!r}, memory="1MiB")
print(ex.invoke(pow, 2, 10), flush=True)
input()
"""


class Program:
    """A program that has called something and stays; with `sklearn` a module of its own directory."""

    def __init__(self, directory, imports, allocator):
        (directory / "sklearn.py").write_text(THREADED)
        script = directory / "program.py"
        script.write_text(PROGRAM.format(imports=imports, allocator=allocator))
        self.process = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=directory
        )
        assert self.process.stdout.readline() == "1024\n"

    def close(self):
        self.process.communicate("\n", timeout=20)


@pytest.fixture(params=["personal", "embedded"])
def run(request, tmp_path):
    """Starts a program; returns how `rfaas` is asked about it."""
    personal = Personal(tmp_path)
    started = []

    def start(imports):
        embedded = request.param == "embedded"
        if not embedded:
            personal.start_allocator()
            personal.start_agent(cores=2)
        started.append(Program(tmp_path, imports, "embedded" if embedded else str(personal.state_dir)))
        return ("--pid", str(started[0].process.pid)) if embedded else ("--state-dir", str(personal.state_dir))

    yield start
    for program in started:
        program.close()
    personal.stop()


def test_status_and_explain_say_why_workers_are_spawned(run, event_log, tmp_path):
    whom = run("sklearn")
    out = wait_until(lambda: _if(WHY, rfaas("status", *whom)[1]), 20, "the agent's word")
    assert "workers are spawned, not forked, which takes longer and more memory" in out
    (view,) = json.loads(rfaas("status", "--json", *whom)[1])["slices"]
    assert [lease["spawned"] for lease in view["leases"]] == [WHY]
    code, out, _ = rfaas("explain", view["node"], *whom)
    assert (code, WHY in out, "remedy: start threads when a function needs them, not at import" in out) == (
        0,
        True,
        True,
    )
    assert WHY in rfaas("explain", view["leases"][0]["lease"][:8], *whom)[1]
    assert WHY in rfaas("explain", *whom)[1]
    client = view["leases"][0]["holder"]
    for log in event_log.glob("agent-*"):
        log.rename(tmp_path / log.name)  # one that was started without an event log: its allocator knows
    out = rfaas("explain", f"{client[:8]}:1", *whom, RFAAS_EVENT_LOG=str(event_log))[1]
    assert WHY in out
    for log in tmp_path.glob("agent-*.jsonl"):
        log.rename(event_log / log.name)
    code, out, said = rfaas("explain", f"{client[:8]}:1", RFAAS_EVENT_LOG=str(event_log), RFAAS_STATE_DIR="/nowhere")
    assert (code, said, "resolved: result" in out, WHY in out) == (0, "", True, True)


def test_nothing_is_said_of_what_can_be_forked(run):
    whom = run("numpy, mpi4py")
    code, out, said = rfaas("status", *whom)
    assert (code, said, "spawned" in out) == (0, "", False)
    (view,) = json.loads(rfaas("status", "--json", *whom)[1])["slices"]
    assert [lease["spawned"] for lease in view["leases"]] == [""]


def _if(text, out):
    return out if text in out else None


def test_a_program_without_workers_of_its_own_is_named(tmp_path):
    code, out, said = rfaas("status", "--pid", str(os.getpid()))
    assert (code, out) == (69, "")
    assert f"process {os.getpid()} has no workers of its own" in said
    assert "has called something" in said
