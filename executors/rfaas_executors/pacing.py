"""Holds workers for a part of the time, so that the host job gets its memory bandwidth and caches back.

SIGSTOP and SIGCONT by turns, within a period of 10 ms, workers one after the other so that as few as possible run at
once. A pause is at most 9 ms, whatever a call holds meanwhile: like a preemption by the kernel, and no lock of rfaas is
shared among workers. A *probe* (share 0) holds all for some tenths of a second, at most 4 s. Who must act on a reclaim,
a deadline or a kill is let go first; SIGKILL ends a held process too. Memory servers and idle workers are never held.
Runs in the agent's event loop. Source: docs/adr/0028.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

PERIOD_S: Final = 0.01
FREE: Final = 0.999  # a share above is all


class Holdable(Protocol):
    """What a worker's handle offers."""

    def runs_call(self) -> bool:
        """True while a call runs."""

    def hold(self) -> bool:
        """Stop it with all that it started; False if it can't be now."""

    def let_go(self) -> None:
        """Let it run; repeatable."""


class Pacer:
    """The workers of one agent.

    Args:
        workers: those that live, by number.
    """

    def __init__(self, workers: Callable[[], Mapping[int, Holdable]]) -> None:
        self._workers = workers
        self._share = 1.0
        self._held: dict[int, float] = {}  # by worker: until when
        self._run_since: dict[int, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def pace(self, share: float) -> None:
        """Let each worker run this share of the time from now on; 0: hold all, 1: let all go."""
        self._share = 1.0 if share > FREE else max(0.0, share)
        self._cancel()
        self._release_all()
        if self._share < 1.0:
            self._turn()

    def let_go(self, worker: int) -> None:
        """Something is wanted of this worker: it runs, and is not held again before its next turn."""
        if self._held.pop(worker, None) is not None and (handle := self._workers().get(worker)) is not None:
            handle.let_go()
        self._run_since.pop(worker, None)

    def close(self) -> None:
        """Hold nobody any more."""
        self._share = 1.0
        self._cancel()
        self._release_all()

    def _release_all(self) -> None:
        for worker in list(self._held):
            self.let_go(worker)
        self._run_since.clear()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _turn(self) -> None:
        """Hold and let go whose time has come; what the clock was late by is made up for in the next pause."""
        now_s = time.monotonic()
        workers = self._workers()
        for number in [number for number in self._held if number not in workers]:
            del self._held[number]
        soonest_s = now_s + PERIOD_S
        for place, (number, handle) in enumerate(workers.items()):
            if number in self._held:
                if now_s >= self._held[number]:
                    self.let_go(number)
                    self._run_since[number] = now_s
                    soonest_s = min(soonest_s, now_s + self._share * PERIOD_S)
                else:
                    soonest_s = min(soonest_s, self._held[number])
            else:
                first_s = now_s - self._share * PERIOD_S * place / max(1, len(workers))
                since_s = self._run_since.setdefault(number, first_s)
                due_s = since_s + self._share * PERIOD_S
                if now_s >= due_s:
                    soonest_s = min(soonest_s, self._hold(number, handle, now_s, now_s - since_s))
                else:
                    soonest_s = min(soonest_s, due_s)
        self._timer = asyncio.get_running_loop().call_later(max(0.0005, soonest_s - now_s), self._turn)

    def _hold(self, number: int, handle: Holdable, now_s: float, ran_s: float) -> float:
        """Hold a worker that runs a call, as long as it has run too much; return when to look again."""
        if not handle.runs_call() or not handle.hold():
            self._run_since[number] = now_s
            return now_s + PERIOD_S / 4
        ran_s = min(ran_s, 2 * PERIOD_S)
        pause_s = PERIOD_S if self._share == 0.0 else ran_s * (1.0 - self._share) / self._share
        self._held[number] = now_s + (1e9 if self._share == 0.0 else min(pause_s, 20 * PERIOD_S))
        self._run_since.pop(number, None)
        return now_s + pause_s
