"""An MPI program that loses its nodes again and again, on a real slurmctld: `make bench-elastic` (root).

Usage: python benchmarks/elastic.py [--into DIRECTORY] [--quick] [--losses N] [--part losses|ways] [--mode M]
    [--seconds S]

losses: example 09 is preempted 20 times, goes on with 1 to 4 ranks, and is killed twice without notice: one rank of
four, and all four at once. It must end with the hash of a run that nothing disturbed; no notice may cost an iteration,
and no kill more than the interval of checkpoints. ways: how it comes back, by PreemptMode, GraceTime and who asks
Slurm. Results: elastic.jsonl, elastic.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import records  # noqa: E402 - after the path is set

from cluster.elastic import Program  # type: ignore[import-not-found]  # noqa: E402
from cluster.rig import Cluster, Settings  # type: ignore[import-not-found]  # noqa: E402
from cluster.rig.conf import MUNGE_SOCKET  # type: ignore[import-not-found]  # noqa: E402

EVERY = 100
PAUSE_S = 0.01  # of a sweep: so that the program is not done before it was preempted so often
SWEEPS_A_LOSS = 180  # at that pace
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


@dataclass
class Found:
    """What was measured so far; `end` is empty until the program has ended."""

    losses: list[dict[str, Any]] = field(default_factory=list)
    ways: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)


def add(kept: list[dict[str, Any]], row: dict[str, Any]) -> None:
    """Keep a row and show it."""
    kept.append(row)
    print(json.dumps(row), flush=True)


def losses(cluster: Cluster, n_losses: int, found: Found) -> None:
    """Lose the nodes so often, and twice without notice; what came of it."""
    n_sweeps = SWEEPS_A_LOSS * (n_losses + 3)
    kills = {min(12, n_losses): "kill", min(16, n_losses + 1): "kill all"}  # with four ranks each, of 20
    program = Program(cluster, by="resubmit", every=EVERY, n_sweeps=n_sweeps, pause_s=PAUSE_S)
    expected = program.undisturbed_hash()
    program.submit()
    program.wait_begun(1)
    for number in range(n_losses + 2):
        program.wait_sweeps(EVERY // 2)
        if number in kills:
            loss = program.kill(everybody=kills[number] == "kill all")
        else:
            loss = program.preempt(CYCLE[number % len(CYCLE)])
        add(found.losses, {"loss": number, **asdict(loss)})
    ended_with = program.wait_hash(600)
    costs = [event for word in ("stopped", "done") for event in program.events(word)]
    iterations = sum(event["n_iterations"] for event in costs)
    found.end = {
        "hash": ended_with,
        "expected": expected,
        "same": ended_with == expected,
        "iterations": iterations,
        "reductions": sum(event["n_reductions"] for event in costs),
        "agreeing_s": sum(event["agreeing_s"] for event in costs),
        "iterating_s": iterating_s(program),
        "interval": EVERY,
    }
    print(json.dumps(found.end), flush=True)


def iterating_s(program: Program) -> float:
    """Seconds between first iteration and notice or end, of all attempts that ended so."""
    begun = {event["attempt"]: event["t_boot_ns"] for event in program.events("begun")}
    ended = [event for word in ("stopped", "done") for event in program.events(word)]
    return float(sum(event["t_boot_ns"] - begun[event["attempt"]] for event in ended) / 1e9)


def ways(cluster: Cluster, chosen: Iterable[tuple[str, int, str]], until_s: float, found: Found) -> None:
    """Preempt once in each way and say whether, and after how long, it came back; none is begun after `until_s`."""
    for mode, grace_s, by in chosen:
        if time.monotonic() > until_s:
            return
        cluster.head.run_as_root(
            "scontrol", "update", "PartitionName=harvest", f"PreemptMode={mode}", f"GraceTime={grace_s}"
        )
        program = Program(cluster, by=by, every=EVERY, n_sweeps=100_000, pause_s=PAUSE_S)
        row: dict[str, Any] = {"mode": mode, "grace_s": grace_s, "by": by}
        try:
            program.submit()
            program.wait_begun(1)
            program.wait_sweeps(EVERY // 2)
            add(found.ways, row | asdict(program.preempt(2)))
        except AssertionError as error:
            add(found.ways, row | {"came_back": False, "why": str(error)[-600:]})
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
    if not end:
        return [f"## After {len(rows)} losses the program did not end", "", *table(rows), ""]
    notices = [row for row in rows if row["how"] == "notice"]
    kills = [row for row in rows if row["how"] != "notice"]
    same = "the same as" if end["same"] else "NOT"
    share = end["agreeing_s"] / end["iterating_s"]
    per_iteration_us = 1e6 * end["agreeing_s"] / max(1, end["iterations"])
    lost = ", ".join(f"{row['lost_iterations']} ({row['how']}, {row['ranks_before']} ranks)" for row in kills)
    return [
        "## Losses",
        "",
        f"{len(notices)} preemptions and {len(kills)} times SIGKILL without notice, of one rank or all; hash of the"
        f" grid {end['hash']}, {same} that of one undisturbed process ({end['expected']}).",
        f"Iterations lost: {sum(row['lost_iterations'] for row in notices)} by notices; {lost} by SIGKILL; a"
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
            lines.append(f"{head} did not come back | | | |")
            continue
        durable_s = row["notice_s"] + row["checkpoint_s"]
        lines.append(
            f"{head} {row['lost_iterations']} | {durable_s:.3f} | {row['requeue_s']:.2f} | {row['rigid_s']:.2f} |"
        )
    return [*lines, ""]


def report(about: dict[str, Any], found: Found) -> str:
    """The page, as Markdown."""
    lines = [
        "# An MPI program that loses its nodes",
        "",
        f"`make bench-elastic`, {about['date']}; {', '.join(f'{k} {v}' for k, v in about['machine'].items())}.",
        "Slurm 22.05 in `tests/cluster/rig`: four nodes that are namespaces of this machine, one core declared each;",
        "beyond two ranks they share its cores.",
        "",
    ]
    lines += of_losses(found.losses, found.end) if found.losses else []
    lines += of_ways(found.ways) if found.ways else []
    return "\n".join(lines)


def main() -> None:
    """Run one part or both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path)
    parser.add_argument("--quick", action="store_true", help="does it work? no figure to quote")
    parser.add_argument("--losses", type=int, default=20)
    parser.add_argument("--part", choices=("losses", "ways"))
    parser.add_argument("--mode", choices=("CANCEL", "REQUEUE"), help="only the ways with this PreemptMode")
    parser.add_argument("--seconds", type=float, default=600.0, help="begin no further way after that [600]")
    asked = parser.parse_args()
    until_s = time.monotonic() + asked.seconds
    into = records.directory("elastic", asked.quick, asked.into)
    cluster = Cluster("elastic")
    extra = f"AuthInfo=socket={MUNGE_SOCKET},cred_expire={REQUEUE_WAIT_S}\nPreemptMode=REQUEUE"
    cluster.start(Settings(cpus=1, memory_mib=4000, extra_conf=extra), with_starter=True)
    found = Found()
    try:
        cluster.install_wheel()
        if asked.part != "ways":
            losses(cluster, 2 if asked.quick else asked.losses, found)
            cluster.remove_users_things()
        if asked.part != "losses":
            chosen = [way for way in WAYS if asked.mode in (None, way[0])]
            ways(cluster, chosen[:2] if asked.quick else chosen, until_s, found)
    finally:
        cluster.stop()
        about = records.about("make bench-elastic")
        name = f"elastic-{asked.part}" if asked.part else "elastic"
        lines = [json.dumps(row) for row in [about, *found.losses, found.end, *found.ways]]
        (into / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        (into / f"{name}.md").write_text(report(about, found))
    print(into)


if __name__ == "__main__":
    main()
