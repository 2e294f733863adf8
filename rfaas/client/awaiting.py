"""Futures of calls in asyncio: one wake-up of the loop for many results, and no thread for any.

Imported with the first `asubmit`, because it loads asyncio. Must not decide anything about calls.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import weakref
from collections import deque
from typing import Any, TypeVar

R = TypeVar("R")
Pair = tuple["concurrent.futures.Future[Any]", "asyncio.Future[Any]"]


class Mailbox:
    """Futures that are done, on their way into one loop.

    Lock-free, because a garbage collection may cancel a future, and so come here, at any time: `_deliver` first takes
    the flag down and then empties the box, so what is put in is seen by the delivery under way or asks for another.
    """

    def __init__(self) -> None:
        self._done: deque[Pair] = deque()
        self._asked = False

    def put(self, loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
        """Have `pair` settled in the loop; from any thread. A loop that is closed needs nothing any more."""
        self._done.append(pair)
        if not self._asked:
            self._asked = True
            try:
                loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                self._done.clear()
                self._asked = False

    def _deliver(self) -> None:
        self._asked = False
        while self._done:
            _settle(*self._done.popleft())


_mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = weakref.WeakKeyDictionary()


def awaitable(source: concurrent.futures.Future[R], loop: asyncio.AbstractEventLoop) -> asyncio.Future[R]:
    """An asyncio future that ends like `source`. Cancelling it cancels `source`, if that has not been sent.

    Call it in the loop's thread.
    """
    target: asyncio.Future[R] = loop.create_future()
    target.add_done_callback(lambda ended: source.cancel() if ended.cancelled() else None)
    _tell(source, target, loop)
    return target


async def wait_for(source: concurrent.futures.Future[None]) -> None:
    """Wait until `source` is done; being cancelled meanwhile does nothing to it."""
    loop = asyncio.get_running_loop()
    target: asyncio.Future[None] = loop.create_future()
    _tell(source, target, loop)
    await target


def _tell(source: concurrent.futures.Future[R], target: asyncio.Future[R], loop: asyncio.AbstractEventLoop) -> None:
    mailbox = _mailboxes.get(loop)
    if mailbox is None:
        mailbox = _mailboxes.setdefault(loop, Mailbox())
    source.add_done_callback(lambda ended: mailbox.put(loop, (ended, target)))


def _settle(source: concurrent.futures.Future[Any], target: asyncio.Future[Any]) -> None:
    if target.done():
        return
    if source.cancelled():
        target.cancel()
        return
    error = source.exception()
    if error is None:
        target.set_result(source.result())
    elif isinstance(error, StopIteration):  # a coroutine can't be left with it, so asyncio refuses it
        told = RuntimeError("the function raised StopIteration")
        told.__cause__ = error
        target.set_exception(told)
    else:
        target.set_exception(error)
