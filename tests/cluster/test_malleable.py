"""Malleable programs on a real Slurm: a job gives nodes back while it runs, an MPI code borrows workers beside it."""

import json
import re
from pathlib import Path

import pytest

from cluster.harvested import rfaas_up
from cluster.rig.settings import HEAD
from support.waiting import wait_until

pytestmark = pytest.mark.slurm

EXAMPLE = Path(__file__).parents[2] / "examples" / "10_malleable_mpi.py"
RUN_S = 60.0

SHRINKS = """#!/usr/bin/env python3
import json, os, pathlib, subprocess, time
import rfaas
from rfaas.malleable import give_back_nodes


def srun(*words):
    return sorted(subprocess.run(["srun", *words], check=True, capture_output=True, text=True).stdout.split())


def wait_until(condition):
    until_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.1)


said = {"at first": srun("hostname", "-s"), "nothing to do": list(give_back_nodes(3).gone)}
step = subprocess.Popen(["srun", "sleep", "600"])


def n_steps():  # of programs: the job's own have names for numbers
    lines = subprocess.run(
        ["squeue", "--steps", "-h", "-j", os.environ["SLURM_JOB_ID"], "-o", "%i"], capture_output=True, text=True
    ).stdout.split()
    return sum(line.rpartition(".")[2].isdigit() for line in lines)


wait_until(lambda: n_steps() == 1)
try:
    give_back_nodes(1)
except rfaas.ConfigError as error:
    said["refused"] = str(error)
said["step lives"] = step.poll() is None
step.terminate()
step.wait()
wait_until(lambda: n_steps() == 0)
try:
    give_back_nodes(1, keep=["n9"])
except rfaas.ConfigError as error:
    said["strange"] = str(error)
first = give_back_nodes(2, keep=["n3"])
said |= {"kept": first.kept, "gone": first.gone, "told": dict(first.environment)}
said["on two"] = srun("hostname", "-s")
said["nnodes"] = os.environ["SLURM_JOB_NUM_NODES"]
pathlib.Path("said.json.part").write_text(json.dumps(said))
os.rename("said.json.part", "said.json")
wait_until(lambda: os.path.exists("end"))
"""


def test_a_job_gives_back_the_nodes_that_nothing_of_it_runs_on_and_others_get_them(cluster, alice, bob):
    script = alice.put("shrinks.py", SHRINKS, mode=0o700)
    options = ["--parsable", "-N3", "--ntasks-per-node=1", "--exclusive", "-w", "n[1-3]", "-o", "job.out"]
    job = alice.run(HEAD, ["sbatch", *options, script], RUN_S).stdout.strip()
    said_file, log = alice.home / "said.json", alice.home / "job.out"

    def has_said():
        return said_file.exists() or "Traceback" in (log.read_text() if log.exists() else "")

    wait_until(has_said, RUN_S, "the job to be two nodes")
    assert said_file.exists(), log.read_text()
    said = json.loads(said_file.read_text())
    in_their_place = bob.run(HEAD, ["srun", "-N1", "-w", "n2", "--exclusive", "hostname", "-s"], RUN_S).stdout
    state = alice.run(HEAD, ["squeue", "-h", "-j", job, "-o", "%T %D %N"], RUN_S).stdout.split()
    alice.put("end", "")
    wait_until(lambda: not alice.run(HEAD, ["squeue", "-h", "-j", job], RUN_S, check=False).stdout.strip(), RUN_S)
    assert said["at first"] == ["n1", "n2", "n3"]
    assert said["nothing to do"] == []
    assert re.search(r"1 nodes can't be kept of 3: 3 must stay .*step \d+\.\d+ runs there", said["refused"])
    assert said["step lives"]
    assert said["strange"].startswith("n9: no nodes of this job")
    assert (said["kept"], said["gone"]) == (["n1", "n3"], ["n2"])
    assert said["told"]["SLURM_JOB_NUM_NODES"] == "2"
    assert said["on two"] == ["n1", "n3"]
    assert said["nnodes"] == "2"
    assert state == ["RUNNING", "2", "n[1,3]"]
    assert in_their_place.split() == ["n2"]


ARRAY = """#!/usr/bin/env python3
import json, os, pathlib, time
from rfaas.malleable import give_back_nodes

if os.environ["SLURM_JOB_ID"] == os.environ["SLURM_ARRAY_JOB_ID"]:  # the last task: its id is the whole array's
    time.sleep(2)  # until the other one runs, too
    shrunk = give_back_nodes(1)
    pathlib.Path("array.json.part").write_text(json.dumps([shrunk.kept, shrunk.gone]))
    os.rename("array.json.part", "array.json")
time.sleep(60)
"""


def test_of_a_job_array_only_the_task_that_asks_gives_nodes_back(cluster, alice):
    script = alice.put("array.py", ARRAY, mode=0o700)
    options = ["--parsable", "-N2", "--exclusive", "--array=1-2", "-o", "array.%a"]
    job = alice.run(HEAD, ["sbatch", *options, script], RUN_S).stdout.strip()
    wait_until((alice.home / "array.json").exists, RUN_S, "the task to be one node")
    command = ["squeue", "-h", "-r", "-j", job, "-o", "%D"]
    sizes = sorted(alice.run(HEAD, command, RUN_S).stdout.split())
    alice.run(HEAD, ["scancel", job], RUN_S)
    wait_until(lambda: not alice.run(HEAD, ["squeue", "-h", "-j", job], RUN_S, check=False).stdout.strip(), RUN_S)
    kept, gone = json.loads((alice.home / "array.json").read_text())
    assert (len(kept), len(gone)) == (1, 1)
    assert sizes == ["1", "2"]


def test_ranks_of_an_mpi_code_borrow_idle_cores_for_their_heavy_steps(cluster, alice):
    script = alice.put(EXAMPLE.name, EXAMPLE.read_text())
    command = ["srun", "-N1", "-n2", "--exclusive", "--mpi=pmix", "python", script, "--steps=4", "--blocks=16"]
    with rfaas_up(cluster, alice):
        done = alice.run(HEAD, command, RUN_S, env={"OMPI_MCA_mpi_yield_when_idle": "1"})
    assert "right: pi is 3.141592654; " in done.stdout
    print(f"\n{done.stdout}")
    gains = re.search(r"workers came (\d+) times, and were taken back by others 0 times", done.stdout)
    assert gains is not None
    assert int(gains[1]) > 0
