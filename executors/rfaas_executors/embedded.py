"""The agent inside a session process: the entry point `rfaas.components: agent`.

Same core and shell as the command, in the host's loop and without signal handlers; loads no gRPC. The host must start
it on its main thread, for templates live no longer than the thread that started them.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from rfaas.control.messages import Slice, SliceId
from rfaas.settings import Settings
from rfaas_executors._process import adopt_orphans
from rfaas_executors.agent import Agent, DialAllocator
from rfaas_executors.agent_events import AgentConfig
from rfaas_executors.doors import listen_here
from rfaas_executors.template_host import Surroundings
from rfaas_transport.errors import ReasonCode

STOP_S = 5.0


class EmbeddedAgent:
    """An agent that runs as a task of the host's loop."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._task = asyncio.get_running_loop().create_task(agent.run())

    def request_reclaim(self, reason_code: int = ReasonCode.OWNER_RELEASE) -> None:
        """Begin to give everything back; the agent ends when its workers are gone."""
        self._agent.request_reclaim(reason_code)

    async def stop(self) -> None:
        """End the agent with all its workers and wait for the proof; running calls are killed."""
        self._agent.request_reclaim(ReasonCode.OWNER_RELEASE)
        await asyncio.wait([self._task], timeout=STOP_S)
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def ended(self) -> asyncio.Task[int]:
        """The running agent; done when it ended, with its exit status or what it failed of."""
        return self._task

    def snapshot(self) -> dict[str, Any]:
        """The agent's state for people and tests."""
        return self._agent.snapshot()


async def start_agent(
    *,
    dial: DialAllocator,
    secret: bytes,
    cores: int,
    memory_bytes: int,
    node: str,
    drain_s: float = 0.0,
    owns_children: bool = True,
    descriptors: int | None = None,
) -> EmbeddedAgent:
    """Start an agent for this machine in the running loop.

    Args:
        dial: makes a link to the allocator.
        secret: 32 bytes shared with the session process.
        cores, memory_bytes: what it offers; may be more than the machine has, workers are not pinned.
        drain_s: what running calls get when it is stopped.
        owns_children: the host has no other child processes; it becomes the parent of all orphans below it then.
        descriptors: the soft limit on them that workers get; None: the host's.
    """
    if owns_children:
        adopt_orphans()
    listener, address = listen_here()
    slice_id = SliceId(secrets.token_bytes(16))
    offered = Slice(slice_id, node, cores, memory_bytes, address, key=f"embedded on {node}")
    config = AgentConfig(offered, secrets.token_bytes(16), drain_s=drain_s, abandoned_after_s=None, usage_every_s=None)
    most_tasks = Settings.load().value("agent.tasks_per_worker")
    surroundings = Surroundings(
        node, slice_id, owns_children=owns_children, descriptors=descriptors, most_tasks=most_tasks
    )
    return EmbeddedAgent(Agent(config, dial, secret, listener=listener, surroundings=surroundings))
