"""Call a function on another core: the smallest useful rfaas program.

    python examples/01_hello.py

`rfaas.Executor` is a `concurrent.futures.Executor`: whatever you know about submit, map and futures holds. With
nothing configured the calls run in worker processes on this machine, and none of them outlives the program. After
`rfaas up --slurm` the same program, unchanged, runs its calls on cores that the Slurm cluster leaves idle.

The functions below travel to the workers by value. They need not be importable there, and there is no
`if __name__ == "__main__"` that the workers would depend on.
"""

import argparse
import os
import socket
import sys
import traceback

import rfaas


def greet(name: str) -> str:
    """Say hello from wherever this call runs."""
    return f"hello {name}, from process {os.getpid()} on {socket.gethostname()}"


def collatz_steps(n: int) -> int:
    """Count the steps from n down to 1 when even numbers are halved and odd ones become 3n + 1."""
    steps = 0
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


def mean(numbers: list[float]) -> float:
    """Divide the sum by the count, and fail as Python does when there is nothing to count."""
    return sum(numbers) / len(numbers)


def main() -> int:
    """Make one call, many calls and a call that fails; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, help="at most this many calls at once (default: one a core)")
    args = parser.parse_args()

    with rfaas.Executor(max_workers=args.workers) as executor:
        print("-- one call: submit returns a future at once, result() waits for the answer")
        greeting = executor.submit(greet, "world").result()
        print(greeting)

        print("-- many calls: map keeps the order of its arguments; chunksize sends several at a time")
        steps = list(executor.map(collatz_steps, range(1, 1001), chunksize=50))
        print(
            f"of the first 1000 numbers, {steps.index(max(steps)) + 1} takes the longest way to 1: {max(steps)} steps"
        )

        print("-- a call that fails: its exception is raised here as itself, with the traceback from over there")
        remote_traceback = "nothing was raised"
        try:
            executor.submit(mean, []).result()
        except ZeroDivisionError:
            remote_traceback = traceback.format_exc()
        print(remote_traceback)

    checks = {
        "the greeting comes from another process": str(os.getpid()) not in greeting.split(),
        "map gives what the plain function gives": steps == [collatz_steps(n) for n in range(1, 1001)],
        "the traceback shows the line that failed": "return sum(numbers) / len(numbers)" in remote_traceback,
    }
    for claim, holds in checks.items():
        if not holds:
            print(f"wrong, this should hold: {claim}", file=sys.stderr)
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
