"""`rfaas site`: capacity outside of Slurm's allocations, where the site lends it (docs/site.md)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

import rfaas.config
from rfaas.cli.common import fail
from rfaas.units import parse_duration_s, parse_size_bytes
from rfaas_transport.errors import ConfigError, RfaasError


@click.group()
def site() -> None:
    """Borrow cores of nodes outside of Slurm's allocations, where the site lends them."""


@site.command()
@click.argument("path", type=click.Path(path_type=Path))
def key(path: Path) -> None:
    """Make the site allocator's signing key in PATH (0600) and print its public half, for the nodes' configuration."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    made = Ed25519PrivateKey.generate()
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        fail(ConfigError(f"{path}: {error.strerror}", hint="name a file that does not exist"), as_json=False)
    with open(file, "w") as out:
        out.write(made.private_bytes_raw().hex() + "\n")
    click.echo(made.public_key().public_bytes_raw().hex())


@site.command()
@click.option("--allocator", required=True, metavar="HOST:PORT", help="The site's allocator.")
@click.option("--allocator-uid", type=int, default=0, help="Whose process it is [0].")
@click.option("--node", default="", help="This node [any].")
@click.option("--cores", type=click.IntRange(1), default=1, help="How many [1].")
@click.option("--memory", default="1GiB", metavar="SIZE", help="How much [1GiB].")
@click.option("--for", "lasting", default="1h", metavar="DURATION", help="How long [1h].")
@click.option("--munge-socket", default="", help="Where munged listens [munge's own].")
def start(allocator: str, allocator_uid: int, munge_socket: str, **wanted: Any) -> None:  # noqa: ANN401
    """Start an agent of yours on a node; it lends to your own allocator (`rfaas up`), which has to run."""
    from rfaas.control.address import AllocatorAddress, check_private
    from rfaas.site.asking import SiteAllocator
    from rfaas.site.starting import StartRefused, request
    from rfaas.site.starting import start as start_there
    from rfaas_transport.munge import Munge

    try:
        state_dir = rfaas.config.state_dir().absolute()
        AllocatorAddress.load(state_dir)  # nobody to lend to: say so before anything is granted
        check_private(state_dir / "secret")
        munge = Munge(munge_socket)
        memory_bytes = parse_size_bytes(wanted["memory"], name="--memory")
        lasts_s = int(parse_duration_s(wanted["lasting"], name="--for"))
        with SiteAllocator(allocator, munge, allocator_uid=allocator_uid) as asked:
            granted = asked.want(wanted["cores"], memory_bytes, lasts_s, wanted["node"])
            try:
                payload = request(granted.signed, (state_dir / "secret").read_bytes(), str(state_dir))
                started = start_there(granted.address, payload, munge)
            except StartRefused:
                asked.unused(granted.grant.slice_id)
                raise
    except RfaasError as error:
        fail(error, as_json=False)
    click.echo(f"an agent of yours runs on {granted.grant.node} for {lasts_s} s: {started.slice_id.hex()}")
