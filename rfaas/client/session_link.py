"""An executor's side of its session connection: joining, the standing target, what the session process says, leaving.

For the I/O thread only, but for `close_in_forked_child`. Must not touch calls: what happens comes out as events.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rfaas.client.effects import Connect, SendInterrupt, SendWant
from rfaas.client.events import Event, SessionFailed
from rfaas.client.joining import Joiner
from rfaas.client.ports import SESSION_TOKEN
from rfaas.client.session_line import LEAVE_WAIT_S, Said, SessionLine
from rfaas.config import ExecutorConfig
from rfaas.session.connection import SessionConnection
from rfaas_transport import tls, verbs
from rfaas_transport._core import Poller

EXECUTOR: Final = 1  # the session process's number of our only executor


class SessionLink:
    """At most one session connection at a time.

    Args:
        poller: watches the connection.
    """

    def __init__(self, config: ExecutorConfig, client_id: bytes, poller: Poller) -> None:
        self._config = config
        self._line = SessionLine(poller, SESSION_TOKEN)
        self._no_verbs: str | None = None
        self._joiner = Joiner(config, client_id, EXECUTOR, poller.wake)

    @property
    def joining(self) -> bool:
        """True from `join` until `joined` gave its outcome."""
        return self._joiner.busy

    @property
    def session_pid(self) -> int | None:
        """Pid of the session process, while there is one."""
        return self._line.pid

    @property
    def mode(self) -> str:
        """The session process's "embedded" or "personal"; empty while there is none."""
        return self._line.mode

    def join(self, wish: Connect) -> None:
        """Begin to join a session process; never blocks."""
        self._joiner.begin(wish)

    def joined(self) -> Event | None:
        """What came of joining, once."""
        outcome = self._joiner.take()
        if isinstance(outcome, SessionConnection):
            return self._line.take(outcome)
        return None if outcome is None else SessionFailed(outcome)

    def want(self, want: SendWant) -> Event | None:
        """Tell the target; SessionLost if nobody is there to hear it. Without a session this does nothing.

        A target of 0 ends no lease: what is given back is said one by one, when nothing runs there any more.
        """
        config = self._config
        per_worker = {"cores": config.cores, "memory_bytes": config.memory_bytes}
        hints = {"placement": config.placement, "transport": config.transport, "hot_for_s": config.hot_for_s}
        hints |= {"load": config.load} if config.load else {}
        hints |= {"transport_security": config.transport_security, "can_encrypt": tls.is_built()}
        hints["no_verbs"] = self._why_no_verbs()
        target = {"workers": want.workers, "lease_workers": want.lease_workers, "keep": True}
        return self._line.say({"m": "want", "executor": EXECUTOR, **target, **per_worker, **hints})

    def give_back(self, lease: bytes) -> Event | None:
        """Give a lease back; SessionLost if nobody is there to hear it. Without a session this does nothing."""
        return self._line.say({"m": "cancel-lease", "lease": lease})

    def interrupt(self, wish: SendInterrupt) -> Event | None:
        """Have a call ended; SessionLost if nobody is there to hear it. Without a session this does nothing."""
        return self._line.say({"m": "interrupt", "channel": wish.channel, "call_id": wish.call_id})

    def unusable(self, lease: bytes, why: str) -> Event | None:
        """Say that RDMA to a worker of this lease could not be set up; SessionLost if nobody is there to hear it."""
        return self._line.say({"m": "unusable", "lease": lease, "why": why})

    def _why_no_verbs(self) -> str:
        """Why no channel of ours can go over RDMA; empty if they can. Asked once, and only where they may."""
        if self._no_verbs is None and self._config.transport in ("auto", "verbs"):
            self._no_verbs = verbs.why_not()
        return f'transport="{self._config.transport}"' if self._no_verbs is None else self._no_verbs

    def serve(self) -> Iterator[Said]:
        """Read what is there. The last event is SessionLost if the connection ended."""
        return self._line.hear()

    def leave(self) -> None:
        """Give everything back. The embedded session process ends then; wait for it, so that nothing is left behind."""
        self._joiner.close()
        self._line.leave(LEAVE_WAIT_S)

    def close_in_forked_child(self) -> None:
        """Drop the child's copy; the parent goes on with its own."""
        self._line.close_in_forked_child()
