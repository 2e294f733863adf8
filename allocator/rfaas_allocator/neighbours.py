"""The book of pairs: which functions have slowed which jobs, and where they are not placed again for a while.

A pure value whose changes go into the allocator's journal; guards of slices feed it. Must not read a clock: `now_s`,
seconds since 1970, is given, so that what one life learnt holds in the next.
Functions are known by what they say they use (`Executor(load=…)`), else by their program's name. Source: docs/adr/0028.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from rfaas.control.messages import MEMORY, Neighbours, Want
from rfaas_allocator.events import PairIs, PairIsForgotten

FIRST_APART_S: Final = 3600.0
LONGEST_APART_S: Final = 7 * 86_400.0
FORGOTTEN_AFTER_S: Final = 4 * LONGEST_APART_S  # since they were last apart: a program may be another one by then
MOST_PAIRS: Final = 10_000
SENT_AWAY: Final = ("move", "leave")


def kind_of(want: Want, program: str) -> str:
    """What functions are known by: the load they name, else the program that calls them."""
    return want.load or f"program {program.split(' ')[0] or 'unnamed'}"


class PairBook:
    """What is known of pairs.

    Args:
        known: what the journal remembers, oldest first.
        keep: takes each change for the journal.
        now_s: seconds since 1970.
    """

    def __init__(self, known: Iterable[PairIs], keep: Callable[[PairIs | PairIsForgotten], None], now_s: float) -> None:
        self._keep = keep
        self._pairs: OrderedDict[tuple[str, str], PairIs] = OrderedDict()
        for pair in known:
            # A clock that was set back must not keep anything apart for longer than it would have been.
            until_s = min(pair.until_unix_s, now_s + LONGEST_APART_S)
            self._pairs[pair.host, pair.kind] = replace(pair, until_unix_s=until_s)
        self._forget(now_s)

    def hear(self, about: Neighbours, kinds: set[str], now_s: float, *, may_repeat: bool = False) -> None:
        """Learn from a verdict: of what was sent away each kind is kept apart, twice as long each time.

        Several kinds at once are all suspected: the innocent ones lose some nodes for an hour, no more.
        `may_repeat`: an earlier life may have learnt it, so it says nothing of pairs that are apart already.
        """
        if about.verdict not in SENT_AWAY or not about.host:
            return
        for kind in sorted(kinds):
            if may_repeat and self.apart(about.host, kind, now_s) is not None:
                continue
            before = self._pairs.pop((about.host, kind), None)
            times = 0 if before is None else before.times
            apart_s = min(LONGEST_APART_S, FIRST_APART_S * 2.0 ** min(times, 30))
            pair = PairIs(about.host, kind, times + 1, now_s + apart_s, about.slowdown)
            self._pairs[about.host, kind] = pair
            self._keep(pair)
        self._forget(now_s)

    def _forget(self, now_s: float) -> None:
        """Drop what is beyond room, and what has not counted for long; the oldest lesson is looked at first."""
        while self._pairs:
            oldest = next(iter(self._pairs.values()))
            if len(self._pairs) <= MOST_PAIRS and now_s < oldest.until_unix_s + FORGOTTEN_AFTER_S:
                return
            self._pairs.popitem(last=False)
            self._keep(PairIsForgotten(oldest.host, oldest.kind))

    def apart(self, host: str, kind: str, now_s: float) -> PairIs | None:
        """The pair, if these functions must not be placed beside this job now."""
        pair = self._pairs.get((host, kind)) if host else None
        return pair if pair is not None and now_s < pair.until_unix_s else None

    def obstacle(self, want: Want, program: str, about: Neighbours, now_s: float) -> str:
        """Why functions of this request are not placed beside that job, for people; empty if they may be."""
        if want.kind == MEMORY:
            return ""
        kind = kind_of(want, program)
        pair = self.apart(about.host, kind, now_s)
        if pair is None:
            return ""
        left_min = max(1, round((pair.until_unix_s - now_s) / 60))
        return f"functions of {kind} have slowed {about.host} by {pair.slowdown:.1%}: apart for {left_min} min more"
