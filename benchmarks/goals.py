"""Measures what rfaas has promised: each goal is a ratio or a difference made within a round, of at least five rounds.

Usage: python benchmarks/goals.py [--rounds 5] [--only PART,…] [--into DIRECTORY] [--quick]

Prints goal | measured | spread | met, and writes goals.md. Each (round, part) is a line of DIRECTORY/goals.jsonl: what
was cut off goes on with the same command. mpi4py and Ray need the network the first time (benchmarks/peers/venvs.py).
"""

from __future__ import annotations

import argparse
import functools
import json
import operator
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "peers"), str(HERE / "raw"), str(HERE.parent)]

import loopback  # noqa: E402
import programs  # noqa: E402 - after the path is set
import records  # noqa: E402
import run as peers_run  # noqa: E402
import venvs  # noqa: E402
from adapters import PEERS  # noqa: E402

from rfaas.bench import kinds  # noqa: E402
from rfaas.bench.latency import NO_OP_BYTES  # noqa: E402
from rfaas.bench.noise import WATCH_S, Machine, findings  # noqa: E402
from rfaas.bench.statistics import Spread, spread  # noqa: E402

MIB = 1 << 20
BENCH_LIMIT_S = 300
Round = Mapping[str, Any]
"""What one round measured, by part."""


# --- the parts ------------------------------------------------------------------------------------------------------


def bench(*arguments: str) -> dict[str, Any]:
    """`rfaas bench …`, as JSON."""
    command = [sys.executable, "-m", "rfaas", "bench", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BENCH_LIMIT_S)
    if done.returncode:
        raise RuntimeError(f"rfaas bench {' '.join(arguments)}: {(done.stderr or done.stdout).strip()[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def shm(quick: bool) -> dict[str, Any]:
    """Calls over shared memory, hot and warm."""
    few = ["--quick"] if quick else ["-n", "20000", "--seconds", "2"]
    where = ["latency", "--allocator", "embedded", "--transport", "shm", *few]
    found = bench(*where, "--sizes", "0")
    hot = bench(*where, "--sizes", "64", "--state", "hot", "--call", "invoke", "--kind", "raw,native")
    return {**found, "rows": [*found["rows"], *hot["rows"]], "noise": [*found["noise"], *hot["noise"]]}


def tcp(quick: bool) -> dict[str, Any]:
    """Calls over loopback TCP."""
    few = ["--quick"] if quick else ["-n", "20000", "--seconds", "2"]
    with loopback.workers() as state_dir:
        where = ["--allocator", str(state_dir), "--transport", "tcp"]
        return bench("latency", *where, "--sizes", "0", "--state", "hot", "--call", "invoke", *few)


def arrays_shm(quick: bool) -> dict[str, Any]:
    """Arrays over shared memory."""
    few = ["--quick", "--sizes", "1MiB"] if quick else ["--sizes", "1MiB,64MiB", "--seconds", "3"]
    return bench("bandwidth", "--allocator", "embedded", "--transport", "shm", *few)


def arrays_tcp(quick: bool) -> dict[str, Any]:
    """Arrays over loopback TCP."""
    few = ["--quick", "--sizes", "1MiB"] if quick else ["--sizes", "64MiB", "--seconds", "4"]
    with loopback.workers() as state_dir:
        return bench("bandwidth", "--allocator", str(state_dir), "--transport", "tcp", *few)


def peer(name: str, quick: bool) -> dict[str, Any]:
    """One of the peers, or rfaas measured like one."""
    if problem := venvs.make(PEERS[name].venv) if PEERS[name].venv else "":
        raise RuntimeError(problem)
    found = peers_run.run_peer(PEERS[name], peers_run.QUICK if quick else peers_run.FULL)
    if "error" in found:
        raise RuntimeError(found["error"])
    return found


def futex(quick: bool) -> dict[str, Any]:
    """Two processes that wake each other, back to back."""
    return programs.pingpong("raw-futex", 64, 500 if quick else 20_000)


def c(quick: bool) -> dict[str, Any]:
    """A compiled function called by a program in C, between two series of raw shared memory."""
    n = 500 if quick else 50_000
    before = programs.pingpong("raw-shm", NO_OP_BYTES, n)
    calls = programs.run("c_calls", kinds.LIBRARY, NO_OP_BYTES, n, *programs.two_cpus())
    after = programs.pingpong("raw-shm", NO_OP_BYTES, n)
    return {"calls": calls, "raw": {"p50_ns": (before["p50_ns"] + after["p50_ns"]) / 2}}


PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "c": c,
    "shm": shm,
    "tcp": tcp,
    "arrays_shm": arrays_shm,
    "arrays_tcp": arrays_tcp,
    "futex": futex,
    **{name: functools.partial(peer, name) for name in ("rfaas", "process_pool", "pipe", "mpi4py", "ray")},
}


