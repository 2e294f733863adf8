"""A job that tells the node's neighbour guard that it goes on: one line an iteration.

    python examples/11_marks.py                          # marks, and reads its own marks back
    srun -n 4 python examples/11_marks.py --seconds 60   # beside a slice: `rfaas explain NODE` says how it fares

The job knows nothing else of rfaas, and runs the same where there is none. Checks that as many iterations were marked
as were done, and that the guard's reader takes the same time for them. Exit status 1 if not.
"""

from __future__ import annotations

import argparse
import math
import sys
import time

import rfaas


def advance(size: int) -> float:
    """An iteration of something."""
    return sum(math.sqrt(number) for number in range(size))


def main() -> int:
    """Iterate, mark, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="go on for so long (default: %(default)s)")
    asked = parser.parse_args()
    from rfaas.settings import Settings
    from rfaas_executors.guard_watch import MARKS_DIR, MarkReader  # the guard's own eyes: only to show what it sees

    reader = MarkReader(Settings.load().value("guard.marks_dir") or MARKS_DIR)
    rfaas.mark()
    own_s, seen, until_s = [], [], time.monotonic() + asked.seconds
    reader.read(0.0, 0.0)
    while time.monotonic() < until_s:
        began_s = time.monotonic()
        advance(20_000)
        rfaas.mark()
        own_s.append(time.monotonic() - began_s)
        seen += [span for spans in reader.read(1.0, 0.0).values() for span in spans if span[0] >= began_s - 1.0]
    print(
        f"{len(own_s)} iterations, {1e3 * sum(own_s) / len(own_s):.3f} ms each; the guard would have seen {len(seen)}"
    )
    reader.close()
    return 0 if len(seen) >= len(own_s) else 1


if __name__ == "__main__":
    sys.exit(main())
