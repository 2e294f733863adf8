"""Gaps: stretches of time in which a node was wholly idle, made of what is recorded, and how long they were. Pure.

Of `sacct` they are known node by node. A series of how many nodes were idle does not say which: then as many gaps begin
as the count rises by and as many end as it falls by, and a `Taking` says which of those under way end. The truth lies
between the two; nodes that change hands between two samples are not seen at all.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from rfaas_slurm_plugin.report.traces import PastJob, Sample

PERCENTILES: Final = (10, 25, 50, 75, 90, 99)
LENGTHS_S: Final = (60, 600, 1200, 3600)


class Taking(StrEnum):
    """Which idle nodes jobs take first, where that is not recorded."""

    OLDEST = "oldest"  # idle for longest: gaps are as equal as they can be
    NEWEST = "newest"  # idle since lately: short gaps are as short, long ones as long as they can be
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Gap:
    """Node number `node` was idle from `start_s` to `end_s`; `cut`: it began before the record, or outlasts it."""

    node: int
    start_s: float
    end_s: float
    cut: bool = False

    @property
    def length_s(self) -> float:
        """Its length, in seconds."""
        return self.end_s - self.start_s


def gaps_of_series(samples: Sequence[Sample], taking: Taking, seed: int = 1) -> list[Gap]:
    """Gaps of a series that ascends in time, by their start; nodes get numbers from 0 and are used again."""
    rng = random.Random(seed)
    free: list[int] = []  # numbers of nodes that are busy now, the lowest first
    under_way: list[tuple[float, int]] = []  # start and node of the gaps, the oldest first
    n_nodes, found = 0, []
    first_s = samples[0].at_s
    for sample in samples:
        while len(under_way) < sample.idle_nodes:
            if free:
                node = heapq.heappop(free)
            else:
                node, n_nodes = n_nodes, n_nodes + 1
            under_way.append((sample.at_s, node))
        for _ in range(len(under_way) - sample.idle_nodes):
            start_s, node = under_way.pop(_which(taking, rng, len(under_way)))
            found.append(Gap(node, start_s, sample.at_s, start_s == first_s))
            heapq.heappush(free, node)
    found += [Gap(node, start_s, samples[-1].at_s, True) for start_s, node in under_way]
    return sorted((gap for gap in found if gap.length_s > 0), key=lambda gap: (gap.start_s, gap.node))


def _which(taking: Taking, rng: random.Random, n: int) -> int:
    if taking is Taking.RANDOM:
        return rng.randrange(n)
    return 0 if taking is Taking.OLDEST else n - 1


def gaps_of_jobs(jobs: Iterable[PastJob], nodes: Sequence[str], start_s: float, end_s: float) -> list[Gap]:
    """When each of these nodes had no job at all, between two moments; numbers are places in `nodes`."""
    place = {name: i for i, name in enumerate(nodes)}
    busy: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for job in jobs:
        for name in job.nodes:
            if name in place:
                busy[place[name]].append((job.start_s, job.end_s))
    found = []
    for node in range(len(nodes)):
        free_from_s, began = start_s, True
        for begins_s, ends_s in sorted(busy[node]):
            if min(begins_s, end_s) > free_from_s:
                found.append(Gap(node, free_from_s, min(begins_s, end_s), began))
            if ends_s >= free_from_s:
                free_from_s, began = ends_s, False
        if free_from_s < end_s:
            found.append(Gap(node, free_from_s, end_s, True))
    return sorted(found, key=lambda gap: (gap.start_s, gap.node))


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long gaps were. Those that are cut count in the hours, not in the percentiles."""

    n: int
    n_cut: int
    node_s: float  # of all gaps
    percentiles_s: dict[int, float]  # by nearest rank
    shares: dict[int, tuple[float, float]]  # of at least so many seconds: of all gaps, of all node-seconds


def lengths_of(gaps: Sequence[Gap]) -> Lengths:
    """Count and measure."""
    whole = sorted(gap.length_s for gap in gaps if not gap.cut)
    every = sorted(gap.length_s for gap in gaps)
    node_s = sum(every)
    percentiles = {p: whole[max(0, -(-p * len(whole) // 100) - 1)] for p in PERCENTILES} if whole else {}
    shares = {}
    for at_least_s in LENGTHS_S:
        first, first_of_all = bisect_left(whole, at_least_s), bisect_left(every, at_least_s)
        of_gaps = (len(whole) - first) / len(whole) if whole else 0.0
        shares[at_least_s] = (of_gaps, sum(every[first_of_all:]) / node_s if node_s else 0.0)
    return Lengths(len(gaps), len(gaps) - len(whole), node_s, percentiles, shares)
