"""Measures calls over RDMA beside bare RDMA, in one run: what `make bench-rdma` runs.

Usage: python benchmarks/verbs.py [--only c,native,raw,python,c-warm,warm] [--into DIRECTORY] [--quick]

On a host with an RDMA device it measures there, over one device; else in one boot of the guest of tests/rdma/rig, whose
CPUs are emulated: there ratios compare the cost of software, and no time is a latency of RDMA. Two nodes: docs/rdma.md.

Each figure is a ratio over our own C loop (transport/raw/raw_verbs.c) between the same two processes, of a block of
calls and the block of bare round trips after it, at the minimum and at the 25th percentile: what disturbs the machine
is seen in the median first. Writes verbs.jsonl, a line for each series, of which the last one counts, and verbs.md.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE / "raw")]

import programs  # noqa: E402 - after the path is set
import records  # noqa: E402

from rfaas.bench.kinds import LIBRARY  # noqa: E402
from rfaas.bench.statistics import percentile, spread  # noqa: E402
from rfaas_transport import verbs  # noqa: E402

GUEST: Final = records.ROOT / "tests" / "rdma" / "rig" / "guest"
GUEST_LIMIT_S: Final = 600
BENCH_LIMIT_S: Final = 400
PERFTEST_LIMIT_S: Final = 20  # a size that takes longer is tried with fewer round trips
PERFTEST_UP_S: Final = 10
SIZES: Final = (1, 128, 1024, 65_536)
EMULATION: Final = "emulation: not an RDMA latency"
SLOW: Final = {"RFAAS_EXECUTOR_ACQUIRE_TIMEOUT_S": "300"}
"""Settings where CPUs are emulated."""
SLOW_AND_HOT: Final = {"RFAAS_EXECUTOR_HOT_FOR_S": "50ms"}
"""A round trip there takes longer than a worker polls elsewhere."""


C_CALLS: Final = "c_calls_verbs"
"""What calls from C, and is `kind` of its parts (benchmarks/raw/)."""


class Part(NamedTuple):
    """What `rfaas bench latency` is asked for, those of one state in one run of it; or what C_CALLS is."""

    kind: str
    state: str
    sizes: Sequence[int]


SERIES: Final = ("call_min_ns", "call_p25_ns", "raw_min_ns", "raw_p25_ns")
"""Of each row, by block."""


class Effort(NamedTuple):
    """Of a series: blocks by turns with the bare link, round trips of all of them and seconds, at most."""

    blocks: int
    iterations: int
    seconds: float


PARTS: Final = {
    "c": Part(C_CALLS, "hot", SIZES),
    "native": Part("native", "hot", SIZES),
    "raw": Part("raw", "hot", SIZES),
    "python": Part("python", "hot", SIZES),
    "c-warm": Part(C_CALLS, "warm", SIZES[:3]),
    "warm": Part("native", "warm", SIZES[:3]),
}
EFFORTS: Final = {"hot": Effort(5, 2500, 1.5), "warm": Effort(5, 400, 2.5)}
QUICK: Final = Effort(2, 60, 0.5)
WHAT: Final = {
    "c": "compiled function, hot, from C",
    "native": "compiled function, hot, from Python",
    "raw": "`@rfaas.raw` function, hot",
    "python": "pickled arguments and result, hot",
    "c-warm": "compiled function, warm: both sides sleep, from C",
    "warm": "compiled function, warm: both sides sleep, from Python",
}
GOALS: Final[Mapping[tuple[str, int], tuple[float | None, float]]] = {
    **{(by, 1): (1.42, 1.10) for by in ("c", "native")},
    **{(by, 128): (1.33, 1.10) for by in ("c", "native")},
    **{(by, 1024): (1.19, 1.10) for by in ("c", "native")},
    **{(by, 65_536): (1.20, 1.10) for by in ("c", "native")},
    **{("raw", 1): (1.42, 1.25), ("raw", 128): (1.33, 1.20), ("raw", 1024): (1.19, 1.12)},
    **{(by, size_bytes): (1.5, 1.2) for by in ("c-warm", "warm") for size_bytes in PARTS["warm"].sizes},
}
"""Of part and size: what the ratio must be below (in most cases the predecessor's, over such a loop), and the goal."""


# --- measuring, where there is a device -----------------------------------------------------------------------------


def settings_of(state: str) -> dict[str, str]:
    """What calls are made with here, beside what is usual."""
    return {} if "RFAAS_RDMA_GUEST" not in os.environ else SLOW | (SLOW_AND_HOT if state == "hot" else {})


def from_c(part: Part, program: Path, quick: bool) -> Iterable[dict[str, Any]]:
    """Calls by rfaas.h, a row for each size: what C_CALLS, which is this program, says."""
    effort = QUICK if quick else EFFORTS[part.state]
    settings = settings_of(part.state)
    sizes = ",".join(map(str, part.sizes))
    asked = (LIBRARY, part.state, sizes, effort.blocks, effort.iterations, effort.seconds, *programs.two_cpus())
    command = [str(program), *map(str, asked)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=BENCH_LIMIT_S, env={**os.environ, **settings}
    )
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}: {(done.stderr + done.stdout).strip()[-1000:]}")
    words = [*(f"{k}={v}" for k, v in settings.items()), C_CALLS, LIBRARY.name, *command[2:]]
    for said in map(json.loads, done.stdout.splitlines()):
        kept = {key: said[key] for key in ("size_bytes", "n", *SERIES)}
        yield {"kind": C_CALLS, **kept, "bench": shlex.join(words), "noise": []}


