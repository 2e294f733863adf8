"""Which nodes are left alone, and how that is said: pure functions over one view.

Every node that is not harvested has a `Verdict`: a code, and what an administrator or a user reads by
`rfaas explain NODE`. Source: docs/slurm.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from rfaas_slurm_plugin.policy.settings import HarvestPolicy
from rfaas_slurm_plugin.views.view import ClusterView, Job, Node

OPT_OUT_WORD: Final = "rfaas=off"
"""In the comment of a job (`sbatch --comment=rfaas=off`): nodes where it runs are left alone."""


class Why(StrEnum):
    """Why nothing more is submitted to a node at this moment."""

    HARVESTED = "harvested"
    ALLOCATED = "allocated"
    NO_MEMORY = "no-memory"
    OTHER_PARTITION = "other-partition"
    NOT_LISTED = "not-listed"
    LEFT_BY_NAME = "left-by-name"
    LEFT_PARTITION = "left-partition"
    LEFT_FEATURE = "left-feature"
    LACKS_FEATURE = "lacks-feature"
    OPTED_OUT = "opted-out"
    LEFT_USER = "left-user"
    HARVEST_DRAINED = "harvest-drained"
    DOWN = "down"
    DRAINED = "drained"
    MAINTENANCE = "maintenance"
    RESERVED = "reserved"
    SILENT = "silent"
    POWER_SAVING = "power-saving"
    REBOOT = "reboot"
    UNUSABLE = "unusable"
    PLANNED = "planned"
    RESERVATION = "reservation"
    RESTING = "resting"
    NEIGHBOURS = "neighbours"
    HELD = "held"
    TOO_SHORT = "too-short"
    CAP = "cap"
    RATE = "rate"
    OLD_VIEW = "old-view"


TEXTS: Final[Mapping[Why, tuple[str, str]]] = {
    Why.HARVESTED: ("harvested: {}", ""),
    Why.ALLOCATED: ("jobs have all its cores, or all but those that are left to it", ""),
    Why.NO_MEMORY: (
        "too little memory is idle for a core: {}",
        "jobs without --mem get all of a node's memory where DefMemPerCPU is not set",
    ),
    Why.OTHER_PARTITION: ("it is not in the harvest partition {}", "an administrator can add it there"),
    Why.NOT_LISTED: ("it is not among the nodes to harvest", "setting harvest.nodes"),
    Why.LEFT_BY_NAME: ("it is among the nodes to leave alone", "setting harvest.leave_nodes"),
    Why.LEFT_PARTITION: ("it is in partition {}, which is left alone", "setting harvest.leave_partitions"),
    Why.LEFT_FEATURE: ("it has feature {}, which is left alone", "setting harvest.leave_features"),
    Why.LACKS_FEATURE: ("it lacks feature {}, which is asked for", "setting harvest.require_features"),
    Why.OPTED_OUT: ("job {} runs there and asked not to have company (--comment=rfaas=off)", ""),
    Why.LEFT_USER: ("a job of {} runs there, whose nodes are left alone", "setting harvest.leave_users"),
    Why.HARVEST_DRAINED: ("harvesting is drained there", "rfaas slurm resume NODE"),
    Why.DOWN: ("Slurm calls it {}", "scontrol show node"),
    Why.DRAINED: ("Slurm calls it {}", "scontrol update nodename=… state=resume"),
    Why.MAINTENANCE: ("Slurm calls it {}", ""),
    Why.RESERVED: ("Slurm calls it {}", ""),
    Why.SILENT: ("its slurmd does not answer ({})", "systemctl status slurmd there"),
    Why.POWER_SAVING: ("Slurm calls it {}: harvesting would keep it from sleeping", ""),
    Why.REBOOT: ("Slurm calls it {}", ""),
    Why.UNUSABLE: ("Slurm calls it {}", ""),
    Why.PLANNED: (
        "backfill has planned a job there, and planned nodes are left alone",
        "setting harvest.leave_planned",
    ),
    Why.RESERVATION: ("reservation {} begins too soon for a slice, or has begun", ""),
    Why.RESTING: ("a slice there was just taken back", "setting harvest.backoff_s"),
    Why.NEIGHBOURS: ("a slice left it for its neighbours' sake: {}", "settings guard.slowdown, guard.act"),
    Why.HELD: ("job {} has just begun to wait and may be given it", ""),
    Why.TOO_SHORT: ("it is expected to stay idle for {} only", "setting harvest.min_idle_s"),
    Why.CAP: ("the cap is reached: {}", "settings harvest.max_*"),
    Why.RATE: ("others come first: {} submissions a second", ""),
    Why.OLD_VIEW: ("what is known of the cluster is {} old", "is slurmctld overloaded? sdiag"),
}
"""What is said of each, with its detail in the braces; and what would help, if something would."""

_STATES: Final[tuple[tuple[Why, frozenset[str]], ...]] = (
    (Why.HARVEST_DRAINED, frozenset(["RFAAS_DRAIN"])),  # the harvester's own mark: `rfaas slurm drain`
    (Why.DRAINED, frozenset(["DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILING"])),
    (Why.SILENT, frozenset(["NOT_RESPONDING", "NO_RESPOND"])),
    (Why.DOWN, frozenset(["DOWN", "ERROR", "FUTURE", "UNKNOWN", "BLOCKED"])),
    (Why.MAINTENANCE, frozenset(["MAINT", "MAINTENANCE"])),
    (Why.RESERVED, frozenset(["RESERVED"])),
    (Why.REBOOT, frozenset(["REBOOT", "REBOOT_REQUESTED", "REBOOT_ISSUED"])),
    (
        Why.POWER_SAVING,
        frozenset(["POWER_DOWN", "POWERING_DOWN", "POWERED_DOWN", "POWERING_UP", "POWER_UP"]),
    ),
)


class Verdict(NamedTuple):
    """What is the matter with one node."""

    code: Why
    detail: str = ""

    @property
    def text(self) -> str:
        """A sentence without its subject, the node."""
        return TEXTS[self.code][0].format(self.detail)

    @property
    def remedy(self) -> str:
        """What would help; "" if nothing needs help."""
        return TEXTS[self.code][1]


def rule_against(node: Node, policy: HarvestPolicy, company: Mapping[str, Verdict]) -> Verdict | None:
    """The first rule that forbids to harvest the node whatever is idle there; None if none does.

    `company` is what `unwelcome_company` found in the same view.
    """
    return _by_name(node, policy) or _by_state(node, policy) or company.get(node.name)


def rule_outside_jobs(node: Node, policy: HarvestPolicy, company: Mapping[str, Verdict]) -> Verdict | None:
    """The same of a node that is lent outside of jobs, for which its partition means nothing."""
    return _by_lists(node, policy) or _by_state(node, policy) or company.get(node.name)


def _by_name(node: Node, policy: HarvestPolicy) -> Verdict | None:
    if policy.partition not in node.partitions:
        return Verdict(Why.OTHER_PARTITION, policy.partition)
    return _by_lists(node, policy)


def _by_lists(node: Node, policy: HarvestPolicy) -> Verdict | None:
    if policy.nodes and node.name not in policy.nodes:
        return Verdict(Why.NOT_LISTED)
    if node.name in policy.leave_nodes:
        return Verdict(Why.LEFT_BY_NAME)
    for name in node.partitions:
        if name in policy.leave_partitions:
            return Verdict(Why.LEFT_PARTITION, name)
    if left := node.features & policy.leave_features:
        return Verdict(Why.LEFT_FEATURE, min(left))
    if lacking := policy.require_features - node.features:
        return Verdict(Why.LACKS_FEATURE, min(lacking))
    return None


def _by_state(node: Node, policy: HarvestPolicy) -> Verdict | None:
    if node.usable and "RFAAS_DRAIN" not in node.states:
        return Verdict(Why.PLANNED) if policy.leave_planned and "PLANNED" in node.states else None
    words = "+".join(sorted(node.states))
    return next((Verdict(why, words) for why, states in _STATES if node.states & states), Verdict(Why.UNUSABLE, words))


def unwelcome_company(view: ClusterView, policy: HarvestPolicy) -> dict[str, Verdict]:
    """By node: a job runs there that wants no company, or whose user does not."""
    found: dict[str, Verdict] = {}
    for job in view.jobs:
        if not job.ended and job.nodes and (verdict := _of_job(job, policy)):
            found.update(dict.fromkeys(job.nodes, verdict))
    return found


def _of_job(job: Job, policy: HarvestPolicy) -> Verdict | None:
    if OPT_OUT_WORD in job.comment and OPT_OUT_WORD in job.comment.replace(",", " ").replace(";", " ").split():
        return Verdict(Why.OPTED_OUT, str(job.job_id))
    return Verdict(Why.LEFT_USER, job.user) if job.user in policy.leave_users else None


def by_code(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many nodes each code has, most first."""
    counts: dict[str, int] = {}
    for verdict in verdicts:
        counts[verdict.code.value] = counts.get(verdict.code.value, 0) + 1
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))
