"""The program of `colocation.py` that calls functions, an ordinary user's on the login node: one call a block.

Usage: python colocation_functions.py memory|compute|io FOLDER

Reads lines from stdin, answers each with a line of JSON: `cpus`: those that a function may use; `work N SECONDS`: N
calls, one after the other, each begun, ended (CLOCK_MONOTONIC) and its units of work; `turns N SECONDS`: the same with
as long a pause after each, and its end.
"""

from __future__ import annotations

import json
import sys
import time

import rfaas


def work(load: str, seconds: float, folder: str) -> int:
    """What a function does for so long: units of work done. Sent by value; imports on the worker."""
    import os
    import time

    import numpy as np

    until_s, units = time.monotonic() + seconds, 0
    small = np.random.default_rng(1).random((96, 96))
    large = np.zeros(8 << 20) if load == "memory" else small
    path = os.path.join(folder, "io")
    while time.monotonic() < until_s:
        if load == "compute":
            np.dot(small, small)
        elif load == "memory":
            part = large[(units % 8) << 20 :][: 1 << 20]
            np.add(part, 1.0, out=part)
        else:
            with open(path, "wb") as file:
                file.write(bytes(1 << 20))
                file.flush()
                os.fsync(file.fileno())
        units += 1
    return units


def allowed() -> list[int]:
    """The CPUs that a worker may use."""
    import os

    return sorted(os.sched_getaffinity(0))


def main() -> None:
    """Do as the lines say."""
    load, folder = sys.argv[1:]
    with rfaas.Executor(1, memory="256MiB", load=load, hot_for_s=0, acquire_timeout_s=60) as ex:  # type: ignore[arg-type]
        ex.submit(work, load, 0.1, folder).result(60)
        for line in sys.stdin:
            what, *numbers = line.split()
            answer: list[object] = []
            if what == "cpus":
                answer = list(ex.submit(allowed).result(60))
            else:
                for _ in range(int(numbers[0])):
                    begin_s = time.monotonic()
                    units = ex.submit(work, load, float(numbers[1]), folder).result(120)
                    end_s = time.monotonic()
                    if what == "turns":
                        time.sleep(float(numbers[1]))
                    answer.append([begin_s, end_s, time.monotonic(), units])
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
