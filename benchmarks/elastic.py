"""An MPI program that loses its nodes again and again, on a real slurmctld: `make bench-elastic` (root).

Usage: python benchmarks/elastic.py [--into DIRECTORY] [--quick] [--losses N] [--part losses|ways]

losses: example 09 is preempted 20 times, goes on with 1 to 4 ranks, and is killed once without notice. It must end with
the hash of a run that nothing disturbed; no notice may cost an iteration, and the kill no more than the interval of
checkpoints. ways: how it comes back, by PreemptMode, GraceTime and who asks Slurm. Results: elastic.jsonl, elastic.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import records  # noqa: E402 - after the path is set

from cluster.elastic import Program  # type: ignore[import-not-found]  # noqa: E402
from cluster.rig import Cluster, Settings  # type: ignore[import-not-found]  # noqa: E402
from cluster.rig.conf import MUNGE_SOCKET  # type: ignore[import-not-found]  # noqa: E402

EVERY = 200
CYCLE = (3, 1, 2, 4)  # ranks to go on with
REQUEUE_WAIT_S = 5  # of jobs that are requeued; 120 unless a site says otherwise
WAYS = (
    # PreemptMode, GraceTime, who asks
    ("CANCEL", 5, "requeue"),
    ("CANCEL", 5, "resubmit"),
    ("CANCEL", 0, "requeue"),
    ("CANCEL", 0, "auto"),
    ("CANCEL", 0, "resubmit"),
    ("REQUEUE", 5, "slurm"),
    ("REQUEUE", 5, "requeue"),
    ("REQUEUE", 0, "slurm"),
    ("REQUEUE", 0, "auto"),
)
PHASES = {
    "notice_s": "notice: from the signal until all ranks have agreed to stop",
    "checkpoint_s": "checkpoint: until it is durable",
    "requeue_s": "requeue: until the next attempt's processes start, where nodes were free",
    "restart_s": "restart: interpreter, MPI, reading the checkpoint, until the first iteration",
    "rigid_s": "beside it: from the rigid job's srun to its first instruction",
}


def losses(cluster: Cluster, n_losses: int, n_sweeps: int, write: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Lose the nodes so often, and once without notice; what came of it."""
    program = Program(cluster, by="resubmit", every=EVERY, n_sweeps=n_sweeps, pause_s=0.004)
    expected = program.undisturbed_hash()
    program.submit()
    program.wait_begun(1)
    for number in range(n_losses + 1):
        program.wait_sweeps(EVERY // 2)
        loss = program.kill() if number == n_losses // 2 else program.preempt(CYCLE[number % len(CYCLE)])
        write({"loss": number, **asdict(loss)})
    found = program.wait_hash(600)
    costs = [event for word in ("stopped", "done") for event in program.events(word)]
    iterations = sum(event["n_iterations"] for event in costs)
    return {
        "hash": found,
        "expected": expected,
        "same": found == expected,
        "iterations": iterations,
        "reductions": sum(event["n_reductions"] for event in costs),
        "agreeing_s": sum(event["agreeing_s"] for event in costs),
        "iterating_s": iterating_s(program),
        "interval": EVERY,
    }


def iterating_s(program: Program) -> float:
    """Seconds between first iteration and notice or end, of all attempts that ended so."""
    begun = {event["attempt"]: event["t_boot_ns"] for event in program.events("begun")}
    ended = [event for word in ("stopped", "done") for event in program.events(word)]
    return float(sum(event["t_boot_ns"] - begun[event["attempt"]] for event in ended) / 1e9)


def ways(cluster: Cluster, chosen: Iterable[tuple[str, int, str]], write: Callable[[dict[str, Any]], None]) -> None:
    """Preempt once in each way and say whether, and after how long, it came back."""
    for mode, grace_s, by in chosen:
        cluster.head.run_as_root(
            "scontrol", "update", "PartitionName=harvest", f"PreemptMode={mode}", f"GraceTime={grace_s}"
        )
        program = Program(cluster, by=by, every=EVERY, n_sweeps=100_000, pause_s=0.004)
        row: dict[str, Any] = {"mode": mode, "grace_s": grace_s, "by": by}
        try:
            program.submit()
            program.wait_begun(1)
            program.wait_sweeps(EVERY // 2)
            write(row | asdict(program.preempt(2)))
        except AssertionError as error:
            write(row | {"came_back": False, "why": str(error)[-600:]})
        cluster.remove_users_things()


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Seconds by phase: median, least and most."""
    lines = ["| phase | n | median s | least | most |", "| --- | --- | --- | --- | --- |"]
    for key, what in PHASES.items():
        values = [row[key] for row in rows if row.get(key) is not None]
        if key == "requeue_s":
            values = [row[key] for row in rows if row.get(key) is not None and not row["waited_for_nodes"]]
        if values:
            median, least, most = statistics.median(values), min(values), max(values)
            lines.append(f"| {what} | {len(values)} | {median:.3f} | {least:.3f} | {most:.3f} |")
    return lines


def of_losses(rows: list[dict[str, Any]], end: dict[str, Any]) -> list[str]:
    """What the losses came to."""
    notices = [row for row in rows if row["how"] == "notice"]
    kills = [row for row in rows if row["how"] == "kill"]
    same = "the same as" if end["same"] else "NOT"
    share = end["agreeing_s"] / end["iterating_s"]
    per_iteration_us = 1e6 * end["agreeing_s"] / max(1, end["iterations"])
    lost = ", ".join(str(row["lost_iterations"]) for row in kills)
    return [
        "## Losses",
        "",
        f"{len(notices)} preemptions and {len(kills)} SIGKILL of a rank without notice; hash of the grid"
        f" {end['hash']}, {same} that of one undisturbed process ({end['expected']}).",
        f"Iterations lost: {sum(row['lost_iterations'] for row in notices)} by notices, {lost} by the kill; a"
        f" checkpoint each {end['interval']}.",
        "",
        *table(rows),
        "",
        f"Agreeing: {end['reductions']} reductions in {end['iterations']} iterations cost rank 0"
        f" {per_iteration_us:.1f} µs an iteration, {share:.2%} of the time, waiting for slower ranks included.",
        "",
        "Ranks, before → after: " + ", ".join(f"{row['ranks_before']}→{row['ranks_after']}" for row in rows) + ".",
        "",
    ]


def of_ways(tried: list[dict[str, Any]]) -> list[str]:
    """Which ways lead back."""
    lines = [
        "## Ways back",
        "",
        "One preemption each, of a job on four nodes by a rigid job on two. Requeued jobs may start after"
        f" {REQUEUE_WAIT_S} s here (`cred_expire`; Slurm's default is 120).",
        "",
        "| PreemptMode | GraceTime | asked by | lost | durable after s | back after s | rigid job waited s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in tried:
        head = f"| {row['mode']} | {row['grace_s']} | {row['by']} |"
        if "why" in row:
            lines.append(f"{head} does not come back | | | |")
            continue
        durable_s = row["notice_s"] + row["checkpoint_s"]
        lines.append(
            f"{head} {row['lost_iterations']} | {durable_s:.3f} | {row['requeue_s']:.2f} | {row['rigid_s']:.2f} |"
        )
    return [*lines, ""]


def report(about: dict[str, Any], rows: list[dict[str, Any]], end: dict[str, Any], tried: list[dict[str, Any]]) -> str:
    """elastic.md."""
    lines = [
        "# An MPI program that loses its nodes",
        "",
        f"`make bench-elastic`, {about['date']}; {about['machine']}.",
        "Slurm 22.05 in `tests/cluster/rig`: four nodes that are namespaces of this machine, one core declared each;",
        "beyond two ranks they share its cores.",
        "",
    ]
    lines += of_losses(rows, end) if rows else []
    lines += of_ways(tried) if tried else []
    return "\n".join(lines)


def main() -> None:
    """Run one part or both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path)
    parser.add_argument("--quick", action="store_true", help="does it work? no figure to quote")
    parser.add_argument("--losses", type=int, default=20)
    parser.add_argument("--part", choices=("losses", "ways"))
    asked = parser.parse_args()
    into = records.directory("elastic", asked.quick, asked.into)
    cluster = Cluster("elastic")
    extra = f"AuthInfo=socket={MUNGE_SOCKET},cred_expire={REQUEUE_WAIT_S}\nPreemptMode=REQUEUE"
    cluster.start(Settings(cpus=1, memory_mib=4000, extra_conf=extra), with_starter=True)
    rows: list[dict[str, Any]] = []
    tried: list[dict[str, Any]] = []
    end: dict[str, Any] = {}

    def write_to(kept: list[dict[str, Any]]) -> Callable[[dict[str, Any]], None]:
        def write(row: dict[str, Any]) -> None:
            kept.append(row)
            print(json.dumps(row), flush=True)

        return write

    try:
        cluster.install_wheel()
        if asked.part != "ways":
            n_losses = 2 if asked.quick else asked.losses
            end = losses(cluster, n_losses, 500 * (n_losses + 2), write_to(rows))
            print(json.dumps(end), flush=True)
            cluster.remove_users_things()
        if asked.part != "losses":
            ways(cluster, WAYS[:2] if asked.quick else WAYS, write_to(tried))
    finally:
        cluster.stop()
    about = records.about("make bench-elastic")
    lines = [json.dumps(row) for row in [about, *rows, *([end] if end else []), *tried]]
    (into / "elastic.jsonl").write_text("\n".join(lines) + "\n")
    (into / "elastic.md").write_text(report(about, rows, end, tried))
    print(into)


if __name__ == "__main__":
    main()
