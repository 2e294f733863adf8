"""What a session process stands on: an allocator elsewhere, or one of its own with an agent (embedded).

Components are found by the entry-point group `rfaas.components`; this package must not import them. The embedded path
must load no gRPC: nothing speaks it there, and it would cost every program on a laptop half a second.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import resource
import secrets
import socket
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Protocol

from rfaas.config import DEFAULT_MEMORY_BYTES
from rfaas.control.links import Dial
from rfaas.control.messages import AllocatorToHolder, HolderMessage, Snapshot
from rfaas.host_memory import machine_bytes
from rfaas_transport.errors import ConfigError

log = logging.getLogger(__name__)

COMPONENTS_GROUP: Final = "rfaas.components"
SECRET_BYTES: Final = 32
FEWEST_VIRTUAL_CORES: Final = 64
VIRTUAL_CORES_PER_CPU: Final = 4
OWN_DESCRIPTORS: Final = 40
DESCRIPTORS_PER_WORKER: Final = 6
VIRTUAL_MEMORY_BYTES: Final = 1 << 50
"""Memory is the program's own affair when it calls itself: nobody else's lease is in danger."""

DialHolder = Dial[HolderMessage, AllocatorToHolder]


class Ground(Protocol):
    """What the session process needs below it."""

    secret: bytes
    allocator: str  # for people
    snapshot: Callable[[], Snapshot] | None

    async def dial(self) -> Any:  # noqa: ANN401 - a Link; Protocol attributes can't be generic over it
        """Make a link to the allocator; OSError or an RfaasError when that fails."""

    def when_over(self, callback: Callable[[], None]) -> None:
        """Call back when nothing can be served from here any more."""

    async def close(self) -> None:
        """End all that was started."""


class Personal:
    """The allocator of a state directory.

    Raises:
        ConfigError: the directory or its secret can't be used; nothing was opened.
    """

    def __init__(self, state_dir: Path) -> None:
        from rfaas.control.address import check_private  # here: the embedded path needs none of it

        path = state_dir / "secret"
        try:
            check_private(path)
            self.secret = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path} can't be read: {error}", hint="`rfaas up` makes it") from error
        if len(self.secret) != SECRET_BYTES:
            raise ConfigError(f"{path} is not {SECRET_BYTES} bytes long", hint=f"remove {path} and run `rfaas up`")
        self._state_dir = state_dir
        self.allocator = str(state_dir)
        self.snapshot: Callable[[], Snapshot] | None = None  # the allocator shows its own

    async def dial(self) -> Any:  # noqa: ANN401
        """Make a link to the allocator, wherever the state directory says that it is now."""
        # gRPC takes a while to load, and leases that are resumed can't wait for it.
        control = await asyncio.to_thread(importlib.import_module, "rfaas.control.dial")
        return await control.dial_holder(control.AllocatorAddress.load(self._state_dir))

    def when_over(self, callback: Callable[[], None]) -> None:
        """Never: an allocator that is gone may come back."""

    async def close(self) -> None:
        """Nothing was started."""


class EmbeddedGround:
    """An allocator and an agent in this process, for one program on this machine; made by `start`."""

    def __init__(self, allocator: Any, agent: Any, secret: bytes) -> None:  # noqa: ANN401 - components, not imported
        self._allocator = allocator
        self._agent = agent
        self.secret = secret
        self.allocator = "embedded"
        self.snapshot: Callable[[], Snapshot] | None = allocator.snapshot

    @classmethod
    async def start(cls, descriptors: int) -> EmbeddedGround:
        """Start both in the running loop; `descriptors`: the program's soft limit on them, which workers get too."""
        secret = secrets.token_bytes(SECRET_BYTES)
        allocator = _component("allocator")(machine=machine())
        agent = await _component("agent")(
            dial=allocator.connect_agent,
            secret=secret,
            cores=virtual_cores(descriptors),
            memory_bytes=VIRTUAL_MEMORY_BYTES,
            node=socket.gethostname(),
            descriptors=descriptors,
        )
        return cls(allocator, agent, secret)

    async def dial(self) -> Any:  # noqa: ANN401
        """Make a link to the allocator in this process."""
        return await self._allocator.connect_holder()

    def when_over(self, callback: Callable[[], None]) -> None:
        """Call back when the agent ends by itself: nothing can be served any more."""
        self._agent.ended.add_done_callback(lambda _: callback())

    async def close(self) -> None:
        """Stop the agent with all its workers, then the allocator."""
        await self._agent.stop()
        await self._allocator.close()


def virtual_cores(descriptors: int) -> int:
    """Cores of an embedded slice: more than the CPUs, so that a program never queues behind an executor of its own.

    Its workers then share the CPUs, as its threads or processes would. No more than the descriptors of the program
    serve (`ulimit -n`): a worker that can't be reached would be worse than a call that waits.
    """
    wanted = max(FEWEST_VIRTUAL_CORES, VIRTUAL_CORES_PER_CPU * len(os.sched_getaffinity(0)))
    if descriptors == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(1, (descriptors - OWN_DESCRIPTORS) // DESCRIPTORS_PER_WORKER))


def machine() -> tuple[int, int]:
    """Cores and bytes that one embedded worker can have at most; what is wished beyond will never be there.

    Never less than the default of a worker, which has to do everywhere.
    """
    return len(os.sched_getaffinity(0)), max(DEFAULT_MEMORY_BYTES, machine_bytes())


def _component(name: str) -> Any:  # noqa: ANN401
    found = list(entry_points(group=COMPONENTS_GROUP, name=name))
    if not found:
        raise ConfigError(f"this installation has no component {name!r}", hint="install rfaas again, whole")
    return found[0].load()
