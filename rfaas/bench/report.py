"""Text of a report: a head of `#` lines that says what was measured where, then columns as perftest and OSU print them.

Pure but for the machine and the clock. Whatever reads columns skips lines that begin with `#`.
"""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import rfaas
from rfaas.bench import bandwidth, cold, latency, rate
from rfaas.bench.noise import Noise
from rfaas.bench.statistics import Summary
from rfaas_transport._rawlink import clock_cost_ns

DASH = "-"


def columns(headers: Sequence[str], rows: Iterable[Sequence[object]], *, words_last: bool = False) -> list[str]:
    """Right-aligned columns under a line of headers that begins with `#`; the last one to the left if it is words."""
    texts = [["# " + headers[0], *headers[1:]], *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(headers))]
    texts[0][0] = "# " + headers[0].rjust(widths[0] - 2)
    if words_last:
        widths[-1] = 0
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in texts]


def us(value_ns: float | None) -> str:
    """Nanoseconds as microseconds; a dash where there are too few samples."""
    return DASH if value_ns is None else f"{value_ns / 1e3:.2f}"


def machine() -> dict[str, Any]:
    """The machine and the versions that a figure depends on."""
    return {
        "host": socket.gethostname(),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "rfaas": rfaas.__version__,
    }


def machine_lines(command: str, when: str) -> list[str]:
    """The head of a report."""
    about = machine()
    return [
        f"# rfaas {command}  version {about['rfaas']}  {when}",
        f"# client on {about['host']}: {about['cpu']}, {about['cpus']} CPUs, Linux {about['kernel']}, "
        f"Python {about['python']}",
    ]


def clock_dict() -> dict[str, Any]:
    """Which clock, and what one reading of it costs: each interval holds one."""
    clock, least = time.perf_counter_ns, 1 << 62
    for _ in range(1000):
        begun_ns = clock()
        least = min(least, clock() - begun_ns)
    return {"name": "CLOCK_MONOTONIC (time.perf_counter_ns)", "python_ns": least, "c_ns": clock_cost_ns()}


def clock_line() -> str:
    """The same in words."""
    clock = clock_dict()
    costs = f"one reading costs {clock['python_ns']} ns in Python (calls), {clock['c_ns']} ns in C (bare link)"
    return f"# clock: {clock['name']}; {costs}; each time holds one, not subtracted"


def noise_lines(noise: Sequence[Noise], elapsed_s: float) -> list[str]:
    """What disturbed the run, or that nothing seen did."""
    if not noise:
        return [f"# noise: none seen in {elapsed_s:.1f} s"]
    return [f"# noise: {one.text}" for one in noise]


def summary_dict(found: Summary) -> dict[str, Any]:
    """One series for `--json`; nanoseconds, null where a percentile has too few samples."""
    return found._asdict()


# --- latency --------------------------------------------------------------------------------------------------------

LATENCY_HEADERS = (
    *("BYTES", "STATE", "KIND", "CALL", "ITER", "MIN", "P50", "P90", "P99", "P99.9", "MAX", "P50_LOW", "P50_HIGH"),
    *("RAW_P50", "RAW_P99", "ADDED", "X"),
)


def latency_lines(report: latency.Report) -> list[str]:
    """The table of `rfaas bench latency`; times in microseconds."""
    return columns(LATENCY_HEADERS, [_latency_cells(row) for row in report.rows])


def _latency_cells(row: latency.Row) -> tuple[object, ...]:
    calls, raw = row.calls, row.raw
    percentiles = (calls.min_ns, calls.p50_ns, calls.p90_ns, calls.p99_ns, calls.p999_ns, calls.max_ns)
    return (
        *(row.size_bytes, row.state, row.function, row.call, calls.n, *map(us, percentiles)),
        *(us(calls.p50_low_ns), us(calls.p50_high_ns), us(raw.p50_ns), us(raw.p99_ns), us(row.added_ns)),
        f"{row.times_raw:.2f}",
    )


def latency_dict(report: latency.Report) -> dict[str, Any]:
    """The same for `--json`, without the samples."""
    rows = [
        {
            **{key: getattr(row, key) for key in ("size_bytes", "state", "function", "call", "raw_bytes")},
            "calls": summary_dict(row.calls),
            "raw": summary_dict(row.raw),
            "added_ns": row.added_ns,
            "times_raw": row.times_raw,
        }
        for row in report.rows
    ]
    return {**_common(report), "rows": rows}


