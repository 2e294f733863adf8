"""One client's connection to its session process: what is said, what is heard, and that it ended.

Who joins, and what is wanted of the session process, is its owner's (`session_link`, `rfaas.memory.keeper`). For the
owner's thread only, but for `close_in_forked_child`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from rfaas.client import session_events
from rfaas.client.events import ChannelOpened, SessionLost, SessionUp
from rfaas.client.safe_log import SafeLogger
from rfaas.session.connection import SessionConnection, SessionEnded
from rfaas_transport._core import Poller
from rfaas_transport.errors import ProtocolError

LEAVE_WAIT_S: Final = 1.0  # for the embedded session process to take its leave after ours

_log = SafeLogger(__name__)

Said = tuple[session_events.Heard, int | None]
"""An event, and the descriptor that came with it, which is the receiver's."""


class SessionLine:
    """At most one session connection at a time.

    Args:
        poller: watches the connection.
        token: what it says when there is something to `hear`.
    """

    def __init__(self, poller: Poller, token: int) -> None:
        self._poller = poller
        self._token = token
        self._connection: SessionConnection | None = None

    @property
    def pid(self) -> int | None:
        """Pid of the session process, while there is one."""
        return None if self._connection is None else self._connection.pid

    @property
    def mode(self) -> str:
        """The session process's "embedded" or "personal"; empty while there is none."""
        return "" if self._connection is None else self._connection.mode

    def take(self, connection: SessionConnection) -> SessionUp:
        """Go on with a connection, which is ours from now on."""
        self._connection = connection
        self._poller.add(connection.fileno(), self._token)
        return SessionUp(embedded=connection.mode == "embedded")

    def say(self, message: dict[str, Any]) -> SessionLost | None:
        """Send a message; SessionLost if nobody is there to hear it. Without a session this does nothing."""
        if self._connection is None:
            return None
        try:
            self._connection.send(message)
            self._poller.want_write(self._connection.fileno(), self._connection.wants_write)
        except SessionEnded:
            return self._lose()
        return None

    def hear(self) -> Iterator[Said]:
        """Read what is there. The last event is SessionLost if the connection ended."""
        try:
            while self._connection is not None:
                if self._connection.wants_write:
                    self._connection.flush()
                    self._poller.want_write(self._connection.fileno(), self._connection.wants_write)
                received = self._connection.receive()
                if received is None:
                    return
                yield from _understand(*received)
        except (SessionEnded, ProtocolError) as end:
            _log.debug("session connection ended: %s", end)
            yield self._lose(), None

    def _lose(self) -> SessionLost:
        self._close()
        return SessionLost()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._poller.remove(connection.fileno())
            connection.close()

    def leave(self, wait_s: float) -> None:
        """Give everything back, and wait so long for the session process to close: nothing is to be left behind."""
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(SessionEnded, ProtocolError):
                connection.send({"m": "leave"})
                session_events.wait_for_end(connection, self._poller, wait_s)
            self._close()

    def close_in_forked_child(self) -> None:
        """Drop the child's copy; the parent goes on with its own."""
        if self._connection is not None:
            self._connection.close()


def _understand(message: dict[str, Any], descriptors: list[int]) -> Iterator[Said]:
    """Turn one message into its event.

    Raises:
        ProtocolError: it makes no sense; its descriptors are closed.
    """
    try:
        event = session_events.parse(message)
    except (KeyError, TypeError, ValueError) as error:
        session_events.close_all(descriptors)
        raise ProtocolError(f"message {message.get('m')!r} of the session process: {error!r}") from error
    if isinstance(event, ChannelOpened):
        if descriptors:
            yield event, descriptors.pop(0)
    elif event is not None:
        session_events.log_news(event)
        yield event, None
    session_events.close_all(descriptors)
