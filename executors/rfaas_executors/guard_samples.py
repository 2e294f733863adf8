"""How long the host job's iterations take with functions beside it and without: samples, medians, what is certain.

Pure values, part of `guard_core`. One comparison for every watch: an iteration mark gives seconds an iteration, the run
queue and pressure give the stretch of the host's work (wall time over useful time). Either is compared with itself.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

KEPT: Final = 1024  # samples of each kind
QUIET_AGE_S: Final = 60.0  # a quiet sample counts for so long: programs change their pace by themselves
LEAST: Final = 8  # samples of each kind before anything is said
LEAST_TAIL: Final = 500  # and before a 99th percentile is
CERTAIN: Final = 3.0  # standard errors: it is asked again and again
SURELY: Final = 0.98  # this part of the samples beside functions, above the bound, is no chance: twice as many as alone
_NORMAL_MAD: Final = 1.4826  # median absolute deviation to standard deviation
_OF_MEDIAN: Final = 1.2533  # standard error of a median over that of a mean


@dataclass(frozen=True, slots=True)
class Comparison:
    """What functions do to one source of samples.

    Attributes:
        median: slowdown of the median, 0.03 is 3 %; negative where the host was faster.
        error: its standard error.
        tail: slowdown of the 99th percentile; None with too few samples.
        sure_tail: how far the SURELY quantile lies above the 99th percentile without functions.
        n: samples beside functions.
    """

    median: float
    error: float
    tail: float | None
    sure_tail: float
    n: int

    @property
    def certain(self) -> bool:
        """True if noise alone would hardly look like it."""
        return self.median > CERTAIN * self.error


@dataclass(slots=True)
class Samples:
    """Of one source: one rank's iterations, or one figure of the kernel."""

    quiet: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=KEPT))  # when, how long
    beside: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    heard_s: float = 0.0

    def add(self, value: float, end_s: float, *, quiet: bool) -> None:
        """Take a sample that lies wholly in a time without functions (`quiet`) or with them."""
        self.heard_s = max(self.heard_s, end_s)
        if quiet:
            self.quiet.append((end_s, value))
        else:
            self.beside.append(value)

    def n_quiet(self, now_s: float) -> int:
        """Quiet samples that still count."""
        while self.quiet and self.quiet[0][0] < now_s - QUIET_AGE_S:
            self.quiet.popleft()
        return len(self.quiet)

    def compare(self, now_s: float) -> Comparison | None:
        """The slowdown, or None while too little is known."""
        if self.n_quiet(now_s) < LEAST or len(self.beside) < LEAST:
            return None
        alone, beside = [value for _, value in self.quiet], list(self.beside)
        before, after = statistics.median(alone), statistics.median(beside)
        if before <= 0.0:
            return None
        error = math.hypot(_error(alone, before), _error(beside, after)) / before
        tail, sure_tail = None, 0.0
        if min(len(alone), len(beside)) >= LEAST_TAIL and (p99 := _quantile(alone, 0.99)) > 0.0:
            tail, sure_tail = (_quantile(beside, part) / p99 - 1.0 for part in (0.99, SURELY))
        return Comparison(after / before - 1.0, error, tail, sure_tail, len(beside))


def _error(values: Sequence[float], median: float) -> float:
    deviation = _NORMAL_MAD * statistics.median(abs(value - median) for value in values)
    return _OF_MEDIAN * deviation / math.sqrt(len(values))


def _quantile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)]
