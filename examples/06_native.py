"""Call a function in C on other cores, without Python in between: forces between atoms, a block of atoms a call.

    python examples/06_native.py

Needs a C compiler, since the kernel below is compiled first; your own code brings its library along. The function takes
bytes and gives bytes: what is in them is between the two sides. `rfaas.native` reads the library, and workers get it
once a node. Python functions can have the same form: `@rfaas.raw`.
"""

from __future__ import annotations

import argparse
import array
import math
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rfaas

KERNEL = r"""
#include <rfaas_function.h>

/* The input: what to do, then the positions of all atoms, x y z each. */
struct order {
    uint64_t n_atoms, first, count;
};

/* Lennard-Jones forces on `count` atoms from all others, x y z each. Returns 1 if the input is none. */
int32_t forces(const void *in, uint64_t in_size, void *out, uint64_t *out_size, const rfaas_ctx *ctx) {
    const struct order *order = in;
    if (in_size < sizeof(*order) || order->n_atoms > (in_size - sizeof(*order)) / (3 * sizeof(double))) return 1;
    if (order->first > order->n_atoms || order->count > order->n_atoms - order->first) return 1;
    const uint64_t needed = order->count * 3 * sizeof(double);
    if (needed > *out_size) {
        *out_size = needed; /* the caller is told how much it would have been */
        return 0;
    }
    const double(*at)[3] = (const double(*)[3])(order + 1);
    double(*force)[3] = out;
    for (uint64_t i = 0; i < order->count && !ctx->reclaimed(ctx); i++) {
        const double *here = at[order->first + i];
        double sum[3] = {0, 0, 0};
        for (uint64_t j = 0; j < order->n_atoms; j++) {
            if (j == order->first + i) continue;
            const double d[3] = {here[0] - at[j][0], here[1] - at[j][1], here[2] - at[j][2]};
            const double inverse = 1 / (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
            const double inverse3 = inverse * inverse * inverse;
            const double strength = 24 * inverse * inverse3 * (2 * inverse3 - 1);
            for (int axis = 0; axis < 3; axis++) sum[axis] += strength * d[axis];
        }
        for (int axis = 0; axis < 3; axis++) force[i][axis] = sum[axis];
    }
    if (ctx->reclaimed(ctx)) return 2; /* half an answer is none: the caller runs it again elsewhere */
    *out_size = needed;
    return 0;
}
"""


def compile_kernel(directory: Path) -> Path:
    """Make a shared library of the kernel."""
    source, library = directory / "kernel.c", directory / "libkernel.so"
    source.write_text(KERNEL)
    subprocess.run(
        ["cc", "-O3", "-fPIC", "-shared", f"-I{rfaas.get_include()}", "-o", library, source],
        check=True,
    )
    return library


def lattice(n_atoms: int, seed: int) -> array.array[float]:
    """Positions of atoms near the points of a cubic lattice."""
    noise, side = random.Random(seed), math.ceil(n_atoms ** (1 / 3))
    points = ((n // side // side, n // side % side, n % side) for n in range(n_atoms))
    return array.array("d", [1.2 * axis + noise.uniform(-0.1, 0.1) for point in points for axis in point])


def force_on(atom: int, positions: array.array[float]) -> list[float]:
    """What the kernel does for one atom, in Python."""
    here, force = positions[3 * atom : 3 * atom + 3], [0.0, 0.0, 0.0]
    for other in range(len(positions) // 3):
        if other != atom:
            d = [a - b for a, b in zip(here, positions[3 * other : 3 * other + 3], strict=True)]
            inverse = 1 / sum(x * x for x in d)
            strength = 24 * inverse * inverse**3 * (2 * inverse**3 - 1)
            force = [f + strength * x for f, x in zip(force, d, strict=True)]
    return force


def main() -> int:
    """Compile, call, compare; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, default=4_000, help="how many (default: 4,000)")
    parser.add_argument("--block", type=int, default=100, help="atoms a call (default: 100)")
    parser.add_argument("--workers", type=int, help="at most this many calls at once (default: one a core)")
    args = parser.parse_args()
    if shutil.which("cc") is None:
        print("this example compiles a kernel, and there is no C compiler (cc) here", file=sys.stderr)
        return 1

    positions = lattice(args.atoms, seed=1)
    starts = range(0, args.atoms, args.block)
    orders = [struct.pack("QQQ", args.atoms, n, min(args.block, args.atoms - n)) + positions.tobytes() for n in starts]
    with tempfile.TemporaryDirectory() as directory:
        forces = rfaas.native(compile_kernel(Path(directory)), "forces", out_size=args.block * 3 * 8)
    with rfaas.Executor(args.workers, idempotent=True, retries=2, retry_on=[rfaas.FunctionError]) as executor:
        began_s = time.monotonic()
        result = array.array("d", b"".join(executor.map(forces, orders)))
        took_s = time.monotonic() - began_s
        refused = executor.submit(forces, b"too short").exception()

    total = max(abs(math.fsum(result[axis::3])) for axis in range(3))
    print(f"{len(orders)} calls in C: forces on {args.atoms:,} atoms in {took_s:.2f} s; their sum is {total:.1e}")
    print(f"an input that the kernel refuses: {type(refused).__name__}, {refused}")
    sample = random.Random(2).sample(range(args.atoms), 3)
    scale = max(map(abs, result))
    checks = {
        "every atom has a force": len(result) == 3 * args.atoms,
        "what one atom does to another, that does to it": total < 1e-9 * scale * args.atoms,
        "the kernel computes what Python does": all(
            math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9 * scale)
            for atom in sample
            for a, b in zip(force_on(atom, positions), result[3 * atom : 3 * atom + 3], strict=True)
        ),
        "a value other than 0 is an error": isinstance(refused, rfaas.FunctionError) and refused.value == 1,
    }
    for claim, holds in checks.items():
        if not holds:
            print(f"wrong, this should hold: {claim}", file=sys.stderr)
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
