"""Every example runs as a user would run it, ends in time and finds its own results right."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

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


def test_hello(tmp_path):
    done = run(sys.executable, EXAMPLES / "01_hello.py", "--workers", 2, cwd=tmp_path)
    assert_succeeded(done)
    assert "hello world, from process " in done.stdout
    assert "871 takes the longest way to 1: 178 steps" in done.stdout
    assert "in mean\n" in done.stdout
    assert "ZeroDivisionError" in done.stdout


def test_a_million_options_in_a_hundred_calls(tmp_path):
    done = run(sys.executable, EXAMPLES / "02_blackscholes.py", "--workers", 2, cwd=tmp_path)
    assert_succeeded(done)
    assert "100 calls: 1,000,000 options in " in done.stdout


@pytest.mark.parametrize("executor", ["rfaas", "process"])
def test_a_few_options_on_either_executor(executor, tmp_path):
    few = ["--options", 2_500, "--batch", 1_000, "--workers", 2, "--executor", executor]
    done = run(sys.executable, EXAMPLES / "02_blackscholes.py", *few, cwd=tmp_path)
    assert_succeeded(done)
    assert "3 calls: 2,500 options in " in done.stdout


def test_wrong_prices_are_noticed(tmp_path):
    for module in EXAMPLES.glob("*.py"):
        shutil.copy(module, tmp_path)
    pricing = tmp_path / "blackscholes.py"
    pricing.write_text(pricing.read_text().replace("0.5 * volatility**2", "0.4 * volatility**2"))
    done = run(sys.executable, tmp_path / "02_blackscholes.py", "--options", 2_000, "--workers", 1, cwd=tmp_path)
    assert done.returncode == 1
    assert "wrong: prices differ from the closed form by " in done.stderr


def test_digits_search_finds_what_the_serial_search_finds(tmp_path):
    done = run(sys.executable, EXAMPLES / "03_digits.py", "--workers", 2, cwd=tmp_path, timeout_s=240)
    assert_succeeded(done)
    assert "best: C=" in done.stdout
    assert "80 calls " in done.stdout


def test_forces_are_computed_in_c(tmp_path):
    done = run(sys.executable, EXAMPLES / "06_native.py", "--atoms", 500, "--block", 120, "--workers", 2, cwd=tmp_path)
    assert_succeeded(done)
    assert "5 calls in C: forces on 500 atoms in " in done.stdout
    assert "FunctionError, the function returned 1" in done.stdout


def test_side_by_side_on_one_machine_draws_a_timeline(tmp_path):
    arguments = ["--local", "--seconds", 2, "--out", "pictures/timeline.svg"]
    done = run(sys.executable, EXAMPLES / "05_side_by_side.py", *arguments, cwd=tmp_path, timeout_s=240)
    assert_succeeded(done)
    assert " and 80 scores, 0 problems; the best classifier of digits has C=1 gamma=0.001" in done.stdout
    picture = ElementTree.parse(tmp_path / "pictures" / "timeline.svg").getroot()
    texts = {text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {"Functions on idle cores", "call running", socket.gethostname()} <= texts


def test_checkpoint_buffer(tmp_path):
    done = run(sys.executable, EXAMPLES / "07_checkpoint_buffer.py", "--size", 128, cwd=tmp_path)
    assert_succeeded(done)
    assert "went on from the checkpoint of sweep 100" in done.stdout
    assert "bit for bit" in done.stdout


def test_out_of_core(tmp_path):
    done = run(sys.executable, EXAMPLES / "08_out_of_core.py", "--n", 256, "--block", 64, cwd=tmp_path)
    assert_succeeded(done)
    assert "here 0.2 MiB" in done.stdout
    assert "A(Bx) and Cx agree" in done.stdout


NOTIFIED = """# each rank gives itself the notice once the run has begun: mpirun's own SIGTERM would kill them
import os, pathlib, runpy, signal, sys, threading, time
def notify():
    begun = pathlib.Path("checkpoints/jacobi.timeline.jsonl")  # rank 0 may be further than this one
    while not (begun.exists() and callable(signal.getsignal(signal.SIGTERM))):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=notify, daemon=True).start()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@needs_mpi
