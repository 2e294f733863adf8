"""Temperature of a heated plate by Jacobi's method: an ordinary MPI job, the kind that owns the nodes rfaas borrows.

    python examples/04_jacobi_mpi.py                                      # one rank
    mpirun -n 4 python examples/04_jacobi_mpi.py                          # this machine
    srun -N 2 -n 8 --mpi=pmix python examples/04_jacobi_mpi.py --size 256 # a Slurm cluster

It knows nothing of rfaas. Each rank owns a band of rows and swaps its outer rows with its neighbours in every sweep
(Sendrecv), so all ranks wait for the slowest: a job like this feels at once whatever disturbs one of its cores.

With more ranks than cores, set OMPI_MCA_mpi_yield_when_idle=1: a waiting rank of Open MPI otherwise keeps a core
that another rank needs. As root, mpirun also wants --allow-run-as-root, and --oversubscribe for more ranks than cores.

The plate is the unit square; its top edge has temperature sin(pi x), the others zero. Checks, on the whole plate:
1. the last sweep changed no point by more than --tolerance;
2. the field is the one that exactly so many sweeps must give, which is known in closed form. Neither a wrong nor a
   late halo can pass this;
3. the field is the known solution sin(pi x) sinh(pi y) / sinh(pi), as closely as grid and tolerance allow.
Exit status 1 if any fails. Every line begins with CLOCK_BOOTTIME in seconds, which is the same on all of a machine.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

try:
    import numpy as np
    import numpy.typing as npt
    from mpi4py import MPI
except (ModuleNotFoundError, RuntimeError) as missing:  # RuntimeError: mpi4py finds no MPI library
    sys.exit(f"this example needs MPI ({missing}): pip install '.[demo,mpi]' and an MPI library, e.g. libopenmpi3")

Field = npt.NDArray[np.float64]
SWEEPS_BETWEEN_CHECKS = 100  # asking all ranks costs about as much as a sweep, so it is done now and then


@dataclass(frozen=True)
class Rank:
    """What one rank did, written by --record so that a timeline can be drawn from it."""

    rank: int
    node: str
    cpus: list[int]
    t0_s: float
    t1_s: float


def now_s() -> float:
    """Seconds on the clock that all processes of a machine share and that runs on while it is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def process_start_s() -> float:
    """When this process began, on the same clock, to a hundredth: the imports and MPI's start are part of the job."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def say(comm: MPI.Comm, text: str) -> None:
    """Print a line with its time, once for all ranks."""
    if comm.rank == 0:
        print(f"[{now_s():.3f}] {text}", flush=True)


def heated_edge(size: int) -> Field:
    """Temperature along the top edge, corners included: shape (size + 2,)."""
    return np.sin(np.pi * np.linspace(0.0, 1.0, size + 2))


def my_rows(comm: MPI.Comm, size: int) -> int:
    """How many of the plate's rows this rank owns; the first ranks take one more where it doesn't divide."""
    return size // comm.size + (comm.rank < size % comm.size)


def swap_halos(comm: MPI.Comm, band: Field) -> None:
    """Send the outermost own rows to the neighbours and receive theirs; the plate's own edges stay as they are."""
    below = comm.rank - 1 if comm.rank > 0 else MPI.PROC_NULL
    above = comm.rank + 1 if comm.rank < comm.size - 1 else MPI.PROC_NULL
    comm.Sendrecv(band[-2], dest=above, recvbuf=band[0], source=below)
    comm.Sendrecv(band[1], dest=below, recvbuf=band[-1], source=above)


def sweep(old: Field, new: Field) -> None:
    """Replace every inner point by the mean of its four neighbours."""
    inner = new[1:-1, 1:-1]
    np.add(old[:-2, 1:-1], old[2:, 1:-1], out=inner)
    inner += old[1:-1, :-2]
    inner += old[1:-1, 2:]
    inner *= 0.25


def solve(comm: MPI.Comm, args: argparse.Namespace) -> tuple[Field, int, float]:
    """Sweep until converged and at least `args.seconds` have passed, or to `args.max_sweeps`.

    Returns this rank's own rows, the number of sweeps, and the largest change of any point in the last one.
    """
    old = np.zeros((my_rows(comm, args.size) + 2, args.size + 2))
    if comm.rank == comm.size - 1:
        old[-1] = heated_edge(args.size)
    new = old.copy()
    started_s = reported_s = now_s()
    sweeps, residual, done = 0, np.inf, False
    while not done:
        for _ in range(min(SWEEPS_BETWEEN_CHECKS, args.max_sweeps - sweeps)):
            swap_halos(comm, old)
            sweep(old, new)
            old, new = new, old
            sweeps += 1
        residual = comm.allreduce(float(np.max(np.abs(old[1:-1] - new[1:-1]), initial=0.0)), MPI.MAX)
        elapsed_s = comm.bcast(now_s() - started_s)  # one rank's clock decides, or some would stop and others wait
        done = sweeps >= args.max_sweeps or (residual <= args.tolerance and elapsed_s >= args.seconds)
        if comm.rank == 0 and now_s() - reported_s >= args.report_every:
            reported_s = now_s()
            say(comm, f"sweep {sweeps}: residual {residual:.2e}")
    return old[1:-1], sweeps, residual


