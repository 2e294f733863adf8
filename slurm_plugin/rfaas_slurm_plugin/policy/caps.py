"""How much harvest jobs may have: what the caps leave, and what of a slice fits into it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rfaas_slurm_plugin.policy.settings import Caps, HarvestPolicy, Submit
from rfaas_slurm_plugin.views.view import Job


@dataclass(slots=True)
class _Used:
    """What some harvest jobs have, beside their caps; `whose` is for people."""

    caps: Caps
    whose: str
    cores: int = 0
    memory_mib: int = 0
    jobs: int = 0
    nodes: set[str] = field(default_factory=set)

    def add(self, nodes: Iterable[str], cores: int, memory_mib: int) -> None:
        self.cores += cores
        self.memory_mib += memory_mib
        self.jobs += 1
        self.nodes.update(nodes)

    def fits(self, node: str, cores: int, per_core_mib: int) -> tuple[int, str]:
        """How many of these cores fit as one more job there, and the cap that is in the way of the others."""
        caps = self.caps
        if caps.jobs and self.jobs >= caps.jobs:
            return 0, f"{caps.jobs} jobs {self.whose}"
        if caps.nodes and node not in self.nodes and len(self.nodes) >= caps.nodes:
            return 0, f"{caps.nodes} nodes {self.whose}"
        found = cores, ""
        if caps.cores and caps.cores - self.cores < cores:
            found = max(0, caps.cores - self.cores), f"{caps.cores} cores {self.whose}"
        if caps.memory_mib and (caps.memory_mib - self.memory_mib) // max(1, per_core_mib) < found[0]:
            room = (caps.memory_mib - self.memory_mib) // max(1, per_core_mib)
            found = max(0, room), f"{caps.memory_mib} MiB {self.whose}"
        return found


class Allowance:
    """What the caps leave while a plan is made.

    Args:
        policy: with the caps in all, and those of its user.
        ours: harvest jobs that have not ended, whoever submitted them.
        unseen: submitted by this harvester after the view was read.
    """

    def __init__(self, policy: HarvestPolicy, ours: Iterable[Job], unseen: Iterable[Submit]) -> None:
        self._all = _Used(policy.caps, "in all")
        self._mine = _Used(policy.user_caps, f"of {policy.user}" if policy.user else "in all")
        for job in ours:
            nodes = job.nodes or job.required_nodes
            counted = (self._all, self._mine) if policy.user in ("", job.user) else (self._all,)
            for used in counted:
                used.add(nodes, job.cores, job.memory_per_node_mib)
        for action in unseen:
            self.take(action)

    def cores(self, node: str, cores: int, per_core_mib: int) -> tuple[int, str]:
        """How many of `cores` may still be harvested there as one job, and the cap that forbids the others."""
        return min(self._all.fits(node, cores, per_core_mib), self._mine.fits(node, cores, per_core_mib))

    def take(self, action: Submit) -> None:
        """Count one more job."""
        for used in (self._all, self._mine):
            used.add((action.node,), action.cores, action.memory_mib)
