"""A day of a cluster, compressed, on the real slurmctld of tests/cluster/rig: `make bench-replay` (root).

Usage: python benchmarks/replay.py [--into DIRECTORY] [--quick] [--hours H] [--compression N] [--seed N] [--seconds S]
                                   [--clusters N]

The same plan of rigid jobs three times: on the cluster alone, beside ordinary jobs of a low-priority partition, beside
rfaas with every worker busy. The day is cut into parts of some hours, each with a plan of its own, and a part is
replayed by all three before the next. Goals: of the idle core-seconds in gaps of at least 60 s (compressed alike) 80 %
or more serve functions; batch jobs are delayed no more than beside the plain partition.

Resumable: each part by each fill is a line of replay.jsonl, measured ones are left out; `--seconds` begins none that
would go beyond. replay.md is written anew from all lines. Jobs and calls sleep, so that what a replay takes of a CPU is
Slurm's and rfaas's own; `--clusters` replays so many parts at a time, each on a cluster of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import records  # noqa: E402 - after the path is set

GOAL_SHARE = 0.8
AROUND_S = 45.0  # beside the span itself: starting, the last jobs, clearing up
QUICK_S = 20.0
Row = dict[str, Any]

HEAD = """\
# A replayed day, {date}

`make bench-replay`; {cpu}, {cpus} CPUs, Linux {kernel}. {hours:.1f} hours of a cluster of {nodes} nodes of 1 core,
{compression:g} times compressed, as {parts} part(s), on the real slurmctld of `tests/cluster/rig`. Gaps and rigid jobs
have log-normal lengths with the published median of gaps of a large machine (300 s, nine of ten under 20 minutes), cut
to compressed time; what Slurm and rfaas need to start and to leave is not compressed, so a second of theirs stands for
{compression:g} of the day that is replayed. Seconds below are as measured.{beside}

| beside the rigid jobs | jobs | delay: median, s | p90 | worst | of idle core-s served | in gaps ≥ {long:g} s |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path)
    parser.add_argument("--quick", action="store_true", help="does it work? no figure to quote")
    parser.add_argument("--hours", type=float, default=24.0, help="of the cluster's time [24]")
    parser.add_argument("--part-hours", type=float, default=2.0, help="of a part [2]")
    parser.add_argument("--compression", type=float, default=30.0, help="so many times faster [30]")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1, help="of the first part; the next have the next numbers [1]")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing that would end later")
    parser.add_argument("--clusters", type=int, default=1, help="so many parts at a time [1]")
    parser.add_argument("--number", type=int, help="the cluster of this process, among them")
    return parser.parse_args()


def replay_parts(asked: argparse.Namespace, part_s: float, n_parts: int, path: Path) -> None:
    """Replay what is missing in `path`, as far as the time allows."""
    from cluster.replaying import FILLS, LONG_S, planned, replayed  # type: ignore[import-not-found]
    from cluster.rig import Cluster, Settings  # type: ignore[import-not-found]

    done = records.load(path, "fill")
    ours = range(asked.number or 0, n_parts, asked.clusters)
    missing = [(part, fill) for part in ours for fill in FILLS if (part, fill) not in done]
    until_s = time.monotonic() + asked.seconds
    if not missing or part_s + AROUND_S > asked.seconds:
        return
    cluster = Cluster(f"replay-{asked.number or 0}")
    cluster.start(Settings(nodes=asked.nodes, cpus=1, memory_mib=4000), with_starter=True)
    try:
        cluster.install_wheel()
        for part, fill in missing:
            began_s = time.monotonic()
            if began_s + part_s + AROUND_S > until_s:
                break
            plan = planned(cluster.settings.node_names, part_s, asked.compression, asked.seed + part)
            alice, bob = cluster.user("alice"), cluster.user("bob")
            outcome = replayed(cluster, alice, bob, fill, plan, part_s, LONG_S / asked.compression)
            row = {"round": part, "fill": fill, "span_s": part_s, "compression": asked.compression}
            row["clusters"] = asked.clusters
            row |= outcome.numbers() | {"took_s": round(time.monotonic() - began_s, 1)}
            print(f"part {part}, {fill}: {outcome.about()}", flush=True)
            records.add(path, row)
            cluster.remove_users_things()
    finally:
        cluster.stop()


