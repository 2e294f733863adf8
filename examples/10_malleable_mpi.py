"""An MPI code whose parallelism follows its work and the cluster: ranks borrow workers for their heavy steps.

    mpiexec -n 2 python examples/10_malleable_mpi.py                   # this machine
    rfaas up --slurm; srun -n 4 --mpi=pmix python examples/10_malleable_mpi.py    # a Slurm cluster's idle cores

The number of ranks stays what it was at the start, as MPI wants it. What changes is how many workers each rank has
beside itself: it resizes its executor to the blocks of the coming step, gives every worker back when a step is light
enough to be done alone, and hears by callbacks what the cluster gives and takes. While workers are scarce a rank takes
calls back that were not sent yet and computes them itself, so it never waits for a cluster that has nothing to give.

As root, mpiexec also wants --allow-run-as-root, and --oversubscribe for more ranks than cores.

The work is an integral, pi by the area under 4 / (1 + x^2), in steps of very different size, as an adaptive mesh or a
particle code has them. Checks: the sum of all ranks is pi, and every block was counted once. Exit status 1 if not. At
the end rank 0 draws how many workers all ranks wanted, and had, over time.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import rfaas

try:
    import numpy as np
    from mpi4py import MPI
except (ModuleNotFoundError, RuntimeError) as missing:  # RuntimeError: mpi4py finds no MPI library
    sys.exit(f"this example needs MPI ({missing}): pip install '.[demo,mpi]' and an MPI library, e.g. libopenmpi3")

Block = tuple[float, float, int]  # from, to, points
COLUMNS = 60


@dataclass
class Record:
    """What one rank saw.

    Attributes:
        seen: when, workers wanted and workers there.
        gains, reclaims: how often the cluster gave and took.
        here, there: blocks that the rank itself and its workers computed.
    """

    seen: list[tuple[float, int, int]] = field(default_factory=list)
    gains: int = 0
    reclaims: int = 0
    here: int = 0
    there: int = 0

    def look(self, executor: rfaas.Executor) -> None:
        """Note what there is now."""
        capacity = executor.capacity
        self.seen.append((now_s(), capacity.wanted, capacity.ready))


def now_s() -> float:
    """Seconds on the clock that all processes of a machine share."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def area(begin: float, end: float, points: int) -> float:
    """Area under 4 / (1 + x^2) by the midpoint rule; runs on a worker, or on the rank itself."""
    total, width = 0.0, (end - begin) / points
    for first in range(0, points, 50_000):  # what fits a cache
        index = np.arange(first, min(first + 50_000, points))
        x = begin + (index + 0.5) * width
        total += float(np.sum(4.0 / (1.0 + x * x)))
    return total * width


def blocks_of(step: int, args: argparse.Namespace, comm: MPI.Comm) -> list[Block]:
    """This rank's blocks of one step: one in light steps, many in the heavy ones in the middle."""
    is_heavy = args.steps // 4 <= step < args.steps - args.steps // 4
    n = args.blocks if is_heavy else 1
    width = 1.0 / args.steps / comm.size / n
    start = (step + comm.rank / comm.size) / args.steps
    return [(start + i * width, start + (i + 1) * width, args.points) for i in range(n)]


def compute(executor: rfaas.Executor, blocks: list[Block], args: argparse.Namespace, record: Record) -> float:
    """The sum over these blocks; workers and the rank itself share them."""
    executor.resize(min(len(blocks) - 1, args.most))  # the rank is one of those that compute
    record.look(executor)
    futures = [executor.submit(area, *block) for block in blocks[1:]]
    total = area(*blocks[0])
    record.here += 1
    for i, future in reversed(list(enumerate(futures, start=1))):  # calls are sent from the front
        if future.cancel():  # nobody had it yet
            total += area(*blocks[i])
            record.here += 1
        record.look(executor)
    for future in futures:
        if not future.cancelled():
            total += future.result()
            record.there += 1
            record.look(executor)
    return total


def levels(records: list[Record]) -> Iterator[tuple[float, int, int]]:
    """Time, workers wanted and workers there of all ranks together, in COLUMNS equal parts of the run."""
    begin_s = min(record.seen[0][0] for record in records)
    end_s = max(record.seen[-1][0] for record in records)
    for column in range(COLUMNS):
        time_s = begin_s + (end_s - begin_s) * column / (COLUMNS - 1)
        last = [[entry for entry in record.seen if entry[0] <= time_s][-1:] for record in records]
        wanted = sum(entry[1] for entries in last for entry in entries)
        there = sum(entry[2] for entries in last for entry in entries)
        yield time_s - begin_s, wanted, there


def draw(records: list[Record]) -> str:
    """Workers over time: # there, . wanted and not there."""
    columns = list(levels(records))
    most = max(1, max(max(wanted, there) for _, wanted, there in columns))
    rows = []
    for level in range(most, 0, -1):
        cells = ("#" if there >= level else "." if wanted >= level else " " for _, wanted, there in columns)
        rows.append(f"{level:3d} |{''.join(cells)}")
    rows.append(f"    +{'-' * COLUMNS} {columns[-1][0]:.1f} s")
    return "\n".join(rows)


def parse_arguments() -> argparse.Namespace:
    """Read the command line; every rank does so for itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="of which the middle half is heavy (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=12, help="a rank in a heavy step (default: %(default)s)")
    parser.add_argument("--points", type=int, default=4_000_000, help="of one block (default: %(default)s)")
    parser.add_argument("--most", type=int, default=2, help="workers that a rank wants at most (default: %(default)s)")
    return parser.parse_args()


def run(comm: MPI.Comm, args: argparse.Namespace) -> tuple[float, Record]:
    """All steps; returns this rank's share of the integral, and what it saw."""
    record, mine = Record(), 0.0
    with rfaas.Executor() as executor:
        executor.on_gain(lambda notice: setattr(record, "gains", record.gains + 1))
        executor.on_reclaim(lambda notice: setattr(record, "reclaims", record.reclaims + 1))
        for step in range(args.steps):
            mine += compute(executor, blocks_of(step, args, comm), args, record)
            share = comm.allreduce(mine)  # what an MPI code says to each other after a step
            if comm.rank == 0:
                capacity = executor.capacity
                print(f"step {step}: {share:.9f}, rank 0 has {capacity.have} of {capacity.wanted} workers", flush=True)
        executor.resize(0)
        record.look(executor)
    return mine, record


def main() -> int:
    """Compute, check, draw; returns the exit status, the same on every rank."""
    args = parse_arguments()
    comm = MPI.COMM_WORLD
    mine, record = run(comm, args)
    total = comm.allreduce(mine)
    records = comm.gather(record)
    found: list[str] = []
    if records is not None:
        n_blocks = comm.size * sum(len(blocks_of(step, args, MPI.COMM_SELF)) for step in range(args.steps))
        here, there = sum(record.here for record in records), sum(record.there for record in records)
        if not math.isclose(total, math.pi, abs_tol=1e-9):
            found.append(f"the integral is {total!r}")
        if here + there != n_blocks:
            found.append(f"{here + there} blocks were computed, not {n_blocks}")
        gains, reclaims = sum(record.gains for record in records), sum(record.reclaims for record in records)
        print(draw(records))
        verdict = "wrong" if found else "right"
        print(f"{verdict}: pi is {total:.9f}; {here} blocks by {comm.size} ranks, {there} by their workers;")
        print(f"workers came {gains} times, and were taken back by others {reclaims} times")
        for problem in found:
            print(f"wrong: {problem}", file=sys.stderr)
    return int(comm.bcast(1 if found else 0))


if __name__ == "__main__":
    sys.exit(main())
