"""`rfaas slurm status`: what is harvested where, by whom and since when; what is left alone; what was taken back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click

from rfaas.cli.common import fail, json_option, print_json, print_table, state_dir_option
from rfaas.settings import Settings
from rfaas_slurm_plugin.check import expand_nodes, refuse_strangers
from rfaas_slurm_plugin.harvest.drains import Drain, DrainFile
from rfaas_slurm_plugin.views import sources
from rfaas_slurm_plugin.views.hostlist import compress
from rfaas_slurm_plugin.views.view import ClusterUnavailable, ClusterView, Job
from rfaas_transport.errors import AllocatorUnavailable, RfaasError

COMMENT: Final = "rfaas:"
"""What the comments of all harvest jobs begin with; then the allocator and a stamp."""

HEADERS: Final = ("NODE", "USER", "STATE", "CORES", "MEM_MIB", "SINCE", "JOB", "ALLOCATOR")


@dataclass(frozen=True, slots=True)
class Harvested:
    """One slice, as Slurm sees it."""

    node: str
    user: str
    state: str
    cores: int
    memory_mib: int
    since_s: int  # wall clock; of one that waits, when it was submitted
    job_id: int
    allocator: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The cluster's harvest at one moment."""

    slices: tuple[Harvested, ...]
    usable_nodes: int
    cores: int
    idle_cores: int
    preempted_today: int


def summarise(view: ClusterView, midnight_s: float, only: Collection[str] = ()) -> Summary:
    """What is harvested, from one view; pure.

    Args:
        view: the cluster.
        midnight_s: when today began, wall clock.
        only: nodes that are asked about; none: all.
    """
    ours = [entry for entry in view.jobs if entry.comment.startswith(COMMENT)]
    slices = [
        Harvested(
            node,
            entry.user,
            entry.state,
            entry.cores,
            entry.memory_per_node_mib,
            entry.submit_time_s if entry.state == "PENDING" else entry.start_time_s,
            entry.job_id,
            entry.comment.split(":")[1],
        )
        for entry in ours
        if not entry.ended
        for node in entry.nodes or entry.required_nodes or ("-",)
        if not only or node in only
    ]
    nodes = [node for node in view.nodes if node.usable and (not only or node.name in only)]
    return Summary(
        slices=tuple(sorted(slices, key=lambda one: (one.node, one.job_id))),
        usable_nodes=len(nodes),
        cores=sum(node.cores for node in nodes),
        idle_cores=sum(node.idle_cores for node in nodes),
        preempted_today=sum(_preempted_since(entry, midnight_s) for entry in ours),
    )


def _preempted_since(entry: Job, since_s: float) -> bool:
    taken_back = entry.state == "PREEMPTED" or entry.preempt_time_s > 0
    return entry.ended and taken_back and entry.end_time_s >= since_s


@click.command()
@click.argument("nodes", nargs=-1)
@state_dir_option
@json_option
def status(nodes: tuple[str, ...], state_dir: Path, as_json: bool) -> None:
    """Show what is harvested where, by whom and since when, and which nodes are left alone.

    \b
    rfaas slurm status             the whole cluster, harvests of all users
    rfaas slurm status n[1-3]

    Slices that were taken back are counted as far as slurmctld remembers ended jobs (MinJobAge, 5 minutes by default).
    """
    try:
        names = expand_nodes(nodes, "NODES")
        view = asyncio.run(_read())
        refuse_strangers(names, [node.name for node in view.nodes])
        drains = {name: entry for name, entry in DrainFile(state_dir).read().items() if not names or name in names}
    except ClusterUnavailable as error:
        fail(AllocatorUnavailable(str(error), hint="run this on a host of the cluster"), as_json=as_json)
    except RfaasError as error:
        fail(error, as_json=as_json)
    today = time.localtime()
    midnight_s = time.mktime((*today[:3], 0, 0, 0, 0, 0, -1))
    found = summarise(view, midnight_s, frozenset(names))
    if as_json:
        print_json({**asdict(found), "drained": {name: asdict(entry) for name, entry in drains.items()}})
    else:
        _show(found, drains)


async def _read() -> ClusterView:
    settings = Settings.load()
    choice = await sources.choose(settings.value("slurmrestd"), settings.value("pyslurm_python"))
    try:
        return await choice.source.read()
    finally:
        choice.close()


def _show(found: Summary, drains: dict[str, Drain]) -> None:
    if found.slices:
        rows = [
            (s.node, s.user, s.state, s.cores, s.memory_mib, _when(s.since_s), s.job_id, s.allocator[:12])
            for s in found.slices
        ]
        print_table(HEADERS, rows)
    harvested = sum(s.cores for s in found.slices if s.state == "RUNNING")
    click.echo(
        f"{harvested} cores harvested on {len({s.node for s in found.slices})} nodes; {found.idle_cores} of "
        f"{found.cores} cores on {found.usable_nodes} usable nodes idle; "
        f"{found.preempted_today} slices taken back today"
    )
    by_reason: dict[Drain, list[str]] = {}
    for name, entry in drains.items():
        by_reason.setdefault(entry, []).append(name)
    for entry, names in by_reason.items():
        click.echo(f"left alone: {compress(names)}, since {_when(entry.since_s)}, by {entry.by}: {entry.reason}")


def _when(time_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time_s)) if time_s else "-"
