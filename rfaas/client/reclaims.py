"""Telling a program that cores go back to their owner, in a thread that nothing else waits for.

Must not hold a lock while a callback runs. The thread starts with the first notice that somebody wants to hear of.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from rfaas.client.events import Notice
from rfaas_transport.errors import ReasonCode

_log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class ReclaimNotice:
    """Cores go back to their owner: what a callback of `Executor.on_reclaim` gets, once a lease.

    Attributes:
        node: where.
        cores: which of its slice.
        grace_s: seconds until what still runs there is killed, from when the agent gave notice.
        reason_code: why, see ReasonCode; NONE if this version does not know the reason.
        lease_id: 16 bytes, as in the errors of the calls that do not end in time.
    """

    node: str
    cores: tuple[int, ...]
    grace_s: float
    reason_code: ReasonCode
    lease_id: bytes


Callback = Callable[[ReclaimNotice], object]


class Subscription:
    """What `Executor.on_reclaim` returns: as long as it is not cancelled, the callback is called."""

    def __init__(self, callbacks: list[Subscription], callback: Callback) -> None:
        self._callbacks = callbacks
        self.callback = callback
        callbacks.append(self)

    def cancel(self) -> None:
        """Call it no more; repeatable. A call that has begun goes on."""
        if self in self._callbacks:
            self._callbacks.remove(self)


class Reclaims:
    """Callbacks and their thread."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []
        self._notices: queue.SimpleQueue[Notice | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def subscribe(self, callback: Callback) -> Subscription:
        """Have `callback` called with each notice from now on.

        Raises:
            TypeError: it is no function.
        """
        if not callable(callback):
            raise TypeError(f"on_reclaim takes a function of one argument, not {callback!r}")
        return Subscription(self._subscriptions, callback)

    def tell(self, notice: Notice) -> None:
        """Pass a notice on; never blocks. For one thread at a time."""
        if not self._subscriptions:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rfaas-notices", daemon=True)
            self._thread.start()
        self._notices.put(notice)

    def close(self) -> None:
        """Let the thread end after what it has been told; never blocks."""
        self._notices.put(None)

    def _run(self) -> None:
        while (notice := self._notices.get()) is not None:
            about = _describe(notice)
            for subscription in list(self._subscriptions):
                try:
                    subscription.callback(about)
                except Exception:
                    _log.exception("a callback of on_reclaim failed")


def _describe(notice: Notice) -> ReclaimNotice:
    try:
        reason = ReasonCode(notice.reason_code)
    except ValueError:  # a newer agent's
        reason = ReasonCode.NONE
    return ReclaimNotice(notice.node, notice.cores, notice.grace_s, reason, notice.lease)
