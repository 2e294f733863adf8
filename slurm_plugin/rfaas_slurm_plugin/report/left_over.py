"""What a cluster leaves idle: at one moment from a view, over time from what is recorded. Pure.

The three kinds of memory are told apart, since they are got in three ways: *of idle nodes* by whole-node slices,
*unrequested* on shared nodes by slices of at least one core, *requested and unused* only with the job owner's word or
by the site's node agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rfaas_slurm_plugin.report.traces import PastJob
from rfaas_slurm_plugin.views.view import Node

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class LeftOver:
    """Idle cores and memory, apart. The unit of time is a moment (a view) or seconds (core-seconds, byte-seconds)."""

    cores: float  # that usable nodes have
    idle_node_cores: float
    shared_node_cores: float  # idle ones of nodes that jobs have some of
    memory_bytes: float  # that usable nodes have; 0: not known
    idle_node_memory_bytes: float
    unrequested_memory_bytes: float  # of nodes that jobs have some of
    unused_memory_bytes: float | None  # that jobs requested; None: nobody says what they use


def of_view(nodes: Iterable[Node], lent: Mapping[str, tuple[int, int]]) -> LeftOver:
    """What usable nodes leave now; what harvest jobs have counts as idle.

    Args:
        nodes: those of the view.
        lent: cores and MiB of harvest jobs, by node.
    """
    cores = idle = shared = memory = idle_memory = unrequested = unused = 0
    told = False
    for node in nodes:
        if not node.usable:
            continue
        lent_cores, lent_mib = lent.get(node.name, (0, 0))
        used_cores = max(0, node.allocated_cores - lent_cores)
        used_mib = max(0, node.allocated_memory_mib - lent_mib)
        cores, memory = cores + node.cores, memory + node.memory_mib
        if not used_cores:
            idle, idle_memory = idle + node.cores, idle_memory + node.memory_mib
            continue
        shared += node.cores - used_cores
        unrequested += max(0, node.memory_mib - used_mib)
        if node.free_memory_mib is not None and not lent_cores:
            told = True  # beside a slice nobody can tell whose memory is in use
            unused += max(0, used_mib - max(0, node.memory_mib - node.free_memory_mib))
    return LeftOver(
        *(cores, idle, shared),
        *(memory * MIB, idle_memory * MIB, unrequested * MIB),
        unused * MIB if told else None,
    )


def of_jobs(
    jobs: Sequence[PastJob], nodes: Sequence[str], cores: int, memory_bytes: int, start_s: float, end_s: float
) -> LeftOver:
    """What these nodes left between two moments: core-seconds and byte-seconds. A job has equal parts of its nodes.

    Args:
        jobs: allocations.
        nodes: of `cores` and `memory_bytes` each.
        cores: of a node.
        memory_bytes: of a node; 0: not known.
        start_s: seconds since 1970.
        end_s: likewise.
    """
    here = frozenset(nodes)
    changes: dict[str, list[tuple[float, float, float]]] = {name: [] for name in nodes}
    unused, told = 0.0, False
    for job in jobs:
        begins_s, ends_s = max(start_s, job.start_s), min(end_s, job.end_s)
        on = [name for name in job.nodes if name in here]
        if ends_s <= begins_s or not on:
            continue
        part_cores, part_memory = job.cores / len(job.nodes), job.memory_bytes / len(job.nodes)
        for name in on:
            changes[name] += [(begins_s, part_cores, part_memory), (ends_s, -part_cores, -part_memory)]
        if job.used_bytes is not None and job.memory_bytes:
            told = True
            share = len(on) / len(job.nodes)
            unused += max(0, job.memory_bytes - job.used_bytes) * share * (ends_s - begins_s)
    idle_s = shared_core_s = unrequested = 0.0
    for name in nodes:
        of_node = _integrate(changes[name], cores, memory_bytes, start_s, end_s)
        idle_s, shared_core_s, unrequested = (
            sum(pair) for pair in zip((idle_s, shared_core_s, unrequested), of_node, strict=True)
        )
    node_s = (end_s - start_s) * len(nodes)
    return LeftOver(
        *(node_s * cores, idle_s * cores, shared_core_s),
        *(node_s * memory_bytes, idle_s * memory_bytes, unrequested if memory_bytes else 0.0),
        unused if told else None,
    )


def _integrate(
    changes: list[tuple[float, float, float]], cores: int, memory_bytes: int, start_s: float, end_s: float
) -> tuple[float, float, float]:
    """Of one node: seconds without a job, idle core-seconds and unrequested byte-seconds while there was one."""
    idle_s = shared = unrequested = used_cores = used_memory = 0.0
    at_s = start_s
    for when_s, more_cores, more_memory in [*sorted(changes), (end_s, 0.0, 0.0)]:
        span_s = when_s - at_s
        if used_cores < 1e-9:
            idle_s += span_s
        else:
            shared += max(0.0, cores - used_cores) * span_s
            unrequested += max(0.0, memory_bytes - used_memory) * span_s
        used_cores, used_memory, at_s = used_cores + more_cores, used_memory + more_memory, when_s
    return idle_s, shared, unrequested
