"""Figures of one cell of `colocation.py`, and the report of all of them: colocation.md, by no hand but its comments."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from colocation_rig import Cell, Stamps, Timing

SKIP_S = 0.1  # of the beginning of each block: caches fill, workers wake
GOALS = {"median_slowdown": ("median", 0.03), "p99_slowdown": ("99th percentile", 0.10)}
ENOUGH = 1000  # iterations of each sort, for a 99th percentile
RESAMPLED = 500
NAMES = {
    "jacobi": "Jacobi, 642 x 642",
    "lammps": "LAMMPS, Lennard-Jones, 6912 atoms",
    "hpcc": "HPCC, all parts at N = 400",
    "numpy": "dense products, 160 x 160",
}
Lengths = list[npt.NDArray[np.float64]]


def figures(cell: Cell) -> dict[str, Any]:
    """Iterations beside functions over those between them, and what the functions lose. Raises ValueError: too few."""
    beside, between = _lengths(cell.stamps, cell.beside), _lengths(cell.stamps, cell.between)
    all_beside, all_between = np.concatenate(beside), np.concatenate(between)
    if not len(all_beside) or not len(all_between):
        raise ValueError(f"no iteration lies within a block: {len(cell.stamps)} in all")
    return {
        "blocks": len(beside),
        "iterations": [len(all_between), len(all_beside)],
        "alone_ms": float(np.median(all_between) * 1e3),
        "median_slowdown": _over(all_beside, all_between, 50),
        "median_between": _resampled(beside, between, 50),
        "p99_slowdown": _over(all_beside, all_between, 99),
        "p99_between": _resampled(beside, between, 99),
        "p99_alone_over_median": float(np.percentile(all_between, 99) / np.median(all_between)),
        "mean_slowdown": float(np.mean(all_beside) / np.mean(all_between) - 1.0),
        "functions_lose": float(1.0 - np.median(cell.beside_work) / np.median(cell.alone_work)),
        "cpus": cell.cpus,
        "verdicts": cell.verdicts,
    }


def _lengths(stamps: Stamps, blocks: list[tuple[float, float]]) -> Lengths:
    """Of the iterations that lie wholly in each block."""
    found = []
    for begin_s, end_s in blocks:
        inside = (stamps[:, 0] >= begin_s + SKIP_S) & (stamps[:, 1] <= end_s)
        found.append(stamps[inside, 1] - stamps[inside, 0])
    return found


def _over(beside: npt.NDArray[np.float64], between: npt.NDArray[np.float64], percent: float) -> float:
    return float(np.percentile(beside, percent) / np.percentile(between, percent) - 1.0)


def _resampled(beside: Lengths, between: Lengths, percent: float) -> list[float]:
    """Nine of ten slowdowns lie between these where pairs of blocks are drawn anew: blocks differ, iterations don't."""
    random, n = np.random.default_rng(1), len(beside)
    drawn = []
    for _ in range(RESAMPLED):
        chosen = random.integers(0, n, n)
        one, other = (np.concatenate([blocks[i] for i in chosen]) for blocks in (beside, between))
        if len(one) and len(other):
            drawn.append(_over(one, other, percent))
    return [float(np.percentile(drawn, q)) for q in (5, 95)]


# --- what is written --------------------------------------------------------------------------------------------------


def report(
    rows: list[dict[str, Any]], missing: list[str], about: dict[str, Any], timings: dict[str, Timing], comments: str
) -> str:
    """The whole of colocation.md; rows by cell, in order."""
    return "\n\n".join(
        filter(None, [_head(rows, about, timings), _goals(rows), _table(rows), _marginal(rows, missing), comments])
    )


