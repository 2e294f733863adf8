"""Which harvest jobs to submit: a pure function from what is seen to what is done.

No I/O, no clock: time comes in. Slurm takes back whole jobs, so an idle node becomes one slice unless `slice_cores`
says otherwise. Source: docs/slurm.md; the measurements behind the defaults are named at each field.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rfaas_slurm_plugin.view import ClusterView, Job, Node, Reservation

JOB_NAME = "rfaas-slice"


@dataclass(frozen=True, slots=True)
class HarvestPolicy:
    """What to harvest and what to leave alone. Sizes are cores and MiB, as Slurm counts."""

    partition: str
    leave_cores: int = 0  # idle cores to leave on each node
    leave_memory_mib: int = 0  # idle memory to leave on each node
    slice_cores: int = 0  # cores of one slice; 0: all idle cores of a node
    min_memory_mib_per_core: int = 256  # a slice with less can't hold an interpreter a core
    max_memory_mib_per_core: int = 0  # 0: its share of what is idle
    max_cores: int = 0  # over all slices; 0: no cap
    max_submissions_per_s: float = 5.0  # slurmctld serves everybody
    backoff_s: float = 3.0  # after a slice of a node was taken back; a rigid job needs ~0.1 s to get in
    hold_for_pending_s: float = 5.0  # nothing is submitted while a job younger than this waits for resources
    nodes: frozenset[str] = frozenset()  # only these; empty: all of the partition
    time_limit_min: int = 0  # of one slice; 0: none
    min_time_min: int = 2  # a slice that would end sooner before a reservation is not worth its start
    reservation_margin_s: float = 30.0  # between a slice's end and a reservation: KillWait and the node's clearing


@dataclass(frozen=True, slots=True)
class Submit:
    """Submit one harvest job."""

    node: str
    cores: int
    memory_mib: int
    time_limit_min: int = 0  # 0: none


@dataclass(slots=True)
class History:
    """What the harvester remembers between cycles; `taken_back_boot_s` by node name."""

    taken_back_boot_s: dict[str, float] = field(default_factory=dict)
    last_submission_boot_s: float = float("-inf")


def plan(view: ClusterView, policy: HarvestPolicy, history: History, now_s: float, now_wall_s: float) -> list[Submit]:
    """Decide what to submit now; at most what the rate allows since the last submission.

    `now_s` is CLOCK_BOOTTIME; `now_wall_s` is wall clock, which Slurm's submit times are in.
    """
    ours = [job for job in view.jobs if is_ours(job, policy) and not job.ended]
    if _somebody_waits(view.jobs, policy, now_wall_s):
        return []
    claims = _claims(ours)
    budget = policy.max_cores - sum(job.cores for job in ours) if policy.max_cores else None
    allowed = _allowed(policy, history, now_s)
    actions: list[Submit] = []
    for node in sorted(view.nodes, key=lambda n: (-n.idle_cores, n.name)):
        if len(actions) >= allowed:
            break
        time_limit_min = _time_limit_min(node.name, view.reservations, policy, now_wall_s)
        if time_limit_min is None or not _harvestable(node, policy, history, now_s):
            continue
        for action in _slices(node, policy, claims.get(node.name, (0, 0)), time_limit_min):
            if len(actions) >= allowed or (budget is not None and action.cores > budget):
                break
            actions.append(action)
            if budget is not None:
                budget -= action.cores
    return actions


def overdue(view: ClusterView, policy: HarvestPolicy, limit_s: float, now_wall_s: float) -> list[int]:
    """Harvest jobs that Slurm chose as victims longer than `limit_s` ago and that are still there.

    A job preempted while it was still being configured is never signalled again (slurm pull request 216): cancel it.
    """
    return [
        job.job_id
        for job in view.jobs
        if is_ours(job, policy) and not job.ended and 0 < job.preempt_time_s < now_wall_s - limit_s
    ]


def is_ours(job: Job, policy: HarvestPolicy) -> bool:
    """True for harvest jobs, whoever submitted them: they never count as somebody who waits."""
    return job.name == JOB_NAME and job.partition == policy.partition


def _somebody_waits(jobs: Iterable[Job], policy: HarvestPolicy, now_wall_s: float) -> bool:
    """A job that just began to wait is being given the nodes our slices leave: don't run into its arms."""
    return any(
        job.state == "PENDING"
        and job.reason in ("None", "Resources", "Priority", "")
        and not is_ours(job, policy)
        and now_wall_s - job.submit_time_s < policy.hold_for_pending_s
        for job in jobs
    )


def _claims(ours: Iterable[Job]) -> Mapping[str, tuple[int, int]]:
    """Cores and MiB that our pending jobs will take on each node; running ones are in the node's own figures."""
    claims: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for job in ours:
        if job.state == "PENDING":
            for name in job.required_nodes:
                cores, memory = claims[name]
                claims[name] = (cores + job.cores, memory + job.memory_per_node_mib)
    return claims


def _allowed(policy: HarvestPolicy, history: History, now_s: float) -> int:
    """Submissions that the rate permits: one bucket of a second's worth."""
    elapsed_s = min(1.0, now_s - history.last_submission_boot_s)
    return int(elapsed_s * policy.max_submissions_per_s + 1e-9)


def _harvestable(node: Node, policy: HarvestPolicy, history: History, now_s: float) -> bool:
    return (
        node.usable
        and policy.partition in node.partitions
        and (not policy.nodes or node.name in policy.nodes)
        and now_s - history.taken_back_boot_s.get(node.name, float("-inf")) >= policy.backoff_s
    )


def _time_limit_min(
    node: str, reservations: Iterable[Reservation], policy: HarvestPolicy, now_wall_s: float
) -> int | None:
    """Time limit for a slice there such that it ends before the next reservation; 0: none; None: no slice fits.

    Slurm starts no job that could run into a reservation, so one without a limit would wait in the queue for ever.
    """
    starts_s = [r.start_time_s for r in reservations if node in r.nodes and r.end_time_s > now_wall_s]
    if not starts_s:
        return policy.time_limit_min
    room_min = int((min(starts_s) - now_wall_s - policy.reservation_margin_s) // 60)
    if room_min < policy.min_time_min:
        return None
    return min(room_min, policy.time_limit_min or room_min)


def _slices(node: Node, policy: HarvestPolicy, claimed: tuple[int, int], time_limit_min: int) -> Iterable[Submit]:
    """Cut what is idle on a node into slices; memory goes with the cores, in equal shares."""
    cores = node.idle_cores - claimed[0] - policy.leave_cores
    memory_mib = node.idle_memory_mib - claimed[1] - policy.leave_memory_mib
    if cores <= 0 or memory_mib <= 0:
        return
    per_core_mib = memory_mib // cores
    if policy.max_memory_mib_per_core:
        per_core_mib = min(per_core_mib, policy.max_memory_mib_per_core)
    if per_core_mib < policy.min_memory_mib_per_core:
        cores = memory_mib // policy.min_memory_mib_per_core
        per_core_mib = policy.min_memory_mib_per_core
    size = policy.slice_cores or cores
    while cores > 0:
        take = min(size, cores)
        yield Submit(node.name, take, take * per_core_mib, time_limit_min)
        cores -= take
