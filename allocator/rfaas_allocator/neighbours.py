"""The book of pairs: which functions have slowed which jobs, and where they are not placed again for a while.

A pure value, kept by the allocator for its life; guards of slices feed it. Must not read a clock: `now_s` is given.
Functions are known by what they say they use (`Executor(load=…)`), else by their program's name. Source: docs/adr/0028.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from rfaas.control.messages import MEMORY, Neighbours, Want

FIRST_APART_S: Final = 3600.0
LONGEST_APART_S: Final = 7 * 86_400.0
MOST_PAIRS: Final = 10_000
SENT_AWAY: Final = ("move", "leave")


@dataclass(slots=True)
class Pair:
    """One program and one kind of functions that a guard had to send away from it."""

    times: int
    until_s: float
    slowdown: float


def kind_of(want: Want, program: str) -> str:
    """What functions are known by: the load they name, else the program that calls them."""
    return want.load or f"program {program.split(' ')[0] or 'unnamed'}"


class PairBook:
    """What is known of pairs."""

    def __init__(self) -> None:
        self._pairs: OrderedDict[tuple[str, str], Pair] = OrderedDict()

    def hear(self, about: Neighbours, kinds: set[str], now_s: float) -> None:
        """Learn from a verdict: of what was sent away each kind is kept apart, twice as long each time.

        Several kinds at once are all suspected: the innocent ones lose some nodes for an hour, no more.
        """
        if about.verdict not in SENT_AWAY or not about.host:
            return
        for kind in kinds:
            pair = self._pairs.pop((about.host, kind), Pair(0, 0.0, 0.0))
            apart_s = min(LONGEST_APART_S, FIRST_APART_S * 2.0**pair.times)
            self._pairs[about.host, kind] = Pair(pair.times + 1, now_s + apart_s, about.slowdown)
        while len(self._pairs) > MOST_PAIRS:
            self._pairs.popitem(last=False)

    def apart(self, host: str, kind: str, now_s: float) -> Pair | None:
        """The pair, if these functions must not be placed beside this job now."""
        pair = self._pairs.get((host, kind)) if host else None
        return pair if pair is not None and now_s < pair.until_s else None

    def obstacle(self, want: Want, program: str, about: Neighbours, now_s: float) -> str:
        """Why functions of this request are not placed beside that job, for people; empty if they may be."""
        if want.kind == MEMORY:
            return ""
        kind = kind_of(want, program)
        pair = self.apart(about.host, kind, now_s)
        if pair is None:
            return ""
        left_min = max(1, round((pair.until_s - now_s) / 60))
        return f"functions of {kind} have slowed {about.host} by {pair.slowdown:.1%}: apart for {left_min} min more"
