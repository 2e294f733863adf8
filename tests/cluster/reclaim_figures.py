"""What came of `reclaiming`: delays over the floor among jobs that are alike, and what was promised of them. Pure."""

import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from cluster.reclaiming import SIZES, Case, Part, Row

RESAMPLES = 300


def percentile(values: Iterable[float], percent: int) -> float:
    """By nearest rank: a value that was measured."""
    ordered = sorted(values)
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]


Stratum = tuple[Part, str, str]


def stratum(case: Case) -> Stratum:
    """What must be alike for two delays to be compared."""
    return case.part, case.how, case.size


def whole_s(row: Row) -> float:
    """From the submission to the first instruction."""
    return row.delay_s


def since_told_s(row: Row) -> float:
    """From the last slice's SIGTERM on: before it slurmctld had not asked for anything yet."""
    return row.delay_s - row.told_s


def over_floor(rows: Iterable[Row], time_s: Callable[[Row], float] = whole_s) -> list[tuple[Case, float]]:
    """Each time less the median of the floor's in its stratum; those without a floor are left out."""
    good = [row for row in rows if not row.failed]
    floors: dict[Stratum, list[float]] = {}
    for row in good:
        if row.case.load == "floor":
            floors.setdefault(stratum(row.case), []).append(time_s(row))
    return [
        (row.case, time_s(row) - statistics.median(floors[stratum(row.case)]))
        for row in good
        if stratum(row.case) in floors
    ]


def by_workers(rows: Iterable[Row], time_s: Callable[[Row], float] = whole_s) -> dict[str, list[float]]:
    """`over_floor` by what the workers did; by the load where it has none."""
    found: dict[str, list[float]] = {}
    for case, over_s in over_floor(rows, time_s):
        found.setdefault(case.workers or case.load, []).append(over_s)
    return found


def median_over_s(rows: Iterable[Row]) -> float:
    """Of idle workers, over the floor, among pairs."""
    rows = [row for pairs in paired(rows).values() for pair in pairs for row in pair]
    return statistics.median(by_workers(rows)["idle"])


def paired(rows: Iterable[Row]) -> dict[Stratum, list[tuple[Row, Row]]]:
    """Jobs beside the floor and beside idle workers that are alike and came at the same moment of slurmctld's turn."""
    found: dict[Stratum, dict[int, dict[str, Row]]] = {}
    for row in rows:
        name = row.case.workers or row.case.load
        if name in ("floor", "idle") and not row.failed:
            found.setdefault(stratum(row.case), {}).setdefault(row.case.number, {})[name] = row
    pairs = {key: [(r["floor"], r["idle"]) for r in numbers.values() if len(r) == 2] for key, numbers in found.items()}
    return {key: some for key, some in pairs.items() if some}


def p99_over_s(rows: Iterable[Row], time_s: Callable[[Row], float] = whole_s) -> float:
    """Of idle workers, over the floor's own, among pairs.

    Each is taken from the median of floor and idle workers together among jobs that are alike: the floor's own median
    would lie nearer to the floor's few values than to others of the same kind.
    """
    floor: list[float] = []
    idle: list[float] = []
    for pairs in paired(rows).values():
        middle_s = statistics.median(time_s(row) for pair in pairs for row in pair)
        floor += [time_s(row) - middle_s for row, _ in pairs]
        idle += [time_s(row) - middle_s for _, row in pairs]
    return percentile(idle, 99) - percentile(floor, 99)


def uncertainty(rows: Sequence[Row], value: Callable[[Sequence[Row]], float]) -> tuple[float, float]:
    """Between which two values 95 of 100 repetitions would lie: bootstrap, pairs drawn within jobs that are alike."""
    rng = random.Random(1)
    alike = list(paired(rows).values())
    values = [value(_renumbered([rng.choices(pairs, k=len(pairs)) for pairs in alike])) for _ in range(RESAMPLES)]
    return percentile(values, 3), percentile(values, 97)


def _renumbered(drawn: Iterable[Iterable[tuple[Row, Row]]]) -> list[Row]:
    """The rows of pairs, each pair with a number of its own, also if it was drawn twice."""
    return [
        replace(row, case=replace(row.case, number=number))
        for pairs in drawn
        for number, pair in enumerate(pairs)
        for row in pair
    ]


def goals(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What was promised, what came of it, whether it was kept; only what has rows."""
    found: list[dict[str, Any]] = []

    def goal(name: str, most: float, value: float, unit: str = "s") -> dict[str, Any]:
        found.append({"goal": name, "most": most, "value": round(value, 4), "unit": unit, "met": value <= most})
        return found[-1]

    if pairs := paired(rows):
        for name, most, value in (("median", 0.05, median_over_s), ("p99", 0.3, p99_over_s)):
            between = uncertainty(rows, value)
            of_floor = "" if name == "median" else "'s p99"
            goal(f"idle workers: {name} over the floor{of_floor}", most, value(rows))["between"] = between
            found[-1]["pairs"] = sum(map(len, pairs.values()))
    for workers in ("busy", "stubborn"):
        late_s = [over_s - case.part.grace_of_calls_s for case, over_s in over_floor(rows) if case.workers == workers]
        if late_s:
            goal(f"{workers} workers: worst over the floor, less the grace", 1.0, max(late_s))
    goal("nodes drained or down after a job", 0, sum(bool(row.unwell) for row in rows), "")
    goal("rigid jobs that failed", 0, sum(bool(row.failed) for row in rows), "")
    wrong = [row for row in rows if not row.failed and row.taken != expected(row.case)]
    goal("jobs that took another number of slices than they needed", 0, len(wrong), "")
    return found


def expected(case: Case) -> int:
    """How many slices the job has to take."""
    return 0 if case.load == "plain" else SIZES[case.part.shape][case.size][1]
