"""A matrix product of matrices that this program does not hold: they lie in another node's idle memory.

    python examples/08_out_of_core.py                       # this machine lends
    python examples/08_out_of_core.py --n 4096 --block 512  # 3 x 128 MiB there, 8 MiB a block here
    rfaas up --slurm && python examples/08_out_of_core.py   # what the cluster leaves idle

C = A B, block by block. Here are never more than six blocks: two of A and two of B, of which one pair is multiplied
while the next is read, one of C, and one to make the matrices of. The check (Freivalds) multiplies C, and A (B x),
with random
vectors: a wrong C passes three of them with a chance below 1e-9, and costs no more memory either.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt

import rfaas

Block = npt.NDArray[np.float64]


class Matrix:
    """A square matrix of blocks in borrowed memory, each block in one piece.

    Args:
        memory: where; from `offset` on.
        n: blocks of an edge.
        edge: of a block.
    """

    def __init__(self, memory: rfaas.RemoteMemory, offset: int, n: int, edge: int) -> None:
        self._blocks = memory.array((n, n, edge, edge), "f8", offset=offset)
        self._memory, self._offset, self.n, self.edge = memory, offset, n, edge

    def __setitem__(self, place: tuple[int, int], block: Block) -> None:
        self._blocks[place] = block

    def begin_read(self, i: int, j: int, into: Block) -> Future[int]:
        """Begin to fill `into` with a block."""
        at = self._offset + (i * self.n + j) * into.nbytes
        return self._memory.readinto_async(at, into)

    def times(self, vector: Block) -> Block:
        """The product with a vector, a block at a time."""
        block, result = np.empty((self.edge, self.edge)), np.zeros(self.n * self.edge)
        for i in range(self.n):
            for j in range(self.n):
                self._blocks.readinto(block, (i, j))
                result[i * self.edge : (i + 1) * self.edge] += block @ vector[j * self.edge : (j + 1) * self.edge]
        return result


def multiply(a: Matrix, b: Matrix, c: Matrix) -> float:
    """C = A B; returns the seconds for which the next blocks had to be waited."""
    edge, n = a.edge, a.n
    pairs = [(np.empty((edge, edge)), np.empty((edge, edge))) for _ in range(2)]
    steps: Iterator[tuple[int, int, int]] = ((i, j, k) for i in range(n) for j in range(n) for k in range(n))

    def begin(number: int, step: tuple[int, int, int]) -> tuple[Future[int], Future[int]]:
        i, j, k = step
        left, right = pairs[number % 2]
        return a.begin_read(i, k, left), b.begin_read(k, j, right)

    result, waited_s = np.zeros((edge, edge)), 0.0
    step = next(steps)
    reads = begin(0, step)
    for number in range(n**3):
        began_s = time.perf_counter()
        for read in reads:
            read.result()
        waited_s += time.perf_counter() - began_s
        (i, j, k), ready = step, pairs[number % 2]
        if number + 1 < n**3:
            step = next(steps)
            reads = begin(number + 1, step)
        result += ready[0] @ ready[1]
        if k == n - 1:
            c[i, j] = result
            result[:] = 0.0
    return waited_s


def main() -> int:
    """Make two matrices, multiply them, check the product."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1024, help="rows of the matrices (%(default)s)")
    parser.add_argument("--block", type=int, default=256, help="rows of a block; divides --n (%(default)s)")
    arguments = parser.parse_args()
    if arguments.n % arguments.block:
        parser.error("--block must divide --n")
    n, edge = arguments.n // arguments.block, arguments.block
    matrix_bytes, block_bytes = arguments.n**2 * 8, edge**2 * 8
    rng = np.random.default_rng(1)
    with rfaas.RemoteMemory(3 * matrix_bytes, when_reclaimed="move") as memory:
        print(
            f"{3 * matrix_bytes / 2**20:.0f} MiB on {memory.node}, over {memory.medium}; "
            f"here {6 * block_bytes / 2**20:.1f} MiB"
        )
        a, b, c = (Matrix(memory, number * matrix_bytes, n, edge) for number in range(3))
        for matrix in (a, b):
            for i in range(n):
                for j in range(n):
                    matrix[i, j] = rng.standard_normal((edge, edge))
        began_s = time.perf_counter()
        waited_s = multiply(a, b, c)
        took_s = time.perf_counter() - began_s
        print(
            f"{took_s:.2f} s, {2 * arguments.n**3 / took_s / 1e9:.1f} GFLOP/s; "
            f"{waited_s / took_s:.0%} of it waiting for blocks"
        )
        worst = 0.0
        for _ in range(3):
            x = rng.standard_normal(arguments.n)
            expected = a.times(b.times(x))
            worst = max(worst, float(np.max(np.abs(c.times(x) - expected)) / np.max(np.abs(expected))))
        if not worst < 1e-10:
            print(f"wrong: A(Bx) and Cx differ by {worst:.1e}", file=sys.stderr)
            return 1
    print(f"A(Bx) and Cx agree to {worst:.0e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
