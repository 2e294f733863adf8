"""pyslurm on a real Slurm: a helper that dies is replaced, and `rfaas slurm check` says which view is used and why."""

import json

import pytest

from cluster.rig import HEAD

pytestmark = pytest.mark.pyslurm

RUN_S = 60.0
PYSLURM_PYTHON = "/opt/pyslurm/bin/python"

DEATHS = """\
import asyncio, json, os, signal
from rfaas_slurm_plugin.views.pyslurm_view import PyslurmView
from rfaas_slurm_plugin.views.view import ClusterUnavailable

async def main():
    view, told = PyslurmView("/opt/pyslurm/bin/python"), []
    whole = await view.read()
    os.kill(view.helper_pid, signal.SIGSEGV)
    for _ in range(200):
        try:
            again = await view.read()
            break
        except ClusterUnavailable as error:
            told.append(str(error))
            await asyncio.sleep(0.05)
    print(json.dumps([len(whole.nodes), len(again.nodes), told]))
    view.close()

asyncio.run(main())
"""


def test_a_helper_that_dies_is_unknown_and_not_empty_and_another_is_started(cluster, alice):
    done = alice.run(HEAD, ["python", alice.put("deaths.py", DEATHS)], RUN_S)
    before, after, told = json.loads(done.stdout)
    assert before == after == cluster.settings.nodes
    assert "SIGSEGV" in told[0]
    assert all("the next starts in" in words for words in told[1:])
    assert len(told) > 1, "it was started again without a pause"


def check(user, *arguments, **environment):
    done = user.run(HEAD, ["rfaas", "slurm", "check", "--json", *arguments], RUN_S, env=environment, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_check_says_that_pyslurm_is_used_and_why(cluster, alice):
    code, found = check(alice, RFAAS_PYSLURM_PYTHON=PYSLURM_PYTHON)
    assert (code, found["view"]["severity"]) == (0, "ok"), found
    assert "read by pyslurm" in found["view"]["text"]
    assert "fits Slurm 26.05" in found["view"]["text"]
    assert "harvest: CANCEL" in found["partition"]["text"]


def test_check_says_why_pyslurm_is_not_used(cluster, alice):
    code, found = check(alice)
    assert (code, "read by commands" in found["view"]["text"]) == (0, True), found
    assert "No module named 'pyslurm'" in found["view"]["text"]
    code, found = check(alice, RFAAS_PYSLURM_PYTHON="/usr/bin/python3")
    assert (code, found["slurmctld"]["severity"]) == (69, "error"), found
    code, found = check(alice, RFAAS_PYSLURM_PYTHON="none")
    assert (code, "switched off" in found["view"]["text"]) == (0, True), found
