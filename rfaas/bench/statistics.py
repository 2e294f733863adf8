"""What a series of measured times says: percentiles, spread, ratios. Pure; standard library only.

Percentiles are nearest-rank (the smallest sample that at least that share of all samples does not exceed; numpy's
`inverted_cdf`): each is a time that was measured, never one between two.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

SHARES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
"""Percentiles that are reported, by their names."""


class Summary(NamedTuple):
    """One series, in nanoseconds. A percentile is None where no sample lies beyond it: it would be the maximum.

    Attributes:
        n: samples.
        p50_low_ns, p50_high_ns: lowest and highest median of the blocks that the series was made in: how much the
            machine, not the medium, contributes.
    """

    n: int
    min_ns: int
    p50_ns: int
    p90_ns: int | None
    p99_ns: int | None
    p999_ns: int | None
    max_ns: int
    p50_low_ns: int
    p50_high_ns: int


class Spread(NamedTuple):
    """Figures of several rounds: median, lowest, highest."""

    median: float
    low: float
    high: float
    n: int


def samples(n: int) -> array[int]:
    """Room for `n` times in nanoseconds, allocated and touched before anything is timed."""
    return array("q", bytes(8 * n))


def percentile(ordered: Sequence[int], share: float) -> int:
    """Nearest-rank percentile of samples in rising order.

    Args:
        ordered: at least one.
        share: in (0, 1].
    """
    # 0.999 * 1000 is 999.0000000000001 in floating point; its rank is 999
    rank = math.ceil(round(share * len(ordered), 9))
    return ordered[max(1, rank) - 1]


def summary(blocks: Sequence[Sequence[int]]) -> Summary:
    """Summarize one series that was measured in blocks.

    Raises:
        ValueError: there is no sample.
    """
    filled = [sorted(block) for block in blocks if len(block)]
    if not filled:
        raise ValueError("a series without samples has no percentiles")
    ordered = sorted(one for block in filled for one in block) if len(filled) > 1 else filled[0]
    medians = [percentile(block, 0.5) for block in filled]

    def beyond(share: float) -> int | None:
        return percentile(ordered, share) if len(ordered) * (1 - share) >= 1 - 1e-9 else None

    return Summary(
        n=len(ordered),
        min_ns=ordered[0],
        p50_ns=percentile(ordered, 0.5),
        p90_ns=beyond(0.9),
        p99_ns=beyond(0.99),
        p999_ns=beyond(0.999),
        max_ns=ordered[-1],
        p50_low_ns=min(medians),
        p50_high_ns=max(medians),
    )


def spread(figures: Sequence[float]) -> Spread:
    """Summarize figures of several rounds; the median of an even number is the mean of the middle two.

    Raises:
        ValueError: there is none.
    """
    if not figures:
        raise ValueError("no figure, no spread")
    ordered = sorted(figures)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return Spread(float(median), float(ordered[0]), float(ordered[-1]), len(ordered))


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Quotients round by round: what disturbs a round disturbs both of it.

    Raises:
        ValueError: the rounds are not the same number.
    """
    return [a / b for a, b in zip(above, below, strict=True)]


def cumulative(ordered: Sequence[int], points: int = 1000) -> list[tuple[int, float]]:
    """Points (time, share of samples not above it) of the distribution, at most `points` and the maximum always."""
    n = len(ordered)
    step = max(1, n // points)
    found = [(ordered[i], (i + 1) / n) for i in range(step - 1, n, step)]
    return found if found and found[-1][1] == 1.0 else [*found, (ordered[-1], 1.0)]
