"""Which lines a site adds to harvest, from what its slurm.conf says; pure.

The harvest partition lies below every other, so that each of them takes its nodes back and none is taken from. A line
of the site's is never changed: where one stands in the way, the plan is refused with its file and line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from rfaas_slurm_plugin.site.conf import Entry, SlurmConf
from rfaas_slurm_plugin.views.hostlist import compress, expand
from rfaas_transport.errors import ConfigError

PARTITION_PRIO: Final = "preempt/partition_prio"
NO_PREEMPTION: Final = frozenset(["", "preempt/none"])
DEFAULT_TIER: Final = 1  # PriorityTier that Slurm takes where none is said
ON_NODES: Final = ("Prolog", "Epilog")  # here slurmd takes a pattern of programs
READ_AT_START: Final = frozenset(["PreemptType", "PreemptMode", "PrologSlurmctld", "EpilogSlurmctld"])
"""What slurmctld takes no notice of at reconfigure: 22.05 runs no hook that it did not have at its start."""

HOOKS: Final = (*ON_NODES, "PrologSlurmctld", "EpilogSlurmctld")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the administrator asked for."""

    partition: str = "harvest"
    nodes: str = "ALL"  # a hostlist
    grace_s: int = 30
    hook: str = ""  # path of rfaas-hook on every node; "": no hooks
    spank: str = ""  # path of rfaas_spank.so on every node; "": no plugin


@dataclass(frozen=True, slots=True)
class SitePlan:
    """What to write, and what to do besides."""

    slurm_conf: list[str]
    plugstack: list[str]
    by_hand: list[str]  # what only an administrator can do or decide
    restart: bool  # slurmctld must be restarted: reconfigure is not enough


def make(conf: SlurmConf, wanted: Wanted) -> SitePlan:
    """Lines for this site.

    Raises:
        ConfigError: a line of the site's stands in the way; the message names it.
    """
    _refuse_taken_name(conf, wanted)
    _refuse_strangers(conf, wanted)
    tier = _tier(conf)
    settings = _preemption(conf)
    by_hand = _by_hand(conf, wanted)
    lines = [*settings, _partition_line(wanted, tier), *(_hooks(conf, wanted) if wanted.hook else [])]
    return SitePlan(
        slurm_conf=lines,
        plugstack=[f"optional {wanted.spank}"] if wanted.spank else [],
        by_hand=by_hand,
        restart=needs_restart(lines),
    )


def needs_restart(lines: Iterable[str]) -> bool:
    """Whether slurmctld has to be restarted to take these lines, or their end."""
    return any(line.partition("=")[0] in READ_AT_START for line in lines)


def _partition_line(wanted: Wanted, tier: int) -> str:
    return (
        f"PartitionName={wanted.partition} Nodes={wanted.nodes} Default=NO State=UP MaxTime=UNLIMITED "
        f"PriorityTier={tier} PreemptMode=CANCEL GraceTime={wanted.grace_s} TRESBillingWeights=CPU=0.0,Mem=0.0"
    )


def _refuse_taken_name(conf: SlurmConf, wanted: Wanted) -> None:
    taken = conf.partition(wanted.partition)
    if taken is not None:
        raise ConfigError(
            f"{taken.line.where}: there is a partition {wanted.partition!r} already",
            hint="is it for harvesting? `rfaas slurm check` says so; else choose another name: --partition",
        )


def _refuse_strangers(conf: SlurmConf, wanted: Wanted) -> None:
    """Nodes that no line names: slurmctld ends at such a partition (22.05: fatal, also at reconfigure)."""
    if wanted.nodes.upper() == "ALL" or not conf.nodes or "maxnodecount" in conf.settings:  # which allows dynamic ones
        return
    known: set[str] = set()
    for entry in conf.nodes:
        name = entry.get("NodeName") or entry.get("NodeSet")
        try:
            known.update(expand(name))
        except ValueError as error:
            raise ConfigError(f"{entry.line.where}: {error}", hint="mend that line") from error
    unknown = [name for name in expand(wanted.nodes) if name not in known]
    if unknown:
        raise ConfigError(
            f"{conf.files[-1]} has no node {compress(unknown)[:200]}",
            hint="slurmctld ends where a partition names a node that is not there: mend --nodes",
        )


def _real(conf: SlurmConf) -> list[Entry]:
    return [entry for entry in conf.partitions if entry.get("PartitionName").upper() != "DEFAULT"]


def _tier_of(conf: SlurmConf, entry: Entry) -> int:
    words = (conf.partition_word(entry, "PriorityTier", ""), conf.partition_word(entry, "Priority", ""))
    text = words[0] or words[1] or str(DEFAULT_TIER)
    if not text.isdecimal():
        raise ConfigError(f"{entry.line.where}: PriorityTier={text} is no number", hint="mend that line")
    return int(text)


