"""A rigid code beside functions, one core each: `make bench-colocation`. What either loses, with the guard and without.

Usage: python benchmarks/colocation.py [--into DIRECTORY] [--quick] [--seconds S]

A cell is one rigid code, one kind of functions and one arm (guard off, guard on). In a cell the code runs through,
pinned to the first CPU; the slice (SCHED_IDLE, as a harvested one) has the second. Blocks alternate, 20 times and more:
functions, none. Each iteration counts for the block that it lies wholly in. The slowdown is that of iterations beside
functions over iterations between them, of the same run. In the guarded arm functions run 7 s before the first block;
the guard is not told of blocks. Work of the functions is compared with blocks of theirs before the rigid code began.

Resumable: each cell is a line of colocation.jsonl, measured ones are left out; `--seconds` begins no cell that would go
beyond. Goal: the rigid code's median at most 3 % slower, its 99th percentile at most 10 %.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import records

import rfaas

HERE = Path(__file__).resolve().parent
CODES = ("jacobi", "lammps", "numpy", "hpcc")
LOADS = ("memory", "compute", "io")
ARMS = ("off", "on")
BLOCK_S, SKIP_S, SETTLE_S = 0.6, 0.1, 7.0
BLOCKS = 20  # of each sort
HPCC_BLOCK_S = 2.0  # an iteration of hpcc is a whole run of all its parts, half a second
PROGRAMS = {"lammps": "lmp", "hpcc": "hpcc"}  # that a code needs
HPCC_INPUT = Path("/usr/share/doc/hpcc/examples/_hpccinf.txt")
HPCC_LINES = {5: "800 Ns", 7: "80 NBs", 10: "1 Ps", 11: "1 Qs"}  # of its own input, for one rank
Stamps = npt.NDArray[np.float64]

MELT = """\
units lj
atom_style atomic
lattice fcc 0.8442
region box block 0 12 0 12 0 12
create_box 1 box
create_atoms 1 box
mass 1 1.0
velocity all create 1.44 87287
pair_style lj/cut 2.5
pair_coeff 1 1 1.0 1.0 2.5
neighbor 0.3 bin
neigh_modify delay 0 every 20 check no
fix 1 all nve
thermo 1
thermo_style custom step cpu
thermo_modify flush yes format 2 %.9f
run 1000000
"""
"""LAMMPS' own Lennard-Jones benchmark, on 6912 atoms."""


def work(load: str, seconds: float, folder: str) -> int:
    """What a function does for so long: units of work done. Sent by value; imports on the worker."""
    import os
    import time

    import numpy as np

    until_s, units = time.monotonic() + seconds, 0
    small = np.random.default_rng(1).random((96, 96))
    large = np.zeros(8 << 20) if load == "memory" else small
    path = os.path.join(folder, "io")
    while time.monotonic() < until_s:
        if load == "compute":
            np.dot(small, small)
        elif load == "memory":
            part = large[(units % 8) << 20 :][: 1 << 20]
            np.add(part, 1.0, out=part)
        else:
            with open(path, "wb") as file:
                file.write(bytes(1 << 20))
                file.flush()
                os.fsync(file.fileno())
        units += 1
    return units


