"""Asking the allocator of a state directory: what several commands need. grpc is loaded when they run, not before."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rfaas.control.messages import Snapshot


def snapshot(state_dir: Path) -> Snapshot:
    """The allocator's whole view at this moment.

    Raises:
        AllocatorUnavailable, VersionMismatch, ConfigError: there is none that answers; nothing was changed.
    """
    from rfaas.control.address import AllocatorAddress
    from rfaas.control.dial import AdminClient

    async def ask() -> Snapshot:
        async with AdminClient(AllocatorAddress.load(state_dir)) as admin:
            return await admin.snapshot()

    return asyncio.run(ask())