# --- the goals ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """One promise.

    Attributes:
        name: what is measured, in words.
        sense: "<=" or ">=".
        limit: what the median of the rounds must hold.
        unit: of the figure; empty: a ratio.
        figure: of one round; KeyError or StopIteration where the round has no such part.
    """

    name: str
    sense: str
    limit: float
    unit: str
    figure: Callable[[Round], float]


def row(found: Round, part: str, size_bytes: int, **wanted: str) -> dict[str, Any]:
    """One row of `rfaas bench latency --json`."""
    wanted = {"state": "hot", "call": "invoke", "function": "python", **wanted}
    rows = (one for one in found[part]["rows"] if one["size_bytes"] == size_bytes)
    return next(one for one in rows if all(one[key] == value for key, value in wanted.items()))


def call_ns(found: Round, part: str) -> float:
    """Median of a peer's calls where it is fastest."""
    return min(float(place["p50_ns"]) for place in found[part]["places"].values())


def array(found: Round, part: str, size_bytes: int, way: str) -> float:
    """GB/s of one way to move arrays."""
    rows = (one for one in found[part]["rows"] if one["size_bytes"] == size_bytes)
    return float(next(rows)["series"][way]["gb_per_s"])


def echo_over_raw(part: str, size_bytes: int, way: str = "echo") -> Callable[[Round], float]:
    """An echo of arrays over the bare medium's."""
    return lambda found: array(found, part, size_bytes, way) / array(found, part, size_bytes, "raw")


def empty_over_ray(found: Round) -> float:
    """Echo of an array of rfaas.empty over Ray's read-only view."""
    ray_gb_per_s = 2 * 64 * MIB / float(found["ray"]["echo"][str(64 * MIB)]["p50_ns"])
    return array(found, "arrays_shm", 64 * MIB, "empty") / ray_gb_per_s


def warm_over_futex(found: Round) -> float:
    """A warm call over 1.3 times the futex ping-pong of the same pauses plus what Python costs in a hot call."""
    warm = row(found, "shm", 0, state="warm")
    allowed_ns = 1.3 * warm["raw"]["p50_ns"] + row(found, "shm", 0)["added_ns"]
    return float(warm["calls"]["p50_ns"] / allowed_ns)


def warm_over_hot_futex(found: Round) -> float:
    """The same beside a futex ping-pong back to back, whose sides sleep for a moment only."""
    warm = row(found, "shm", 0, state="warm")
    return float(warm["calls"]["p50_ns"] / (1.3 * found["futex"]["p50_ns"] + row(found, "shm", 0)["added_ns"]))


def over(above: Callable[[Round], float], below: Callable[[Round], float]) -> Callable[[Round], float]:
    """A ratio of two figures of a round."""
    return lambda found: above(found) / below(found)


def burst(part: str) -> Callable[[Round], float]:
    """Calls a second of a burst."""
    return lambda found: float(found[part]["burst"]["per_s"])


def call(part: str) -> Callable[[Round], float]:
    """`call_ns` of a part."""
    return lambda found: call_ns(found, part)


def added(part: str, size_bytes: int) -> Callable[[Round], float]:
    """What a call adds to the bare medium, at the median."""
    return lambda found: float(row(found, part, size_bytes)["added_ns"])