def predicted(size: int, sweeps: int) -> Field:
    """The field after exactly `sweeps` sweeps from zero, in closed form: shape (size, size + 2).

    Sines are the eigenvectors of a sweep. Along x only sin(pi x) is present. Along y, what is missing to the limit
    shrinks in every sweep, each of its sines at its own rate.
    """
    spacing = 1.0 / (size + 1)
    i = np.arange(1, size + 1)
    growth = np.arccosh(2.0 - np.cos(np.pi * spacing))
    limit = np.sinh(growth * i) / np.sinh(growth * (size + 1))
    sines = np.sqrt(2.0 * spacing) * np.sin(np.pi * spacing * np.outer(i, i))
    rates = 0.5 * (np.cos(np.pi * spacing) + np.cos(np.pi * spacing * i))
    column = limit - sines @ (rates**sweeps * (sines @ limit))
    return np.outer(column, heated_edge(size))


def problems(field: Field, sweeps: int, residual: float, tolerance: float) -> list[str]:
    """Every check of the whole plate that fails, in words; prints nothing."""
    size = len(field)
    spacing = 1.0 / (size + 1)
    found = []
    if not residual <= tolerance:
        found.append(f"after {sweeps} sweeps the residual is {residual:.2e}, above {tolerance:.2e}")
    from_prediction = float(np.max(np.abs(field - predicted(size, sweeps))))
    if not from_prediction <= 1e-15 / spacing**2:  # rounding: an error made in one sweep decays over 1 / spacing**2
        found.append(f"the field differs by {from_prediction:.2e} from what {sweeps} sweeps must give")
    x, y = np.linspace(0.0, 1.0, size + 2), np.linspace(0.0, 1.0, size + 2)[1:-1]
    exact = np.outer(np.sinh(np.pi * y) / np.sinh(np.pi), np.sin(np.pi * x))
    error = float(np.max(np.abs(field - exact)))
    # Grid: less than spacing squared. Stopping early: the maximum principle bounds the inverse of a sweep's operator.
    bound = spacing**2 + residual / (2 * spacing**2)
    if not error <= bound:
        found.append(f"the field differs by {error:.2e} from the known solution; {bound:.2e} is allowed")
    return found


def parse_arguments() -> argparse.Namespace:
    """Read the command line; every rank does so for itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96, help="inner points along each side (default: %(default)s)")
    parser.add_argument("--tolerance", type=float, default=1e-9, help="largest last change (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.0, help="go on at least so long (default: %(default)s)")
    parser.add_argument(
        "--max-sweeps", type=int, default=10_000_000, help="give up after so many (default: %(default)s)"
    )
    parser.add_argument("--report-every", type=float, default=1.0, help="seconds between lines (default: %(default)s)")
    parser.add_argument("--record", type=Path, help="write what each rank did, as JSON, to this file")
    return parser.parse_args()


def main() -> int:
    """Solve, check, report; returns the exit status, the same on every rank."""
    args = parse_arguments()
    comm = MPI.COMM_WORLD
    if args.size < comm.size:
        say(comm, f"{args.size} rows are too few for {comm.size} ranks")
        return 2
    nodes = comm.gather(socket.gethostname())
    if nodes is not None:
        say(comm, f"{comm.size} ranks on {len(set(nodes))} nodes, {args.size} x {args.size} points")
    rows, sweeps, residual = solve(comm, args)
    cpus = sorted(os.sched_getaffinity(0))
    ranks = comm.gather(Rank(comm.rank, socket.gethostname(), cpus, process_start_s(), now_s()))
    bands = comm.gather(rows)
    found: list[str] = []
    if bands is not None and ranks is not None:
        found = problems(np.concatenate(bands), sweeps, residual, args.tolerance)
        say(comm, f"{'wrong' if found else 'right'} after {sweeps} sweeps: residual {residual:.2e}")
        for problem in found:
            print(f"wrong: {problem}", file=sys.stderr)
        if args.record:
            args.record.write_text(json.dumps([asdict(rank) for rank in ranks]))
    return int(comm.bcast(1 if found else 0))


if __name__ == "__main__":
    sys.exit(main())
