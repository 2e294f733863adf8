"""How much of a fault a test injects: a little at each `make test`, all of it in a soak (RFAAS_SOAK=1, `make soak`).

Printed with the figures, so that nobody takes the one for the other.
"""

import math
import os
from typing import TypeVar

T = TypeVar("T")

SOAK = bool(os.environ.get("RFAAS_SOAK"))
EVERY_DAY_TIMEOUT_S, SOAK_TIMEOUT_S = 300, 1800


def scaled(short: T, full: T) -> T:
    """The count or time for every day, or the full one."""
    return full if SOAK else short


def timeout_s() -> int:
    """What one test may take, for pytest.mark.timeout."""
    return scaled(EVERY_DAY_TIMEOUT_S, SOAK_TIMEOUT_S)


def percentile(values: list[float], percent: float) -> float:
    """The nearest-rank percentile; of few values that is the worst of them."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


def goal_figures(name: str, seconds: list[float], goal_s: float) -> str:
    """One line for people: median, 99th percentile and worst of times whose 99th percentile has a goal."""
    return (
        f"{name}: median {percentile(seconds, 50):.3f} s, p99 {percentile(seconds, 99):.3f} s, "
        f"worst {max(seconds):.3f} s of {len(seconds)} (goal p99 {goal_s:g} s)"
    )
