"""Who had which core when, and how much of a cluster's time that used.

Plain records and pure functions: example 05 fills them with measured times, `timeline` draws them. All times are
seconds on one clock (05 uses CLOCK_BOOTTIME, which all processes of a machine share).
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Core = tuple[str, int]  # node, number of the core on it
Interval = tuple[float, float]


class Kind(enum.Enum):
    """What a core was doing; the later in this list, the more it says when two records overlap."""

    IDLE = "harvest idle"  # lent to rfaas, waiting for a call
    CALL = "call running"
    DRAIN = "reclaim drain"  # asked back, not yet free
    RIGID = "rigid job"  # in use by the job it was allocated to


class EventKind(enum.Enum):
    """A moment worth a mark."""

    NOTICE = "reclaim notice"
    REDISPATCH = "call re-dispatched"
    JOB_START = "rigid job starts"
    JOB_END = "rigid job ends"


@dataclass(frozen=True, slots=True)
class Span:
    """One core doing one thing from t0_s to t1_s."""

    node: str
    core: int
    t0_s: float
    t1_s: float
    kind: Kind
    label: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A finished call: which worker ran it, from when to when."""

    what: str
    node: str
    pid: int
    t0_s: float
    t1_s: float


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at t_s, on one node or (node is None) on none in particular."""

    t_s: float
    kind: EventKind
    node: str | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Utilisation:
    """Core-seconds of a window of time, by what they were used for."""

    available_core_s: float
    rigid_core_s: float
    call_core_s: float  # calls running, on cores that no rigid job was using at that moment

    @property
    def without_harvest(self) -> float:
        """Share of the window that rigid jobs used: what the cluster would have shown without rfaas."""
        return self.rigid_core_s / self.available_core_s

    @property
    def with_harvest(self) -> float:
        """Share of the window that rigid jobs or calls used; waiting and draining are not use."""
        return (self.rigid_core_s + self.call_core_s) / self.available_core_s


def utilisation(spans: Iterable[Span], cores_per_node: Mapping[str, int], t0_s: float, t1_s: float) -> Utilisation:
    """Add up what the cores did between t0_s and t1_s.

    A moment counts once a core, however many records cover it, and as the rigid job's if both claim it. Spans are
    cut to the window.

    Raises:
        ValueError: an empty window, no core, or a span on a core that `cores_per_node` does not have.
    """
    n_cores = sum(cores_per_node.values())
    if t1_s <= t0_s or n_cores <= 0:
        raise ValueError(f"nothing is available from {t0_s} to {t1_s} s on {n_cores} cores")
    rigid: dict[Core, list[Interval]] = defaultdict(list)
    either: dict[Core, list[Interval]] = defaultdict(list)
    for span in spans:
        if not 0 <= span.core < cores_per_node.get(span.node, 0):
            raise ValueError(f"{span} is on a core that the cluster does not have")
        interval = (max(span.t0_s, t0_s), min(span.t1_s, t1_s))
        if span.kind is Kind.RIGID:
            rigid[span.node, span.core].append(interval)
        if span.kind in (Kind.RIGID, Kind.CALL):
            either[span.node, span.core].append(interval)
    rigid_core_s = sum(covered_s(intervals) for intervals in rigid.values())
    either_core_s = sum(covered_s(intervals) for intervals in either.values())
    return Utilisation(n_cores * (t1_s - t0_s), rigid_core_s, either_core_s - rigid_core_s)


def covered_s(intervals: Iterable[Interval]) -> float:
    """Length of the union of intervals; one that ends before it begins is empty."""
    total_s = 0.0
    reached_s = float("-inf")
    for t0_s, t1_s in sorted(intervals):
        total_s += max(0.0, t1_s - max(t0_s, reached_s))
        reached_s = max(reached_s, t1_s)
    return total_s


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A process that had one core of `node` to itself from t0_s to t1_s; `who` is unique on its node."""

    node: str
    who: object
    t0_s: float
    t1_s: float


def assign_cores(lifetimes: Iterable[Lifetime], cores_per_node: Mapping[str, int]) -> dict[tuple[str, object], int]:
    """Give each process a core number of its node: {(node, who): number}.

    For processes that are not pinned: they have a core's worth of time, though no particular core. Each gets the
    lowest number that is free from its start on, or the one free soonest when more live than the node has cores
    (as for a moment while one is asked to leave and the next has come).
    """
    numbers: dict[tuple[str, object], int] = {}
    free_from_s = {node: [float("-inf")] * n_cores for node, n_cores in cores_per_node.items()}
    for life in sorted(lifetimes, key=lambda life: life.t0_s):
        cores = free_from_s[life.node]
        free = [core for core, t_s in enumerate(cores) if t_s <= life.t0_s]
        number = free[0] if free else cores.index(min(cores))
        cores[number] = max(cores[number], life.t1_s)
        numbers[life.node, life.who] = number
    return numbers
