"""How long what is idle on a node will likely stay idle: a stated rule over what Slurm says and what was seen before.

The expectation is the least of
1. *announced*: the next reservation of the node; the start that backfill expects for a pending job with this node; for
   a pending job whose nodes Slurm does not name and that needs at least as many as are idle in its partition, its
   expected start, or, where backfill has none yet, the moment when enough running jobs reach their time limits;
2. *learnt*: the median of what was left of past gaps at the age of the present one, i.e. of (length - age) over those
   that were longer than it: of this node if there are MIN_GAPS of them, else of all nodes together, else nothing.

A **gap** is a stretch of time in which the cores that a node's own jobs leave did not become fewer. Jobs that end
before their limit, and others that are submitted meanwhile, are in neither part, so this is an estimate and no promise:
it orders nodes, and keeps off those below `min_idle_s`. Pure.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from rfaas_slurm_plugin.views.view import ClusterView, Job, Node

MIN_GAPS: Final = 4
"""Fewer say nothing."""

GAPS_OF_A_NODE: Final = 16
GAPS_OF_ALL: Final = 1024
MAX_WIDE_JOBS: Final = 50
"""Pending jobs that are looked at for which Slurm names no nodes: those that expect to start first."""


class Expectation(NamedTuple):
    """`seconds` from now, infinite where nothing is known; and where that is from."""

    seconds: float
    basis: str


@dataclass(slots=True)
class GapBook:
    """The gaps of each node, the latest last. Times are seconds of CLOCK_BOOTTIME."""

    past_s: dict[str, deque[float]] = field(default_factory=dict)
    all_past_s: deque[float] = field(default_factory=lambda: deque(maxlen=GAPS_OF_ALL))
    began_boot_s: dict[str, float] = field(default_factory=dict)  # of the gap that a node is in
    spare: dict[str, int] = field(default_factory=dict)  # cores that the node's own jobs left at the last look

    def look(self, nodes: Iterable[Node], lent: Mapping[str, int], now_s: float) -> None:
        """Take one view; `lent` is how many cores of each node harvest jobs have."""
        for node in nodes:
            name = node.name
            spare = node.idle_cores + lent.get(name, 0) if node.usable else 0
            before = self.spare.get(name)
            if spare == before:
                continue
            self.spare[name] = spare
            if before and spare < before:
                self._close(name, now_s)
            if not spare:
                self.began_boot_s.pop(name, None)
            elif not before or spare < before:
                self.began_boot_s[name] = now_s

    def _close(self, name: str, now_s: float) -> None:
        began_s = self.began_boot_s.pop(name, None)
        if began_s is not None:
            length_s = now_s - began_s
            self.past_s.setdefault(name, deque(maxlen=GAPS_OF_A_NODE)).append(length_s)
            self.all_past_s.append(length_s)

    def age_s(self, name: str, now_s: float) -> float:
        """How old the present gap of a node is; 0 if it is not known to be in one."""
        return now_s - self.began_boot_s.get(name, now_s)


def median_left_s(past_s: Sequence[float], age_s: float) -> float | None:
    """Median of what was left, at that age, of the gaps that were longer; None if they are fewer than MIN_GAPS.

    `past_s` ascends.
    """
    first = bisect_right(past_s, age_s)
    n = len(past_s) - first
    return past_s[first + n // 2] - age_s if n >= MIN_GAPS else None


class Forecast:
    """What one view and the book say of any node; made once a cycle.

    Args:
        view: the cluster now.
        book: gaps that ended before.
        is_lent: tells harvest jobs from others.
        now_s: CLOCK_BOOTTIME.
        now_wall_s: wall clock, in which Slurm's times are.
    """

    def __init__(
        self, view: ClusterView, book: GapBook, is_lent: Callable[[Job], bool], now_s: float, now_wall_s: float
    ) -> None:
        self._book = book
        self._now_s = now_s
        self._now_wall_s = now_wall_s
        self._all_past_s = sorted(book.all_past_s)
        self._starts_s: dict[str, float] = {}  # of nodes that Slurm names
        self._wide_s: dict[str, float] = {}  # of partitions
        for reservation in view.reservations:
            if reservation.end_time_s > now_wall_s:
                self._announce(reservation.nodes, reservation.start_time_s)
        pending = [job for job in view.jobs if job.state == "PENDING" and not is_lent(job)]
        wide = [job for job in pending if not self._named(job) and job.node_count > 0]
        if wide:
            self._plan_wide(view, wide, is_lent)

    def of(self, node: Node) -> Expectation:
        """How long that node's idle cores will likely stay idle."""
        announced_s = min(
            (self._starts_s.get(node.name, math.inf), *(self._wide_s.get(name, math.inf) for name in node.partitions))
        )
        announced = Expectation(max(0.0, announced_s - self._now_wall_s), "announced")
        learnt = self._learnt(node.name)
        return min(announced, learnt) if announced.seconds < math.inf else learnt

    def _learnt(self, name: str) -> Expectation:
        age_s = self._book.age_s(name, self._now_s)
        left_s = median_left_s(sorted(self._book.past_s.get(name, ())), age_s)
        if left_s is not None:
            return Expectation(left_s, "past gaps of the node")
        left_s = median_left_s(self._all_past_s, age_s)
        return Expectation(math.inf, "no history") if left_s is None else Expectation(left_s, "past gaps of all nodes")

    def _announce(self, nodes: Iterable[str], start_s: float) -> None:
        for name in nodes:
            self._starts_s[name] = min(start_s, self._starts_s.get(name, math.inf))

    def _named(self, job: Job) -> bool:
        """Take the expected start of a job whose nodes Slurm names."""
        nodes = job.scheduled_nodes or job.required_nodes
        if nodes and job.start_time_s > 0:
            self._announce(nodes, max(job.start_time_s, self._now_wall_s))
        return bool(nodes)

    def _plan_wide(self, view: ClusterView, wide: list[Job], is_lent: Callable[[Job], bool]) -> None:
        """Expected starts, by partition, of jobs that will take every node that is idle there."""
        free_s: dict[str, float] = {}  # when the jobs of each node reach their limits
        for job in view.jobs:
            if job.nodes and not job.ended and not is_lent(job):
                for name in job.nodes:
                    free_s[name] = max(free_s.get(name, 0.0), job.end_time_s or math.inf)
        ends_s: dict[str, list[float]] = {}  # by partition, ascending
        for name in {name for job in wide for name in job.partitions}:
            there = [node for node in view.nodes if node.usable and name in node.partitions]
            ends_s[name] = sorted(max(free_s.get(node.name, 0.0), self._now_wall_s) for node in there)
        wide.sort(key=lambda job: job.start_time_s or math.inf)
        for job in wide[:MAX_WIDE_JOBS]:
            for name in job.partitions:
                there_s = ends_s[name]
                if job.node_count > len(there_s) or there_s[job.node_count - 1] <= self._now_wall_s:
                    continue  # it can't start there, or needs fewer than are idle: any others will do for us
                start_s = float(job.start_time_s) or there_s[job.node_count - 1]
                self._wide_s[name] = min(max(start_s, self._now_wall_s), self._wide_s.get(name, math.inf))
