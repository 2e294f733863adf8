"""Calls a second with 1 … 1024 of them in flight, to one worker or several."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from rfaas.bench import served
from rfaas.bench.latency import NO_OP_BYTES, Bench, Benches
from rfaas.bench.link import RawLink
from rfaas.bench.noise import Noise
from rfaas.bench.pinning import Pins, Wish
from rfaas.bench.statistics import Spread, Summary, samples, spread, summary
from rfaas.executor import Executor
from rfaas_transport.errors import ConfigError

if TYPE_CHECKING:
    from rfaas.client.futures import Future

RAW_ROUND_TRIPS: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        in_flight: how many calls are under way at a time, each at least 1.
        calls: of each block, at most.
        seconds: of each block, at most.
        blocks: of each number in flight, all numbers by turns.
    """

    in_flight: Sequence[int]
    calls: int = 10_000
    seconds: float = 1.0
    blocks: int = 5


class Row(NamedTuple):
    """One number in flight. A call's time is that from its submit to when its result was taken, oldest first."""

    in_flight: int
    per_s: Spread
    calls: Summary


@dataclass(frozen=True)
class Report:
    """A whole run.

    Attributes:
        workers: asked for.
        serving: there at the end, which an allocator may have fewer of.
        raw_per_s: round trips a second of 64 bare bytes, one in flight; None with several workers.
    """

    medium: str
    node: str
    pins: Pins
    workers: int
    serving: int
    raw_per_s: float | None
    rows: list[Row]
    noise: list[Noise]
    elapsed_s: float


def measure(executor: Executor, plan: Plan, wish: Wish, workers: int = 1) -> Report:
    """Measure an executor with so many workers; only a single worker is pinned.

    Raises:
        RfaasError: as `latency.measure`; an answer was wrong.
    """
    single = workers == 1
    with Benches(executor, wish, workers) as bench:
        raw_per_s = _raw_per_s(bench) if single else None
        _block(executor, min(64, max(plan.in_flight)), 200, 5.0)  # warm up, and have all workers come
        blocks: dict[int, list[tuple[float, list[int]]]] = {n: [] for n in plan.in_flight}
        for _ in range(plan.blocks):
            for n in plan.in_flight:
                blocks[n].append(_block(executor, n, max(plan.calls, n), plan.seconds))
        rows = [Row(n, spread([r for r, _ in made]), summary([s for _, s in made])) for n, made in blocks.items()]
        noise = bench.noise()
        elapsed_s = time.monotonic() - bench.before.at_s
        serving = executor.statistics()["workers"]
    return Report(bench.medium, bench.node, bench.pins, workers, serving, raw_per_s, rows, noise, elapsed_s)


def _raw_per_s(bench: Bench) -> float:
    room = samples(RAW_ROUND_TRIPS)
    with RawLink(bench.executor, bench.medium, NO_OP_BYTES, node=None if bench.here else bench.node) as link:
        n = link.block(NO_OP_BYTES, memoryview(room), budget_s=1.0)
    return 1e9 / max(1, summary([room[:n]]).p50_ns)


def _block(executor: Executor, in_flight: int, n: int, seconds: float) -> tuple[float, list[int]]:
    """Make up to `n` calls, so many at a time; returns calls a second and the time of each."""
    submit, clock, function = executor.submit, time.perf_counter_ns, served.echo
    took_ns = samples(n)
    under_way: deque[tuple[int, Future[int], int]] = deque()
    begun_ns = clock()
    end_ns = begun_ns + int(seconds * 1e9)
    made = 0

    def take() -> None:
        number, future, at_ns = under_way.popleft()
        answer = future.result()
        took_ns[number] = clock() - at_ns
        if answer != number:
            raise ConfigError(f"call {number} brought back {answer!r}", hint="report this: no figure can be trusted")

    for number in range(n):
        if len(under_way) == in_flight:
            take()
        at_ns = clock()
        if at_ns > end_ns:
            break
        under_way.append((number, submit(function, number), at_ns))
        made += 1
    while under_way:
        take()
    return made / (clock() - begun_ns) * 1e9, took_ns[:made].tolist()
