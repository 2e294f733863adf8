"""Bytes a second of numpy arrays, there and back and one way, beside bare copies over the same medium."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import rfaas
from rfaas.bench import served
from rfaas.bench.latency import Bench, Benches
from rfaas.bench.link import RawLink
from rfaas.bench.noise import Noise
from rfaas.bench.pinning import Pins, Wish
from rfaas.bench.statistics import Summary, samples, summary
from rfaas.executor import Executor
from rfaas_transport.errors import ConfigError

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

EDGE: Final = 64
WARM_UP: Final = 1000
WARM_UP_S: Final = 0.02
"""Calls, or seconds of them, before each block: before came another function, or the link, and no calls in a row."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        sizes: bytes of the arrays, each at least 64.
        iterations: of each series, at most.
        seconds: of each series, at most.
        blocks: in which a series is made, by turns with the others.
    """

    sizes: Sequence[int]
    iterations: int = 100
    seconds: float = 1.0
    blocks: int = 5


class Series(NamedTuple):
    """One way to move arrays of one size.

    Attributes:
        ways: 2 for there and back, 1 for one way.
        first_ns: of the first call of this size, which touches memory first; None: not told apart.
    """

    name: str
    ways: int
    times: Summary
    first_ns: int | None

    def gb_per_s(self, size_bytes: int) -> float:
        """10^9 bytes a second at the median."""
        return self.ways * size_bytes / max(1, self.times.p50_ns)


class Row(NamedTuple):
    """One size: series by name; `raw` is the bare medium, there and back."""

    size_bytes: int
    series: dict[str, Series]


@dataclass(frozen=True)
class Report:
    """A whole run."""

    medium: str
    node: str
    pins: Pins
    rows: list[Row]
    noise: list[Noise]
    elapsed_s: float


class Way(NamedTuple):
    """How arrays are moved: a line in the table below.

    Attributes:
        make: arrays to send, from a size.
        function: called with (array, size, mark); `mark` is the array's last byte.
        right: does this answer belong to this array?
    """

    ways: int
    make: Callable[[int], NDArray[uint8]]
    call: Callable[[Executor, NDArray[uint8], int], Any]
    right: Callable[[Any, NDArray[uint8]], bool]


def _numpy(size_bytes: int) -> NDArray[uint8]:
    import numpy

    return numpy.resize(numpy.arange(251, dtype=numpy.uint8), size_bytes)


def _registered(size_bytes: int) -> NDArray[uint8]:
    made: NDArray[uint8] = rfaas.empty((size_bytes,), "uint8")
    made[:] = _numpy(size_bytes)
    return made


def _same(answer: NDArray[uint8], sent: NDArray[uint8]) -> bool:
    ends = (answer[:EDGE] == sent[:EDGE]).all() and (answer[-EDGE:] == sent[-EDGE:]).all()
    return answer.nbytes == sent.nbytes and bool(ends)


WAYS: Final[dict[str, Way]] = {
    "echo": Way(2, _numpy, lambda ex, array, _: ex.invoke(served.copied, array), _same),
    "to": Way(
        *(1, _numpy, lambda ex, array, _: ex.invoke(served.swallow, array)),
        right=lambda answer, sent: bool(answer == sent.nbytes << 8 | int(sent[-1])),
    ),
    "from": Way(
        *(1, _numpy, lambda ex, array, mark: ex.invoke(served.produce, array.nbytes, mark)),
        right=lambda answer, sent: bool(answer.nbytes == sent.nbytes and answer[-1] == sent[-1]),
    ),
}
"""`echo`: the function returns a new array. `to`: it returns a number. `from`: it gets one."""

if hasattr(rfaas, "empty"):
    WAYS["empty"] = Way(2, _registered, lambda ex, array, _: ex.invoke(served.echo, array), _same)


def measure(executor: Executor, plan: Plan, wish: Wish) -> Report:
    """Measure the only worker of an executor.

    Raises:
        ConfigError: numpy is missing here; an answer was wrong.
        RfaasError: as `latency.measure`.
    """
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise ConfigError("rfaas bench bandwidth sends numpy arrays", hint="pip install rfaas[bench]") from error
    with Benches(executor, wish) as bench:
        with RawLink(executor, bench.medium, max(plan.sizes), node=None if bench.here else bench.node) as link:
            rows = [_row(bench, link, plan, size_bytes) for size_bytes in plan.sizes]
        noise = bench.noise()
        elapsed_s = time.monotonic() - bench.before.at_s
    return Report(bench.medium, bench.node, bench.pins, rows, noise, elapsed_s)


def _row(bench: Bench, link: RawLink, plan: Plan, size_bytes: int) -> Row:
    arrays = {name: way.make(size_bytes) for name, way in WAYS.items()}
    first_ns = {name: _calls(bench.executor, way, arrays[name], 1, 1e6)[0] for name, way in WAYS.items()}
    blocks: dict[str, list[list[int]]] = {name: [] for name in (*WAYS, "raw")}
    share, budget_s = max(1, plan.iterations // plan.blocks), plan.seconds / plan.blocks
    for _ in range(plan.blocks):
        for name, way in WAYS.items():
            _calls(bench.executor, way, arrays[name], WARM_UP, WARM_UP_S)
            blocks[name].append(_calls(bench.executor, way, arrays[name], share, budget_s))
        room = samples(share)
        n = link.block(size_bytes, memoryview(room), budget_s=budget_s)
        blocks["raw"].append(room[:n].tolist())
    series = {name: Series(name, way.ways, summary(blocks[name]), first_ns[name]) for name, way in WAYS.items()}
    series["raw"] = Series("raw", 2, summary(blocks["raw"]), None)
    return Row(size_bytes, series)


def _calls(executor: Executor, way: Way, array: NDArray[uint8], n: int, budget_s: float) -> list[int]:
    took_ns = samples(n)
    clock, end_ns, done = time.perf_counter_ns, time.perf_counter_ns() + int(budget_s * 1e9), 0
    for done in range(n):
        mark = done & 0x7F
        array[-1] = mark  # an answer of the call before would have another last byte
        begun_ns = clock()
        answer = way.call(executor, array, mark)
        ended_ns = clock()
        took_ns[done] = ended_ns - begun_ns
        if not way.right(answer, array):
            raise ConfigError("a call brought back another array", hint="report this: no figure can be trusted")
        del answer  # its memory is free for the next one: buffers are recycled
        if ended_ns > end_ns:
            break
    return took_ns[: done + 1].tolist()
