"""Is this cluster fit for harvesting by an ordinary user, and with which settings: pure functions over what was read.

Used by `rfaas up --slurm` before anything is started. Every refusal names cause and remedy. Source: docs/slurm.md.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rfaas.control.route import own_address_towards
from rfaas_slurm_plugin.views.hostlist import compress, expand
from rfaas_slurm_plugin.views.view import ClusterConfig, Partition
from rfaas_transport.errors import ConfigError

EXIT_MARGIN_S = 1.0
"""Left of the grace for killing, proving death and saying farewell."""

FORGOTTEN_MARGIN_S = 2.0
"""A victim that is still there this long after grace and KillWait was forgotten by Slurm."""


@dataclass(frozen=True, slots=True)
class SlurmPlan:
    """Settings that follow from the cluster."""

    partition: str
    grace_s: float  # between SIGTERM and SIGKILL
    drain_s: float  # what running calls may use of it
    overdue_s: float
    listen: str  # address of this host that the nodes reach
    nodes: tuple[str, ...] = ()  # harvest only there; empty: all of the partition
    leave_nodes: tuple[str, ...] = ()  # never there
    time_limit_min: int = 0  # of a job that asks for none, in whole minutes; 0: unlimited
    slurm_uid: int = 0  # of SlurmUser


def choose_partition(partitions: tuple[Partition, ...], config: ClusterConfig, name: str | None) -> Partition:
    """The partition to harvest in: the one named, else the preemptible one of the lowest tier.

    Raises:
        ConfigError: no such partition, it is down, or jobs in it would not be taken back.
    """
    known = ", ".join(p.name for p in partitions) or "none"
    if name is not None:
        found = [p for p in partitions if p.name == name]
        if not found:
            raise ConfigError(f"there is no partition {name!r}", hint=f"partitions here: {known}")
        if not preemptible(found[0], partitions, config):
            raise ConfigError(
                f"jobs in partition {name!r} are not taken back for other jobs ({_why_not(found[0], config)}), so idle "
                "cores could not be given back at once",
                hint="ask your administrator for a partition with PreemptMode=CANCEL and the lowest PriorityTier",
            )
        return found[0]
    candidates = [p for p in partitions if p.up and preemptible(p, partitions, config)]
    if not candidates:
        raise ConfigError(
            f"no partition of this cluster is preemptible (partitions: {known}; PreemptType={config.preempt_type})",
            hint="an administrator can add one by `rfaas slurm install`: PartitionName=harvest Nodes=ALL "
            "PriorityTier=1 PreemptMode=CANCEL GraceTime=5, with PreemptType=preempt/partition_prio and other "
            "partitions at a higher PriorityTier",
        )
    return min(candidates, key=lambda p: (p.priority_tier, p.name))


def preemptible(partition: Partition, partitions: tuple[Partition, ...], config: ClusterConfig) -> bool:
    """True if jobs of other partitions on the same nodes take its jobs' nodes at once."""
    return (
        config.preempt_type == "preempt/partition_prio"
        and partition.preempt_mode in ("CANCEL", "REQUEUE")
        and any(
            other.priority_tier > partition.priority_tier and set(other.nodes) & set(partition.nodes)
            for other in partitions
        )
    )


def _why_not(partition: Partition, config: ClusterConfig) -> str:
    here = f"PreemptMode={partition.preempt_mode}, PriorityTier={partition.priority_tier}"
    return f"PreemptType={config.preempt_type}, {here}"


def expand_nodes(hostlists: Collection[str], option: str = "--nodes") -> tuple[str, ...]:
    """Names of an option or setting of nodes, each of which may be a hostlist.

    Raises:
        ConfigError: one is written wrongly; the message says where.
    """
    try:
        return tuple(name for text in hostlists for name in expand(text))
    except ValueError as error:
        raise ConfigError(f"{option}: {error}", hint='write hostlists as Slurm does: "n[1-4,7],login"') from error


def refuse_strangers(names: Collection[str], there: Collection[str]) -> None:
    """Raise ConfigError if the cluster does not have these nodes."""
    unknown = [name for name in names if name not in there]
    if unknown:
        raise ConfigError(f"the cluster has no node {compress(unknown)[:200]}", hint=f"it has {compress(there)[:200]}")


def refuse_unknown_nodes(asked: Collection[str], there: Collection[str], partition: str) -> None:
    """Raise ConfigError if the partition has no nodes, or not those that were asked for."""
    if not there:
        raise ConfigError(f"partition {partition!r} has no nodes", hint="name another one with --partition")
    unknown = [name for name in asked if name not in there]
    if unknown:
        raise ConfigError(
            f"partition {partition!r} has no node {', '.join(unknown)}",
            hint=f"its nodes: {', '.join(sorted(there)[:20])}",
        )


def make_plan(partition: Partition, config: ClusterConfig, node_address: str, listen: str | None) -> SlurmPlan:
    """Settings for harvesting in this partition; `node_address` is any node's, to find the way there.

    Raises:
        ConfigError: `listen` is an address of this host's own, or there is no way to the node.
    """
    if listen and (listen == "localhost" or listen.startswith(("127.", "::1"))):
        raise ConfigError(
            f"--listen {listen}: the nodes can't reach this host there",
            hint="leave it out, or name an address they reach",
        )
    grace_s = partition.grace_s if partition.grace_s > 0 else config.kill_wait_s
    return SlurmPlan(
        partition=partition.name,
        grace_s=grace_s,
        drain_s=max(0.0, grace_s - EXIT_MARGIN_S),
        overdue_s=partition.grace_s + config.kill_wait_s + FORGOTTEN_MARGIN_S,
        listen=listen or _address_towards(node_address),
        time_limit_min=int((partition.job_time_s or 0.0) // 60),
        slurm_uid=config.slurm_uid,
    )


def _address_towards(node: str) -> str:
    """This host's own address on the way to a node.

    Raises:
        ConfigError: the name can't be resolved or there is no route.
    """
    try:
        return own_address_towards(node)
    except OSError as error:
        raise ConfigError(
            f"no way to compute node {node!r} from here: {error}",
            hint="run this on a host of the cluster, or name this host's address there with --listen",
        ) from error
