"""A program that makes its first calls, and says when: run by `rfaas bench cold` in an interpreter of its own.

Usage: python -m rfaas.bench.cold_child JSON, the arguments of each Executor. Prints a JSON list, an object of marks for
each start: nanoseconds of CLOCK_BOOTTIME, which all processes of this machine share.
"""

import time

started_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

import json  # noqa: E402 - what comes before is what is measured
import sys  # noqa: E402

from rfaas import Executor  # noqa: E402
from rfaas.bench import served  # noqa: E402


def now_ns() -> int:
    """The clock of the event log."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def start(arguments: dict[str, str | None]) -> dict[str, int]:
    """Make an executor and its first call."""
    marks = {"begun": now_ns()}
    with Executor(max_workers=1, acquire_timeout_s=60, **arguments) as executor:  # type: ignore[arg-type]
        if executor.invoke(served.echo, 42) != 42:
            raise SystemExit("the first call brought back something else")
        marks["answered"] = now_ns()
        executor.invoke(served.nothing)
        marks["answered_again"] = now_ns()
    return marks


def main() -> None:
    """Start twice: with nothing there, and with this interpreter's imports done."""
    imported_ns = now_ns()
    arguments = json.loads(sys.argv[1])
    first, again = start(arguments), start(arguments)
    print(json.dumps([{"started": started_ns, "imported": imported_ns, **first}, again]))


if __name__ == "__main__":
    main()