def added_native(found: Round) -> float:
    """A compiled function called from Python."""
    return float(row(found, "shm", 64, function="native")["added_ns"])


def added_in_c(found: Round) -> float:
    """A compiled function called from C, beside raw shared memory of the same round."""
    return float(found["c"]["calls"]["p50_ns"] - found["c"]["raw"]["p50_ns"])


def submit_over_invoke(found: Round) -> float:
    """submit().result() over invoke."""
    return float(row(found, "shm", 0, call="submit")["calls"]["p50_ns"] / row(found, "shm", 0)["calls"]["p50_ns"])


GOALS = (
    Goal("compiled no-op, 64 B, shm, hot, from rfaas.h: added to raw", "<=", 350, "ns", added_in_c),
    Goal(
        "compiled no-op, 64 B, shm, hot, from Python: added to raw",
        "<=",
        700,
        "ns",
        added_native,
    ),
    Goal("Python no-op, invoke, shm, hot: added to raw", "<=", 2600, "ns", added("shm", 0)),
    Goal("the same over mpi4py's object round trip", "<=", 1, "", over(call("rfaas"), call("mpi4py"))),
    Goal("ProcessPoolExecutor over the same", ">=", 40, "", over(call("process_pool"), call("rfaas"))),
    Goal("Ray actor over the same", ">=", 150, "", over(call("ray"), call("rfaas"))),
    Goal("Python no-op, invoke, loopback tcp, hot: added to C TCP spin", "<=", 2600, "ns", added("tcp", 0)),
    Goal("submit().result() over invoke, shm, hot", "<=", 1.5, "", submit_over_invoke),
    Goal(
        "burst of 10,000 no-ops over ProcessPoolExecutor's", ">=", 15, "", over(burst("rfaas"), burst("process_pool"))
    ),
    Goal("burst of 10,000 no-ops over multiprocessing.Pipe's", ">=", 1, "", over(burst("rfaas"), burst("pipe"))),
    Goal("numpy echo, new array, shm, 1 MiB, over raw C copies", ">=", 1, "", echo_over_raw("arrays_shm", MIB)),
    Goal("numpy echo, new array, shm, 64 MiB, over raw C copies", ">=", 1, "", echo_over_raw("arrays_shm", 64 * MIB)),
    Goal("rfaas.empty echo, shm, 64 MiB, over Ray's read-only view", ">=", 1, "", empty_over_ray),
    Goal("numpy echo, loopback tcp, 64 MiB, over raw TCP", ">=", 0.95, "", echo_over_raw("arrays_tcp", 64 * MIB)),
    Goal("warm no-op over 1.3 x futex (same pauses) + Python's cost", "<=", 1, "", warm_over_futex),
)
SHOWN = (
    Goal("warm no-op over 1.3 x futex (back to back) + Python's cost", "<=", 1, "", warm_over_hot_futex),
    Goal("first numpy echo of 64 MiB, shm: first touch", "<=", float("inf"), "ms", lambda found: first_ms(found)),
)
"""Figures that stand beside a goal and are none themselves."""


def first_ms(found: Round) -> float:
    """The first echo of 64 MiB, in milliseconds."""
    rows = (one for one in found["arrays_shm"]["rows"] if one["size_bytes"] == 64 * MIB)
    return float(next(rows)["series"]["echo"]["first_ns"]) / 1e6


HOLDS = {"<=": operator.le, ">=": operator.ge}


def judged(goal: Goal, rounds: Sequence[Round]) -> tuple[Spread | None, bool | None]:
    """The figure of a goal over all rounds that have it, and whether its median holds; None: no round has."""
    figures = []
    for found in rounds:
        try:
            figures.append(goal.figure(found))
        except (KeyError, StopIteration):
            continue
    if not figures:
        return None, None
    made = spread(figures)
    return made, HOLDS[goal.sense](made.median, goal.limit)


