"""Telling a program that workers came, or that cores go back to their owner, in a thread that nothing else waits for.

Must not hold a lock while a callback runs. The thread starts with the first notice that somebody wants to hear of.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rfaas.client.events import Notice
from rfaas.client.records import Lease
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


@dataclass(slots=True, frozen=True)
class GainNotice:
    """Workers came: what a callback of `Executor.on_gain` gets, once a lease, when its first worker can be called.

    Attributes:
        node: where.
        workers: how many the lease holds; the others are about to come.
        lease_id: 16 bytes, as in the ReclaimNotice that may follow.
    """

    node: str
    workers: int
    lease_id: bytes


Callback = Callable[[Any], object]


class Subscription:
    """What `Executor.on_reclaim` and `on_gain` return: as long as it is not cancelled, the callback is called."""

    def __init__(self, callbacks: list[Subscription], callback: Callback) -> None:
        self._callbacks = callbacks
        self.callback = callback
        callbacks.append(self)

    def cancel(self) -> None:
        """Call it no more; repeatable. A call that has begun goes on."""
        if self in self._callbacks:
            self._callbacks.remove(self)


class Reclaims:
    """Callbacks and their thread: one for both kinds, so that what came first is told first."""

    def __init__(self) -> None:
        self._of_reclaims: list[Subscription] = []
        self._of_gains: list[Subscription] = []
        self._told: queue.SimpleQueue[tuple[list[Subscription], Notice | Lease] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def subscribe(self, callback: Callback) -> Subscription:
        """Have `callback` called with each notice of a reclaim from now on.

        Raises:
            TypeError: it is no function.
        """
        return _subscribed(self._of_reclaims, callback, "on_reclaim")

    def subscribe_gains(self, callback: Callback) -> Subscription:
        """Have `callback` called with each gain from now on.

        Raises:
            TypeError: it is no function.
        """
        return _subscribed(self._of_gains, callback, "on_gain")

    def tell(self, notice: Notice) -> None:
        """Pass a notice on; never blocks. For one thread at a time."""
        self._put(self._of_reclaims, notice)

    def tell_gain(self, lease: Lease) -> None:
        """Pass on that workers came; never blocks. For one thread at a time."""
        self._put(self._of_gains, lease)

    def _put(self, subscriptions: list[Subscription], about: Notice | Lease) -> None:
        if not subscriptions:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rfaas-notices", daemon=True)
            self._thread.start()
        self._told.put((subscriptions, about))

    def close(self) -> None:
        """Let the thread end after what it has been told; never blocks."""
        self._told.put(None)

    def _run(self) -> None:
        while (told := self._told.get()) is not None:
            subscriptions, news = told
            about = _describe(news) if isinstance(news, Notice) else GainNotice(news.node, news.workers, news.lease)
            for subscription in list(subscriptions):
                try:
                    subscription.callback(about)
                except BaseException:  # sys.exit() in one must not silence the others
                    _log.exception("a callback of on_reclaim or on_gain failed")


def _subscribed(subscriptions: list[Subscription], callback: Callback, name: str) -> Subscription:
    if not callable(callback):
        raise TypeError(f"{name} takes a function of one argument, not {callback!r}")
    return Subscription(subscriptions, callback)


def _describe(notice: Notice) -> ReclaimNotice:
    try:
        reason = ReasonCode(notice.reason_code)
    except ValueError:  # a newer agent's
        reason = ReasonCode.NONE
    return ReclaimNotice(notice.node, notice.cores, notice.grace_s, reason, notice.lease)