def replay_in_clusters(asked: argparse.Namespace, into: Path) -> None:
    """Have each cluster's parts replayed by a process of its own, with users of its own."""
    processes = []
    for number in range(asked.clusters):
        environment = {**os.environ, "PYTEST_XDIST_WORKER": f"gw{number}"}  # tests/cluster/rig has its uids from it
        command = [sys.executable, *sys.argv, "--into", str(into), "--number", str(number)]
        processes.append(subprocess.Popen(command, env=environment))
    failed = [process.pid for process in processes if process.wait() != 0]
    if failed:
        print(f"not replayed to the end: processes {failed}", file=sys.stderr)


def table_line(fill: str, rows: list[Row]) -> str:
    """What came of one fill in all its parts."""
    delays_s = sorted(delay_s for row in rows for delay_s in row["delays_s"])
    p90_s = delays_s[max(0, -(-9 * len(delays_s) // 10) - 1)]
    idle, long = (sum(row[name] for row in rows) for name in ("idle_core_s", "long_core_s"))
    got, got_long = (sum(row[name] for row in rows) for name in ("recovered_core_s", "recovered_long_core_s"))
    shares = f"{got / idle:.1%} | {got_long / long:.1%}" if got else "- | -"
    cells = [
        fill,
        str(len(delays_s)),
        *(f"{s:.2f}" for s in (statistics.median(delays_s), p90_s, delays_s[-1])),
        shares,
    ]
    return f"| {' | '.join(cells)} |"


def beside(rows: list[Row]) -> str:
    """How many clusters shared the machine, for people."""
    most = max(row.get("clusters", 1) for row in rows)
    return "" if most == 1 else f"\nUp to {most} clusters replayed parts at a time on this machine."


def report(path: Path, nodes: int) -> str:
    """The page for all that was measured; parts that not every fill has are left out."""
    rows = list(records.load(path, "fill").values())
    fills = list(dict.fromkeys(row["fill"] for row in rows))
    parts = [{row["round"] for row in rows if row["fill"] == fill} for fill in fills]
    whole = set.intersection(*parts) if parts else set()
    if not whole:
        return "No part was replayed by every fill yet.\n"
    about, one = records.about("make bench-replay"), rows[0]
    head = HEAD.format(
        date=about["date"],
        **{name: about["machine"][name] for name in ("cpu", "cpus", "kernel")},
        hours=len(whole) * one["span_s"] * one["compression"] / 3600,
        nodes=nodes,
        compression=one["compression"],
        parts=len(whole),
        long=60.0,
        beside=beside([row for row in rows if row["round"] in whole]),
    )
    by_fill = {fill: [row for row in rows if row["fill"] == fill and row["round"] in whole] for fill in fills}
    ours = by_fill.get("rfaas", [])
    got, long = (sum(row[name] for row in ours) for name in ("recovered_long_core_s", "long_core_s"))
    met = "met" if long and got >= GOAL_SHARE * long else "**missed**" if long else "not to be said, there were none"
    table = "\n".join(table_line(fill, rows) for fill, rows in by_fill.items())
    return f"{head}{table}\n\nGoal: {GOAL_SHARE:.0%} in gaps of a minute and more: {met}.\n"


def main() -> None:
    """Replay by each fill, part by part."""
    asked = parse_arguments()
    into = records.directory("replay", asked.quick, asked.into)
    part_s = QUICK_S if asked.quick else 3600 * min(asked.part_hours, asked.hours) / asked.compression
    n_parts = 1 if asked.quick else max(1, round(asked.hours / asked.part_hours))
    path = into / "replay.jsonl"
    if asked.clusters > 1 and asked.number is None:
        replay_in_clusters(asked, into)
    else:
        replay_parts(asked, part_s, n_parts, path)
    if asked.number is not None:
        return
    page = report(path, asked.nodes)
    (into / "replay.md").write_text(page)
    about = records.about("make bench-replay") | {"nodes": asked.nodes, "seed": asked.seed}
    (into / "replay.meta.json").write_text(json.dumps(about, indent=1) + "\n")
    print(page, into, sep="\n")


if __name__ == "__main__":
    main()
