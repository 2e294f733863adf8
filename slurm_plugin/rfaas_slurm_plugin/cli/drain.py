"""`rfaas slurm drain` and `resume`: nodes that the harvester shall leave, and may come back to."""

from __future__ import annotations

import asyncio
import getpass
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from rfaas.cli.common import EXIT_FAILED, Seconds, fail, json_option, print_json, state_dir_option
from rfaas.control.address import AllocatorAddress
from rfaas.settings import Settings
from rfaas_slurm_plugin.check import expand_nodes, refuse_strangers
from rfaas_slurm_plugin.harvest import job
from rfaas_slurm_plugin.harvest.drains import Drain, DrainFile
from rfaas_slurm_plugin.views import sources
from rfaas_slurm_plugin.views.hostlist import compress
from rfaas_slurm_plugin.views.view import ClusterUnavailable, ViewSource
from rfaas_transport.errors import ConfigError, RfaasError

POLL_S: Final = 0.5


@click.command()
@click.argument("nodes", nargs=-1, required=True)
@click.option("--reason", required=True, help="Why, for whoever asks later.")
@click.option("--wait", "wait_s", type=Seconds(0), default=0.0, help="Wait so many seconds for slices to end.")
@state_dir_option
@json_option
def drain(nodes: tuple[str, ...], reason: str, wait_s: float, state_dir: Path, as_json: bool) -> None:
    """Keep the harvester off nodes: slices there go back within their grace, and no new one comes.

    \b
    rfaas slurm drain n[1-3] --reason "new firmware"
    rfaas slurm drain n7 --reason test --wait 60      exit status 1 if slices are left then
    rfaas slurm drain ALL --reason "power cut"        every node that there is now

    It begins with the harvester's next look at the cluster and holds until `rfaas slurm resume`, whatever restarts.
    Slurm is told nothing: other jobs come and go as before.
    """
    try:
        if not reason.strip():
            raise ConfigError("--reason is empty", hint="say why: `rfaas slurm status` shows it to whoever asks")
        names, left = asyncio.run(_drain(_names(nodes), reason, wait_s, state_dir))
    except RfaasError as error:
        fail(error, as_json=as_json)
    if as_json:
        print_json({"drained": list(names), "left": left})
    else:
        click.echo(f"drained {compress(names)}: no new slice there; running ones end within their grace")
        if left:
            click.echo(f"slices are left on {compress(left)}")
    if wait_s and left:
        raise SystemExit(EXIT_FAILED)


def _names(nodes: tuple[str, ...]) -> tuple[str, ...]:
    """What was written, each name once. Raises ConfigError: no name is in it."""
    names = tuple(dict.fromkeys(expand_nodes(nodes, "NODES")))
    if not names:
        raise ConfigError("no node is named", hint='write a hostlist as Slurm does: "n[1-4,7],login", or ALL')
    return names


async def _drain(
    names: tuple[str, ...], reason: str, wait_s: float, state_dir: Path
) -> tuple[tuple[str, ...], list[str]]:
    """Drain; return the nodes, and those of them with slices after `wait_s`."""
    settings = Settings.load()
    choice = await sources.choose(settings.value("slurmrestd"), settings.value("pyslurm_python"))
    try:
        there = sorted({node.name for node in (await choice.source.read()).nodes})
        names = tuple(there) if names == ("ALL",) else names
        refuse_strangers(names, there)
        said = Drain(reason, getpass.getuser(), int(time.time()))
        DrainFile(state_dir).change(dict.fromkeys(names, said))
        if not wait_s:
            return names, []
        alloc_id = AllocatorAddress.load(state_dir).alloc_id
        return names, await _wait_empty(frozenset(names), wait_s, choice.source, alloc_id)
    except ClusterUnavailable as error:
        raise ConfigError(str(error), hint="run this on a host of the cluster, or later") from error
    finally:
        choice.close()


async def _wait_empty(names: frozenset[str], wait_s: float, source: ViewSource, alloc_id: str) -> list[str]:
    """Nodes of these that still have slices after `wait_s`."""
    deadline_s = time.monotonic() + wait_s
    while True:
        view = await source.read()
        ours = [entry for entry in view.jobs if not entry.ended and job.stamp_of(entry.comment, alloc_id) is not None]
        left = sorted({name for entry in ours for name in (*entry.nodes, *entry.required_nodes)} & names)
        if not left or time.monotonic() >= deadline_s:
            return left
        await asyncio.sleep(POLL_S)


@click.command()
@click.argument("nodes", nargs=-1, required=True)
@state_dir_option
@json_option
def resume(nodes: tuple[str, ...], state_dir: Path, as_json: bool) -> None:
    """Let the harvester come back to nodes that `rfaas slurm drain` kept it off.

    \b
    rfaas slurm resume n[1-3]
    rfaas slurm resume ALL
    """
    try:
        file = DrainFile(state_dir)
        before = file.read()
        names = tuple(sorted(before)) if nodes == ("ALL",) else _names(nodes)
        others = [name for name in names if name not in before]
        if others:
            raise ConfigError(f"{compress(others)} is not drained", hint="`rfaas slurm status` shows which nodes are")
        left = file.change({}, frozenset(names))
    except RfaasError as error:
        fail(error, as_json=as_json)
    if as_json:
        print_json({"resumed": list(names), "drained": {name: asdict(entry) for name, entry in left.items()}})
    else:
        click.echo(f"resumed {compress(names)}" if names else "no node was drained")
