"""The calls that wait for a worker, oldest first; one that is proven not started goes to the front. Sans-IO.

`Call.queued` says whether a call is in here: taking one out of the middle marks it only, and it is passed over later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from rfaas.client.records import Call


class CallQueue:
    """A queue with cheap removal; `len` counts the calls that really wait."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque()  # with some that wait no longer
        self._n_waiting = 0

    def __len__(self) -> int:
        return self._n_waiting

    def __iter__(self) -> Iterator[Call]:
        """The calls that wait, of the moment: they may be removed meanwhile."""
        return iter([call for call in self._calls if call.queued])

    def add(self, call: Call, *, front: bool) -> None:
        """Let a call wait; it is in nobody's hands any more."""
        call.queued = True
        call.call_id = 0
        call.behind = call.withdrawing = False
        self._n_waiting += 1
        if front:
            self._calls.appendleft(call)
        else:
            self._calls.append(call)

    def remove(self, call: Call) -> None:
        """Let a call wait no longer; harmless if it does not."""
        if call.queued:
            call.queued = False
            self._n_waiting -= 1
            if self._n_waiting == 0:
                self._calls.clear()

    def first(self) -> Call:
        """The call whose turn it is, which stays.

        Raises:
            IndexError: none waits.
        """
        while not self._calls[0].queued:
            self._calls.popleft()
        return self._calls[0]

    def take(self) -> Call:
        """The call whose turn it is.

        Raises:
            IndexError: none waits.
        """
        call = self._calls.popleft()
        while not call.queued:
            call = self._calls.popleft()
        self.remove(call)
        return call

    def clear(self) -> None:
        """Forget all of them."""
        for call in self._calls:
            call.queued = False
        self._calls.clear()
        self._n_waiting = 0
