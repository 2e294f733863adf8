"""Measures one peer once, in the peer's own interpreter; started by run.py only.

Usage: driver.py PEER EXEC_NS OUT PLAN: name in adapters.PEERS; CLOCK_BOOTTIME when it was started; file for the answer;
JSON of what to measure. Standard library and the peer only, but for the arrays. Every result of every call is checked.
"""

from __future__ import annotations

import json
import os
import sys
import time
from array import array
from pathlib import Path
from typing import Any

from adapters import PEERS, Adapter
from functions import pid, same

WARM_UP = 30
EDGE = 64
PROBE = 200  # calls that tell how large a burst may be


class WrongAnswer(Exception):
    """The harness or the peer is broken; nothing of it can be trusted."""


def measure(adapter: Adapter, plan: dict[str, Any]) -> dict[str, Any]:
    """Everything but the cold start."""
    worker = adapter.call(pid)
    places = {}
    for place in plan["places"]:
        pin(place, worker)
        places[place] = latency(adapter, plan["latency_n"], plan["latency_s"])
    best = min(places, key=lambda place: sorted(places[place])[len(places[place]) // 2])
    pin(best, worker)
    return {
        "places": places,
        "best": best,
        "burst": burst(adapter, plan["burst_n"], plan["burst_s"]),
        "echo": {str(size): echo(adapter, size, plan["echo_n"], plan["echo_s"]) for size in plan["echo_bytes"]},
    }


def pin(place: str, worker: int) -> None:
    """none: any CPU; split: we on the first, the worker on the last; same: both on the first."""
    cpus = sorted(CPUS)
    ours = {"none": CPUS, "split": {cpus[0]}, "same": {cpus[0]}}[place]
    theirs = {"none": CPUS, "split": {cpus[-1]}, "same": {cpus[0]}}[place]
    for process, allowed in ((worker, theirs), (os.getpid(), ours)):
        for thread in os.listdir(f"/proc/{process}/task"):
            try:
                os.sched_setaffinity(int(thread), allowed)
            except ProcessLookupError:  # a thread that has ended meanwhile
                continue


def latency(adapter: Adapter, n: int, limit_s: float) -> list[int]:
    """Nanoseconds of single calls, one after the other."""
    call, clock, room = adapter.call, time.perf_counter_ns, array("q", bytes(8 * n))
    for number in range(WARM_UP):
        check(call(same, number), number)
    end_ns, done = clock() + int(limit_s * 1e9), 0
    for done in range(n):
        begun_ns = clock()
        answer = call(same, done)
        ended_ns = clock()
        room[done] = ended_ns - begun_ns
        check(answer, done)
        if ended_ns > end_ns:
            break
    return room[: done + 1].tolist()


def burst(adapter: Adapter, n: int, limit_s: float) -> dict[str, float]:
    """Calls a second of many at once; fewer where the peer would take too long for all."""
    _, probe_s = timed(adapter, min(PROBE, n))
    n = max(min(PROBE, n), min(n, int(limit_s * PROBE / probe_s)))
    _, took_s = timed(adapter, n)
    return {"n": n, "per_s": n / took_s}


def timed(adapter: Adapter, n: int) -> tuple[list[Any], float]:
    """One burst, checked."""
    values = range(n)
    begun_s = time.perf_counter()
    answers = adapter.burst(same, values)
    took_s = time.perf_counter() - begun_s
    check(answers, list(values))
    return answers, took_s


def echo(adapter: Adapter, size_bytes: int, n: int, limit_s: float) -> list[int]:
    """Nanoseconds of sending a numpy array and getting it back; the first one, which touches memory, is left out."""
    import numpy

    sent = numpy.resize(numpy.arange(251, dtype=numpy.uint8), size_bytes)
    took_ns, end_s = [], time.perf_counter() + limit_s
    for number in range(n + 1):
        sent[0] = sent[-1] = number & 0x7F
        begun_ns = time.perf_counter_ns()
        answer = adapter.call(same, sent)
        ended_ns = time.perf_counter_ns()
        ends = (answer[:EDGE] == sent[:EDGE]).all() and (answer[-EDGE:] == sent[-EDGE:]).all()
        check((answer.nbytes, bool(ends)), (size_bytes, True))
        del answer
        if number:
            took_ns.append(ended_ns - begun_ns)
        if took_ns and time.perf_counter() > end_s:
            break
    return took_ns


def check(answer: object, wanted: object) -> None:
    """Refuse a figure that was made of wrong answers."""
    if answer != wanted:
        raise WrongAnswer(f"got {answer!r:.200}, wanted {wanted!r:.200}")


def main() -> None:
    """Measure and write the answer."""
    name, exec_ns, out, plan = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
    if PEERS[name].launch == "mpi":
        from adapters.mpi import serve

        if serve():
            return
    adapter = PEERS[name].load()()
    check(adapter.call(same, 1), 1)
    cold_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - exec_ns
    try:
        found = {"cold_ns": cold_ns, **measure(adapter, plan)}
    finally:
        pin("none", os.getpid())
        adapter.close()
    out.write_text(json.dumps(found))


CPUS = os.sched_getaffinity(0)

if __name__ == "__main__":
    main()