class Rigid:
    """A rigid code that runs on the first CPU."""

    def __init__(self, code: str, folder: Path) -> None:
        self._code, self._out = code, folder / "rigid.npy"
        self._lines: list[tuple[float, float]] = []  # LAMMPS: its own clock, ours
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        pinned = ["taskset", "-c", str(cpus()[0])]
        self._speaks = code in PROGRAMS
        if code == "hpcc":
            lines = HPCC_INPUT.read_text().splitlines()
            (folder / "hpccinf.txt").write_text(
                "\n".join(HPCC_LINES.get(n, line) for n, line in enumerate(lines)) + "\n"
            )
            environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
            command = [*pinned, "sh", "-c", "while rm -f hpccoutf.txt && hpcc > /dev/null; do echo 1 0; done"]
        elif code == "lammps":
            (folder / "in.melt").write_text(MELT)
            command = [*pinned, "lmp", "-in", str(folder / "in.melt"), "-log", "none"]
        else:
            command = [*pinned, sys.executable, str(HERE / "colocation_rigid.py"), code, str(self._out)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        """LAMMPS and HPCC mark nothing: who reads their lines does it in their place, as a job script can."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            fields = line.split()
            if self._speaks and len(fields) == 2 and fields[0].isdigit():
                rfaas.mark()
                self._lines.append((float(fields[1]), time.monotonic()))

    def end(self) -> Stamps:
        """Stop it: begin and end of each iteration, in seconds of CLOCK_MONOTONIC."""
        assert self._process.stdin is not None
        if self._speaks:
            os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.stdin.write("end\n")
            self._process.stdin.flush()
        self._process.wait(30)
        self._reader.join(30)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        if not self._speaks:
            found: Stamps = np.load(self._out)
            return found
        theirs, ours = np.array(self._lines[1:]).T
        if self._code == "hpcc":
            return np.column_stack([ours[:-1], ours[1:]])
        ends = theirs + np.min(ours - theirs)
        return np.column_stack([ends[:-1], ends[1:]])


ALL_CPUS = sorted(os.sched_getaffinity(0))


def cpus() -> list[int]:
    """The CPUs that this process was given: it keeps to the last of them, with all but the rigid code."""
    return ALL_CPUS


@contextmanager
def slice_of(folder: Path, arm: str) -> Iterator[Path]:
    """Allocator and one agent on the second CPU: the state directory."""
    state = folder / "state"
    environment = {
        **os.environ,
        "RFAAS_GUARD_ACT": "off" if arm == "off" else "throttle",
        "RFAAS_GUARD_MARKS_DIR": str(folder / "marks"),
        "RFAAS_EVENT_LOG": str(folder / "events"),
    }
    allocator = subprocess.Popen(
        [sys.executable, "-m", "rfaas_allocator", "--state-dir", str(state)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    while not (state / "allocator.json").exists():
        time.sleep(0.05)
        if allocator.poll() is not None:
            raise RuntimeError("the allocator did not start")
    agent = subprocess.Popen(
        [
            *("taskset", "-c", str(cpus()[-1]), sys.executable, "-m", "rfaas_executors", "--state-dir", str(state)),
            *("--cores", "1", "--memory-bytes", str(1 << 30), "--sched", "idle", "--node", "here"),
        ],
        env=environment,
    )
    try:
        yield state
    finally:
        for process in (agent, allocator):
            process.terminate()
        for process in (agent, allocator):
            process.wait(20)


def measured(code: str, load: str, arm: str, n_blocks: int, settle_s: float) -> dict[str, Any]:
    """One cell."""
    block_s = HPCC_BLOCK_S if code == "hpcc" else BLOCK_S
    folder = Path(tempfile.mkdtemp(prefix="colocation-", dir="/var/tmp"))
    (folder / "marks").mkdir()
    os.environ["RFAAS_GUARD_MARKS_DIR"] = str(folder / "marks")
    try:
        with (
            slice_of(folder, arm) as state,
            rfaas.Executor(1, allocator=state, memory="256MiB", load=load, hot_for_s=0) as ex,  # type: ignore[arg-type]
        ):
            ex.submit(work, load, 0.1, str(folder)).result(60)
            alone = [ex.submit(work, load, block_s, str(folder)).result(60) for _ in range(3)]
            rigid = Rigid(code, folder)
            time.sleep(1.5)
            if arm == "on":
                ex.submit(work, load, settle_s, str(folder)).result(120)
            blocks, beside_work = [], []
            for _ in range(n_blocks):
                begin_s = time.monotonic()
                beside_work.append(ex.submit(work, load, block_s, str(folder)).result(120))
                blocks.append((begin_s, time.monotonic(), True))
                time.sleep(block_s)
                blocks.append((blocks[-1][1], time.monotonic(), False))
            stamps = rigid.end()
        from rfaas._marking import end_marks

        end_marks()
        verdicts = said(folder / "events")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "cell": f"{code} {load} {arm}",
        "blocks": n_blocks,
        **compared(stamps, blocks),
        **{
            "functions_slowdown": float(np.median(alone) / max(1e-9, np.median(beside_work)) - 1.0),
            "verdicts": verdicts,
        },
    }


def said(folder: Path) -> list[str]:
    """What the guard did, in order, and when, from its first word on (the rigid code is there)."""
    found: list[str] = []
    began_ns = 0
    for path in folder.glob("agent-*.jsonl"):
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if event["ev"] == "neighbours":
                began_ns = began_ns or event["t_boot_ns"]
                after_s = (event["t_boot_ns"] - began_ns) / 1e9
                found.append(f"{event['verdict']} {event['share']:.2f} after {after_s:.1f} s")
    return found


def compared(stamps: Stamps, blocks: list[tuple[float, float, bool]]) -> dict[str, Any]:
    """Iterations beside functions and between them; of each block, the first tenth of a second is left out."""
    lengths: dict[bool, list[Stamps]] = {True: [], False: []}
    for begin_s, end_s, beside in blocks:
        inside = (stamps[:, 0] >= begin_s + SKIP_S) & (stamps[:, 1] <= end_s)
        lengths[beside].append(stamps[inside, 1] - stamps[inside, 0])
    medians = {kind: np.array([np.median(one) for one in some if len(one)]) for kind, some in lengths.items()}
    those_beside, those_alone = np.concatenate(lengths[True]), np.concatenate(lengths[False])
    ratios = medians[True][: len(medians[False])] / medians[False][: len(medians[True])] - 1.0
    return {
        "iterations": [len(those_alone), len(those_beside)],
        "alone_ms": float(np.median(those_alone) * 1e3),
        "median_slowdown": float(np.median(those_beside) / np.median(those_alone) - 1.0),
        "median_by_block": [float(np.percentile(ratios, q)) for q in (25, 50, 75)],
        "p99_slowdown": float(np.percentile(those_beside, 99) / np.percentile(those_alone, 99) - 1.0),
        "p99_alone_over_median": float(np.percentile(those_alone, 99) / np.median(those_alone)),
        "total_slowdown": float(np.mean(those_beside) / np.mean(those_alone) - 1.0),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "| rigid code | functions | guard | iterations alone / beside | median alone, ms | median "
        "| by block, p25 to p75 | p99 | mean | functions lose | guard at the end |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        code, load, arm = row["cell"].split()
        low, _, high = row["median_by_block"]
        n_alone, n_beside = row["iterations"]
        lines.append(
            f"| {code} | {load} | {arm} | {n_alone} / {n_beside} | {row['alone_ms']:.2f} "
            f"| {row['median_slowdown']:+.1%} "
            f"| {low:+.1%} to {high:+.1%} | {row['p99_slowdown']:+.1%} | {row['total_slowdown']:+.1%} "
            f"| {row['functions_slowdown']:+.0%} | {row['verdicts'][-1] if row['verdicts'] else 'off'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what was not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path)
    parser.add_argument("--quick", action="store_true", help="does it work? no figure to quote")
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no cell that would end later")
    asked = parser.parse_args()
    began_s = time.monotonic()
    if len(cpus()) < 2:
        raise SystemExit("two CPUs are needed: one for the rigid code, one for the functions")
    os.sched_setaffinity(0, {cpus()[-1]})  # the program that calls is mostly on another node
    into = records.directory("colocation", asked.quick, asked.into)
    path = into / "colocation.jsonl"
    rows = {row["cell"]: row for row in map(json.loads, path.read_text().splitlines() if path.exists() else ())}
    codes = [code for code in CODES if shutil.which(PROGRAMS.get(code, "sh"))]
    cells = [f"{code} {load} {arm}" for load in LOADS for code in codes for arm in ARMS]
    n_blocks, settle_s = (2, 1.5) if asked.quick else (BLOCKS, SETTLE_S)
    for cell in cells[1:2] if asked.quick else cells:
        code, load, arm = cell.split()
        cell_s = 2 * n_blocks * (HPCC_BLOCK_S if code == "hpcc" else BLOCK_S) + settle_s + 6
        if cell in rows or time.monotonic() - began_s + cell_s > asked.seconds:
            continue
        cell_began_s = time.monotonic()
        row = measured(code, load, arm, n_blocks, settle_s)
        took = {"at": time.strftime("%Y-%m-%d %H:%M"), "took_s": round(time.monotonic() - cell_began_s, 1)}
        rows[cell] = {**row, **took}
        print(json.dumps(rows[cell]), flush=True)
        records.add(path, rows[cell])
    done = [rows[cell] for cell in cells if cell in rows]
    about = records.about("make bench-colocation")
    text = f"# Rigid codes beside functions\n\n{json.dumps(about)}\n\n{table(done)}"
    (into / "colocation-table.md").write_text(text)
    print(table(done))


if __name__ == "__main__":
    main()
