"""How many slices of the site a session process asks for, how large, and when again: `step(event, now_s) -> effects`.

Nobody says what is free, so it is found out: all that is missing is asked for at once, half of it where that does not
fit, down to one worker; then with growing pauses. Must not do I/O or read a clock. Spec: docs/spec/010-node-agent.md
section 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

GATHER_S: Final = 0.2
"""Wants that come together are one question, and slices that are there already have been granted by then."""
COMING_S: Final = 60.0
"""A slice that was started and is not heard of after so long is not counted on any more."""
MOST_WORKERS: Final = 64  # of one question
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
HALVED: Final = ("no-room", "quota", "too-large")
"""Refusals that less may not get."""
FOR_GOOD: Final = ("bad-want", "too-large", "uid-too-low")
"""Refusals that no waiting mends."""


@dataclass(frozen=True, slots=True)
class Size:
    """What each worker of a want takes."""

    cores: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Workers of one size that are wanted and not there."""

    size: Size
    workers: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that is missing now, and the slices on which something is held."""

    shortfalls: Sequence[Shortfall]
    held: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Began:
    """The question was answered by a slice, whose agent will be heard of."""

    slice_id: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The question was answered by no, or by nobody: why, and what helps."""

    code: str
    hint: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = Wanted | Began | Refused | Tick


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask for a slice of so many workers; answered by Began or Refused, one question at a time."""

    size: Size
    workers: int


@dataclass(frozen=True, slots=True)
class Tell:
    """Say to whoever waits for workers of this size why none come; an empty code: they do.

    `for_good`: they never will.
    """

    size: Size
    code: str
    hint: str
    for_good: bool = False


Effect = Ask | Tell


@dataclass(frozen=True, slots=True)
class _Coming:
    size: Size
    workers: int
    until_s: float


class Borrowing:
    """One session process's questions to the site."""

    def __init__(self) -> None:
        self._wanted: Sequence[Shortfall] = ()
        self._coming: dict[bytes, _Coming] = {}
        self._asked: Ask | None = None
        self._largest = MOST_WORKERS
        self._pause_s = FIRST_PAUSE_S
        self._not_before_s: float | None = None  # None: nothing is missing
        self.next_s: float | None = None
        """When the next Tick is due, on the clock of `step`; None: only events matter."""

    def step(self, event: Event, now_s: float) -> list[Effect]:
        """Take one event and return what to do about it."""
        effects: list[Effect] = []
        match event:
            case Wanted(shortfalls, held):
                self._wanted = shortfalls
                self._coming = {name: coming for name, coming in self._coming.items() if name not in held}
            case Began(slice_id):
                effects += self._on_began(slice_id, now_s)
            case Refused():
                effects += self._on_refused(event, now_s)
            case Tick():
                pass
        return effects + self._ask(now_s)

    def _on_began(self, slice_id: bytes, now_s: float) -> list[Effect]:
        asked, self._asked = self._asked, None
        if asked is None:
            return []
        self._coming[slice_id] = _Coming(asked.size, asked.workers, now_s + COMING_S)
        self._largest = min(MOST_WORKERS, 2 * asked.workers)
        self._pause_s, self._not_before_s = FIRST_PAUSE_S, now_s
        return [Tell(asked.size, "", "")]

    def _on_refused(self, refused: Refused, now_s: float) -> list[Effect]:
        asked, self._asked = self._asked, None
        if asked is None:
            return []
        if asked.workers > 1 and refused.code in HALVED:
            self._largest, self._not_before_s = asked.workers // 2, now_s
            return []
        self._largest, self._not_before_s = MOST_WORKERS, now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return [Tell(asked.size, refused.code, refused.hint, refused.code in FOR_GOOD)]

    def _ask(self, now_s: float) -> list[Effect]:
        self._coming = {name: coming for name, coming in self._coming.items() if coming.until_s > now_s}
        missing = self._first_missing()
        self.next_s = None
        if missing is None:
            self._not_before_s = None
            # What is coming may not come: then something is missing again.
            self.next_s = min((coming.until_s for coming in self._coming.values()), default=None)
            return []
        if self._asked is not None:
            return []
        if self._not_before_s is None:
            self._pause_s, self._not_before_s = FIRST_PAUSE_S, now_s + GATHER_S
        if now_s < self._not_before_s:
            self.next_s = self._not_before_s
            return []
        self._asked = Ask(missing.size, min(missing.workers, self._largest))
        return [self._asked]

    def _first_missing(self) -> Shortfall | None:
        for shortfall in self._wanted:
            coming = sum(one.workers for one in self._coming.values() if one.size == shortfall.size)
            if shortfall.workers > coming:
                return Shortfall(shortfall.size, shortfall.workers - coming)
        return None
