"""Links: two-way, ordered message streams between daemons, over gRPC or inside one process.

A link may break; whoever dialled makes a new one and registers again (docs/spec/003-control.md). No message is kept
across a break. One event loop only: nothing here is thread-safe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

Out = TypeVar("Out", contravariant=True)
In = TypeVar("In", covariant=True)
A = TypeVar("A")
B = TypeVar("B")


class LinkBroken(Exception):
    """The peer is gone or the stream failed. What was sent last may or may not have arrived."""


class Link(Protocol[Out, In]):
    """One end of a message stream."""

    def send(self, message: Out) -> None:
        """Queue a message; never blocks. On a broken link the message is dropped: `receive` tells."""

    async def receive(self) -> In:
        """Wait for the next message.

        Raises:
            LinkBroken: nothing will come any more; the link needs no closing.
        """

    async def flush(self, timeout_s: float) -> None:
        """Wait until what was sent has left this process, or the time is over, or the link broke."""

    def close(self) -> None:
        """Break the link; repeatable. The peer's `receive` raises after it has read what was sent."""


Dial = Callable[[], Awaitable[Link[A, B]]]
"""Makes a new link; raises OSError when nobody answers."""


class LocalLink(Generic[A, B]):
    """One end of a link inside one process (the embedded allocator, tests)."""

    def __init__(self, outbox: asyncio.Queue[A | None], inbox: asyncio.Queue[B | None]) -> None:
        self._outbox = outbox
        self._inbox = inbox
        self._closed = False

    def send(self, message: A) -> None:
        """Queue a message for the other end."""
        if not self._closed:
            self._outbox.put_nowait(message)

    async def receive(self) -> B:
        """Wait for the next message; LinkBroken after the other end closed."""
        message = await self._inbox.get()
        if message is None:
            self._inbox.put_nowait(None)  # whoever asks again gets the same answer
            raise LinkBroken("the other end closed the link")
        return message

    async def flush(self, timeout_s: float) -> None:
        """Nothing to wait for: what was sent is in the other end's queue."""

    def close(self) -> None:
        """Break the link for both ends."""
        if not self._closed:
            self._closed = True
            self._outbox.put_nowait(None)
            self._inbox.put_nowait(None)


def local_pair() -> tuple[LocalLink[A, B], LocalLink[B, A]]:
    """Make the two ends of a local link."""
    there: asyncio.Queue[A | None] = asyncio.Queue()
    back: asyncio.Queue[B | None] = asyncio.Queue()
    return LocalLink(there, back), LocalLink(back, there)
