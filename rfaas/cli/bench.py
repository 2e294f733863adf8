"""`rfaas bench`: measure what calls cost here, beside the raw medium, in one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rfaas.cli.common import fail, json_option, print_json, print_table
from rfaas.units import parse_size_bytes
from rfaas_transport.errors import ConfigError, RfaasError

if TYPE_CHECKING:
    from rfaas.bench.latency import Distribution

DEFAULT_SIZES = "1,64,1KiB,16KiB,256KiB,1MiB"


@click.group("bench")
def bench() -> None:
    """Measure what calls cost on this machine or cluster, beside the raw medium."""


@bench.command("latency")
@click.option("--transport", help="Medium: auto or tcp [executor.transport].")
@click.option("--allocator", help="State directory, or embedded [as programs: `rfaas config show`].")
@click.option("--sizes", default=DEFAULT_SIZES, show_default=True, help="Payloads, there and back.")
@click.option("-n", "--iterations", type=click.IntRange(5), default=1000, show_default=True, help="Round trips a size.")
@click.option("--seconds", type=click.FloatRange(0.05, 600), default=2.0, show_default=True, help="A size, at most.")
@click.option("--pin/--no-pin", default=True, show_default=True, help="Client and worker to a CPU each.")
@json_option
def latency(
    transport: str | None,
    allocator: str | None,
    sizes: str,
    iterations: int,
    seconds: float,
    pin: bool,
    as_json: bool,
) -> None:
    """Measure round trips of calls to one worker, and of bytes on a raw socket between the same two processes.

    \b
    rfaas bench latency
    rfaas bench latency --sizes 1,64MiB -n 200 --json > here.json

    \b
    P50…P99.9   microseconds from the call to its result, in the calling process
    RAW_…       the same bytes there and back on a bare socket, same processes, same CPUs
    X           P50 over RAW_P50: what calling costs above moving the bytes
    A dash: too few round trips for that percentile.
    """
    try:
        wanted = [parse_size_bytes(text, name="--sizes") for text in sizes.split(",")]
        _measure(transport, allocator, wanted, iterations, seconds, pin, as_json)
    except RfaasError as error:
        fail(error, as_json=as_json)
    except OSError as error:
        fail(ConfigError(f"the raw link failed: {error}", hint="does this host's name resolve?"), as_json=as_json)


def _measure(
    transport: str | None,
    allocator: str | None,
    sizes: list[int],
    iterations: int,
    seconds: float,
    pin: bool,
    as_json: bool,
) -> None:
    from rfaas import Executor
    from rfaas.bench.latency import CLOCK, measure

    with Executor(max_workers=1, transport=transport, allocator=allocator, acquire_timeout_s=60) as executor:
        report = measure(executor, sizes, iterations=iterations, seconds=seconds, pin=pin)
    if as_json:
        rows = [
            {"size_bytes": row.size_bytes, "call": row.call._asdict(), "raw": row.raw._asdict()} for row in report.rows
        ]
        told = {**report._asdict(), "no_op": report.no_op._asdict(), "rows": rows, "clock": CLOCK}
        print_json(told)
        return
    pinned = "nothing pinned"
    if report.client_cpu is not None:
        pinned = f"client pinned to CPU {report.client_cpu}, worker to CPU {report.worker_cpu}"
        pinned += ": one and the same" if report.client_cpu == report.worker_cpu else ""
    click.echo(f"# {report.medium} to a warm worker on {report.node}; {pinned}; clock {CLOCK}")
    headers = ("BYTES", "ITER", "MIN_US", "P50_US", "P99_US", "P99.9_US", "RAW_P50_US", "RAW_P99_US", "X")
    no_op = report.no_op
    lines: list[tuple[object, ...]] = [(0, *_cells(no_op), "-", "-", "-")]
    for row in report.rows:
        raw = row.raw
        cells = (_us(raw.p50_us), _us(raw.p99_us), f"{row.call.p50_us / raw.p50_us:.1f}")
        lines.append((row.size_bytes, *_cells(row.call), *cells))
    print_table(headers, lines, right=True)


def _cells(found: Distribution) -> tuple[object, ...]:
    return (found.n, _us(found.min_us), _us(found.p50_us), _us(found.p99_us), _us(found.p999_us))


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
