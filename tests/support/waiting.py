"""Waiting for a condition with a limit: the one way in which a test lets time pass."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.005  # short beside anything a test waits for, long beside the cost of asking


def wait_until(
    condition: Callable[[], T], timeout_s: float, what: str = "", error: type[AssertionError] = AssertionError
) -> T:
    """Ask `condition` until it returns something true, and return that.

    Raises:
        AssertionError: it was still false after `timeout_s`; the message names `what` and the last answer. Of the
            class `error`: support.deadlines has one for promised deadlines.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() >= deadline_s:
            name = what or getattr(condition, "__name__", repr(condition))
            raise error(f"still waiting for {name} after {timeout_s} s; last answer: {answer!r}")
        time.sleep(POLL_S)