def lines(rounds: Sequence[Round]) -> list[str]:
    """The table, as Markdown."""
    out = ["| goal | limit | measured | spread | rounds | met |", "| --- | ---: | ---: | ---: | ---: | --- |"]
    for goal in (*GOALS, *SHOWN):
        made, holds = judged(goal, rounds)
        limit = f"{goal.sense} {goal.limit:g} {goal.unit}".strip() if goal in GOALS else "-"
        if made is None:
            out.append(f"| {goal.name} | {limit} | - | - | 0 | not measured |")
            continue
        met = "-" if goal not in GOALS else "yes" if holds else "NO"
        figures = [f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}" for figure in made[:3]]
        measured = f"{figures[0]} {goal.unit}".strip()
        out.append(f"| {goal.name} | {limit} | {measured} | {figures[1]} to {figures[2]} | {made.n} | {met} |")
    return out


# --- the run --------------------------------------------------------------------------------------------------------


def measure(part: str, quick: bool) -> dict[str, Any]:
    """One part of a round, with what disturbed it; an error is a result too."""
    begun_s = time.monotonic()
    try:
        before = Machine.read(WATCH_S)
        data = PARTS[part](quick)
        seen = findings(before, Machine.read(), client_cpu=None, worker_cpu=None)
        noise = [*data.get("noise", ()), *(one._asdict() for one in seen if one.what != "unpinned")]
        found: dict[str, Any] = {"data": {**data, "noise": noise}}
    except (RuntimeError, OSError, subprocess.TimeoutExpired, ValueError) as error:
        found = {"error": str(error)[-800:]}
    return {**found, "took_s": round(time.monotonic() - begun_s, 1)}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=0, help="5; 1 with --quick")
    parser.add_argument("--only", default="", help=f"parts, comma between: {', '.join(PARTS)}")
    parser.add_argument("--into", type=Path)
    parser.add_argument("--quick", action="store_true", help="does it work? no figure to quote")
    return parser.parse_args()


def main() -> None:
    """Measure what is missing and print the table; 1 if a goal is missed."""
    asked = arguments()
    parts = [name for name in asked.only.split(",") if name] or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    into = records.directory("goals", asked.quick, asked.into)
    path = into / "goals.jsonl"
    done = records.load(path, "part")
    failed: dict[str, str] = {}
    for number, part in peers_run.turns(parts, asked.rounds or (1 if asked.quick else 5)):
        if (number, part) not in done:
            print(f"round {number}: {part}", end=" ", flush=True)
            found = measure(part, asked.quick)
            records.add(path, {"round": number, "part": part, **found})
            if "error" in found:
                failed[part] = " ".join(found["error"].split())[:300]
    rounds: dict[int, dict[str, Any]] = {}
    for (number, part), found in records.load(path, "part").items():
        rounds.setdefault(number, {})[part] = found["data"]
    made = lines(list(rounds.values()))
    about = records.about(shlex.join(["python", "benchmarks/goals.py", *sys.argv[1:]]))
    host = about["machine"]
    head = (
        f"{host['cpu']}, {host['cpus']} CPUs, Linux {host['kernel']}, Python {host['python']}, rfaas {host['rfaas']}."
    )
    warning = ["Measured with --quick: no figure below is one to quote.", ""] if asked.quick else []
    noise = records.shortened(
        one["text"] for found in rounds.values() for part in found.values() for one in part.get("noise", ())
    )
    page = [f"# Goals, {about['date']}", "", head, f"Command: `{about['command']}`.", "", *warning, *made, ""]
    page += ["What disturbed it:", "", *(f"- {one}" for one in noise), ""] if noise else ["No noise was seen.", ""]
    page += ["What failed:", "", *(f"- {part}: {why}" for part, why in failed.items()), ""] if failed else []
    (into / "goals.md").write_text("\n".join(page))
    print("\n".join(["", *made, "", f"{into}/goals.md"]))
    sys.exit(any(judged(goal, list(rounds.values()))[1] is False for goal in GOALS) and not asked.quick)


if __name__ == "__main__":
    main()
