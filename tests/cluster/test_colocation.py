"""The benchmark of rigid codes beside functions, on a Slurm of its own: does it work? Figures are of quiet machines."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.figures]

BENCHMARK = Path(__file__).parents[2] / "benchmarks/colocation.py"
RUN_S = 180.0  # the wheel may have to be built


def run(into, *options):
    """The benchmark; its report."""
    command = [sys.executable, BENCHMARK, "--into", into, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return (into / "colocation.md").read_text()


def test_the_benchmark_of_colocation_measures_and_reports(tmp_path):
    report = run(tmp_path, "--quick")
    row = json.loads((tmp_path / "colocation.jsonl").read_text())
    assert row["cell"] == "jacobi memory on"
    assert min(row["iterations"]) > 10  # some 600 on a quiet machine
    assert not set(row["cpus"]["rigid code"]) & set(row["cpus"]["functions"])
    assert row["verdicts"][0].startswith("watch")
    assert "| Jacobi, 642 x 642 | memory | on |" in report
    assert "Not measured yet: jacobi memory off, " in report
    (tmp_path / "colocation-comments.md").write_text("A comment.\n")
    assert run(tmp_path, "--write").endswith("A comment.\n")
