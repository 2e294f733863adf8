"""A rigid code for `colocation.py`: iterates until it is told to end, marks each iteration, says how long each took.

Usage: python colocation_rigid.py jacobi|numpy OUT.npy      (jacobi: the sweep of examples/04_jacobi_mpi.py, one rank)

OUT.npy: shape (iterations, 2), float64: begin and end of each in seconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import importlib.util
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import rfaas

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/04_jacobi_mpi.py"
SIZE = 640  # points a side: 2 x 3.3 MB, more than a core's own cache
KEPT = 1_000_000


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


def main() -> None:
    """Iterate and record."""
    iteration = {"jacobi": jacobi, "numpy": dense}[sys.argv[1]]()
    stamps = np.zeros((KEPT, 2))
    n, end_s = 0, time.monotonic()
    while n < KEPT and not (n % 16 == 0 and select.select([sys.stdin], [], [], 0)[0]):
        begin_s = end_s
        iteration()
        rfaas.mark()
        end_s = time.monotonic()
        stamps[n] = begin_s, end_s
        n += 1
    np.save(sys.argv[2], stamps[:n])


if __name__ == "__main__":
    main()
