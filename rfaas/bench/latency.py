"""Round trips of calls beside round trips of bare bytes between the same two processes, by turns.

For each size, state and kind of call: blocks of calls, each followed by a block of bare round trips of the same size
and state. Hot: the worker polls for the next call, and the bare link polls too. Warm: before each round trip the client
pauses until the worker sleeps, and both sides of the bare link sleep.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from rfaas.bench import kinds, served
from rfaas.bench.link import LARGE_BYTES, RawLink, medium_of
from rfaas.bench.noise import WATCH_S, Machine, Noise, findings, findings_apart
from rfaas.bench.pinning import Pins, Wish, pinned
from rfaas.bench.statistics import Summary, samples, summary
from rfaas.executor import Executor

NO_OP_BYTES: Final = 64
"""What a call without arguments is compared with: its frames are a header of 64 bytes each way."""

LEAST_PAUSE_S: Final = 0.002
STATES: Final = ("hot", "warm")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        sizes: bytes there and back; 0: a call without arguments and result.
        states: of STATES.
        calls: of kinds.CALLS.
        functions: of kinds.FUNCTIONS.
        iterations: round trips of each series, at most.
        seconds: of each series, at most; the bare link has as much.
        warm_up: calls before each block, not counted.
        blocks: in which a series is made, by turns with the bare link.
        pause_s: before each warm call.
    """

    sizes: Sequence[int]
    states: Sequence[str] = STATES
    calls: Sequence[str] = ("invoke", "submit")
    functions: Sequence[str] = ("python",)
    iterations: int = 1000
    seconds: float = 1.0
    warm_up: int = 20
    blocks: int = 5
    pause_s: float = LEAST_PAUSE_S

    def shares(self) -> list[int]:
        """How many round trips each block has: all alike, but for the remainder; at least 1."""
        n = max(self.iterations, self.blocks)
        return [n // self.blocks + (number < n % self.blocks) for number in range(self.blocks)]


class Row(NamedTuple):
    """One series: calls, and what the bare medium took beside them.

    Attributes:
        raw_bytes: of the bare link's payload: the size, but for a call without payload.
        call_samples_ns, raw_samples_ns: by block, in the order in which they were made.
    """

    size_bytes: int
    state: str
    function: str
    call: str
    raw_bytes: int
    calls: Summary
    raw: Summary
    call_samples_ns: list[list[int]]
    raw_samples_ns: list[list[int]]

    @property
    def added_ns(self) -> int:
        """What calling adds to moving the bytes, at the median."""
        return self.calls.p50_ns - self.raw.p50_ns

    @property
    def times_raw(self) -> float:
        """The same as a ratio."""
        return self.calls.p50_ns / max(1, self.raw.p50_ns)


@dataclass(frozen=True)
class Report:
    """A whole run.

    Attributes:
        medium: of calls and of the bare link.
        node: of the worker.
        elapsed_s: from the first reading of the machine to the last.
    """

    medium: str
    node: str
    pins: Pins
    rows: list[Row]
    noise: list[Noise]
    elapsed_s: float
    plan: Plan = field(repr=False)


class Bench(NamedTuple):
    """An executor whose only worker is known and pinned.

    Attributes:
        here: the worker is on this node.
        before: this machine when it began.
        there: the worker's machine then, if that is another one.
        workers: how many there are; of several none is pinned.
    """

    executor: Executor
    medium: str
    node: str
    here: bool
    pins: Pins
    before: Machine
    there: Machine | None
    workers: int

    def noise(self) -> list[Noise]:
        """What disturbed the time since `before`."""
        after, cpus = Machine.read(), self.pins
        if self.there is not None:
            there = (self.there, self.executor.invoke(Machine.read))
            return findings_apart((self.before, after), there, self.node, cpus.client_cpu, cpus.worker_cpu)
        return findings(
            *(self.before, after),
            client_cpu=cpus.client_cpu,
            worker_cpu=cpus.worker_cpu,
            processes=1 + self.workers,
        )


class Benches:
    """Makes a Bench of an executor, for a `with` block; everything is put back at its end.

    Args:
        executor: with `workers` workers at most.
        wish: of the user; what it says of several workers is not done.
    """

    def __init__(self, executor: Executor, wish: Wish, workers: int = 1) -> None:
        self._executor = executor
        self._workers = workers
        host, namespace, _ = executor.invoke(served.whereabouts)
        self._node, self._here = host, (host, namespace) == served.whereabouts()[:2]
        shares_cpus = executor.invoke(served.kernel) == served.kernel()
        self._before = Machine.read(WATCH_S)
        self._there = None if shares_cpus else executor.invoke(Machine.read, WATCH_S)
        self._pinned = pinned(executor, wish if workers == 1 else Wish(pin=False), self._before.siblings, shares_cpus)

    def __enter__(self) -> Bench:
        pins = self._pinned.__enter__()
        medium = medium_of(self._executor)
        return Bench(self._executor, medium, self._node, self._here, pins, self._before, self._there, self._workers)

    def __exit__(self, *end: object) -> None:
        self._pinned.__exit__(*end)  # type: ignore[arg-type]


def measure(executor: Executor, plan: Plan, wish: Wish) -> Report:
    """Measure the only worker of an executor.

    Raises:
        RfaasError: no worker, or it was lost, or a CPU can't be had, or the bare link broke. Affinities are restored
            in any case.
    """
    with Benches(executor, wish) as bench:
        largest = max(NO_OP_BYTES, *plan.sizes)
        with RawLink(executor, bench.medium, largest, node=None if bench.here else bench.node) as link:
            rows = [_row(bench, link, plan, *series) for series in _series(plan)]
        noise = bench.noise()
        elapsed_s = time.monotonic() - bench.before.at_s
    return Report(bench.medium, bench.node, bench.pins, rows, noise, elapsed_s, plan)


def _series(plan: Plan) -> Iterator[tuple[str, str, str, int]]:
    for function in plan.functions:
        for state in plan.states:
            for call in plan.calls:
                for size_bytes in plan.sizes:
                    yield state, function, call, size_bytes


def _row(bench: Bench, link: RawLink, plan: Plan, state: str, function: str, call: str, size_bytes: int) -> Row:
    made = kinds.FUNCTIONS[function](size_bytes)
    raw_bytes = size_bytes or NO_OP_BYTES
    pause_s = plan.pause_s if state == "warm" else 0.0
    shares = plan.shares()
    rooms = [(samples(n), samples(n)) for n in shares]  # before anything is timed
    budget_s = plan.seconds / plan.blocks
    taken: list[tuple[list[int], list[int]]] = []
    for called, bare in rooms:
        kinds.warm_up(bench.executor, call, made, 1 if size_bytes >= LARGE_BYTES else plan.warm_up)
        with memoryview(called) as room, memoryview(bare) as raw_room:
            n = kinds.block(bench.executor, call, made, room, pause_s=pause_s, budget_s=budget_s)
            n_raw = link.block(raw_bytes, raw_room, sleeps=state == "warm", pause_s=pause_s, budget_s=budget_s)
        taken.append((called[:n].tolist(), bare[:n_raw].tolist()))
    calls, raws = [block for block, _ in taken], [block for _, block in taken]
    return Row(size_bytes, state, function, call, raw_bytes, summary(calls), summary(raws), calls, raws)
