"""`rfaas status` and `rfaas leases` beside a real allocator, one that is gone, and a directory that is not private."""

import asyncio
import json
import subprocess
import sys

import pytest

from rfaas.control import messages as m
from support.allocator import AllocatorProcess, PlayedAgent, PlayedHolder


@pytest.fixture
def state_dir(tmp_path):
    return tmp_path / "state"


def rfaas(*arguments, state_dir):
    command = [sys.executable, "-W", "error", "-m", "rfaas", *arguments, "--state-dir", str(state_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


async def asked_while(address, *commands, state_dir):
    """Answers of commands while an agent on n7 holds a lease of two workers and somebody waits for nine more."""
    agent, holder = PlayedAgent(cores=3, node="n7", job_id="42"), PlayedHolder()
    await agent.connect(address)
    await holder.connect(address)
    holder.want(2)
    await agent.answer()
    granted = await holder.hear()
    holder.want(9, request=2)
    await agent.answer()
    while not isinstance(await holder.hear(), m.Waiting):
        pass
    answers = [await asyncio.to_thread(rfaas, *command, state_dir=state_dir) for command in commands]
    return granted, answers


def test_both_show_what_is_there_as_text_and_as_json(state_dir):
    with AllocatorProcess(state_dir) as allocator:
        address = allocator.start()
        commands = [("status",), ("leases",), ("status", "--json"), ("leases", "--json")]
        granted, answers = asyncio.run(asked_while(address, *commands, state_dir=state_dir))
    assert [(code, said) for code, _, said in answers] == [(0, "")] * 4
    status, leases, status_json, leases_json = (out for _, out, _ in answers)
    header, row, first, second, waiting = status.splitlines()
    assert header.split() == ["NODE", "STATE", "CORES", "FREE", "MEM_MIB", "FREE_MIB", "LEASES", "JOB"]
    assert row.split() == ["n7", "up", "3", "0", "3072", "3069", "2", "42"]
    assert first.endswith(" wants 2 workers, and has 2")
    assert second.endswith(" wants 9 workers, and has 1")
    assert waiting == "waiting for 8 workers: all that is here is leased (nobody knows for how long)"
    rows = sorted(line.split()[1:5] for line in leases.splitlines()[1:])
    assert rows == [["n7", "GRANTED", "1", "2"], ["n7", "GRANTED", "2", "0,1"]]
    told = json.loads(status_json)
    assert told["meta"] == {"schema": "rfaas/1"}
    assert told["slices"][0]["free_cores"] == 0
    assert [want["workers"] for want in told["wants"]] == [2, 9]
    (waits,) = told["waiting"]
    assert (waits["missing_workers"], waits["code"], waits["estimate_in_s"]) == (8, "leased", None)
    assert waits["reason"] == "all that is here is leased"
    held = {lease["lease"]: lease for lease in json.loads(leases_json)["leases"]}
    assert held[granted.terms.lease_id.hex()]["cores"] == [0, 1]


def test_an_allocator_without_slices_says_what_to_look_for(state_dir):
    with AllocatorProcess(state_dir) as allocator:
        allocator.start()
        assert rfaas("status", state_dir=state_dir)[:2][0] == 0
        assert "no slices: " in rfaas("status", state_dir=state_dir)[1]
        assert "no leases" in rfaas("leases", state_dir=state_dir)[1]


@pytest.mark.parametrize("command", ["status", "leases"])
def test_without_an_allocator_the_remedy_is_said(state_dir, command):
    code, out, said = rfaas(command, state_dir=state_dir)
    assert (code, out) == (69, "")
    assert f"no allocator serves {state_dir}" in said
    assert "rfaas up" in said
    code, out, said = rfaas(command, "--json", state_dir=state_dir)
    assert (code, said) == (69, "")
    assert json.loads(out)["code"] == "allocator-unavailable"


def test_a_killed_allocator_is_no_allocator(state_dir):
    with AllocatorProcess(state_dir) as allocator:
        allocator.start()
        allocator.kill()
        code, _, said = rfaas("status", state_dir=state_dir)
    assert code == 69
    assert "does not answer" in said
    assert "`rfaas up` starts it again" in said


def test_a_directory_that_others_can_enter_is_refused(state_dir):
    with AllocatorProcess(state_dir) as allocator:
        allocator.start()
        state_dir.chmod(0o755)
        code, _, said = rfaas("status", state_dir=state_dir)
    assert code == 78
    assert f"chmod 700 {state_dir}" in said
