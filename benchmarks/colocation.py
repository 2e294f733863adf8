"""A rigid code beside functions, one core each, on a real Slurm: `make bench-colocation`. What either loses.

Usage: python benchmarks/colocation.py [--into DIRECTORY] [--quick] [--seconds S] [--only WORDS] [--write]      (root)

A cell is one rigid code, one kind of functions and one arm (guard off, guard on): a batch job on one core of a node of
tests/cluster/rig, a harvested slice on the other (`colocation_rig.py`). The job's code runs through; blocks alternate,
20 times and more: functions, none. The slowdown is that of iterations beside functions over those between them, of the
same run. Goal: the rigid code's median at most 3 % slower, its 99th percentile at most 10 %.

Resumable: each cell is a line of colocation.jsonl; measured ones are left out, failed ones are measured again.
--seconds begins no cell that would end later. colocation.md is written from the lines each time; what a person has to
say about them goes into colocation-comments.md beside it, and is put at its end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import colocation_report
import records
from colocation_rig import Timing, measured, site, slurm_version, steal_s

CODES = ("jacobi", "lammps", "hpcc", "numpy")
LOADS = ("memory", "compute", "io")
ARMS = ("off", "on")
CELLS = [f"{code} {load} {arm}" for code in CODES for load in LOADS for arm in ARMS]
TIMING = Timing(n_blocks=20, block_s=0.6, settle_s=7.0)
HPCC_TIMING = Timing(n_blocks=20, block_s=1.5, settle_s=7.0, n_alone=3)  # an iteration is a whole run: half a second
QUICK, QUICK_CELL = Timing(n_blocks=2, block_s=0.6, settle_s=1.5, n_alone=2), "jacobi memory on"
PROGRAMS = {"lammps": "lmp", "hpcc": "hpcc"}  # that a code needs
COMMAND = "make bench-colocation"


def main() -> int:
    """Measure what was not measured yet, and write the report; 1 if a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path)
    parser.add_argument("--quick", action="store_true", help="does it work? no figure to quote")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no cell that would end later")
    parser.add_argument("--only", default="", help="cells with all of these words, as in 'lammps on'")
    parser.add_argument("--write", action="store_true", help="measure nothing: write what there is")
    asked = parser.parse_args()
    until_s = time.monotonic() + asked.seconds
    about = {**records.about(COMMAND), "slurm": slurm_version()}  # now: it counts the CPUs that this process may use
    into = records.directory("colocation", asked.quick, asked.into)
    path = into / "colocation.jsonl"
    wanted = [QUICK_CELL] if asked.quick else [cell for cell in CELLS if set(asked.only.split()) <= set(cell.split())]
    todo = [] if asked.write else [cell for cell in wanted if cell not in _rows(path) and _can_run(cell)]
    failed = _measure(todo, path, until_s, quick=asked.quick) if todo else 0
    rows = _rows(path)
    comments = into / "colocation-comments.md"
    text = colocation_report.report(
        [rows[cell] for cell in CELLS if cell in rows],
        [cell for cell in CELLS if cell not in rows],
        about,
        {code: _timing(code, asked.quick) for code in CODES},
        comments.read_text().strip() if comments.exists() else "",
    )
    (into / "colocation.md").write_text(text + "\n")
    print(f"{len(rows)} of {len(CELLS)} cells: {into}/colocation.md")
    return 1 if failed else 0


def _measure(cells: list[str], path: Path, until_s: float, *, quick: bool) -> int:
    """Measure cells on one cluster while there is time; how many failed."""
    failed = 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the cluster goes, too
    with site() as cluster:
        for cell in cells:
            code, load, arm = cell.split()
            timing = _timing(code, quick)
            if time.monotonic() + timing.least_s > until_s:
                continue
            began_s, stolen_s = time.monotonic(), steal_s()
            row: dict[str, Any] = {"cell": cell, "at": time.strftime("%Y-%m-%d %H:%M")}
            try:
                row |= colocation_report.figures(measured(cluster, code, load, arm == "on", timing))
            except Exception as error:  # the cells after it are worth having
                row["error"] = f"{type(error).__name__}: {error}"
                failed += 1
            took_s = time.monotonic() - began_s
            row |= {"took_s": round(took_s, 1), "steal": round((steal_s() - stolen_s) / (2 * took_s), 4)}
            print(f"{cell}: ", end="", flush=True)
            records.add(path, row)
    return failed


def _timing(code: str, quick: bool) -> Timing:
    return QUICK if quick else HPCC_TIMING if code == "hpcc" else TIMING


def _can_run(cell: str) -> bool:
    program = PROGRAMS.get(cell.split()[0])
    if program and not shutil.which(program):
        print(f"{cell}: no {program} here: tools/apt-install.sh tools/apt-packages-colocation.txt", file=sys.stderr)
        return False
    return True


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    """What was measured before, the last of each cell; errors and a line that was cut off are measured again."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if "error" not in row and "cpus" in row:  # without: of a run outside of Slurm
            found[row["cell"]] = row
    return found


if __name__ == "__main__":
    sys.exit(main())
