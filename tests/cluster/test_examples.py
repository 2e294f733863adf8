"""The rigid job of the examples on the real cluster, started as its user would start it."""

import json
from pathlib import Path

import pytest

from cluster.rig.settings import HEAD
from support.waiting import wait_until

pytestmark = pytest.mark.slurm

EXAMPLES = Path(__file__).parents[2] / "examples"
JACOBI = EXAMPLES / "04_jacobi_mpi.py"

RUN_TWICE = """
import json, pathlib, rigid
runs = [rigid.run_job(2, 2, 1.0, pathlib.Path.home()) for _ in range(2)]
print(json.dumps({
    "cores": rigid.cluster_cores(),
    "delays_s": [run.start_delay_s for run in runs],
    "lengths_s": [run.ended_s - run.started_s for run in runs],
    "nodes": [rank.node for rank in runs[0].ranks],
    "left": [path.name for path in pathlib.Path.home().glob("ranks-*")],
}))
"""

RUN_IMPOSSIBLE = """
import pathlib, rigid
for wish in {"n_nodes": 1, "partition": "nowhere"}, {"n_nodes": 99, "timeout_s": 2.0}:
    try:
        rigid.run_job(ranks_per_node=2, seconds=1.0, folder=pathlib.Path.home(), **wish)
    except rigid.RigidJobFailed as error:
        print(error)
"""


def test_jacobi_on_two_nodes_is_right_and_records_where_its_ranks_ran(bob):
    script = bob.put(JACOBI.name, JACOBI.read_text())
    command = ["srun", "-N2", "-n4", "--exclusive", "--mpi=pmix", "python", script, "--size=32", "--record=ranks.json"]
    done = bob.run(HEAD, command, 120, env={"OMPI_MCA_mpi_yield_when_idle": "1"})
    assert "4 ranks on 2 nodes" in done.stdout
    assert "right after" in done.stdout
    ranks = json.loads((bob.home / "ranks.json").read_text())
    assert [rank["rank"] for rank in ranks] == [0, 1, 2, 3]
    assert len({rank["node"] for rank in ranks}) == 2
    assert all(rank["t0_s"] < rank["t1_s"] for rank in ranks)


def put_examples(user):
    """Copy the modules of the examples into the user's home; returns the folder as the nodes see it."""
    for path in EXAMPLES.glob("*.py"):
        user.put(f"examples/{path.name}", path.read_text())
    return f"{user.account.home}/examples"


def test_the_rigid_side_knows_the_cluster_and_measures_its_jobs(cluster, bob):
    done = bob.run(HEAD, ["python", "-c", RUN_TWICE], 180, env={"PYTHONPATH": put_examples(bob)})
    found = json.loads(done.stdout)
    assert found["cores"] == dict.fromkeys(cluster.settings.node_names, cluster.settings.cpus)
    assert all(0 < delay_s < 60 for delay_s in found["delays_s"])
    assert all(length_s >= 1.0 for length_s in found["lengths_s"])
    assert len(found["nodes"]) == 4
    assert set(found["nodes"]) < set(cluster.settings.node_names)
    assert len(set(found["nodes"])) == 2
    assert found["left"] == []


def test_a_rigid_job_that_cannot_run_says_why_and_does_not_stay_queued(cluster, bob):
    done = bob.run(HEAD, ["python", "-c", RUN_IMPOSSIBLE], 60, env={"PYTHONPATH": put_examples(bob)})
    assert "exit status 1: srun: error: invalid partition specified: nowhere" in done.stdout
    assert "not done after 3 s: srun: " in done.stdout
    wait_until(lambda: not cluster.head.run_as_root("squeue", "-h").strip(), 10, "an empty queue")


@pytest.mark.slow
def test_side_by_side_loses_no_call_while_a_rigid_job_takes_nodes_and_gives_them_back(alice):
    script = f"{put_examples(alice)}/05_side_by_side.py"
    done = alice.run(HEAD, ["python", script, "--rigid-seconds=4", "--out=timeline.svg"], 280, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert " and 80 scores, 0 problems; the best classifier of digits has C=1 gamma=0.001" in done.stdout
    picture = (alice.home / "timeline.svg").read_text()
    assert "rigid job starts, " in picture
    assert all(f">{node}<" in picture for node in ("n1", "n2", "n3", "n4"))
