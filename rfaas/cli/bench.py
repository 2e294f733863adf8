"""`rfaas bench`: measure what calls cost here, beside the raw medium, in one run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import click

from rfaas.cli.bench_options import (
    check_room,
    check_settings,
    check_writable,
    common_options,
    end,
    errors_said,
    hot_for_s,
    made_executor,
    numbers,
    sizes_of,
    wish,
    words,
    write,
)
from rfaas.cli.common import json_option, print_json
from rfaas_transport.errors import ConfigError

LATENCY_SIZES: Final = ("0,1,64,1KiB,16KiB,256KiB,1MiB,16MiB,64MiB", "0,64,64KiB")
BANDWIDTH_SIZES: Final = ("64KiB,1MiB,16MiB,64MiB", "64KiB,1MiB")
IN_FLIGHT: Final = ("1,2,4,8,16,32,64,128,256,512,1024", "1,16,64")
ITERATIONS: Final = (1000, 40)
SECONDS: Final = (1.0, 0.1)
BLOCKS: Final = (5, 2)
WARM_PAUSES: Final = 2  # times hot_for_s: then a worker sleeps for certain
MOST_SAMPLES: Final = 10_000_000  # of a series; each takes 8 bytes twice, and tens once it is summarized


@click.group("bench")
def bench() -> None:
    """Measure what calls cost on this machine or cluster, beside the raw medium."""


@bench.command("latency", short_help="Round trips of calls, hot and warm.")
@click.option("--sizes", help=f"Payloads, there and back; 0: no arguments [{LATENCY_SIZES[0]}].")
@click.option(
    "-n",
    "--iterations",
    type=click.IntRange(1, MOST_SAMPLES),
    help="Round trips of a series, at most [1000; quick: 40].",
)
@click.option(
    "--warm-up", type=click.IntRange(0, MOST_SAMPLES), default=20, show_default=True, help="Calls before each block."
)
@click.option("--state", "states", default="hot,warm", show_default=True, help="hot: it polls; warm: it sleeps.")
@click.option(
    "--call", "calls", default="invoke,submit", show_default=True, help="ex.invoke(f), ex.submit(f).result()."
)
@click.option("--kind", "functions", default="python", show_default=True, help="Kinds of functions.")
@click.option("--raw-samples", type=click.Path(path_type=Path, dir_okay=False), help="Write every time to a CSV file.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw latency over size: .svg, .png, .pdf."
)
@click.option(
    "--cdf", type=click.Path(path_type=Path, dir_okay=False), help="Draw the distributions of the least size."
)
@common_options
def latency(
    sizes: str | None,
    iterations: int | None,
    warm_up: int,
    states: str,
    calls: str,
    functions: str,
    raw_samples: Path | None,
    plot: Path | None,
    cdf: Path | None,
    transport: str | None,
    allocator: str | None,
    quick: bool,
    as_json: bool,
    **rest: Any,  # noqa: ANN401 - options
) -> None:
    """Measure round trips of calls to one worker, and of bare bytes between the same two processes, by turns.

    \b
    rfaas bench latency
    rfaas bench latency --transport tcp --sizes 1,64MiB -n 200 --json > here.json
    rfaas bench latency --state hot --call invoke --plot latency.svg --cdf distribution.svg

    \b
    Times in microseconds, from the call to its result, in the calling process.
    P50…P99.9          percentiles of all calls; a dash: too few for that one
    P50_LOW, P50_HIGH  lowest and highest median of the blocks: how far to trust P50
    RAW_…              the same bytes there and back over the bare medium, by C: same processes, CPUs, state
    ADDED, X           P50 less RAW_P50, and over it: what calling costs beside moving the bytes
    BYTES 0            no arguments, no result; the bare link then moves 64 bytes, a frame's header
    """
    from rfaas.bench import kinds, plots, report
    from rfaas.bench.latency import LEAST_PAUSE_S, STATES, Plan, measure

    plan = Plan(
        sizes=sizes_of(sizes, LATENCY_SIZES[quick], zero=True),
        states=words("--state", states, STATES),
        calls=words("--call", calls, kinds.CALLS),
        functions=words("--kind", functions, kinds.FUNCTIONS),
        iterations=iterations or ITERATIONS[quick],
        seconds=rest["seconds"] or SECONDS[quick],
        warm_up=warm_up,
        blocks=rest["blocks"] or BLOCKS[quick],
        pause_s=LEAST_PAUSE_S + WARM_PAUSES * hot_for_s(),
    )
    check_room(max(plan.sizes))
    check_writable(raw_samples, plot, cdf)
    plots.check([plot, cdf])
    with made_executor(transport, allocator) as executor:
        found = measure(executor, plan, wish(rest))
    unwritten = write(
        (raw_samples, lambda path: path.write_text("\n".join(report.sample_lines(found)) + "\n")),
        (plot, lambda path: plots.over_size(found, path)),
        (cdf, lambda path: plots.distribution(found, path)),
    )
    if as_json:
        print_json({**report.latency_dict(found), "plan": {**vars(plan)}, "clock": report.clock_dict()})
        end(unwritten)
        return
    series = f"{plan.iterations} round trips a series in {plan.blocks} blocks by turns with the bare link"
    more = [f"# {series}, {plan.warm_up} before each not counted, at most {plan.seconds:g} s", report.clock_line()]
    if "warm" in plan.states:
        more.append(f"# warm: a pause of {plan.pause_s * 1e3:.1f} ms before each round trip; both bare sides sleep")
    _print("bench latency", found, more, report.latency_lines(found), quick=quick)
    end(unwritten)


@bench.command("rate", short_help="Calls a second, 1 to 1024 under way.")
@click.option("--in-flight", help=f"Calls under way at a time [{IN_FLIGHT[0]}].")
@click.option(
    "-n", "--calls", type=click.IntRange(1, MOST_SAMPLES), help="Calls of a block, at most [10000; quick: 200]."
)
@click.option("--workers", type=click.IntRange(1, 65535), default=1, show_default=True, help="Several are not pinned.")
@common_options
def rate(
    in_flight: str | None,
    calls: int | None,
    workers: int,
    transport: str | None,
    allocator: str | None,
    quick: bool,
    as_json: bool,
    **rest: Any,  # noqa: ANN401 - options
) -> None:
    """Measure calls a second, with 1 to 1024 of them under way.

    \b
    rfaas bench rate
    rfaas bench rate --workers 4 --in-flight 1024

    \b
    CALLS/S, LOW, HIGH  of the blocks: median, lowest, highest
    P50…MAX             microseconds from a call's submit to its result, waiting for those before it included
    """
    from rfaas.bench import report
    from rfaas.bench.rate import Plan, measure

    plan = Plan(
        in_flight=numbers("--in-flight", IN_FLIGHT[quick] if in_flight is None else in_flight),
        calls=calls or (200 if quick else 10_000),
        seconds=rest["seconds"] or SECONDS[quick],
        blocks=rest["blocks"] or BLOCKS[quick],
    )
    with made_executor(transport, allocator, workers) as executor:
        found = measure(executor, plan, wish(rest), workers)
    if as_json:
        print_json({**report.rate_dict(found), "plan": {**vars(plan)}, "clock": report.clock_dict()})
        return
    more = [
        f"# up to {plan.calls} calls a block, {plan.blocks} blocks of each by turns, at most {plan.seconds:g} s each"
    ]
    if workers > 1:
        more.append(f"# {found.serving} workers served at the end, of {workers} asked for")
    if found.raw_per_s is not None:
        more.append(f"# bare {found.medium}: {found.raw_per_s:.0f} round trips of 64 bytes a second, one under way")
    _print("bench rate", found, more, report.rate_lines(found), quick=quick)


@bench.command("bandwidth", short_help="Bytes a second of numpy arrays.")
@click.option("--sizes", help=f"Bytes of the arrays [{BANDWIDTH_SIZES[0]}].")
@click.option(
    "-n", "--iterations", type=click.IntRange(1, MOST_SAMPLES), help="Arrays of a series, at most [100; quick: 10]."
)
@common_options
def bandwidth(
    sizes: str | None,
    iterations: int | None,
    transport: str | None,
    allocator: str | None,
    quick: bool,
    as_json: bool,
    **rest: Any,  # noqa: ANN401 - options
) -> None:
    """Measure bytes a second of numpy arrays: there and back, and one way.

    \b
    rfaas bench bandwidth --sizes 1MiB,64MiB

    \b
    ECHO_GB/S  the function returns a new array: 2 x size over the median time; 10^9 bytes
    TO, FROM   one way: the function takes an array, or makes one
    EMPTY      an array of rfaas.empty, given back
    RAW_GB/S   the same bytes there and back by C over the bare medium, by turns
    FIRST_MS   the first echo of this size, which is the first to touch memory
    """
    from rfaas.bench import report
    from rfaas.bench.bandwidth import EDGE, Plan, measure

    wanted = sizes_of(sizes, BANDWIDTH_SIZES[quick])
    if min(wanted) < EDGE:
        raise ConfigError(f"--sizes: {min(wanted)} bytes are no array to speak of", hint=f"at least {EDGE}")
    check_room(max(wanted))
    plan = Plan(
        sizes=wanted,
        iterations=iterations or (10 if quick else 100),
        seconds=rest["seconds"] or SECONDS[quick],
        blocks=rest["blocks"] or BLOCKS[quick],
    )
    with made_executor(transport, allocator) as executor:
        found = measure(executor, plan, wish(rest))
    if as_json:
        print_json({**report.bandwidth_dict(found), "plan": {**vars(plan)}, "clock": report.clock_dict()})
        return
    more = [f"# up to {plan.iterations} arrays a series in {plan.blocks} blocks by turns, at most {plan.seconds:g} s"]
    _print("bench bandwidth", found, more, report.bandwidth_lines(found), quick=quick)


@bench.command("cold", short_help="From nothing to the first result.")
@click.option("--transport", help="Medium: auto, shm, verbs or tcp [executor.transport].")
@click.option("--allocator", help="State directory, or embedded [as programs: `rfaas config show`].")
@click.option("-n", "--starts", type=click.IntRange(1, 1000), help="Programs to start [10; quick: 1].")
@click.option("--quick", is_flag=True, help="One start.")
@json_option
def cold(transport: str | None, allocator: str | None, starts: int | None, quick: bool, as_json: bool) -> None:
    """Measure what it takes from the start of a program to its first result, and where the time goes.

    \b
    rfaas bench cold -n 20

    \b
    START first   a program that makes an executor and calls once; `interpreter` begins with its exec
          again   the same program makes another executor: nothing is left to import
    PHASE total   to the first result;  next: the call after it
    Phases joined by "+" can't be told apart: daemons that run already keep no log for this.
    """
    from rfaas.bench import cold as cold_starts
    from rfaas.bench import report

    with errors_said(as_json):
        check_settings(transport, allocator)
        found = cold_starts.measure({"transport": transport, "allocator": allocator}, starts or (1 if quick else 10))
    if as_json:
        print_json(report.cold_dict(found))
        return
    lines = [*report.machine_lines("bench cold", time.strftime("%Y-%m-%dT%H:%M:%S%z")), *quick_lines(quick)]
    for line in [*lines, *report.noise_lines(found.noise, found.elapsed_s), *report.cold_lines(found)]:
        click.echo(line)


def quick_lines(quick: bool) -> list[str]:
    """A warning where few of everything were made."""
    return ["# --quick: it works; no figure below is one to quote"] if quick else []


def _print(command: str, found: Any, more: list[str], table: list[str], *, quick: bool) -> None:  # noqa: ANN401 - a report
    from rfaas.bench import report

    head = report.machine_lines(command, time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    where = f"# worker on {found.node} over {found.medium or '?'}; {found.pins.text}"
    for line in [*head, where, *quick_lines(quick), *more, *report.noise_lines(found.noise, found.elapsed_s), *table]:
        click.echo(line)
