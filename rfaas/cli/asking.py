"""Asking the allocator of a state directory: what several commands need. grpc is loaded when they run, not before."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import click

from rfaas.control.messages import Snapshot
from rfaas_transport.errors import RfaasError

pid_option = click.option(
    "--pid",
    type=click.IntRange(min=1),
    default=None,
    help="Ask the program with this process id, which runs without an allocator of yours, on this host.",
)


def snapshot(state_dir: Path, pid: int | None = None) -> Snapshot:
    """The whole view of an allocator at this moment.

    Args:
        state_dir: of the allocator.
        pid: of a program whose embedded allocator is asked instead.

    Raises:
        RfaasError: there is none that answers; nothing was changed.
    """
    if pid is not None:
        from rfaas.session.showing import of_program

        return of_program(pid)
    from rfaas.control.address import AllocatorAddress
    from rfaas.control.dial import AdminClient

    async def ask() -> Snapshot:
        async with AdminClient(AllocatorAddress.load(state_dir)) as admin:
            return await admin.snapshot()

    return asyncio.run(ask())


def channels() -> list[dict[str, Any]]:
    """The channels of this user's programs on this host: `rfaas.session.showing.channels_here`."""
    from rfaas.session.showing import channels_here

    return channels_here()


def names(state_dir: Path, pid: int | None = None) -> dict[bytes, str]:
    """What the programs that hold leases are called, by holder, from the allocator's accounts; empty if nobody says."""
    if pid is not None:
        return {}
    from rfaas.control.address import AllocatorAddress
    from rfaas.control.dial import AdminClient

    async def ask() -> dict[bytes, str]:
        async with AdminClient(AllocatorAddress.load(state_dir)) as admin:
            return {bytes(each.holder): each.holder_name async for each in admin.accounts(time.time())}

    try:
        return asyncio.run(ask())
    except RfaasError:  # they are an ornament
        return {}
