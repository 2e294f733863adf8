"""`rfaas slurm check`: can this cluster be harvested, by which way is it read, and what is missing."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from dataclasses import dataclass
from typing import Final

import click

from rfaas.cli.common import EXIT_CONFIG, EXIT_FAILED, EXIT_UNAVAILABLE, json_option, print_json
from rfaas.settings import Settings
from rfaas_slurm_plugin.check import choose_partition
from rfaas_slurm_plugin.views import sources
from rfaas_slurm_plugin.views.view import ClusterConfig, ClusterUnavailable, ClusterView, Node, Partition
from rfaas_transport.errors import RfaasError

OK: Final = "ok"
WARNING: Final = "warning"
ERROR: Final = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    severity: str
    text: str
    remedy: str = ""


def judge(
    choice_name: str,
    why: str,
    view: ClusterView,
    partitions: tuple[Partition, ...],
    config: ClusterConfig,
    wanted: str | None,
) -> list[Finding]:
    """What was read, as findings; pure."""
    found = [
        Finding("view", OK, f"Slurm is read by {choice_name}: {why}"),
        Finding("slurmctld", OK, f"cluster {config.cluster or '?'}, Slurm {config.version or '?'}, answers"),
    ]
    try:
        chosen = choose_partition(partitions, config, wanted)
    except RfaasError as error:
        return [*found, Finding("partition", ERROR, error.message, error.hint)]
    nodes = [node for node in view.nodes if chosen.name in node.partitions]
    grace = f"GraceTime {chosen.grace_s:g} s" if chosen.grace_s else f"no GraceTime: KillWait, {config.kill_wait_s:g} s"
    found.append(
        Finding("partition", OK, f"{chosen.name}: {chosen.preempt_mode}, tier {chosen.priority_tier}, {grace}")
    )
    found.append(_nodes(chosen.name, nodes))
    if chosen.max_time_s is not None and chosen.max_time_s < 600:
        found.append(
            Finding(
                "time limit",
                WARNING,
                f"jobs of {chosen.name} end after {chosen.max_time_s:g} s, and each new slice costs a second or more",
                f"PartitionName={chosen.name} MaxTime=UNLIMITED: preemption ends slices, not time",
            )
        )
    return found


def _nodes(partition: str, nodes: list[Node]) -> Finding:
    if not nodes:
        return Finding("nodes", ERROR, f"partition {partition} has no nodes", f"PartitionName={partition} Nodes=ALL")
    usable = [node for node in nodes if node.usable]
    idle_cores = sum(node.idle_cores for node in usable)
    idle_gib = sum(node.idle_memory_mib for node in usable) / 1024
    text = f"{len(nodes)} in {partition}, {len(usable)} usable; idle now: {idle_cores} cores, {idle_gib:.1f} GiB"
    unset = [node.name for node in nodes if node.memory_mib <= 1]
    if unset:
        return Finding(
            "nodes",
            WARNING,
            f"{text}; no RealMemory: {', '.join(unset[:5])}",
            "set RealMemory in slurm.conf (slurmd -C prints it): slices take memory that Slurm can count",
        )
    if not usable:
        return Finding(
            "nodes", WARNING, text, "`sinfo --list-reasons` says why; after a restart nodes answer in seconds"
        )
    return Finding("nodes", OK, text)


async def look(slurmrestd: str | None, pyslurm_python: str | None, wanted: str | None) -> list[Finding]:
    """Read the cluster and judge it.

    Raises:
        ClusterUnavailable: Slurm does not answer.
        ConfigError: an address or token is wrong.
    """
    choice = await sources.choose(slurmrestd, pyslurm_python)
    try:
        view, partitions, config = await asyncio.gather(
            choice.source.read(), choice.source.partitions(), choice.source.config()
        )
    finally:
        choice.close()
    return judge(choice.name, choice.why, view, partitions, config, wanted)


@click.command()
@click.option("--partition", help="The partition to harvest in [the preemptible one of the lowest tier].")
@json_option
def check(partition: str | None, as_json: bool) -> None:
    """Say whether this cluster can be harvested, by which way it is read and why.

    Asks Slurm and changes nothing. Exit status: 0; 1 if something hinders harvesting; 69 if Slurm does not answer.
    """
    settings = Settings.load()
    wanted = partition or settings.value("harvest.partition")
    try:
        found = asyncio.run(look(settings.value("slurmrestd"), settings.value("pyslurm_python"), wanted))
    except ClusterUnavailable as error:
        found = [
            Finding("slurmctld", ERROR, str(error), "run this on a host of the cluster; `scontrol ping` says more")
        ]
        _show(found, as_json)
        sys.exit(EXIT_UNAVAILABLE)
    except RfaasError as error:
        _show([Finding("view", ERROR, error.message, error.hint)], as_json)
        sys.exit(EXIT_CONFIG)
    _show(found, as_json)
    if any(finding.severity == ERROR for finding in found):
        sys.exit(EXIT_FAILED)


def _show(found: list[Finding], as_json: bool) -> None:
    if as_json:
        print_json({"findings": [dataclasses.asdict(finding) for finding in found]})
        return
    for finding in found:
        click.echo(f"{finding.severity:8} {finding.check:11} {finding.text}")
        if finding.remedy:
            click.echo(f"{'':20} remedy: {finding.remedy}")
