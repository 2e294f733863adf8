"""How long rigid jobs wait for nodes that rfaas harvests, on the real Slurm of tests/cluster/rig (root).

Usage: python benchmarks/reclaim.py [--into DIRECTORY] [--quick] [--seconds S] [--write]        make bench-reclaim

Jobs by srun, sbatch and salloc take one node, all nodes, or one core that costs one slice; workers are idle, busy with
short calls, or in calls that ignore SIGTERM; GraceTime is 0 or 5 s, SchedulerParameters are tuned or Slurm's own.
Beside it, in the same run by turns: harvest steps that exit at once on SIGTERM (the floor), and no harvest at all. The
floor has as many jobs of each kind as idle workers, and batch jobs come at the same moments of slurmctld's turn beside
both; they are compared in pairs. The hooks of site mode are installed. Goals: with idle workers the median at most
50 ms over the floor and the p99 at most 0.3 s over its p99; with others the worst at most the grace and a second over
it; no node drained, no job failed.

Each measurement is a line of .cache/reclaim/DATE.jsonl: what was cut off, or stopped by --seconds, goes on with the
same command on the same day. Once all is there, or with --write, DIRECTORY/reclaim.md and reclaim.jsonl are written.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import records  # noqa: E402 - after the path is set

from cluster.delay import build_probe  # type: ignore[import-not-found]  # noqa: E402
from cluster.hook_rig import CONF, build_hook, clear  # type: ignore[import-not-found]  # noqa: E402
from cluster.reclaim_figures import (  # type: ignore[import-not-found]  # noqa: E402
    by_workers,
    goals,
    paired,
    percentile,
    since_told_s,
)
from cluster.reclaiming import (  # type: ignore[import-not-found]  # noqa: E402
    PARTS,
    WORKERS,
    Part,
    Row,
    cases,
    run_part,
)
from cluster.rig import Cluster  # type: ignore[import-not-found]  # noqa: E402

PASSES = [  # over all parts: what is stopped early has something of each
    {"plain": 1, "idle": 2, "busy": 1, "stubborn": 1},
    {"plain": 1, "idle": 4, "busy": 1, "stubborn": 1},
]
QUICK = [{"plain": 1, "idle": 1, "busy": 1, "stubborn": 0}]
COMMAND = "make bench-reclaim"


def main() -> int:
    """Measure what is not there yet; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path)
    parser.add_argument("--quick", action="store_true", help="does it work? no figure to quote")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no job after so long [no limit]")
    parser.add_argument("--write", action="store_true", help="measure nothing more: write what there is")
    asked = parser.parse_args()
    until_s = time.monotonic() + asked.seconds
    kept = records.ROOT / ".cache" / "reclaim" / f"{datetime.date.today().isoformat()}.jsonl"
    into = records.directory("reclaim", asked.quick, asked.into)
    if asked.quick:
        kept = into / "rows.jsonl"
        kept.unlink(missing_ok=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    steps = [
        (part, rounds) for rounds in (QUICK if asked.quick else PASSES) for part in PARTS[: 1 if asked.quick else None]
    ]
    if not asked.write and not all(_measure(part, rounds, kept, until_s) for part, rounds in steps):
        print(f"time is up: {len(_rows(kept))} rows in {kept}; the same command goes on")
        return 0
    return _write(_rows(kept), kept, into)


def _measure(part: Part, rounds: dict[str, int], kept: Path, until_s: float) -> bool:
    """Measure a part, but for what is in `kept`; False if time was up before its end."""
    done = {row.case for row in _rows(kept)}
    blocks = [[case for case in block if case not in done] for block in cases(part, **rounds)]
    if not any(blocks):
        return True
    if time.monotonic() > until_s:
        return False
    print(f"{part}: {sum(map(len, blocks))} measurements", flush=True)
    with kept.open("a") as file, _cluster(part) as cluster:

        def add(row: Row) -> None:
            file.write(row.as_json() + "\n")
            file.flush()
            case, said = row.case, row.failed or f"{row.delay_s:.3f} s, told after {row.told_s:.3f} s"
            print(f"  {case.load} {case.workers} {case.how} {case.size}: {said} {row.unwell}", flush=True)

        users = cluster.user("alice"), cluster.user("bob")
        return bool(run_part(part, blocks, cluster, users, build_probe(cluster), add, until_s))


@contextmanager
def _cluster(part: Part) -> Iterator[Cluster]:
    """A cluster with hooks, rfaas on it."""
    folder = Path(tempfile.mkdtemp(prefix="rfaas-reclaim-", dir="/var/tmp"))
    folder.chmod(0o755)
    cluster = Cluster("reclaim")
    try:
        hook = build_hook(folder / "rfaas-hook", CONF)
        cluster.start(part.settings(str(hook)), with_starter=True)
        clear(cluster)
        cluster.install_wheel()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)