def _tier(conf: SlurmConf) -> int:
    """A tier below all others."""
    partitions = _real(conf)
    if not partitions:
        raise ConfigError(f"{conf.files[-1]}: there is no partition", hint="is this the slurm.conf of the cluster?")
    lowest = min(partitions, key=lambda entry: _tier_of(conf, entry))
    tier = _tier_of(conf, lowest)
    if tier == 0:
        raise ConfigError(
            f"{lowest.line.where}: partition {lowest.get('PartitionName')} has PriorityTier 0: nothing lies below it",
            hint="raise the PriorityTier of the site's partitions by one, all alike",
        )
    return tier - 1


def _preemption(conf: SlurmConf) -> list[str]:
    """Cluster-wide lines for preemption between partitions."""
    kind = conf.setting("PreemptType")
    if kind == PARTITION_PRIO:
        mode = conf.setting("PreemptMode").upper()
        if mode in ("", "OFF"):
            raise ConfigError(
                f"{conf.settings['preempttype'].line.where}: PreemptType={kind}, but PreemptMode={mode or 'OFF'}",
                hint="Slurm does not start with these two together: set PreemptMode=CANCEL",
            )
        return []
    if kind not in NO_PREEMPTION:
        raise ConfigError(
            f"{conf.settings['preempttype'].line.where}: PreemptType={kind}: partitions don't preempt each other here",
            hint=f"rfaas harvests by {PARTITION_PRIO}; see docs/deployment.md on sites that preempt by QOS",
        )
    for name in ("PreemptType", "PreemptMode"):
        if name.lower() in conf.settings:
            raise ConfigError(
                f"{conf.settings[name.lower()].line.where}: {name}={conf.setting(name)} stands in the way",
                hint=f"remove that line: PreemptType={PARTITION_PRIO} and PreemptMode=CANCEL come in its place",
            )
    _refuse_new_victims(conf)
    return [f"PreemptType={PARTITION_PRIO}", "PreemptMode=CANCEL"]


def _refuse_new_victims(conf: SlurmConf) -> None:
    """Once partitions preempt each other, those of a lower tier without a PreemptMode of their own are victims too."""
    partitions = _real(conf)
    highest = max(_tier_of(conf, entry) for entry in partitions)
    for entry in partitions:
        if _tier_of(conf, entry) < highest and not conf.partition_word(entry, "PreemptMode", ""):
            raise ConfigError(
                f"{entry.line.where}: jobs of partition {entry.get('PartitionName')} would be cancelled for those of a "
                "higher PriorityTier, once partitions preempt each other",
                hint="add PreemptMode=OFF to that line, or give all partitions the same PriorityTier",
            )


def _hooks(conf: SlurmConf, wanted: Wanted) -> list[str]:
    lines = []
    for name in HOOKS:
        entry = conf.settings.get(name.lower())
        if entry is None:
            lines.append(f"{name}={wanted.hook}")
        elif name in ON_NODES and "*" not in entry.get(name) and entry.get(name) != wanted.hook:
            raise ConfigError(
                f"{entry.line.where}: {name}={entry.get(name)} is the site's own, and this line takes one program",
                hint=f"put it and a link to {wanted.hook} into a directory on every node, and name that: "
                f"{name}=/etc/slurm/{name.lower()}.d/*",
            )
    flags = conf.settings.get("prologflags")
    if flags is None:
        lines.append("PrologFlags=Alloc")
    elif not {"alloc", "contain", "x11"} & {flag.lower() for flag in flags.get("PrologFlags").split(",")}:
        raise ConfigError(
            f"{flags.line.where}: PrologFlags={flags.get('PrologFlags')} lacks Alloc",
            hint="add Alloc: without it a Prolog runs only when a job's first step comes to a node",
        )
    return lines


def _beside(conf: SlurmConf, wanted: Wanted, name: str) -> list[str]:
    """What to do where the site has a program of its own for this event, whose line stays."""
    entry = conf.settings.get(name.lower())
    if entry is None or entry.get(name) == wanted.hook:
        return []
    where, own = entry.line.where, entry.get(name)
    if name in ON_NODES:
        return [f"{where}: link {wanted.hook} into {own} on every node"]
    steps = [f"{where}: {name} stays the site's: let {own} call {wanted.hook} first, with the variables that it has"]
    if "*" in own:  # 22.05: "Invalid PrologSlurmctld", and nothing runs, the site's own programs neither
        steps.append("  but slurmctld may take no pattern there: does its log say Invalid, name one program")
    return steps


def _by_hand(conf: SlurmConf, wanted: Wanted) -> list[str]:
    todo = []
    if wanted.hook:
        todo.append(
            f"on every node and beside slurmctld, before Slurm hears of it: {wanted.hook} is there, root's alone to "
            "write; a node without it is drained"
        )
        todo += [step for name in HOOKS for step in _beside(conf, wanted, name)]
    if wanted.spank:
        todo.append(f"on every node and login host: build {wanted.spank} against the headers of this Slurm")
    if "slurmdbd" in conf.setting("AccountingStorageType"):
        todo.append("so that harvesting counts against nobody's share: a QOS with UsageFactor=0 for the partition, by")
        todo.append(f"  sacctmgr add qos {wanted.partition} UsageFactor=0, and QOS={wanted.partition} on its line")
    return todo
