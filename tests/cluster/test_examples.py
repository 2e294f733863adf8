"""The rigid job of the examples on the real cluster, started as its user would start it."""

import json
from pathlib import Path

import pytest

from cluster.rig.settings import HEAD

pytestmark = pytest.mark.slurm

JACOBI = Path(__file__).parents[2] / "examples" / "04_jacobi_mpi.py"


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
