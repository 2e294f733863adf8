"""`rfaas inventory`: the hosts that an allocator knows, with agents or without; out and in as JSON.

Asks the allocator (services Admin, Offers). Form of the JSON: docs/spec/003-control.md.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from rfaas.cli.common import EXIT_FAILED, fail, json_option, print_json, print_table, state_dir_option
from rfaas.control.hosts import HostList, hosts_json, parse_hosts
from rfaas.control.messages import JobEnded, Snapshot
from rfaas_transport.errors import ConfigError, RfaasError

T = TypeVar("T")
MIB = 1 << 20


@click.group("inventory")
def inventory() -> None:
    """Show, export, import the hosts that could lend something, or forget one that is gone.

    An inventory that says "complete": true lets the allocator deny at once what no host can ever hold; without it such
    requests wait, since a larger host may come.
    """


@inventory.command("list")
@state_dir_option
@json_option
def list_(state_dir: Path, as_json: bool) -> None:
    """Show known hosts, and what of each has joined and is free.

    \b
    SOURCE file   named by an imported inventory     JOINED   cores that agents offer now
           slurm  named by the harvester             FREE     cores of those that nobody leased
           agent  nobody named it, an agent is there
    """
    about = hosts_json(_ask(state_dir, as_json, _snapshot))
    if as_json:
        print_json(about)
        return
    if not about["hosts"]:
        click.echo("no hosts: import an inventory, or start agents (`rfaas up`, `rfaas agent`)")
        return
    print_table(("HOST", "SOURCE", "CORES", "MEM_MIB", "STATE", "JOINED", "FREE"), [_row(h) for h in about["hosts"]])
    if about["complete"]:
        click.echo("complete: what none of these can hold is denied")


def _row(host: dict[str, Any]) -> tuple[object, ...]:
    joined = host["joined"]
    state = ",".join(sorted({one["state"] for one in joined})) or "absent"
    cores, free = sum(one["cores"] for one in joined), sum(one["free_cores"] for one in joined)
    return host["name"], host["source"], host["cores"], host["memory"] // MIB, state, cores, free


@inventory.command("export")
@state_dir_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write [standard output].")
def export(state_dir: Path, output: Path | None) -> None:
    """Write all known hosts as JSON, ready to be edited and imported again."""
    text = json.dumps(hosts_json(_ask(state_dir, False, _snapshot)), indent=1) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text)
    except OSError as error:
        fail(ConfigError(f"{output} can't be written: {error.strerror}", hint="name another file"), as_json=False)


@inventory.command("import")
@state_dir_option
@json_option
@click.option("--complete/--partial", "complete", default=None, help="Say that there are no other hosts [as the file].")
@click.argument("file", type=click.File("r"))
def import_(state_dir: Path, as_json: bool, complete: bool | None, file: Any) -> None:  # noqa: ANN401
    """Replace the hosts that an earlier file named by those of FILE (- for standard input)."""
    try:
        given = parse_hosts(file.read(), file.name)
    except UnicodeDecodeError as error:
        fail(ConfigError(f"the inventory {file.name} can't be read: {error}", hint="write UTF-8"), as_json=as_json)
    except RfaasError as error:
        fail(error, as_json=as_json)
    hosts = HostList(given.hosts, given.complete if complete is None else complete)
    known = _ask(state_dir, as_json, lambda admin: admin.set_inventory(hosts))
    if as_json:
        print_json({"imported": len(hosts.hosts), "known": known, "complete": hosts.complete})
    else:
        click.echo(f"{len(hosts.hosts)} hosts imported{', complete' if hosts.complete else ''}; {known} are known")


@inventory.command("forget")
@state_dir_option
@json_option
@click.argument("host")
def forget(state_dir: Path, as_json: bool, host: str) -> None:
    """Say that HOST, or one slice of it by its id, is gone for good with all that ran there.

    Only for hosts joined by hand whose agent can't be reached: leases there count as held until their end is proven,
    and nobody else can prove it. Be sure: what still runs there would run beside its replacement.
    """
    snapshot = _ask(state_dir, as_json, _snapshot)
    named = [view for view in snapshot.slices if host in (view.slice.node, view.slice.slice_id.hex())]
    gone = [view for view in named if view.state == "unreachable" and not view.slice.job_id]
    if not gone:
        why = "is no host of this allocator's agents" if not named else "is connected, or Slurm's to end"
        remedy = "see `rfaas inventory list`" if not named else "stop its agent with SIGTERM, or scancel its job"
        fail(ConfigError(f"{host} {why}", hint=remedy), as_json=as_json)
    jobs = [JobEnded(view.slice.slice_id.hex(), 0, "declared gone") for view in gone]
    ended = _report(state_dir, as_json, jobs)
    if as_json:
        print_json({"forgotten": ended})
    else:
        click.echo(f"forgotten: {ended} slices of {host}")
    if ended < len(gone):
        sys.exit(EXIT_FAILED)


async def _snapshot(admin: Any) -> Snapshot:  # noqa: ANN401 - AdminClient, imported when it is used
    found: Snapshot = await admin.snapshot()
    return found


def _ask(state_dir: Path, as_json: bool, question: Callable[[Any], Awaitable[T]]) -> T:
    from rfaas.control.address import AllocatorAddress
    from rfaas.control.dial import AdminClient

    async def ask() -> T:
        async with AdminClient(AllocatorAddress.load(state_dir)) as admin:
            return await question(admin)

    try:
        return asyncio.run(ask())
    except RfaasError as error:
        fail(error, as_json=as_json)


def _report(state_dir: Path, as_json: bool, ended: list[JobEnded]) -> int:
    from rfaas.control.address import AllocatorAddress
    from rfaas.control.dial import OffersClient

    async def report() -> int:
        async with OffersClient(AllocatorAddress.load(state_dir)) as offers:
            return await offers.report(ended)

    try:
        return asyncio.run(report())
    except RfaasError as error:
        fail(error, as_json=as_json)
