"""Every example runs as a user would run it, ends in time and finds its own results right."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
JACOBI = EXAMPLES / "04_jacobi_mpi.py"

needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None or shutil.which("mpirun") is None,
    reason="needs mpi4py (pip install '.[mpi]') and mpirun (apt-get install openmpi-bin)",
)


def run(*command, cwd, timeout_s=120, **environment):
    """Run a command in a folder of its own; returns the finished process with its output as text."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def assert_succeeded(done):
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stderr == ""


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("[0-9]*.py")), ids=lambda script: script.name)
@needs_mpi
def test_help_explains_the_example_and_its_options(script, tmp_path):
    done = run(sys.executable, script, "--help", cwd=tmp_path)
    assert_succeeded(done)
    assert f"python examples/{script.name}" in done.stdout


@needs_mpi
def test_jacobi_on_one_rank(tmp_path):
    assert_succeeded(run(sys.executable, JACOBI, "--size", 32, cwd=tmp_path))


@needs_mpi
@pytest.mark.parametrize("n_ranks", [2, 3])
def test_jacobi_on_several_ranks_records_them_all(n_ranks, tmp_path):
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", n_ranks]
    arguments = ["--size", 32, "--seconds", 0.5, "--record", "ranks.json"]
    done = run(*mpirun, sys.executable, JACOBI, *arguments, cwd=tmp_path, OMPI_MCA_mpi_yield_when_idle="1")
    assert_succeeded(done)
    ranks = json.loads((tmp_path / "ranks.json").read_text())
    assert [rank["rank"] for rank in ranks] == list(range(n_ranks))
    assert all(rank["t1_s"] - rank["t0_s"] >= 0.5 for rank in ranks)


@needs_mpi
def test_jacobi_that_does_not_converge_fails(tmp_path):
    done = run(sys.executable, JACOBI, "--size", 32, "--max-sweeps", 150, cwd=tmp_path)
    assert done.returncode == 1
    assert "wrong: after 150 sweeps the residual is" in done.stderr


@needs_mpi
def test_jacobi_notices_a_halo_that_comes_one_sweep_late(tmp_path):
    program = JACOBI.read_text().replace("swap_halos(comm, old)\n", "swap_halos(comm, new)\n")
    assert program.count("swap_halos(comm, new)") == 1
    (tmp_path / "late.py").write_text(program)
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", 2]
    done = run(
        *mpirun,
        sys.executable,
        "late.py",
        "--size",
        32,
        "--max-sweeps",
        20_000,
        cwd=tmp_path,
        OMPI_MCA_mpi_yield_when_idle="1",
    )
    assert done.returncode == 1
    assert "sweeps must give" in done.stderr
