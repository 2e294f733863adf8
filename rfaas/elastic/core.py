"""When all ranks together write a checkpoint or stop: decisions by numbers, without MPI, files or a clock.

Every rank runs one of these, and all go through the same states at the same iterations: what decides is either the
iteration's number or what came out of a reduction over all ranks (MAX of each number), never a rank's own clock. A
reduction is begun at one boundary and taken at a later one, `stride` iterations on, so that no rank waits for it.

State   at                                   next
QUIET   a boundary: Ask                      ASKED
ASKED   `stride` boundaries later: Collect   QUIET, or ENDED by a notice
ENDED   -                                    (captive)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from rfaas.elastic.interval import daly_s

MOST_STRIDE: Final = 10_000
FIRST_INTERVAL_S: Final = 1.0  # until a checkpoint has been timed: so soon it is


class State(Enum):
    """Where a run is between two boundaries."""

    QUIET = "quiet"
    ASKED = "asked"
    ENDED = "ended"


class Decision(Enum):
    """What all ranks do at this boundary."""

    GO_ON = "go on"
    CHECKPOINT = "checkpoint"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Word:
    """What a rank says of itself, or, as the MAX over all ranks, what holds for all. Seconds."""

    noticed: float = 0.0  # 1: a notice was heard
    heard_ago_s: float = 0.0  # how long before this was said
    due: float = 0.0  # 1: its clock says that a checkpoint is due
    iteration_s: float = 0.0

    def numbers(self) -> list[float]:
        """For the reduction."""
        return [self.noticed, self.heard_ago_s, self.due, self.iteration_s]


class Core:
    """One rank's view of what all ranks do.

    Args:
        now_s: by any clock that does not go back, the same for all calls.
        look_every_s: how much time shall lie between two reductions.
        every: iterations between two checkpoints; None: by time.
        interval_s: seconds between two checkpoints; None: by `mtbf_s` and what one was seen to take.
        mtbf_s: mean time between two losses without a notice.
    """

    def __init__(
        self, now_s: float, *, look_every_s: float, every: int | None, interval_s: float | None, mtbf_s: float
    ) -> None:
        self.state = State.QUIET
        self.stride = 1
        self._look_every_s = look_every_s
        self._every = every
        self._fixed_s = interval_s
        self._mtbf_s = mtbf_s
        self.interval_s = FIRST_INTERVAL_S if interval_s is None else interval_s
        self._asked_at = 0
        self._asked_s = now_s
        self._last_iteration = 0
        self._saved_at = 0
        self._saved_s = now_s

    def began(self, iteration: int, now_s: float) -> None:
        """The loop begins here; what there was of checkpoints is as old as that."""
        self._saved_at = self._last_iteration = iteration
        self._saved_s = self._asked_s = now_s

    def must_collect(self, iteration: int) -> bool:
        """Whether the reduction under way is to be taken at this boundary, before anything else."""
        return self.state is State.ASKED and iteration - self._asked_at >= self.stride

    def collected(self, word: Word) -> Decision:
        """Take what came out of the reduction; the state is QUIET or ENDED afterwards."""
        if self.state is not State.ASKED:
            raise RuntimeError(f"nothing was asked: {self.state}")
        if word.noticed:
            self.state = State.ENDED
            return Decision.STOP
        self.state = State.QUIET
        if word.iteration_s > 0.0:
            self.stride = max(1, min(MOST_STRIDE, round(self._look_every_s / word.iteration_s)))
        return Decision.CHECKPOINT if word.due else Decision.GO_ON

    def at(self, iteration: int) -> Decision:
        """What the number of the iteration alone decides."""
        due = self._every is not None and iteration - self._saved_at >= self._every
        return Decision.CHECKPOINT if due else Decision.GO_ON

    def ask(self, iteration: int, now_s: float, heard_at_s: float | None) -> Word | None:
        """What this rank puts into the next reduction; None if none is begun here."""
        if self.state is not State.QUIET:
            return None
        n_iterations = iteration - self._last_iteration
        iteration_s = (now_s - self._asked_s) / n_iterations if n_iterations else 0.0
        self.state, self._asked_at, self._asked_s, self._last_iteration = State.ASKED, iteration, now_s, iteration
        return Word(
            noticed=float(heard_at_s is not None),
            heard_ago_s=0.0 if heard_at_s is None else now_s - heard_at_s,
            due=float(self._every is None and now_s - self._saved_s >= self.interval_s),
            iteration_s=iteration_s,
        )

    def saved(self, iteration: int, now_s: float, took_s: float) -> None:
        """A checkpoint of this iteration was written, or tried; `took_s` is the same number on all ranks."""
        self._saved_at, self._saved_s, self._asked_s = iteration, now_s, now_s
        self._last_iteration = iteration
        if self._fixed_s is None:
            self.interval_s = daly_s(took_s, self._mtbf_s)

    @property
    def is_asked(self) -> bool:
        """Whether a reduction is under way, which must be completed before the end."""
        return self.state is State.ASKED
