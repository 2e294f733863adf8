"""A client's side of its session connection: joining, the standing target, what the session process says, leaving.

For the I/O thread only, but for `close_in_forked_child`. Must not touch calls: what happens comes out as events.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from rfaas.client import session_events
from rfaas.client.events import ChannelOpened, Connect, Event, SendInterrupt, SessionFailed, SessionLost, SessionUp
from rfaas.client.joining import Joiner
from rfaas.client.ports import SESSION_TOKEN
from rfaas.client.safe_log import SafeLogger
from rfaas.config import ExecutorConfig
from rfaas.session.connection import SessionConnection, SessionEnded
from rfaas_transport import tls, verbs
from rfaas_transport._core import Poller
from rfaas_transport.errors import ProtocolError

EXECUTOR: Final = 1  # the session process's number of our only executor
LEAVE_WAIT_S: Final = 1.0  # for the embedded session process to take its leave after ours

_log = SafeLogger(__name__)

Said = tuple[session_events.Heard, int | None]
"""An event, and the descriptor that came with it, which is the receiver's."""


class SessionLink:
    """At most one session connection at a time.

    Args:
        poller: watches the connection.
    """

    def __init__(self, config: ExecutorConfig, client_id: bytes, poller: Poller) -> None:
        self._config = config
        self._poller = poller
        self._connection: SessionConnection | None = None
        self._no_verbs: str | None = None
        self._joiner = Joiner(config, client_id, EXECUTOR, poller.wake)

    @property
    def joining(self) -> bool:
        """True from `join` until `joined` gave its outcome."""
        return self._joiner.busy

    @property
    def session_pid(self) -> int | None:
        """Pid of the session process, while there is one."""
        return None if self._connection is None else self._connection.pid

    @property
    def mode(self) -> str:
        """The session process's "embedded" or "personal"; empty while there is none."""
        return "" if self._connection is None else self._connection.mode

    def join(self, wish: Connect) -> None:
        """Begin to join a session process; never blocks."""
        self._joiner.begin(wish)

    def joined(self) -> Event | None:
        """What came of joining, once."""
        outcome = self._joiner.take()
        if isinstance(outcome, SessionConnection):
            self._connection = outcome
            self._poller.add(outcome.fileno(), SESSION_TOKEN)
            return SessionUp(embedded=outcome.mode == "embedded")
        return None if outcome is None else SessionFailed(outcome)

    def want(self, workers: int) -> Event | None:
        """Tell the target; SessionLost if nobody is there to hear it. Without a session this does nothing."""
        config = self._config
        per_worker = {"cores": config.cores, "memory_bytes": config.memory_bytes}
        hints = {"placement": config.placement, "transport": config.transport, "hot_for_s": config.hot_for_s}
        hints |= {"transport_security": config.transport_security, "can_encrypt": tls.is_built()}
        hints["no_verbs"] = self._why_no_verbs()
        return self._say({"m": "want", "executor": EXECUTOR, "workers": workers, **per_worker, **hints})

    def interrupt(self, wish: SendInterrupt) -> Event | None:
        """Have a call ended; SessionLost if nobody is there to hear it. Without a session this does nothing."""
        return self._say({"m": "interrupt", "channel": wish.channel, "call_id": wish.call_id})

    def unusable(self, lease: bytes, why: str) -> Event | None:
        """Say that RDMA to a worker of this lease could not be set up; SessionLost if nobody is there to hear it."""
        return self._say({"m": "unusable", "lease": lease, "why": why})

    def _why_no_verbs(self) -> str:
        """Why no channel of ours can go over RDMA; empty if they can. Asked once, and only where they may."""
        if self._no_verbs is None and self._config.transport in ("auto", "verbs"):
            self._no_verbs = verbs.why_not()
        return f'transport="{self._config.transport}"' if self._no_verbs is None else self._no_verbs

    def _say(self, message: dict[str, Any]) -> Event | None:
        if self._connection is None:
            return None
        try:
            self._connection.send(message)
            self._poller.want_write(self._connection.fileno(), self._connection.wants_write)
        except SessionEnded:
            return self._lose()
        return None

    def serve(self) -> Iterator[Said]:
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

    def _lose(self) -> Event:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._poller.remove(connection.fileno())
            connection.close()
        return SessionLost()

    def leave(self) -> None:
        """Give everything back. The embedded session process ends then; wait for it, so that nothing is left behind."""
        self._joiner.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(SessionEnded, ProtocolError):
                connection.send({"m": "leave"})
                session_events.wait_for_end(connection, self._poller, LEAVE_WAIT_S)
            self._poller.remove(connection.fileno())
            connection.close()

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
