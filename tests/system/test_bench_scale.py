"""The short form of `make bench-scale`: each part runs at its smallest size and says what it found. No speed here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCALE = Path(__file__).resolve().parents[2] / "benchmarks" / "scale.py"


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("cycle", {"parse_ms", "plan_ms", "all_ms", "submitted"}),
        (
            "decisions",
            {"decisions_per_s", "leases_a_round", "commits", "append_ms", "of_raw_limit", "longest_batch_ms"},
        ),
        ("churn", {"decisions_per_s", "leases", "waiting"}),
        ("grpc", {"decisions_per_s", "allocator_peak_rss_mib"}),
    ],
)
def test_a_part_of_the_scale_benchmark_says_what_it_found(part, says):
    command = [sys.executable, str(SCALE), "--part", part, "--nodes", "10", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["part"], told["nodes"]) == (part, 10)
    assert all(told[name] > 0 for name in says)