def latency(parts: Sequence[Part], samples: Path, quick: bool) -> dict[str, Any]:
    """`rfaas bench latency` of parts of one state, every time into `samples`; what it says as JSON."""
    state, sizes = parts[0].state, parts[0].sizes
    effort = QUICK if quick else EFFORTS[state]
    command = [
        *(sys.executable, "-m", "rfaas", "bench", "latency", "--allocator", "embedded", "--transport", "verbs"),
        *("--call", "invoke", "--kind", ",".join(part.kind for part in parts), "--state", state, "--json"),
        *("--sizes", ",".join(map(str, sizes)), "--blocks", str(effort.blocks), "-n", str(effort.iterations)),
        *("--seconds", str(effort.seconds), "--raw-samples", str(samples)),
    ]
    settings = settings_of(state)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=BENCH_LIMIT_S, env={**os.environ, **settings}
    )
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}: {(done.stderr + done.stdout).strip()[-1000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"command": shlex.join([*(f"{k}={v}" for k, v in settings.items()), "rfaas", *command[3:-2]])}


def rows(samples: Path) -> Iterable[dict[str, Any]]:
    """A row for each kind and size: minimum and 25th percentile of each block, of calls and of the bare link."""
    taken: dict[tuple[str, int], dict[tuple[str, int], list[int]]] = defaultdict(lambda: defaultdict(list))
    with samples.open() as file:
        for line in csv.DictReader(file):
            of = taken[line["function"], int(line["size_bytes"])]
            of[line["series"], int(line["block"])].append(int(line["took_ns"]))
    for (kind, size_bytes), by_block in taken.items():
        row: dict[str, Any] = {"kind": kind, "size_bytes": size_bytes, "n": sum(map(len, by_block.values())) // 2}
        for series in ("call", "raw"):
            blocks = [sorted(times) for (which, _), times in sorted(by_block.items()) if which == series]
            row[f"{series}_min_ns"] = [block[0] for block in blocks]
            row[f"{series}_p25_ns"] = [percentile(block, 0.25) for block in blocks]
        yield row


def write_latency(size_bytes: int, iterations: int) -> dict[str, Any]:
    """perftest's ib_write_lat, two processes on the two CPUs; it polls memory, and its receiver has no completions.

    Both poll without a pause: on two emulated CPUs it may take minutes, so what is cut off is tried with a tenth.
    """
    found = _write_latency(size_bytes, iterations)
    if "error" in found and iterations > 10:
        found = _write_latency(size_bytes, iterations // 10)
    return found


def _write_latency(size_bytes: int, iterations: int) -> dict[str, Any]:
    device = os.environ.get("RFAAS_RDMA_DEVICE") or verbs.addresses()[0].device
    first, last = programs.two_cpus()
    command = ["ib_write_lat", "-d", device, "-n", str(iterations), "-F", "-s", str(max(2, size_bytes))]
    client = ["taskset", "-c", str(first), *command, "localhost"]
    done = None
    try:
        with subprocess.Popen(["taskset", "-c", str(last), *command], stdout=subprocess.DEVNULL) as server:
            try:
                up_until_s = time.monotonic() + PERFTEST_UP_S
                while done is None or (done.returncode and server.poll() is None and time.monotonic() < up_until_s):
                    time.sleep(0.2)  # until the server listens
                    done = subprocess.run(client, capture_output=True, text=True, timeout=PERFTEST_LIMIT_S)
            finally:
                server.kill()
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": f"ib_write_lat (package perftest): {error}"}
    lines = [line.split() for line in done.stdout.splitlines()]
    found = next((line for line in lines if len(line) > 4 and line[0] == command[-1]), None)
    if found is None:
        return {"error": f"ib_write_lat: {(done.stderr or done.stdout).strip()[-300:]}"}
    return {"command": shlex.join(client[3:]), "min_us": float(found[2]), "typical_us": float(found[4])}


def measure(into: Path, only: Sequence[str], quick: bool, c_program: Path | None) -> None:
    """Measure here; a line of verbs.jsonl for each series. Calls from C by a program that is compiled already."""
    run = records.about("make bench-rdma") | {"run": datetime.datetime.now().isoformat(timespec="seconds")}
    run |= {"emulated": "RFAAS_RDMA_GUEST" in os.environ}
    found = []
    for state in EFFORTS:
        here = {name: PARTS[name] for name in only if PARTS[name].state == state}
        for name, part in here.items():
            if part.kind == C_CALLS and c_program is not None:
                for row in from_c(part, c_program, quick):
                    found += _kept(into, [{"part": name, **row, **run}])
        names = {part.kind: name for name, part in here.items() if part.kind != C_CALLS}
        if not names:
            continue
        with tempfile.TemporaryDirectory() as directory:
            samples = Path(directory) / "samples.csv"
            told = latency([PARTS[name] for name in names.values()], samples, quick)
            about = {"bench": told["command"], "noise": told["noise"], **run}
            found += _kept(into, [{"part": names[row["kind"]], **row, **about} for row in rows(samples)])
    sizes = sorted({row["size_bytes"] for row in found})
    tested = {size: write_latency(size, 100 if quick or size > 1024 else 1000) for size in sizes}
    _kept(into, [row | {"perftest": tested[row["size_bytes"]]} for row in found])


def _kept(into: Path, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write rows, and say what they are; without perftest's figure at first, so that they are there if that fails."""
    with (into / "verbs.jsonl").open("a") as file:
        for row in found:
            file.write(json.dumps(row) + "\n")
            print(f"{row['part']} {row['size_bytes']} B: {_ratios(row)}", flush=True)
    return found


def _ratios(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{at} {one.median:.2f} ({one.low:.2f} to {one.high:.2f})" for at, one in over_raw(row).items())


# --- the report -----------------------------------------------------------------------------------------------------


def over_raw(row: Mapping[str, Any]) -> dict[str, Any]:
    """Ratios over the bare link block by block, at the minimum and the 25th percentile."""
    return {
        at: spread([a / b for a, b in zip(row[f"call_{at}_ns"], row[f"raw_{at}_ns"], strict=True)])
        for at in ("min", "p25")
    }


def latest(path: Path) -> list[dict[str, Any]]:
    """The last row of each part and size, in the order of PARTS."""
    found = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        found[row["part"], row["size_bytes"]] = row
    return [found[name, size] for name in PARTS for size in PARTS[name].sizes if (name, size) in found]


def _judged(row: Mapping[str, Any], ratios: Mapping[str, Any]) -> list[str]:
    must, goal = GOALS.get((row["part"], row["size_bytes"]), (None, None))
    if must is None or goal is None:
        return ["-", "-", "reported"]
    worst = max(ratios["min"].median, ratios["p25"].median)
    word = "goal met" if worst <= goal else "below the limit" if worst < must else "missed"
    return [f"< {must:.2f}", f"≤ {goal:.2f}", word]


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures, a line each."""
    head = (
        *("call", "bytes", "min / raw", "p25 / raw", "must", "goal", "", "call min, p25 (µs)", "raw min, p25 (µs)"),
        *("perftest 2 x min, typical (µs)", "round trips"),
    )
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for row in found:
        ratios = over_raw(row)
        tested = row.get("perftest", {"error": "not measured"})
        cells = [
            *(WHAT[row["part"]], f"{row['size_bytes']:,}"),
            *(f"{one.median:.2f} ({one.low:.2f} … {one.high:.2f})" for one in ratios.values()),
            *_judged(row, ratios),
            *(
                f"{min(row[f'{who}_min_ns']) / 1e3:.1f}, {min(row[f'{who}_p25_ns']) / 1e3:.1f}"
                for who in ("call", "raw")
            ),
            "-" if "error" in tested else f"{2 * tested['min_us']:.1f}, {2 * tested['typical_us']:.1f}",
            f"{row['n']:,} in {len(row['raw_min_ns'])} blocks",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


HOW: Final = (
    "`make bench-rdma` (`benchmarks/verbs.py`). Ratios over our own C loop (`transport/raw/raw_verbs.c`: RDMA"
    " writes with immediate both ways, no copies, the same way of waiting) between the same two processes, by turns in"
    " blocks: the median of the blocks, lowest and highest beside it."
)
EMULATED: Final = (
    "**Emulation: not an RDMA latency.** Soft-RoCE in a guest whose CPUs are emulated: a ratio compares the cost of"
    " software within one run, and the microseconds say nothing about a device."
)


def report(found: Sequence[Mapping[str, Any]]) -> str:
    """verbs.md."""
    emulated = any(row["emulated"] for row in found)
    title = "# Calls over RDMA beside bare RDMA" + (f" ({EMULATION})" if emulated else "")
    head = [title, "", HOW, "", *([EMULATED, ""] if emulated else [])]
    for row in {row["run"]: row for row in found}.values():
        machine, rows = row["machine"], [one for one in found if one["run"] == row["run"]]
        cpu = f"{machine['cpu']}, {machine['cpus']} CPUs, Linux {machine['kernel']}, Python {machine['python']}"
        parts = ", ".join(dict.fromkeys(one["part"] for one in rows))
        head += [f"- {row['run']}, {parts}: {cpu}, rfaas {machine['rfaas']}"]
        head += [f"    - `{command}`" for command in dict.fromkeys(one["bench"] for one in rows)]
    noise = records.shortened(dict.fromkeys(one["text"] for row in found for one in row["noise"]))
    return "\n".join([*head, "", *table(found), "", *(f"- noise: {one}" for one in noise), ""])


# --- here, or in the guest ------------------------------------------------------------------------------------------


def compiled_for_c(only: Sequence[str]) -> Path | None:
    """C_CALLS if a part of it is asked for: compiled here, for an emulated CPU takes minutes."""
    return programs.build(C_CALLS) if any(PARTS[name].kind == C_CALLS for name in only) else None


def measure_in_guest(into: Path, only: Sequence[str], quick: bool) -> None:
    """The same command in a guest that has a device."""
    program = compiled_for_c(only)
    again = [sys.executable, str(Path(__file__).resolve()), "--only", ",".join(only), "--into", str(into), "--measure"]
    again += [] if program is None else ["--c-program", str(program)]
    guest = [str(GUEST), "-t", str(GUEST_LIMIT_S), "-v", str(into), "--", *again, *(["--quick"] if quick else [])]
    if (status := subprocess.run(guest).returncode) != 0:
        raise SystemExit(f"the run in the guest ended with {status}")


def main() -> None:
    """Measure, and write the report of what has been measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by comma: %(default)s")
    parser.add_argument("--into", type=Path)
    parser.add_argument("--quick", action="store_true", help="does it work? no figure to quote")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)  # in the guest
    parser.add_argument("--c-program", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    only = asked.only.split(",")
    if unknown := [name for name in only if name not in PARTS]:
        parser.error(f"--only: {unknown[0]} is none of {', '.join(PARTS)}")
    into = records.directory("verbs", asked.quick, asked.into).resolve()
    problem = verbs.why_not()
    if not problem:
        measure(into, only, asked.quick, asked.c_program or compiled_for_c(only))
    elif asked.measure:
        raise SystemExit(f"no RDMA here: {problem}")
    else:
        measure_in_guest(into, only, asked.quick)
    if not asked.measure:
        (into / "verbs.md").write_text(report(latest(into / "verbs.jsonl")))
        print(into / "verbs.md")


if __name__ == "__main__":
    main()
