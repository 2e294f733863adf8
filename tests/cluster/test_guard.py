"""The neighbour guard on a real Slurm: bob's job marks its iterations beside alice's slice, whose functions slow it."""

import os
import shutil
from pathlib import Path

import pytest

from cluster.harvested import event_log, logged, rfaas_up
from cluster.rig import HEAD
from support import host_job
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.figures]

RUN_S = 60.0
FUNCTIONS = """\
import sys, rfaas, host_job

with rfaas.Executor(1, memory="64MiB", load="memory", idempotent=True, acquire_timeout_s=60) as ex:
    print(ex.submit(host_job.disturb, sys.argv[1], 300.0).result(), flush=True)
"""


@pytest.fixture
def shared():
    """A directory for what both users share: the page that functions slow the job by, and marks."""
    folder = Path(f"/var/tmp/rfaas-guard-{os.getpid()}")
    folder.mkdir()
    folder.chmod(0o777)
    host_job.opened(folder / "page").close()
    (folder / "page").chmod(0o666)
    yield folder
    shutil.rmtree(folder)


def test_functions_beside_another_users_job_are_throttled_and_explained(cluster, alice, bob, shared):
    marks, script = {"RFAAS_GUARD_MARKS_DIR": str(shared)}, Path(host_job.__file__).read_text()
    program = bob.put("host_job.py", script)
    wrapped = f"--wrap={bob.python} {program} {shared}/page 0.006 0.02"
    job = ["sbatch", "--parsable", "-n1", "-c1", "--mem=500", "-w", "n1", "--output=/dev/null", "--export=ALL"]
    job_id = bob.run(HEAD, [*job, wrapped], RUN_S, env=marks).stdout.strip()
    wait_until(lambda: any(shared.glob("rfaas-mark-*")), RUN_S, "the job to mark")
    alice.put("host_job.py", script)
    calling = alice.put("calling.py", FUNCTIONS)
    cores = cluster.settings.cpus - 1
    with rfaas_up(cluster, alice, "--nodes", "n1", cores=cores, env={**marks, **event_log(alice)}):
        with alice.popen(HEAD, ["python", calling, f"{shared}/page"]):

            def throttled():
                return [e for e in logged(alice, "neighbours", role="agent") if e["verdict"] == "throttle"]

            said = wait_until(throttled, RUN_S, "the guard to throttle")[0]
            assert said["node"] == "n1"
            assert said["watch"].startswith(f"marks {bob.account.uid}-")
            assert said["slowdown"] > 0.5
            words = alice.run(HEAD, ["rfaas", "explain", "n1"], RUN_S).stdout
            assert "neighbours: python is slowed by" in words
            assert "(by marks)" in words
        bob.run(HEAD, ["scancel", job_id], RUN_S)
