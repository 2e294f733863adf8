"""The short form of `make bench-scale`: it runs, and what it counts is consistent. How fast is for a quiet machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCALE = Path(__file__).parents[2] / "benchmarks" / "scale.py"
RUN_S = 120.0


def measured(part, nodes):
    command = [sys.executable, str(SCALE), "--quick", "--part", part, "--nodes", str(nodes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=True)
    found = json.loads(done.stdout)
    assert (found["part"], found["nodes"]) == (part, nodes)
    assert found["peak_rss_mib"] > 0
    return found


@pytest.mark.parametrize(("nodes", "submitted"), [(10, 3), (1000, 150)])
def test_a_cycle_plans_for_what_is_idle_and_what_the_rate_allows(nodes, submitted):
    found = measured("cycle", nodes)
    assert found["cycles"] == 3
    assert 0 < found["submitted"] <= submitted
    assert 0 < found["plan_ms"] < found["all_ms"]


def test_decisions_are_grants_and_releases_that_were_made_durable():
    found = measured("decisions", 10)
    assert found["leases_a_round"] == 10  # a lease has all four cores of a node
    assert found["commits"] > 2
    assert found["decisions_per_s"] > 0


def test_decisions_of_an_allocator_process_over_its_socket():
    found = measured("grpc", 10)
    assert 0 < found["least_per_s"] <= found["decisions_per_s"] <= found["most_per_s"]
    assert found["allocator_peak_rss_mib"] > 0
