"""What the harvester is told: the policy's settings, as plain values. Sizes are cores and MiB, as Slurm counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

JOB_NAME: Final = "rfaas-slice"
"""Of every harvest job, whoever submitted it."""


@dataclass(frozen=True, slots=True)
class Caps:
    """The most that harvest jobs may have together, pending ones counted; 0: no cap."""

    cores: int = 0
    memory_mib: int = 0
    nodes: int = 0
    jobs: int = 0


@dataclass(frozen=True, slots=True)
class HarvestPolicy:
    """What to harvest and what to leave alone; the measurements behind the defaults are named at each field."""

    partition: str
    user: str = ""  # whose harvest jobs `user_caps` counts; "": everybody's
    leave_cores: int = 0  # idle cores to leave on each node
    leave_memory_mib: int = 0  # idle memory to leave on each node
    slice_cores: int = 0  # cores of one slice; 0: all idle cores of a node
    min_memory_mib_per_core: int = 256  # a slice with less can't hold an interpreter a core
    max_memory_mib_per_core: int = 0  # 0: its share of what is idle
    caps: Caps = field(default_factory=Caps)  # over all harvest jobs of the partition, whoever submitted them
    user_caps: Caps = field(default_factory=Caps)  # over those of `user`
    max_submissions_per_s: float = 5.0  # slurmctld serves everybody
    backoff_s: float = 3.0  # after a slice of a node was taken back; a rigid job needs ~0.1 s to get in
    hold_for_pending_s: float = 5.0  # a job that began to wait so lately is being given nodes: they are left to it
    nodes: frozenset[str] = frozenset()  # only these; empty: all of the partition
    leave_nodes: frozenset[str] = frozenset()
    leave_partitions: frozenset[str] = frozenset()  # nodes that are in one of these too
    leave_features: frozenset[str] = frozenset()  # nodes that have one of these
    require_features: frozenset[str] = frozenset()  # nodes that lack one of these are left alone
    leave_users: frozenset[str] = frozenset()  # nodes where a job of theirs runs
    leave_planned: bool = False  # a planned job takes its nodes by preemption, so they may be lent until it starts
    min_idle_s: float = 0.0  # nodes that are expected to stay idle for less are left alone
    time_limit_min: int = 0  # of one slice; 0: none
    min_time_min: int = 2  # a slice that would end sooner before a reservation is not worth its start
    reservation_margin_s: float = 30.0  # between a slice's end and a reservation: KillWait and the node's clearing
    cycle_s: float = 10.0  # between two views; submissions of a cycle are spread over it
    max_view_age_cycles: float = 3.0  # nothing is submitted on a view that is older

    @property
    def max_view_age_s(self) -> float:
        """How old the view may be on which something is submitted."""
        return self.max_view_age_cycles * self.cycle_s


@dataclass(frozen=True, slots=True)
class Submit:
    """Submit one harvest job."""

    node: str
    cores: int
    memory_mib: int
    time_limit_min: int = 0  # 0: none


_NAMES: Final = ("nodes", "leave_nodes", "leave_partitions", "leave_features", "require_features", "leave_users")


def policy_of(partition: str, given: Mapping[str, Any]) -> HarvestPolicy:
    """The policy that settings of section [harvest] mean; those that are missing have their defaults.

    Args:
        partition: to harvest in.
        given: by their names in the table; caps are `max_cores`, `max_cores_per_user` and so on, memory in bytes.
    """
    fields: dict[str, Any] = {k: frozenset(value) if k in _NAMES else value for k, value in given.items()}
    caps = {whose: _caps(fields, whose) for whose in ("", "_per_user")}
    return HarvestPolicy(partition=partition, caps=caps[""], user_caps=caps["_per_user"], **fields)


def _caps(fields: dict[str, Any], whose: str) -> Caps:
    """Take the caps out of the fields."""
    cores, memory_bytes, nodes, jobs = (
        fields.pop(f"max_{name}{whose}", 0) for name in ("cores", "memory", "nodes", "jobs")
    )
    # a cap of less than a MiB is a cap, not none
    return Caps(cores, -(-memory_bytes // (1 << 20)), nodes, jobs)