def test_elastic_jacobi_stopped_on_three_ranks_ends_on_one_with_the_hash_of_an_undisturbed_run(tmp_path):
    script, few = EXAMPLES / "09_elastic_jacobi.py", ["--size", 64, "--sweeps", 600]
    alone = run(sys.executable, script, *few, "--checkpoints", "alone", cwd=tmp_path)
    assert_succeeded(alone)
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", 3]
    (tmp_path / "notified.py").write_text(NOTIFIED)
    stopped = run(
        *mpirun,
        sys.executable,
        "notified.py",
        script,
        *few,
        "--pause-s",
        0.02,
        cwd=tmp_path,
        OMPI_MCA_mpi_yield_when_idle="1",
    )
    assert stopped.returncode == 75, f"{stopped.stdout}\n{stopped.stderr}"
    resumed = run(sys.executable, script, *few, cwd=tmp_path)
    assert_succeeded(resumed)
    assert "1 ranks on 1 nodes go on at sweep 0" not in resumed.stdout
    assert resumed.stdout.splitlines()[-1] == alone.stdout.splitlines()[-1]
    assert "600 sweeps, hash " in alone.stdout


FIRST_LEAVES = """# a slow disk keeps the last rank writing while the first has nothing left to do
import time
from mpi4py import MPI
from rfaas import elastic
from rfaas.elastic.store import Store
comm, write = MPI.COMM_WORLD, Store.write_part
def slow(*words):
    time.sleep(1.0 if comm.rank == comm.size - 1 else 0.0)
    return write(*words)
Store.write_part = slow
with elastic.Run("app", "checkpoints", comm=comm, look_every_s=0.0) as run:
    field = run.array("field", (60, 4))
    run.restore()
    for iteration in run.iterations(until=100_000):
        if iteration == 3 and comm.rank == 0:
            run.notify()
"""


@needs_mpi
@pytest.mark.parametrize("starter", [[], ["-m", "mpi4py"]], ids=["plain", "aborting"])
def test_no_rank_that_still_writes_is_ended_because_another_one_has_left(tmp_path, starter):
    (tmp_path / "first_leaves.py").write_text(FIRST_LEAVES)
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", 3]
    quiet = {"OMPI_MCA_mpi_yield_when_idle": "1"}
    stopped = run(*mpirun, sys.executable, *starter, "first_leaves.py", cwd=tmp_path, **quiet)
    assert stopped.returncode == 75, f"{stopped.stdout}\n{stopped.stderr}"
    shown = run(sys.executable, "-m", "rfaas.elastic", "show", "checkpoints", "app", cwd=tmp_path)
    assert_succeeded(shown)
    assert ", 3 ranks, " in shown.stdout
    assert "1  iteration " in shown.stdout


@needs_mpi
def test_ranks_that_resize_their_executors(tmp_path):
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", 2]
    example = EXAMPLES / "10_malleable_mpi.py"
    done = run(*mpirun, sys.executable, example, "--steps=4", cwd=tmp_path, OMPI_MCA_mpi_yield_when_idle="1")
    assert_succeeded(done)
    assert "right: pi is 3.141592654; " in done.stdout
    assert "step 1: " in done.stdout
    assert "rank 0 has 0 of 0 workers" in done.stdout  # the light steps


def test_a_job_that_marks_is_seen_by_the_guard(tmp_path):
    marks = {"RFAAS_GUARD_MARKS_DIR": str(tmp_path)}  # not where agents of other tests look
    done = run(sys.executable, EXAMPLES / "11_marks.py", "--seconds", 0.3, cwd=tmp_path, **marks)
    assert_succeeded(done)
    assert "the guard would have seen" in done.stdout
    assert list(tmp_path.glob("rfaas-mark-*")) == []
