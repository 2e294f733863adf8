"""The benchmark of rigid codes beside functions: does it work? Figures are of quiet machines only."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.figures]

BENCHMARK = Path(__file__).parents[2] / "benchmarks/colocation.py"


def test_the_benchmark_of_colocation_measures(tmp_path):
    command = [sys.executable, BENCHMARK, "--quick", "--into", tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    row = json.loads((tmp_path / "colocation.jsonl").read_text())
    assert min(row["iterations"]) > 100
    assert row["verdicts"][0].startswith("watch")
    assert row["cell"] in (tmp_path / "colocation-table.md").read_text().replace(" | ", " ")
