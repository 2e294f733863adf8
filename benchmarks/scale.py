"""How far one harvester and one allocator go: `make bench-scale`. Goals: cycles of a second, 10,000 decisions a second.

Usage: python benchmarks/scale.py [--into DIRECTORY] [--quick]

*Cycle*: everything that the harvester does in one but asking Slurm and submitting: reading the JSON of `sinfo` and
`squeue` of a cluster that is made up, the book of its own jobs, gaps, the plan, the file of verdicts.
*Decisions*: grants and releases of the allocator's core, with its journal on disk and commits of up to 1000 events.
*Churn*: the same with nodes and workers of all sizes, and more wanted than there is. *grpc*: grants and releases of an
allocator process, by agents and one holder over its unix socket, all of them in one other process, which takes its
share of the CPUs; up to 100 agents. Each size runs in a process of its own, whose peak of memory is that size's.
Results: scale.jsonl, scale.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import records  # noqa: E402 - after the path is set
from scale_decisions import churn, decisions, grpc  # noqa: E402

SIZES = (10, 1000, 10_000)


def main() -> None:
    """Measure each part at each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path)
    parser.add_argument("--quick", action="store_true", help="does it work? no figure to quote")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--nodes", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        found = PARTS[asked.part](asked.nodes, asked.quick)
        found["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(json.dumps({"part": asked.part, "nodes": asked.nodes, **found}))
        return
    into = records.directory("scale", asked.quick, asked.into)
    (into / "scale.meta.json").write_text(json.dumps(records.about("make bench-scale"), indent=1) + "\n")
    lines = []
    for name in PARTS:
        sizes = (10, 100) if name == "grpc" else SIZES
        for nodes in sizes[:2] if asked.quick else sizes:
            command = [sys.executable, str(Path(__file__)), "--part", name, "--nodes", str(nodes)]
            command += ["--quick"] if asked.quick else []
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=900)
            lines.append(done.stdout.strip())
            print(lines[-1], flush=True)
    (into / "scale.jsonl").write_text("\n".join(lines) + "\n")
    (into / "scale.md").write_text(page([json.loads(line) for line in lines]))
    print(into)


def page(rows: list[dict[str, Any]]) -> str:
    """The results as tables, one for each part."""
    text = "# Scale: `make bench-scale`\n\n" + MEANING
    for part in PARTS:
        found = [{name: value for name, value in row.items() if name != "part"} for row in rows if row["part"] == part]
        text += f"\n## {part}\n\n| {' | '.join(found[0])} |\n|{' ---: |' * len(found[0])}\n"
        text += "".join(f"| {' | '.join(map(str, row.values()))} |\n" for row in found)
    return text


MEANING = """Date, machine, versions: `scale.meta.json`. What is measured: `benchmarks/scale.py`, `scale_decisions.py`.
`decisions_per_s` counts the time of core and journal, `with_players_per_s` that of the played agents and holders too.
`of_raw_limit`: the time that as many appends of as many bytes take on this disk, of the time that was taken.
`longest_batch_ms`: the longest of deciding 1000 events and their commit. Under load an event waits for two of them.
"""


# --- the harvester ------------------------------------------------------------------------------------------------


def cluster(nodes: int, seed: int, shift: int) -> tuple[str, str]:
    """`sinfo --json` and `squeue --json` of a made-up cluster: one node in twenty idle, a job for every two nodes.

    `shift` moves which nodes are idle, so that successive views differ as real ones do.
    """
    rng = random.Random(seed)
    idle = {(i + shift) % nodes for i in rng.sample(range(nodes), max(1, nodes // 20))}
    told = [
        {
            **{"name": f"n{i}", "address": f"10.0.{i >> 8}.{i & 255}", "state": "idle" if i in idle else "allocated"},
            **{"state_flags": [], "partitions": ["rigid", "harvest"], "cpus": 64, "real_memory": 256_000},
            **{"alloc_cpus": 0 if i in idle else 64, "alloc_memory": 0 if i in idle else 200_000},
            **{"slurmd_start_time": 1, "boot_time": 1, "active_features": "ib,cpu", "free_memory": 100_000},
        }
        for i in range(nodes)
    ]
    busy = [i for i in range(nodes) if i not in idle]
    jobs: list[dict[str, Any]] = []
    for number, i in enumerate(range(0, len(busy), 2)):
        jobs.append(job(number, "RUNNING", ",".join(f"n{k}" for k in busy[i : i + 2])))
    for number in range(nodes // 10):
        jobs.append(job(len(jobs) + number, "PENDING", ""))
    return json.dumps({"nodes": told}), json.dumps({"jobs": jobs})


def job(number: int, state: str, nodes: str) -> dict[str, Any]:
    """A job as `squeue --json` of 22.05 writes it, as far as it is read."""
    now_s = int(time.time())
    pending = state == "PENDING"
    return {
        **{"job_id": number, "name": "mpi", "user_name": f"u{number % 50}", "partition": "rigid", "job_state": state},
        **{"state_reason": "Priority", "nodes": nodes, "required_nodes": "", "cpus": 128, "memory_per_node": 200_000},
        **{"comment": "", "submit_time": now_s - 4000, "start_time": now_s + 900 if pending else now_s - 2000},
        **{"end_time": now_s + 5000, "preempt_time": 0, "node_count": 1 + number % 64 if pending else 2},
    }


def cycle(nodes: int, quick: bool) -> dict[str, Any]:
    """Milliseconds of a cycle, and of its parts: medians, and the longest cycle."""
    from rfaas_slurm_plugin.harvest.slices import SliceBook
    from rfaas_slurm_plugin.harvest.verdict_file import VERDICTS, VerdictFile
    from rfaas_slurm_plugin.policy.core import History, plan
    from rfaas_slurm_plugin.policy.settings import HarvestPolicy
    from rfaas_slurm_plugin.views.records import jobs_of, nodes_of
    from rfaas_slurm_plugin.views.view import ClusterView

    policy, history, book = HarvestPolicy(partition="harvest"), History(), SliceBook("0" * 32, 5.0)
    parts: dict[str, list[float]] = {"parse": [], "remember": [], "plan": [], "write": [], "all": []}
    submitted = 0
    with tempfile.TemporaryDirectory() as directory:
        file = VerdictFile(Path(directory) / VERDICTS)
        for n in range(3 if quick else 20):
            sinfo, squeue = cluster(nodes, 1, 7 * n)
            marks = [time.perf_counter()]
            view = ClusterView(10.0 * n, nodes_of(json.loads(sinfo)), jobs_of(json.loads(squeue)))
            marks.append(time.perf_counter())
            book.read(view, time.time())
            history.see(view, policy)
            marks.append(time.perf_counter())
            decision = plan(view, policy, history, 10.0 * n + 1.0, time.time())
            submitted += len(decision.submit)
            marks.append(time.perf_counter())
            file.write(decision.verdicts, time.time())
            marks.append(time.perf_counter())
            for name, (began, ended) in zip(parts, itertools.pairwise(marks), strict=False):
                parts[name].append(1e3 * (ended - began))
            parts["all"].append(1e3 * (marks[-1] - marks[0]))
    found: dict[str, Any] = {f"{name}_ms": round(statistics.median(times), 2) for name, times in parts.items()}
    return {**found, "longest_ms": round(max(parts["all"]), 2), "cycles": len(parts["all"]), "submitted": submitted}


PARTS = {"cycle": cycle, "decisions": decisions, "churn": churn, "grpc": grpc}

if __name__ == "__main__":
    main()
