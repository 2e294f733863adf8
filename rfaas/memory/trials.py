"""Channels over a medium that is tried: which of them have not become one yet, and until when they may.

No I/O of its own. RDMA reaches a lender once something came over it (docs/spec/004-session.md section 7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rfaas.memory.gate import Wire

SET_UP_S: Final = 30.0  # a lender's process starts meanwhile, unlike a worker's; if it dies a farewell tells


@dataclass(slots=True, frozen=True)
class _Trial:
    lease: bytes
    wire: Wire
    until_s: float


class Trials:
    """For one thread."""

    def __init__(self) -> None:
        self._by_number: dict[int, _Trial] = {}

    def begin(self, number: int, lease: bytes, wire: Wire, now_s: float) -> None:
        """A channel was opened; nothing happens if its medium needs no trial."""
        if wire.never_was:
            self._by_number[number] = _Trial(lease, wire, now_s + SET_UP_S)

    @property
    def due_s(self) -> float | None:
        """When `overdue` is to be asked next; None: never."""
        return min((trial.until_s for trial in self._by_number.values()), default=None)

    def overdue(self, now_s: float) -> list[int]:
        """Channels on which nothing came in time; they are given up here."""
        self._by_number = {number: trial for number, trial in self._by_number.items() if trial.wire.never_was}
        late = [number for number, trial in self._by_number.items() if trial.until_s <= now_s]
        for number in late:
            self._by_number[number].wire.abort()
        return late

    def end(self, number: int) -> tuple[bytes, str] | None:
        """A channel has ended: its lease, and why it never was one; None if it was."""
        trial = self._by_number.pop(number, None)
        if trial is None or not trial.wire.never_was:
            return None
        return trial.lease, trial.wire.why or f"nothing came over it within {SET_UP_S:g} s"
