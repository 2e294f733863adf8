"""`invoke` on a channel on loan: the thread that waits sends its call and takes the answer, and no other wakes up.

The core lends an idle channel while nothing waits for one. The borrower then neither steps the core nor makes a future.
What is not answered in a moment, and what comes instead of an answer, is left to the I/O thread: with it the call
becomes one like any other, which the core adopts together with the channel. Only the I/O thread begins and ends loans,
and it does so before the core hears anything about that channel.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

from rfaas.client._borrowing import ELSEWHERE, Borrowing
from rfaas.client.port import Port
from rfaas.client.serial import Definition, FunctionCache, load_result, unpicklable_result
from rfaas.config import CallSettings
from rfaas_transport._core import Frame, Loan, Poller
from rfaas_transport.errors import RfaasError
from rfaas_transport.frame import Kind

IDS: Final = 1 << 20
"""Calls that one loan is good for: their numbers are set aside when it is made."""

IDLE_S: Final = 0.1
"""A loan that nobody used for so long ends: the I/O thread sees what comes on the channel again."""

APART_S: Final = 0.01
"""Pause after a loan that had to end for somebody who waited: threads that alternate are better off without one."""

_CALL: Final = int(Kind.CALL)  # plain integers: comparing with an IntEnum costs a call


class Ended:
    """A loan that is over: how many calls it answered, and what was left to the I/O thread.

    Attributes:
        request: what a borrower sent and nobody answered: definition, payload, settings, and the future if the caller
            has made it. None: nothing is in flight.
        call_id: its number.
        frame: what came instead of an answer.
    """

    def __init__(
        self, port: Port, n_calls: int, request: dict[str, Any] | None, call_id: int, frame: Frame | None
    ) -> None:
        self.port = port
        self.n_calls = n_calls
        self.request = request
        self.call_id = call_id
        self.frame = frame


class Lane:
    """At most one channel on loan.

    Args:
        functions: of the executor.
        functions_lock: held while they are asked.
        limit_bytes: of arguments and of results; 0: what a channel takes.

    Attributes:
        wanted: somebody invokes, and there was no loan.
    """

    def __init__(
        self, functions: FunctionCache, functions_lock: AbstractContextManager[object], limit_bytes: int
    ) -> None:
        self._functions = functions
        self._functions_lock = functions_lock
        self._limit_bytes = limit_bytes
        self._loan: Loan | None = None
        self._borrowing: Borrowing | None = None
        self._generation = 0
        self._seen = (0, 0.0)  # answers, and when they were counted
        self._not_before_s = 0.0
        self.wanted = False

    # --- the I/O thread ---------------------------------------------------------------------------

    def open(self, poller: Poller) -> None:
        """Be ready for loans; `poller` is what the I/O thread waits on."""
        self._loan = Loan(poller)

    def forget(self) -> None:
        """Nothing is lent any more, in a forked child: the channel is the parent's."""
        self._loan = self._borrowing = None

    @property
    def lent(self) -> bool:
        """True while a channel is on loan."""
        return self._borrowing is not None

    def may_lend(self, now_s: float) -> bool:
        """True if a loan is wanted; asking uses the wish up."""
        wanted, self.wanted = self.wanted, False
        return wanted and self._borrowing is None and now_s >= self._not_before_s

    def begin(self, port: Port, id_before: int) -> None:
        """Lend a channel; calls are numbered from the one after `id_before`."""
        assert self._loan is not None
        self._generation += 1
        self._seen = (0, time.monotonic())
        info = port.info
        self._loan.begin(
            port.channel, _CALL, self._generation, id_before, IDS, info.lease_seq, info.epoch, self._limit_bytes
        )
        look_up = functools.partial(self._look_up, port.indices())
        self._borrowing = Borrowing(port, self._generation, self._loan.ask, look_up, self._load, self._limit_bytes)

    def recall(self, now_s: float) -> None:
        """Let nobody borrow any more, from any thread: somebody waits for the channel."""
        if self._loan is not None:
            self._loan.recall()
            self._not_before_s = now_s + APART_S

    def is_over(self, now_s: float) -> bool:
        """True if the I/O thread has to end the loan: something was left to it, or nobody borrows any more."""
        loan = self._loan
        if loan is None or self._borrowing is None:
            return False
        answers, since_s = self._seen
        if loan.answers != answers:
            self._seen = (loan.answers, now_s)
        return loan.is_left or (loan.answers == answers and now_s - since_s >= IDLE_S and loan.unused)

    def end(self) -> Ended | None:
        """End the loan, once its borrower has let go of the channel; None if there was none."""
        borrowing, self._borrowing = self._borrowing, None
        if borrowing is None or self._loan is None:
            return None
        n_calls, request, call_id, frame = self._loan.end()  # type: ignore[misc]  # there is a loan
        return Ended(borrowing.port, n_calls, request, call_id, frame)

    def answered(self) -> int:
        """Calls that the present loan has answered, which the core doesn't know of yet."""
        loan = self._loan
        return loan.answers if loan is not None and self._borrowing is not None else 0

    # --- borrowers --------------------------------------------------------------------------------

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], settings: CallSettings
    ) -> object:
        """Call a function on the channel on loan and return what it returned; ELSEWHERE: nothing was sent.

        Raises:
            BaseException: what the function raised, or an RfaasError, as for `Executor.submit`. After a
                KeyboardInterrupt the call goes on, and its result is dropped.
        """
        borrowing = self._borrowing
        return ELSEWHERE if borrowing is None else borrowing.call(function, args, kwargs, settings)

    def _load(self, frame: Frame | None, error: BaseException | None) -> object:
        """The value of an answer that is no small plain result; without a frame, the error that unpickling one gave."""
        if frame is None:
            raise unpicklable_result(error) from error
        return load_result(frame.status, frame.segments, frame.out_size, self._limit_bytes)

    def _look_up(self, indices: dict[bytes, int], function: Callable[..., Any]) -> tuple[Definition, int] | None:
        """A function as a channel knows it; None if it does not, or if the function travels as an argument."""
        try:
            with self._functions_lock:
                definition, applied = self._functions.define(function)
        except RfaasError:
            return None
        index = None if applied else indices.get(definition.identity)
        return None if index is None else (definition, index)
