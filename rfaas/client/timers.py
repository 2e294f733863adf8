"""Things that are due at a time, for a sans-IO core: no clock in here, the time is an argument."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any, Final

Handler = Callable[[Any, float, Any], None]

STALE_SLACK: Final = 1_000  # entries beyond the living ones before a sweep pays


class Timers:
    """A heap of (time, handler, subject); handlers decide by themselves whether their subject still matters."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Handler, Any]] = []
        self._count = 0  # orders entries of one time, so that handlers are never compared

    def add(self, due_s: float, handler: Handler, subject: object) -> None:
        """Have `handler(subject, …)` run at `due_s`."""
        self._count += 1
        heapq.heappush(self._heap, (due_s, self._count, handler, subject))

    def due(self, now_s: float) -> bool:
        """True if something is due."""
        return bool(self._heap) and self._heap[0][0] <= now_s

    def pop_due(self, now_s: float) -> Iterator[tuple[Handler, Any]]:
        """Take out what is due, earliest first; handlers may add more meanwhile."""
        while self.due(now_s):
            _, _, handler, subject = heapq.heappop(self._heap)
            yield handler, subject

    def next_due_s(self) -> float | None:
        """The earliest time, or None."""
        return self._heap[0][0] if self._heap else None

    def pending(self, handler: Handler) -> list[Any]:
        """The subjects that wait for this handler, in no order."""
        return [entry[3] for entry in self._heap if entry[2] == handler]

    def drop_stale(self, is_stale: Callable[[Handler, Any], bool], living: int) -> None:
        """Forget entries that will do nothing, when they outnumber the living ones: they would keep memory."""
        if len(self._heap) > 2 * living + STALE_SLACK:
            self._heap = [entry for entry in self._heap if not is_stale(entry[2], entry[3])]
            heapq.heapify(self._heap)