def sample_lines(report: latency.Report) -> Iterable[str]:
    """Every sample of a latency run, as CSV with a head, in the order in which they were made."""
    yield "size_bytes,state,function,call,series,block,index,took_ns"
    for row in report.rows:
        for series, blocks in (("call", row.call_samples_ns), ("raw", row.raw_samples_ns)):
            for number, block in enumerate(blocks):
                head = f"{row.size_bytes},{row.state},{row.function},{row.call},{series},{number}"
                yield from (f"{head},{index},{took_ns}" for index, took_ns in enumerate(block))


# --- rate -----------------------------------------------------------------------------------------------------------


def rate_lines(report: rate.Report) -> list[str]:
    """The table of `rfaas bench rate`; times in microseconds."""
    headers = ("IN_FLIGHT", "CALLS", "CALLS/S", "LOW", "HIGH", "P50", "P99", "P99.9", "MAX")
    return columns(
        headers,
        [
            (
                *(row.in_flight, row.calls.n, *(f"{figure:.0f}" for figure in row.per_s[:3])),
                *map(us, (row.calls.p50_ns, row.calls.p99_ns, row.calls.p999_ns, row.calls.max_ns)),
            )
            for row in report.rows
        ],
    )


def rate_dict(report: rate.Report) -> dict[str, Any]:
    """The same for `--json`."""
    rows = [
        {"in_flight": row.in_flight, "per_s": row.per_s._asdict(), "calls": summary_dict(row.calls)}
        for row in report.rows
    ]
    counts = {"workers": report.workers, "serving": report.serving}
    return {**_common(report), **counts, "raw_per_s": report.raw_per_s, "rows": rows}


# --- bandwidth ------------------------------------------------------------------------------------------------------


def bandwidth_lines(report: bandwidth.Report) -> list[str]:
    """The table of `rfaas bench bandwidth`; 10^9 bytes a second at the median, milliseconds of the first call."""
    ways = [*bandwidth.WAYS, "raw"]
    headers = ("BYTES", "ITER", *(f"{name.upper()}_GB/S" for name in ways), "ECHO/RAW", "ECHO_P99_US", "FIRST_MS")
    rows = []
    for row in report.rows:
        speeds = {name: row.series[name].gb_per_s(row.size_bytes) for name in ways}
        echo = row.series["echo"]
        cells = (*(f"{speeds[name]:.3f}" for name in ways), f"{speeds['echo'] / speeds['raw']:.2f}")
        rows.append((row.size_bytes, echo.times.n, *cells, us(echo.times.p99_ns), f"{(echo.first_ns or 0) / 1e6:.2f}"))
    return columns(headers, rows)


def bandwidth_dict(report: bandwidth.Report) -> dict[str, Any]:
    """The same for `--json`."""
    rows = [
        {
            "size_bytes": row.size_bytes,
            "series": {
                name: {
                    "gb_per_s": one.gb_per_s(row.size_bytes),
                    "ways": one.ways,
                    "first_ns": one.first_ns,
                    "times": summary_dict(one.times),
                }
                for name, one in row.series.items()
            },
        }
        for row in report.rows
    ]
    return {**_common(report), "rows": rows}


# --- cold -----------------------------------------------------------------------------------------------------------


def cold_lines(report: cold.Report) -> list[str]:
    """The table of `rfaas bench cold`; times in milliseconds."""
    rows = []
    for start, phases in report.starts.items():
        for name, found in phases.items():
            times = (found.min_ns, found.p50_ns, found.p90_ns, found.max_ns)
            meaning = cold.MEANING.get(name.rpartition("+")[2], "")
            rows.append((start, name, found.n, *(DASH if t is None else f"{t / 1e6:.2f}" for t in times), meaning))
    table = columns(("START", "PHASE", "N", "MIN_MS", "P50_MS", "P90_MS", "MAX_MS", "WHAT"), rows, words_last=True)
    return [line.rstrip() for line in table]


def cold_dict(report: cold.Report) -> dict[str, Any]:
    """The same for `--json`."""
    starts = {
        start: {name: summary_dict(found) for name, found in phases.items()} for start, phases in report.starts.items()
    }
    noise = [one._asdict() for one in report.noise]
    return {"machine": machine(), "starts": starts, "noise": noise, "elapsed_s": report.elapsed_s}


def _common(report: latency.Report | rate.Report | bandwidth.Report) -> dict[str, Any]:
    return {
        "machine": machine(),
        "medium": report.medium,
        "node": report.node,
        "client_cpu": report.pins.client_cpu,
        "worker_cpu": report.pins.worker_cpu,
        "noise": [one._asdict() for one in report.noise],
        "elapsed_s": report.elapsed_s,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
