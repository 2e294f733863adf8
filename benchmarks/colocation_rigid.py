"""A rigid code of `colocation.py`, as its job step runs it: marks each iteration, and says how long each took.

Usage: python colocation_rigid.py jacobi|numpy|lammps|hpcc FOLDER     (04_jacobi_mpi.py of examples/ lies beside it)

FOLDER/ready has the CPUs that it may use; it begins at FOLDER/go, says FOLDER/running at its tenth iteration, and ends
at FOLDER/end. FOLDER/rigid.npy: shape (iterations, 2), float64: begin and end of each in seconds of CLOCK_MONOTONIC.
LAMMPS and HPCC mark nothing: who reads their lines does it in their place, on their core, as a job script can.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

import rfaas

EXAMPLE = Path(__file__).resolve().with_name("04_jacobi_mpi.py")
SIZE = 640  # points a side: 2 x 3.3 MB, more than a core's own cache
KEPT = 1_000_000
RUNNING_AT = 10
HPCC_INPUT = Path("/usr/share/doc/hpcc/examples/_hpccinf.txt")
HPCC_LINES = {5: "400 Ns", 7: "80 NBs", 10: "1 Ps", 11: "1 Qs"}  # of its own input, for one rank
COMMANDS = {
    "lammps": ["lmp", "-in", "in.melt", "-log", "none"],
    "hpcc": ["sh", "-c", "while rm -f hpccoutf.txt && hpcc > /dev/null; do echo 1 0; done"],
}
LAUNCHERS = ("PMI", "SLURM", "OMPI")  # of their variables a program that runs by itself must see none
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


def jacobi() -> Callable[[], None]:
    """Sweeps of the example's plate, with its halo exchange (of one rank: with nobody)."""
    spec = importlib.util.spec_from_file_location("jacobi", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    sys.modules["jacobi"] = example  # its dataclass looks there
    spec.loader.exec_module(example)
    fields = [np.zeros((SIZE + 2, SIZE + 2)), np.zeros((SIZE + 2, SIZE + 2))]
    fields[0][-1] = fields[1][-1] = example.heated_edge(SIZE)

    def iteration() -> None:
        example.swap_halos(example.MPI.COMM_WORLD, fields[0])
        example.sweep(fields[0], fields[1])
        fields.reverse()

    return iteration


def dense() -> Callable[[], None]:
    """Products of matrices that fit a core's cache: compute-bound."""
    a = np.random.default_rng(1).random((160, 160))

    def iteration() -> None:
        np.dot(a, a)
        np.dot(a, a)
        np.dot(a, a)

    return iteration


def iterated(iteration: Callable[[], None], folder: Path) -> Stamps:
    """Iterate and mark until the end."""
    stamps = np.zeros((KEPT, 2))
    n, end_s = 0, time.monotonic()
    while n < KEPT and not (n % 16 == 0 and (folder / "end").exists()):
        begin_s = end_s
        iteration()
        rfaas.mark()
        end_s = time.monotonic()
        stamps[n] = begin_s, end_s
        n += 1
        if n == RUNNING_AT:
            (folder / "running").touch()
    return stamps[:n]


def read(code: str, folder: Path) -> Stamps:
    """Run a program that prints a line of two numbers an iteration, and mark in its place, until the end."""
    (folder / "in.melt").write_text(MELT)
    if code == "hpcc":
        lines = HPCC_INPUT.read_text().splitlines()
        (folder / "hpccinf.txt").write_text("\n".join(HPCC_LINES.get(n, line) for n, line in enumerate(lines)) + "\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    process = subprocess.Popen(
        COMMANDS[code], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    theirs, ours = [], []  # LAMMPS: its own clock, ours
    for line in process.stdout:
        fields = line.split()
        if len(fields) == 2 and fields[0].isdigit():
            rfaas.mark()
            theirs.append(float(fields[1]))
            ours.append(time.monotonic())
            if len(ours) == (2 if code == "hpcc" else RUNNING_AT):
                (folder / "running").touch()
            if (folder / "end").exists():
                os.killpg(process.pid, signal.SIGKILL)
                break
    process.wait(30)
    ends = np.array(ours[1:])
    if code == "lammps":
        own = np.array(theirs[1:])
        ends = own + np.min(ends - own)
    return np.column_stack([ends[:-1], ends[1:]])


def main() -> None:
    """Get ready, wait, run, record."""
    code, folder = sys.argv[1], Path(sys.argv[2])
    iteration = {"jacobi": jacobi, "numpy": dense}[code]() if code not in COMMANDS else None
    (folder / "ready.new").write_text(json.dumps(sorted(os.sched_getaffinity(0))))
    (folder / "ready.new").rename(folder / "ready")
    while not (folder / "go").exists():
        time.sleep(0.05)
    stamps = read(code, folder) if iteration is None else iterated(iteration, folder)
    np.save(folder / "new.npy", stamps)
    (folder / "new.npy").rename(folder / "rigid.npy")


if __name__ == "__main__":
    main()
