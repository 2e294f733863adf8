"""The kinds of functions and of calls that are measured: a line in a table each.

A kind of function says what is called with what, and what must come back. A kind of call is a timed loop as a user
would write it: nothing between the two readings of the clock but the call. Every answer is checked, outside of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import rfaas
from rfaas.bench import served
from rfaas.executor import Executor
from rfaas_transport import _rawlink
from rfaas_transport.errors import ConfigError

LIBRARY: Final = Path(_rawlink.__file__).with_name("librfaas_bench.so")
"""Holds `echo`, a compiled function."""

EDGE_BYTES: Final = 16  # of each answer, compared at both ends


class Prepared(NamedTuple):
    """One function with arguments by turns, so that an answer of the call before is noticed.

    Attributes:
        function: to be called on the worker.
        arguments: two tuples, by turns.
        same: does this answer belong to these arguments?
    """

    function: Callable[..., Any]
    arguments: tuple[tuple[Any, ...], tuple[Any, ...]]
    same: Callable[[Any, tuple[Any, ...]], bool]


def _python(size_bytes: int) -> Prepared:
    if size_bytes == 0:
        return Prepared(served.nothing, ((), ()), lambda answer, _: answer is None)
    return Prepared(served.echo, ((payload(size_bytes),), (payload(size_bytes),)), _same_bytes)


def _over_bytes(function: Callable[..., Any], size_bytes: int) -> Prepared:
    pieces = [payload(size_bytes) if size_bytes else b"" for _ in range(2)]
    return Prepared(function, ((pieces[0],), (pieces[1],)), _same_bytes)


def _native(size_bytes: int) -> Prepared:
    return _over_bytes(rfaas.native(LIBRARY, "echo", out_size=max(1, size_bytes)), size_bytes)


FUNCTIONS: Final[dict[str, Callable[[int], Prepared]]] = {
    "python": _python,
    "raw": lambda size_bytes: _over_bytes(served.echo_bytes, size_bytes),
    "native": _native,
}
"""Kinds of functions by name: each makes its function for a payload of so many bytes there and back; 0: none."""


def _invoke(executor: Executor, made: Prepared, took_ns: memoryview, pause_s: float, end_ns: int) -> int:
    function, arguments, same = made
    invoke, clock, done = executor.invoke, time.perf_counter_ns, 0
    for done in range(len(took_ns)):
        args = arguments[done & 1]
        if pause_s:
            time.sleep(pause_s)
        begun_ns = clock()
        answer = invoke(function, *args)
        ended_ns = clock()
        took_ns[done] = ended_ns - begun_ns
        _check(same(answer, args))
        if ended_ns > end_ns:
            break
    return done + 1


def _submit(executor: Executor, made: Prepared, took_ns: memoryview, pause_s: float, end_ns: int) -> int:
    function, arguments, same = made
    submit, clock, done = executor.submit, time.perf_counter_ns, 0
    for done in range(len(took_ns)):
        args = arguments[done & 1]
        if pause_s:
            time.sleep(pause_s)
        begun_ns = clock()
        answer = submit(function, *args).result()
        ended_ns = clock()
        took_ns[done] = ended_ns - begun_ns
        _check(same(answer, args))
        if ended_ns > end_ns:
            break
    return done + 1


CALLS: Final = {"invoke": _invoke, "submit": _submit}
"""Kinds of calls by name: `ex.invoke(f, x)`; `ex.submit(f, x).result()`."""


def block(
    executor: Executor, call: str, made: Prepared, took_ns: memoryview, *, pause_s: float = 0.0, budget_s: float = 1e6
) -> int:
    """Make a call for each place of `took_ns`, or as many as the budget allows; returns how many, at least 1.

    Raises:
        ConfigError: an answer was not that of its call.
        RfaasError: the worker was lost.
    """
    if not len(took_ns):
        return 0
    return CALLS[call](executor, made, took_ns, pause_s, time.perf_counter_ns() + int(budget_s * 1e9))


def warm_up(executor: Executor, call: str, made: Prepared, n: int) -> None:
    """Make calls that are not timed."""
    block(executor, call, made, memoryview(bytearray(8 * n)).cast("q"))


def payload(size_bytes: int) -> bytes:
    """Random bytes; beyond 64 KiB they repeat, for making them must not take longer than moving them."""
    unit = os.urandom(min(size_bytes, 1 << 16))
    end = os.urandom(min(size_bytes, EDGE_BYTES))
    return (unit * (size_bytes // len(unit) + 1))[: size_bytes - len(end)] + end


def _same_bytes(answer: Any, args: tuple[Any, ...]) -> bool:  # noqa: ANN401 - whatever came
    sent: Sequence[int] = args[0]
    return (
        len(answer) == len(sent)
        and answer[:EDGE_BYTES] == sent[:EDGE_BYTES]
        and answer[-EDGE_BYTES:] == sent[-EDGE_BYTES:]
    )


def _check(right: bool) -> None:
    if not right:
        raise ConfigError("a call brought back what another should have", hint="report this: no figure can be trusted")
