"""A stream of short calls that goes on while a test breaks things, and what became of each."""

import random
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from rfaas import RfaasError
from support.deadlines import wait_in_time
from support.waiting import wait_until
from support.witness import Witness, answer, witnessed

RETRIES = 1000


@dataclass
class Called:
    """One call and its end, times on CLOCK_MONOTONIC."""

    number: int
    idempotent: bool
    submitted_s: float
    resolved_s: float = 0.0
    value: Any = None
    error: BaseException | None = None

    @property
    def right(self):
        return self.error is None and self.value == answer(self.number)


class Stream:
    """Keeps `window` calls under way in a thread of its own until `finish` or `count` of them.

    Args:
        executor: of rfaas; this is its only user, so that a call's number is that of the event log.
        longest_s: calls last between nothing and this.
        some_s: one call of twenty lasts this long.
        count: how many calls there are at most.
        idempotent: which calls are, by their number; by default every other one.
    """

    def __init__(
        self,
        executor,
        path,
        seed,
        *,
        window=8,
        longest_s=0.02,
        some_s=0.02,
        count=sys.maxsize,
        idempotent=lambda number: number % 2 == 0,
    ):
        self.witness = Witness(path)
        self.calls = []
        self._views = {False: executor, True: executor.options(idempotent=True, retries=RETRIES)}
        self._random = random.Random(seed)
        self._longest_s, self._some_s = longest_s, some_s
        self._count, self._idempotent = count, idempotent
        self._room = threading.Semaphore(window)
        self._stopping = threading.Event()
        self._trouble = None
        self.started_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._thread.start()

    def _run(self):
        try:
            while not self._stopping.is_set() and not self.all_submitted:
                if self._room.acquire(timeout=0.1):
                    self._call()
        except BaseException as trouble:  # shown by `finish`, in the thread of the test
            self._trouble = trouble

    def _call(self):
        number = len(self.calls) + 1
        call = Called(number, self._idempotent(number), time.monotonic())
        self.calls.append(call)
        seconds = self._random.uniform(0.0, self._longest_s) if self._random.random() < 0.95 else self._some_s
        future = self._views[call.idempotent].submit(witnessed, self.witness.path, number, seconds)
        future.add_done_callback(lambda done: self._ended(call, done))

    def _ended(self, call, future):
        call.error = future.exception()
        call.value = future.result() if call.error is None else None
        call.resolved_s = time.monotonic()
        self._room.release()

    # --- while it runs ------------------------------------------------------------------------------

    @property
    def all_submitted(self):
        """Whether there are as many calls as there are to be."""
        return len(self.calls) >= self._count

    def pending(self):
        """Calls that are not resolved now."""
        return [call for call in self.calls if not call.resolved_s]

    def running(self):
        """Numbers of the calls that have started and not ended, by the witness."""
        open_ = set()
        for line in self.witness.lines():
            (open_.add if line.word == "start" else open_.discard)(line.number)
        return open_

    def wait_answers(self, count, timeout_s=30.0):
        """Wait until `count` more calls that are submitted from now on have right results."""
        first = len(self.calls)
        wait_until(lambda: sum(call.right for call in self.calls[first:]) >= count, timeout_s, f"{count} new results")

    def settle(self, calls, since_s, timeout_s):
        """Wait until these calls are resolved; returns how long after `since_s` the last one was."""
        wait_in_time(lambda: all(call.resolved_s for call in calls), timeout_s, "calls to resolve")
        return max((call.resolved_s - since_s for call in calls), default=0.0)

    def finish(self, timeout_s=30.0):
        """Submit no more, wait for the rest, and look at every call: see `wrong`, `doubled`, `errors`."""
        self._stopping.set()
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "the submitting thread hangs"
        if self._trouble is not None:
            raise self._trouble
        wait_until(lambda: not self.pending(), timeout_s, "the last calls")
        self.ended_s = time.monotonic()

    # --- afterwards ---------------------------------------------------------------------------------

    @property
    def errors(self):
        """Calls that failed."""
        return [call for call in self.calls if call.error is not None]

    def unseen(self, starts, victims):
        """Failed calls that no victim's witness line shows started: STARTED is written before the function's first."""
        return [call for call in self.errors if not set(starts[call.number]) & victims]

    def tell(self, executor, *lines):
        """Print lines of figures, and what became of all calls."""
        print(*lines, f"{len(self.calls)} calls, {len(self.errors)} errors, {executor.statistics()}", sep="\n")

    def check(self):
        """What must hold whatever was killed; returns by call the pids on which it started."""
        starts = self.witness.starts()
        wrong = [call for call in self.calls if call.error is None and not call.right]
        assert not wrong, f"wrong results: {wrong[:5]}"
        failed = [call for call in self.errors if call.idempotent]
        assert not failed, f"idempotent calls failed: {failed[:5]}"
        untyped = [call for call in self.errors if not isinstance(call.error, RfaasError)]
        assert not untyped, f"errors without a type: {untyped[:5]}"
        denied = [call for call in self.errors if not call.error.may_have_run]
        assert not denied, f"calls that never ran must be dispatched again: {denied[:5]}"
        doubled = {call.number: starts[call.number] for call in self.calls if not call.idempotent}
        doubled = {number: pids for number, pids in doubled.items() if len(pids) > 1}
        assert not doubled, f"run more than once: {doubled}"
        unseen = [call for call in self.calls if call.error is None and not starts[call.number]]
        assert not unseen, f"results without a run: {unseen[:5]}"
        return starts


def figures(name, seconds, goal_s):
    """One line for people: median and worst of times that have a goal."""
    middle, worst = statistics.median(seconds), max(seconds)
    return f"{name}: median {middle:.3f} s, worst {worst:.3f} s of {len(seconds)} (goal {goal_s:g} s)"
