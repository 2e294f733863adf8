"""Temperature of a heated plate, by an MPI program that may lose its nodes at any time.

    python examples/09_elastic_jacobi.py                          # one rank
    mpirun -n 4 python examples/09_elastic_jacobi.py              # this machine
    sbatch --partition=PREEMPTIBLE examples/09_elastic_jacobi.sh  # a Slurm cluster, where jobs are taken back

The field is cut into blocks among however many ranks there are, and saved so that any other number can go on. SIGTERM
to any rank (what Slurm sends before it takes nodes back) has all ranks save, and end with status 75; started again, the
program goes on at the same sweep. kill -9 costs at most the sweeps since the last checkpoint (--every).

At the end it prints the hash of the whole field, which is the same, to the last bit, however often it was stopped and
with however many ranks it went on: each point's new value is computed from the same four numbers in the same order.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time

import numpy as np
import numpy.typing as npt

try:
    from mpi4py import MPI
except (ModuleNotFoundError, RuntimeError) as missing:  # RuntimeError: mpi4py finds no MPI library
    sys.exit(f"this example needs MPI ({missing}): pip install '.[demo,mpi]' and an MPI library, e.g. libopenmpi3")

from rfaas import elastic

Field = npt.NDArray[np.float64]


def first_guess(size: int, i: Field, j: Field) -> Field:
    """Cold, but for the upper edge."""
    return np.where(i == 0, np.sin(np.pi * j / (size - 1)), 0.0)


def sweep(field: elastic.BlockArray, new: Field) -> None:
    """Each own point inside the plate becomes the mean of its neighbours; `new` then is the field."""
    old = field.local
    here = field.inner(1)
    points = old[field.inner(1, shift=(-1, 0))] + old[field.inner(1, shift=(1, 0))]
    points += old[field.inner(1, shift=(0, -1))]
    points += old[field.inner(1, shift=(0, 1))]
    points *= 0.25
    new[here] = points


def parse_arguments() -> argparse.Namespace:
    """Read the command line; every rank does so for itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="points along each side (default: %(default)s)")
    parser.add_argument("--sweeps", type=int, default=2000, help="in all (default: %(default)s)")
    parser.add_argument("--checkpoints", default="checkpoints", help="their directory (default: %(default)s)")
    parser.add_argument("--every", type=int, help="sweeps between two checkpoints (default: by time)")
    parser.add_argument("--mtbf-s", type=float, default=6 * 3600.0, help="between losses without notice (%(default)s)")
    parser.add_argument("--split", type=int, choices=(1, 2), default=2, help="axes that are cut (default: %(default)s)")
    parser.add_argument("--pause-s", type=float, default=0.0, help="slower sweeps, to watch it (default: %(default)s)")
    parser.add_argument(
        "--witness", help="write the number of each sweep that was done to this file: what a kill costs"
    )
    return parser.parse_args()


def main() -> int:
    """Go on from where the last attempt stopped, to the end; returns the exit status."""
    asked = parse_arguments()
    comm = MPI.COMM_WORLD
    n_nodes = len(set(comm.allgather(MPI.Get_processor_name())))
    version = f"sweeps of {asked.size} points"  # another plate must not go on from these checkpoints
    run = elastic.Run("jacobi", asked.checkpoints, comm=comm, version=version, every=asked.every, mtbf_s=asked.mtbf_s)
    with run:
        field = run.array("field", (asked.size, asked.size), split=(0, 1)[: asked.split], halo=1)
        if not run.restore():
            field.fill(lambda i, j: first_guess(asked.size, i, j))
        if comm.rank == 0:
            print(f"{comm.size} ranks on {n_nodes} nodes go on at sweep {run.iteration}", flush=True)
        witness = os.open(asked.witness, os.O_WRONLY | os.O_CREAT) if asked.witness and comm.rank == 0 else None
        new = field.local.copy()  # the plate's edges stay as they are
        for number in run.iterations(until=asked.sweeps):
            field.exchange()
            sweep(field, new)
            field.local, new = new, field.local
            if asked.pause_s:
                time.sleep(asked.pause_s)
            if witness is not None:
                os.pwrite(witness, b"%20d\n" % (number + 1), 0)
        whole = field.gather()
        if whole is not None:
            print(f"{asked.sweeps} sweeps, hash {hashlib.sha256(whole.tobytes()).hexdigest()[:16]}", flush=True)
        run.discard()
    return 0


if __name__ == "__main__":
    sys.exit(main())
