"""One end of a gRPC stream as a Link: numbers, versions, acknowledgements; the same on both sides.

Must not know which RPC it is nor what the messages mean. One event loop only. Spec: docs/spec/003-control.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from rfaas.control.links import LinkBroken
from rfaas.control.wire import PROTOCOL_VERSION, Envelope, check_version
from rfaas_transport.errors import ProtocolError, RfaasError, VersionMismatch

logger = logging.getLogger(__name__)

Out = TypeVar("Out")
In = TypeVar("In")


class StreamLink(Generic[Out, In]):
    """A Link over the two halves of a stream; starts reading and writing at once.

    Args:
        read: wait for the next protobuf envelope; LinkBroken when there will be none.
        write: hand one over; LinkBroken when that can't be done.
        end: called once, after the last write of a closed link; ends the stream in good order.
        outgoing, incoming: what the stream carries each way.
    """

    def __init__(
        self,
        *,
        read: Callable[[], Awaitable[Any]],
        write: Callable[[Any], Awaitable[None]],
        end: Callable[[], Awaitable[None]],
        outgoing: Envelope[Out],
        incoming: Envelope[In],
    ) -> None:
        self._read, self._write, self._end = read, write, end
        self._outgoing, self._incoming = outgoing, incoming
        self._outbox: asyncio.Queue[Any | None] = asyncio.Queue()
        self._inbox: asyncio.Queue[In | None] = asyncio.Queue()
        self._seq = 0
        self._peer_seq = 0
        self._acked = 0
        self._acked_more = asyncio.Event()
        self._closing = False
        self._why: str | None = None
        self.error: RfaasError | None = None
        """Set if the peer broke the specification: what to tell it."""
        self._tasks = [asyncio.create_task(self._read_all()), asyncio.create_task(self._write_all())]

    def send(self, message: Out) -> None:
        """Queue a message; dropped on a broken or closed link."""
        if self._why is None and not self._closing:
            self._seq += 1
            self._outbox.put_nowait(self._outgoing.encode(message, self._seq, self._version_once()))

    async def receive(self) -> In:
        """Wait for the next message; LinkBroken says why there is none."""
        message = await self._inbox.get()
        if message is None:
            self._inbox.put_nowait(None)  # whoever asks again gets the same answer
            raise LinkBroken(self._why or "the stream ended")
        return message

    async def flush(self, timeout_s: float) -> None:
        """Wait until the peer's process has read what was sent, or the time is over, or the link broke."""
        if self._why is not None or self._closing:
            return
        self._seq += 1
        wanted = self._seq
        self._outbox.put_nowait(self._outgoing.bare(wanted, self._version_once(), ack_wanted=True))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._acked < wanted and self._why is None:
                    self._acked_more.clear()
                    await self._acked_more.wait()

    def close(self) -> None:
        """Send what is queued, then end the stream; repeatable."""
        if not self._closing and self._why is None:
            self._closing = True
            self._outbox.put_nowait(None)

    def abandon(self) -> None:
        """Stop at once: what is queued is not sent. For an owner whose stream is gone; repeatable."""
        self._break("abandoned")
        for task in self._tasks:
            task.cancel()

    def _version_once(self) -> int:
        return PROTOCOL_VERSION if self._seq == 1 else 0

    async def _read_all(self) -> None:
        try:
            while True:
                self._take(await self._read())
        except LinkBroken as error:
            self._break(str(error))
        except (ProtocolError, VersionMismatch) as error:
            self.error = error
            self._break(error.message)

    def _take(self, envelope: Any) -> None:  # noqa: ANN401
        if self._peer_seq == 0:
            check_version(envelope.version)
        self._peer_seq = envelope.seq or self._peer_seq + 1
        if envelope.ack > self._acked:
            self._acked = envelope.ack
            self._acked_more.set()
        message = self._incoming.decode(envelope)
        if message is not None:
            self._inbox.put_nowait(message)
        elif not envelope.ack_wanted and not envelope.ack:
            logger.warning("message of an unknown kind ignored seq=%d", envelope.seq)
        if envelope.ack_wanted and not self._closing:
            self._seq += 1
            self._outbox.put_nowait(self._outgoing.bare(self._seq, self._version_once(), ack=envelope.seq))

    async def _write_all(self) -> None:
        try:
            while (envelope := await self._outbox.get()) is not None:
                await self._write(envelope)
            await self._end()
            self._break("closed here")
        except LinkBroken as error:
            self._break(str(error))

    def _break(self, why: str) -> None:
        if self._why is None:
            self._why = why
            self._inbox.put_nowait(None)
            self._acked_more.set()
            self._outbox.put_nowait(None)  # the writer must not wait for ever
