"""The interactive program of example 05: one executor, a stream of pricing calls and a parameter search at once.

Every call measures itself where it runs, so that a timeline shows what happened and not what was planned. Every
result is compared at once with the one computed beforehand in this process; nothing is retried here, so a call that
is lost or wrong is found and counted.
"""

from __future__ import annotations

import functools
import itertools
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np

import digits
from blackscholes import market, price, split
from occupancy import Call


class Measured(NamedTuple):
    """What a call returned, with where and when it ran: seconds of CLOCK_BOOTTIME, on the node's clock."""

    value: Any
    node: str
    pid: int
    t0_s: float
    t1_s: float


def measured(function: Callable[..., Any], *args: object) -> Measured:
    """Call a function and measure it; this is what travels to the workers."""
    t0_s = now_s()
    value = function(*args)
    return Measured(value, socket.gethostname(), os.getpid(), t0_s, now_s())


def now_s() -> float:
    """Seconds on the clock that all processes of a machine share."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Work:
    """A call to make, and the value it must return."""

    what: str
    function: Callable[..., Any]
    argument: object
    expected: object


@dataclass(slots=True)
class Outcome:
    """What became of all calls; `problems` is empty when none was lost and none wrong."""

    calls: list[Call] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    scores: dict[digits.Task, float] = field(default_factory=dict)

    def take(self, work: Work, future: Future[Measured]) -> None:
        """Check one finished call and remember it."""
        error = future.exception()
        if error is not None:
            self.problems.append(f"{work.what} failed: {type(error).__name__}: {error}")
            return
        result = future.result()
        if not np.array_equal(result.value, np.asarray(work.expected)):
            self.problems.append(f"{work.what} on {result.node} returned another value than here")
        if isinstance(work.argument, digits.Task):
            self.scores[work.argument] = result.value
        self.calls.append(Call(work.what, result.node, result.pid, result.t0_s, result.t1_s))


def pricing(n_options: int = 1_000_000, batch_size: int = 10_000, seed: int = 1973) -> list[Work]:
    """A million options as a hundred calls, each with its prices as computed here."""
    batches = split(market(n_options, seed), batch_size)
    return [Work(f"price batch {i}", price, batch, price(batch)) for i, batch in enumerate(batches)]


def search() -> list[Work]:
    """The digits' parameter search, one call a cell, each with its score as computed here (takes some seconds)."""
    return [Work(f"score {task}", digits.score, task, digits.score(task)) for task in digits.tasks()]


def run(
    executor: Executor,
    prices: list[Work],
    scores: list[Work],
    outcome: Outcome,
    in_flight: int,
    enough: Callable[[], bool],
    on_result: Callable[[Outcome], None] = lambda outcome: None,
) -> None:
    """Make calls until `enough()`: of the search and of the prices in turn, and of the prices when the search is done.

    Args:
        executor: not shut down here.
        prices: made again from the start when all are done.
        scores: each made once; all are done in the end, also after `enough()`.
        outcome: filled here, call by call; other threads may read it meanwhile.
        in_flight: calls submitted and not finished at any time; more than workers, so that none waits for this loop.
        enough: asked after every result.
        on_result: called after every result, in this thread.
    """
    finished: SimpleQueue[tuple[Work, Future[Measured]]] = SimpleQueue()

    def arrived(work: Work, future: Future[Measured]) -> None:
        finished.put((work, future))

    endless, once = itertools.cycle(prices), deque(scores)
    outstanding, turn, stopping = 0, 0, False
    while True:
        while outstanding < in_flight and (once or not stopping):
            turn += 1
            work = once.popleft() if once and (stopping or turn % 2) else next(endless)
            future = executor.submit(measured, work.function, work.argument)
            future.add_done_callback(functools.partial(arrived, work))
            outstanding += 1
        if not outstanding:
            return
        outcome.take(*finished.get())
        outstanding -= 1
        on_result(outcome)
        stopping = stopping or enough()


def summary(outcome: Outcome) -> str:
    """What came of it, in a line."""
    prices = len(outcome.calls) - len(outcome.scores)
    text = f"{prices} batches of prices and {len(outcome.scores)} scores, {len(outcome.problems)} problems"
    if not outcome.scores:
        return text
    cost, gamma = digits.best_parameters(outcome.scores)
    return f"{text}; the best classifier of digits has C={cost:g} gamma={gamma:g}"


def workers_seen(outcome: Outcome, since_s: float) -> dict[str, int]:
    """How many workers of each node finished a call after `since_s`: {node: number}, sorted by name."""
    newest_first = reversed(outcome.calls[:])  # a copy: another thread may be adding to it
    recent = itertools.takewhile(lambda call: call.t1_s >= since_s, newest_first)
    return dict(sorted(Counter(node for node, _ in {(call.node, call.pid) for call in recent}).items()))
