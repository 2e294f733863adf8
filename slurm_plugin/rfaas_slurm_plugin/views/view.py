"""What the rest of the plugin knows of a Slurm cluster, whichever way it was read.

Plain values and one interface; no I/O here. Back-ends: `cli_view` (sinfo, squeue, scontrol), `rest_view` (slurmrestd).
Every back-end passes the same conformance suite against a real cluster. Source: Slurm's documentation; docs/slurm.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

ENDED_STATES: Final = frozenset(
    [
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    ]
)
"""Job states after which no process of the job is left (COMPLETING, which comes before, is not among them)."""

RFAAS_DRAIN: Final = "RFAAS_DRAIN"
"""No state of Slurm's: the node was drained for the harvester alone (`rfaas slurm drain`)."""

UNUSABLE_NODE_STATES: Final = frozenset(
    [
        RFAAS_DRAIN,
        "DOWN",
        "ERROR",
        "FUTURE",
        "UNKNOWN",
        "DRAIN",
        "DRAINED",
        "DRAINING",
        "FAIL",
        "FAILING",
        "MAINT",
        "MAINTENANCE",
        "RESERVED",
        "NOT_RESPONDING",
        "NO_RESPOND",
        "POWER_DOWN",
        "POWERING_DOWN",
        "POWERED_DOWN",
        "POWERING_UP",
        "POWER_UP",
        "REBOOT",
        "REBOOT_REQUESTED",
        "REBOOT_ISSUED",
        "BLOCKED",
    ]
)
"""Node states and flags under which nothing new is placed on a node."""


LEAVING_NODE_STATES: Final = frozenset(
    [
        RFAAS_DRAIN,
        "DRAIN",
        "DRAINED",
        "DRAINING",
        "FAIL",
        "FAILING",
        "REBOOT",
        "REBOOT_REQUESTED",
    ]
)
"""Node states and flags under which an administrator waits for the node's jobs to end."""

SILENT_NODE_STATES: Final = frozenset(["DOWN", "NOT_RESPONDING", "NO_RESPOND"])
"""Node states and flags under which slurmctld can't know what runs on the node."""


class ClusterUnavailable(Exception):
    """Slurm did not answer, or not in a form we know. What was read before stays the last known truth."""


@dataclass(frozen=True, slots=True)
class Node:
    """A compute node. Memory is what Slurm counts, not what the operating system reports as free."""

    name: str
    address: str
    states: frozenset[str]  # upper case, base state and flags alike
    partitions: tuple[str, ...]
    cores: int
    allocated_cores: int
    memory_mib: int
    allocated_memory_mib: int
    slurmd_start_time_s: int
    boot_time_s: int = 0  # when the machine booted, as its slurmd said; 0: not known
    features: frozenset[str] = frozenset()  # active ones, as sites name them
    free_memory_mib: int | None = None  # as the node's operating system said lately; None: not known. For reports only

    @property
    def leaving(self) -> bool:
        """True if an administrator waits for its jobs to end."""
        return bool(self.states & LEAVING_NODE_STATES)

    @property
    def silent(self) -> bool:
        """True if its slurmd does not answer: a job there that Slurm calls ended may still run."""
        return bool(self.states & SILENT_NODE_STATES)

    @property
    def usable(self) -> bool:
        """True if Slurm would start a job there."""
        return not self.states & UNUSABLE_NODE_STATES

    @property
    def idle_cores(self) -> int:
        """Cores that no job was given."""
        return max(0, self.cores - self.allocated_cores)

    @property
    def idle_memory_mib(self) -> int:
        """Memory that no job was given."""
        return max(0, self.memory_mib - self.allocated_memory_mib)


@dataclass(frozen=True, slots=True)
class Job:
    """A job that slurmctld still knows."""

    job_id: int
    name: str
    user: str
    partition: str
    state: str  # upper case, e.g. PENDING, RUNNING, COMPLETING
    reason: str  # why it is pending
    nodes: tuple[str, ...]  # allocated
    required_nodes: tuple[str, ...]  # asked for by name
    cores: int
    memory_per_node_mib: int
    comment: str
    submit_time_s: int
    start_time_s: int
    end_time_s: int  # 0: none known
    preempt_time_s: int = 0  # when Slurm chose it as a victim; 0: not
    node_count: int = 0  # that it has or asks for; 0: not known
    scheduled_nodes: tuple[str, ...] = ()  # where backfill means to start it, if this release says so

    @property
    def partitions(self) -> frozenset[str]:
        """Its partition; of a pending job all that it may start in."""
        return frozenset(self.partition.split(","))

    @property
    def ended(self) -> bool:
        """True if Slurm says that nothing of it runs any more."""
        return self.state in ENDED_STATES


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition, as far as preemption matters."""

    name: str
    nodes: tuple[str, ...]
    up: bool
    priority_tier: int
    preempt_mode: str  # OFF, CANCEL, REQUEUE, SUSPEND …
    grace_s: float
    max_time_s: float | None  # None: unlimited
    default_time_s: float | None = None  # of a job that asks for none; None: max_time_s

    @property
    def job_time_s(self) -> float | None:
        """Time limit of a job that asks for none; None: unlimited."""
        return self.max_time_s if self.default_time_s is None else self.default_time_s


@dataclass(frozen=True, slots=True)
class Reservation:
    """Nodes that Slurm keeps for somebody, or for maintenance: no job of ours may reach into it."""

    name: str
    nodes: tuple[str, ...]
    start_time_s: int
    end_time_s: int
    flags: frozenset[str] = frozenset()  # upper case, e.g. MAINT


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Settings of the whole cluster that decide how reclaiming works."""

    cluster: str
    preempt_type: str
    preempt_mode: str
    kill_wait_s: float
    version: str
    slurm_uid: int = 0  # of SlurmUser, as whom slurmctld's hooks run


@dataclass(frozen=True, slots=True)
class ClusterView:
    """The cluster at one moment. `taken_boot_s` is CLOCK_BOOTTIME when the reading began."""

    taken_boot_s: float
    nodes: tuple[Node, ...]
    jobs: tuple[Job, ...]
    reservations: tuple[Reservation, ...] = ()


class ViewSource(Protocol):
    """Reads a cluster. Each method raises ClusterUnavailable and leaves nothing behind."""

    async def ping(self) -> None:
        """Ask whether slurmctld answers: the least that can be asked of one that may just be coming back."""

    async def read(self) -> ClusterView:
        """Nodes, all jobs and reservations: one query of each kind for the whole cluster."""

    async def partitions(self) -> tuple[Partition, ...]:
        """All partitions; read once at start."""

    async def config(self) -> ClusterConfig:
        """Cluster-wide settings; read once at start."""
