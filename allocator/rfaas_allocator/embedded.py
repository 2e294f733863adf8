"""The allocator inside another process, for one user on one machine: no gRPC, no files, no journal that outlives it.

Found by the entry point `allocator` of the group `rfaas.components`. Must not import grpc or protobuf.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets

from rfaas.control.eventlog import EventLog
from rfaas.control.links import Link, local_pair
from rfaas.control.messages import AgentMessage, AllocatorToAgent, AllocatorToHolder, HolderMessage, Snapshot
from rfaas_allocator.core import DEFAULT_TTL_S, AllocatorCore
from rfaas_allocator.engine import Engine, run_or_fail
from rfaas_allocator.journal import MemoryJournal
from rfaas_allocator.policy import Policy


class EmbeddedAllocator:
    """An allocator that serves its own event loop; make it inside that loop, close it before the loop ends.

    Args:
        ttl_s: of the leases it makes, in seconds.
        machine: cores and bytes that one worker can have at most; None: what the slice claims to have.
    """

    def __init__(self, *, ttl_s: float = DEFAULT_TTL_S, machine: tuple[int, int] | None = None) -> None:
        self._engine = Engine(
            functools.partial(AllocatorCore, ttl_s=ttl_s, policy=Policy(machine=machine)),
            MemoryJournal(),
            EventLog.from_environment("allocator"),
            alloc_id=secrets.token_hex(16),
            commits_in_thread=False,
        )
        self._tasks = {asyncio.create_task(self._run())}

    async def _run(self) -> None:
        await self._engine.start()
        await run_or_fail(self._engine)

    async def connect_agent(self) -> Link[AgentMessage, AllocatorToAgent]:
        """A new link for the agent: a `Dial`."""
        here, there = local_pair()  # type: ignore[var-annotated]  # both ends follow from the return type
        self._attend(self._engine.attend_agent(there))
        return here

    async def connect_holder(self) -> Link[HolderMessage, AllocatorToHolder]:
        """A new link for holders: a `Dial`."""
        here, there = local_pair()  # type: ignore[var-annotated]
        self._attend(self._engine.attend_holder(there))
        return here

    def _attend(self, serving: object) -> None:
        assert asyncio.iscoroutine(serving)
        task = asyncio.create_task(serving)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def snapshot(self) -> Snapshot:
        """Everything at this moment."""
        return self._engine.snapshot()

    async def close(self) -> None:
        """Break all links and stop; repeatable."""
        await self._engine.close()
        for task in self._tasks:
            task.cancel()
        for task in list(self._tasks):
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()