def _head(rows: list[dict[str, Any]], about: dict[str, Any], timings: dict[str, Timing]) -> str:
    machine, one, other = about["machine"], timings["jacobi"], timings["hpcc"]
    cpus = rows[0]["cpus"] if rows else {}
    where = ", ".join(f"{what}: CPU {','.join(map(str, those))}" for what, those in cpus.items())
    return f"""\
# Rigid codes beside functions, {about["date"]}

`{about["command"]}`; {machine["cpu"]}, {machine["cpus"]} CPUs, Linux {machine["kernel"]}; {about["slurm"]}.

- A node of `tests/cluster/rig` with two cores, each job kept to its own by a cpuset of Slurm's (ConstrainCores).
  The rigid code is a step (srun) of bob's batch job on one core; the other is harvested by alice's
  `rfaas up --slurm`: her slice is a job of the preemptible partition, its agent has the guard. {where}.
- All else (slurmctld, slurmd, munged, allocator, harvester, the program that calls) is moved to the functions'
  core. The job's own slurmstepd, its srun and batch script are on its core, as on any node.
- Jacobi and the dense products mark their iterations; for LAMMPS and HPCC the reader of their lines does, within
  the job, on its core. The guard reads marks in the node's /dev/shm and the run queue of the job's tasks by their
  cgroup; its bounds are the defaults (3 % of the median, 10 % of the 99th percentile). It may throttle, not move:
  there is no other node.
- {one.n_blocks} blocks of {one.block_s} s with functions and as many without, by turns, of one run of the code
  (HPCC: {other.n_blocks} of {other.block_s} s); the first {SKIP_S} s of each are left out, and an iteration counts
  for the block that it lies wholly in. Where the guard acts, functions run {one.settle_s:g} s before the first
  block; it is not told of blocks. Its probes hold functions also within blocks that count as beside: so in use.
- Beside them the slowdowns that 90 of 100 draws of these blocks give. An iteration of HPCC is a whole run of all
  its parts: as many as fit, too few for a 99th percentile (it is the slowest run, nearly).
- "Functions lose": work a second in blocks beside the running code, against {one.n_alone} blocks before it began to
  iterate."""


def _goals(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| goal | at most | guard off: met in | guard on: met in | worst with the guard |",
        "| --- | ---: | --- | --- | --- |",
    ]
    for key, (name, bound) in GOALS.items():
        met = {}
        counted = [row for row in rows if key != "p99_slowdown" or min(row["iterations"]) >= ENOUGH]
        for arm in ("off", "on"):
            those = [row for row in counted if row["cell"].endswith(f" {arm}")]
            met[arm] = f"{sum(row[key] <= bound for row in those)} of {len(those)}"
        guarded = [row for row in counted if row["cell"].endswith(" on")]
        worst = max(guarded, key=lambda row: float(row[key]), default=None)
        shown = f"{worst[key]:+.1%} ({worst['cell'].removesuffix(' on')})" if worst else ""
        lines.append(f"| rigid code's {name} | {bound:.0%} | {met['off']} | {met['on']} | {shown} |")
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| rigid code | functions | guard | iterations alone / beside | median alone, ms | median | p99 "
        "| p99 alone / median | mean | functions lose | guard at the end |",
        "| --- | --- | --- | ---: | ---: | --- | --- | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        code, load, arm = row["cell"].split()
        n_between, n_beside = row["iterations"]
        words = []
        for key, short in (("median_slowdown", "median"), ("p99_slowdown", "p99")):
            low, high = row[f"{short}_between"]
            missed = "**" if row[key] > GOALS[key][1] else ""
            words.append(f"{missed}{row[key]:+.1%}{missed} ({low:+.1%} to {high:+.1%})")
        lines.append(
            f"| {NAMES[code]} | {load} | {arm} | {n_between} / {n_beside} | {row['alone_ms']:.2f} "
            f"| {' | '.join(words)} | {row['p99_alone_over_median']:.2f} "
            f"| {row['mean_slowdown']:+.1%} | {row['functions_lose']:+.0%} "
            f"| {row['verdicts'][-1] if row['verdicts'] else '-'} |"
        )
    return "\n".join(lines) + "\n\nBold: beyond the goal."


def _marginal(rows: list[dict[str, Any]], missing: list[str]) -> str:
    """What a reader has to know before believing a line."""
    lines = []
    few = [row["cell"] for row in rows if min(row["iterations"]) < ENOUGH]
    if few:
        lines.append(
            f"Fewer than {ENOUGH} iterations of a sort, not counted for the 99th percentile: {', '.join(few)}."
        )
    if rows:
        stolen = max(rows, key=lambda row: float(row["steal"]))
        lines.append(f"Most that the hypervisor took of the CPUs in a cell: {stolen['steal']:.1%} ({stolen['cell']}).")
    if missing:
        lines.append(f"Not measured yet: {', '.join(missing)}.")
    said = [f"- {row['cell']}: {'; '.join(row['verdicts'])}" for row in rows if row["verdicts"]]
    if said:
        lines.append("What the guard said, in order, from its first word on:\n\n" + "\n".join(said))
    return "\n\n".join(lines)