def _rows(kept: Path) -> list[Row]:
    """What was measured before; a line that was cut off is measured again."""
    found = []
    for line in kept.read_text().splitlines() if kept.exists() else ():
        try:
            found.append(Row.of_json(line))
        except (ValueError, TypeError, KeyError):
            continue
    return found


# --- what is written --------------------------------------------------------------------------------------------------


def _write(rows: list[Row], kept: Path, into: Path) -> int:
    about = records.about(COMMAND)
    found = goals(rows)
    text = "\n".join([*_head(about, rows), "", *_goal_table(found), "", *_by_workers(rows), "", *_by_kind(rows)]) + "\n"
    (into / "reclaim.md").write_text(text)
    lines = [json.dumps({**about, "goals": found}), *(row.as_json() for row in rows)]
    (into / "reclaim.jsonl").write_text("\n".join(lines) + "\n")
    print(text + f"\n{kept} -> {into}/reclaim.md")
    return 0 if all(goal["met"] for goal in found) else 1


def _head(about: dict[str, Any], rows: list[Row]) -> list[str]:
    machine = about["machine"]
    n_floor = sum(row.case.load == "floor" for row in rows)
    n_rigid = sum(row.case.load == "rfaas" for row in rows)
    return [
        f"# How long rigid jobs wait for harvested nodes, {about['date']}",
        "",
        f"`{about['command']}`; {machine['cpu']}, {machine['cpus']} CPUs, Linux {machine['kernel']}. Slurm and nodes:",
        "`tests/cluster/rig`, 2 nodes of 1 core, or 1 of 2 cores.",
        f"{n_rigid} rigid jobs beside rfaas, {n_floor} beside the floor (harvest",
        "steps that exit at once on SIGTERM, the same slices), by turns. A delay lasts from the start of srun, sbatch",
        "or salloc to the job's first instruction on its first node; salloc of Slurm 22.05 looks every 3 s whether the",
        "Prolog of its nodes has ended, with and without a harvest. Batch jobs come at moments spread over slurmctld's",
        "turn (1 s; `batch_sched_delay`, 3 s, by default), the same ones beside the floor and beside idle workers:",
        f"{sum(map(len, paired(rows).values()))} pairs of jobs are compared in the first two goals.",
    ]


def _goal_table(found: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| goal | at most | measured | 95 of 100 repetitions between | met |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for goal in found:
        unit = f" {goal['unit']}" if goal["unit"] else ""
        met = "yes" if goal["met"] else "**no**"
        between = " and ".join(f"{value:+.3f}" for value in goal.get("between", ()))
        lines.append(f"| {goal['goal']} | {goal['most']:g}{unit} | {goal['value']:g}{unit} | {between} | {met} |")
    return lines


def _by_workers(rows: list[Row]) -> list[str]:
    """Delays over the floor's median among jobs that are alike, whole and from the signal on."""
    head = ["| beside | jobs | median | p90 | p99 | worst |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    alike = (
        "less the floor's median among jobs that are alike (scheduler, GraceTime, shape, command, size), in seconds:"
    )
    return [
        f"Delays, {alike}",
        "",
        *head,
        *_lines_over(by_workers(rows)),
        "",
        "The same from the last slice's SIGTERM on. What comes before it is slurmctld's, which looks at batch jobs",
        "every some seconds by default (`batch_sched_delay`), and depends on when it looked last:",
        "",
        *head,
        *_lines_over(by_workers([row for row in rows if row.case.load != "plain"], since_told_s)),
    ]


def _lines_over(over: dict[str, list[float]]) -> list[str]:
    lines = []
    names = {"plain": "no harvest", "floor": "the floor", **{name: f"rfaas, {name} workers" for name in WORKERS}}
    for name, words in names.items():
        if name in over:
            values = [statistics.median(over[name]), *(percentile(over[name], n) for n in (90, 99, 100))]
            lines.append(f"| {words} | {len(over[name])} | " + " | ".join(f"{value:+.3f}" for value in values) + " |")
    return lines


def _by_kind(rows: list[Row]) -> list[str]:
    """Medians and the worst, as they were, for each kind of job."""
    lines = [
        "Delays as they were, in seconds: median (worst)",
        "",
        "| scheduler | GraceTime | job | no harvest | the floor | idle | busy | stubborn |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    cells: dict[tuple[str, int, str], dict[str, list[float]]] = {}
    for row in rows:
        case = row.case
        if not row.failed:
            kind = case.part.scheduler, case.part.grace_s, f"{case.how}, {case.size}"
            name = case.workers if case.load == "rfaas" else case.load
            cells.setdefault(kind, {}).setdefault(name, []).append(row.delay_s)
    for (scheduler, grace_s, words), by_name in cells.items():
        shown = []
        for name in ("plain", "floor", *WORKERS):
            values = by_name.get(name)
            shown.append(f"{statistics.median(values):.2f} ({max(values):.2f})" if values else "")
        lines.append(f"| {scheduler} | {grace_s} | {words} | " + " | ".join(shown) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
