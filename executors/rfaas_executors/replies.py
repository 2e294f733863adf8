"""What a worker sends to its clients: results, refusals, and at its end what was not begun.

Must not run anything. Spec: docs/spec/001-invocation.md.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import Any, Final

from rfaas_executors.agent_line import AgentLine
from rfaas_executors.calls import Outcome
from rfaas_executors.connection import Connection
from rfaas_executors.context import is_delivered
from rfaas_transport._core import Frame, Poller
from rfaas_transport.errors import ChannelBroken, ChannelClosed, PayloadTooLarge
from rfaas_transport.frame import Kind, Status

CREDITS: Final = 1  # calls that a channel may have here at once
FLUSH_S: Final = 5.0  # for the last result to reach the peer's kernel; the agent's drain_s usually ends sooner


class Replies:
    """Frames to the clients of one worker.

    Args:
        line: says whether the worker takes further calls.
        poller: hears of what could not be sent whole.
    """

    def __init__(self, line: AgentLine, poller: Poller) -> None:
        self._line = line
        self._poller = poller

    def send(self, connection: Connection, kind: int, **fields: Any) -> None:  # noqa: ANN401 - those of Channel.send
        """Send or queue a frame; a channel that ended meanwhile is found out by its next poll."""
        try:
            whole = connection.channel.send(kind, **fields)
        except (ChannelClosed, ChannelBroken):
            return
        if not whole and not connection.is_left_out:  # who is awake writes with each look
            with contextlib.suppress(OSError):  # without a poller it is written by `flush`
                self._poller.want_write(connection.channel.fileno(), True)

    def reply(self, connection: Connection, frame: Frame, outcome: Outcome) -> None:
        """Answer a call; what its client has no room for is told by its size."""
        credits = 0 if self._line.draining else CREDITS
        fields: dict[str, Any] = {
            "call_id": frame.call_id,
            "function": frame.function,
            "attempt": frame.attempt,
            "credits": credits,
        }
        try:
            if frame.out_size and outcome.size_bytes > max(frame.out_size, outcome.least_bytes):
                raise PayloadTooLarge
            fields["out_size"] = outcome.needed_bytes
            self.send(connection, Kind.RESULT, status=outcome.status, segments=outcome.segments, **fields)
        except PayloadTooLarge:
            fields |= {"out_size": outcome.size_bytes, "segments": outcome.summary(frame.out_size)}
            self.send(connection, Kind.RESULT, status=Status.TOO_LARGE, **fields)

    def refuse(self, connection: Connection, frame: Frame, why: str) -> None:
        """Say that this frame can't be served."""
        self.send(connection, Kind.ERROR, call_id=frame.call_id, status=Status.BAD_FRAME, text=why)

    def give_back(self, connections: Iterable[Connection]) -> None:
        """Without an agent no farewell will prove what did not start: say it here, of calls that lie unread."""
        for connection in list(connections):
            for call in (*([] if connection.parked is None else [connection.parked]), *connection.behind):
                if call.kind == Kind.CALL:
                    self.reply(connection, call, Outcome(Status.NOT_STARTED, []))
            with contextlib.suppress(ChannelClosed, ChannelBroken):
                while (frame := connection.channel.poll()) is not None:
                    if frame.kind == Kind.CALL:
                        self.reply(connection, frame, Outcome(Status.NOT_STARTED, []))

    def flush(self, connections: Iterable[Connection]) -> None:
        """Wait until the peers' kernels have what was sent: unread bytes here reset a connection when it closes.

        On a unix socket that needs no waiting: what was written lies in the peer's own queue.
        """
        give_up_s = time.monotonic() + FLUSH_S
        waiting = list(connections)
        for connection in waiting:
            self.send(connection, Kind.BYE)
        while waiting and time.monotonic() < give_up_s:
            waiting = [connection for connection in waiting if not is_delivered(connection.channel)]
            if waiting:
                time.sleep(0.0005)
