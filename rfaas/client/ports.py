"""The open channels of a client as a table: opened, watched by the poller, written to, closed.

Not thread-safe: the engine locks. Must not decide what is sent when.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from typing import TYPE_CHECKING, Any, Final

from rfaas.client.byte_results import Room
from rfaas.client.effects import Dispatch, TakeBack
from rfaas.client.events import SendFailed
from rfaas.client.port import Port
from rfaas.client.records import ChannelInfo
from rfaas.client.serial import Definition, Segments
from rfaas_transport._core import Channel, Poller
from rfaas_transport.errors import ChannelBroken, ChannelClosed, NoCredit, PayloadTooLarge, ProtocolError
from rfaas_transport.frame import Kind

if TYPE_CHECKING:
    from rfaas.client.futures import Future

SET_UP_S: Final = 5.0  # for a worker's first frame over a medium that is tried (docs/spec/004-session.md section 7)
SESSION_TOKEN: Final = 0  # the poller's token of the session connection; channels have their own


class Work:
    """What a call needs on this side: its future, and what is sent. A chore has no future.

    Args:
        room: for the output of a function over bytes; None: it is none.
    """

    __slots__ = ("definition", "future", "room", "segments")

    def __init__(
        self, future: Future[Any] | None, definition: Definition, segments: Segments, room: Room | None = None
    ) -> None:
        self.room = room
        self.future = future
        self.definition = definition
        self.segments = segments


class Ports:
    """Channels by number and by token.

    Args:
        poller: watches them.
        result_limit_bytes: of each call; 0: what a channel takes.
    """

    def __init__(self, poller: Poller, result_limit_bytes: int = 0) -> None:
        self._result_limit_bytes = result_limit_bytes
        self._poller = poller
        self._by_number: dict[int, Port] = {}
        self._by_token: dict[int, Port] = {}
        self._tokens = itertools.count(SESSION_TOKEN + 1)
        self._tried: dict[int, float] = {}  # by number: channels over RDMA without a frame so far, until when

    def open(self, info: ChannelInfo, channel: Channel) -> None:
        """Add a channel and watch it."""
        port = Port(info, channel, next(self._tokens), self._result_limit_bytes)
        self._by_number[info.number] = port
        self._by_token[port.token] = port
        if channel.medium == "verbs":
            self._tried[info.number] = time.monotonic() + SET_UP_S
        self.watch(port)

    def watch(self, port: Port) -> None:
        """Have the poller name a channel when something comes."""
        self._poller.add(port.channel.fileno(), port.token)
        port.watched = True

    def unwatch(self, port: Port) -> None:
        """Leave a channel to somebody else's eyes."""
        self._poller.remove(port.channel.fileno())
        port.watched = False

    def get(self, number: int) -> Port | None:
        """The channel of this number, if it is not closed."""
        return self._by_number.get(number)

    def by_token(self, token: int) -> Port | None:
        """The channel that the poller named; None if it was closed meanwhile."""
        return self._by_token.get(token)

    def end(self, port: Port) -> None:
        """Close a channel that was read to its end; its number stays known until `close`."""
        if self._by_token.pop(port.token, None) is not None:
            self._poller.remove(port.channel.fileno())
            port.channel.close()

    # --- media that are tried -------------------------------------------------------------------

    def has_failed(self, port: Port) -> bool:
        """Whether a channel that ended never was one: no frame came on it."""
        return port.channel.medium == "verbs" and not port.channel.statistics()["frames_received"]

    def overdue(self, now_s: float) -> list[Port]:
        """Channels on which no frame came in time."""
        if not self._tried:
            return []
        known = [port for port in map(self._by_number.get, self._tried) if port is not None]
        waiting = [port for port in known if port.token in self._by_token and self.has_failed(port)]
        self._tried = {port.info.number: self._tried[port.info.number] for port in waiting}
        return [port for port in waiting if self._tried[port.info.number] <= now_s]

    def tried_until_s(self) -> float | None:
        """When the first of them may be overdue."""
        return min(self._tried.values(), default=None)

    def close(self, number: int) -> None:
        """Close a channel and forget it; harmless if it is unknown."""
        port = self._by_number.pop(number, None)
        if port is not None:
            self.end(port)

    def close_all(self) -> None:
        """Close every channel."""
        for number in list(self._by_number):
            self.close(number)

    def credits(self) -> dict[int, int]:
        """How many calls each channel takes now, by number; this is the truth, whatever else was noted."""
        return {number: port.channel.tx_credits for number, port in self._by_number.items()}

    def descriptors(self) -> list[int]:
        """Descriptors of the open channels."""
        return [port.channel.fileno() for port in self._by_token.values()]

    def media(self) -> list[str]:
        """What each open channel runs over."""
        return [port.channel.medium for port in self._by_token.values()]

    def send(self, port: Port, dispatch: Dispatch, work: Work) -> SendFailed | None:
        """Send a call; never blocks. Returns what went wrong, in which case nothing was sent."""
        try:
            port.send_call(dispatch, work.definition, work.segments, work.room)
        except (NoCredit, ChannelClosed, ChannelBroken) as unusable:
            return SendFailed(dispatch.channel, dispatch.call_id, unusable, broken=True)
        except PayloadTooLarge as too_large:
            return SendFailed(dispatch.channel, dispatch.call_id, too_large, broken=False)
        except (ValueError, TypeError, BufferError, MemoryError) as unsendable:
            error = ProtocolError(f"the call can't be sent: {unsendable!r}")
            return SendFailed(dispatch.channel, dispatch.call_id, error, broken=False)
        if port.channel.wants_write and not port.writing:
            self._watch_write(port)
        return None

    def take_back(self, request: TakeBack) -> None:
        """Ask a worker for a call; never blocks. Of a channel that ended nothing is asked."""
        port = self._by_number.get(request.channel)
        if port is not None:
            with contextlib.suppress(ChannelClosed, ChannelBroken, MemoryError):
                port.channel.send(Kind.TAKE_BACK, call_id=request.call_id)
            if port.watched:  # else it is on loan, to somebody who moves on what is queued
                self.watch_write(port)

    def watch_write(self, port: Port) -> None:
        """Watch for room to write exactly while something waits to be written."""
        if port.channel.wants_write != port.writing:
            self._watch_write(port)

    def _watch_write(self, port: Port) -> None:
        port.writing = not port.writing
        self._poller.want_write(port.channel.fileno(), port.writing)
