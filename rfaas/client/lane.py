"""Calls on channels on loan: the thread that waits sends its call and takes the answer, and no other wakes up.

The core lends the channels of idle workers while nothing waits for one. The borrower then steps no core. What is not
answered in a moment, and what comes instead of an answer, is left to the I/O thread: with it the calls become ones like
any other, which the core adopts together with the channels. Only the I/O thread begins and ends loans, and it does so
before the core hears anything about those channels.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from rfaas.client._borrowing import Borrowing, Lender
from rfaas.client.endings import locate, outcome
from rfaas.client.futures import Future
from rfaas.client.loans import LENT_IDS
from rfaas.client.port import Port
from rfaas.client.serial import Definition, FunctionCache, unpicklable_result
from rfaas_transport._core import Channel, Frame, Loan, Poller, Request
from rfaas_transport.errors import ChannelBroken, ChannelClosed, RfaasError
from rfaas_transport.frame import Kind

IDLE_S: Final = 0.1
"""A loan that nobody used for so long ends: the I/O thread sees what comes on the channels again."""

TEND_S: Final = 0.001
"""Calls under way that nobody has asked after for so long are the I/O thread's."""

QUIET_S: Final = 0.01
"""So long after the last call that nobody waited for at once the I/O thread stops looking every TEND_S; the longest
pause between two looks before."""

TEND_SHARE: Final = 20
"""Looks take at most this part of the time: where one is slow they are made less often than every TEND_S."""

LOOK_S: Final = 0.0002
"""How long a borrower looks for an answer before it sleeps: a hot worker answers within microseconds,"""

LOOK_SHARE: Final = 0.2
"""unless the user has workers look for long: then callers look for this share of that."""

APART_S: Final = 0.01
"""Pause after a loan that had to end for somebody who waited: threads that alternate are better off without one."""

_CALL: Final = int(Kind.CALL)


@dataclass(slots=True)
class Returned:
    """A channel that comes back.

    Attributes:
        n_calls: how many it answered.
        requests: what was sent there and not answered, in order, the first as number `call_id`.
        frame: what came instead of its answer.
        credits: that the worker gave beside its answers.
    """

    port: Port
    n_calls: int
    requests: list[Request]
    call_id: int
    frame: Frame | None
    credits: int


class Lane(Lender):
    """The channels on loan.

    Args:
        functions: of the executor.
        functions_lock: held while they are asked.
        limit_bytes: of arguments and of results; 0: what a channel takes.
        hot_for_s: how long workers look for a call before they sleep.

    Attributes:
        wanted: a function that somebody calls while there is no loan.
    """

    def __init__(
        self,
        functions: FunctionCache,
        functions_lock: AbstractContextManager[object],
        limit_bytes: int,
        hot_for_s: float = 0.0,
    ) -> None:
        self._functions = functions
        self._functions_lock = functions_lock
        self._limit_bytes = limit_bytes
        self._look_s = max(LOOK_S, LOOK_SHARE * hot_for_s)
        self._loan: Loan | None = None
        self._coming: list[tuple[Port, int]] = []  # to be lent in this step
        self._ports: list[Port] = []
        self._generation = 0
        self._seen = (0, 0.0)  # activity, and when it was looked at
        self._unattended = (0, 0.0)  # likewise
        self._used_s: float | None = None  # of the CPU by the I/O thread, when it last went to sleep in this loan
        self._look_costs_s = float("inf")  # the cheapest one, in which nothing else was done
        self._not_before_s = 0.0
        self.wanted: Definition | None = None
        self._wanted: Definition | None = None

    # --- the I/O thread ---------------------------------------------------------------------------

    def open(self, poller: Poller) -> None:
        """Be ready for loans; `poller` is what the I/O thread waits on."""
        self._loan = Loan(poller, look_s=self._look_s)

    def close(self) -> None:
        """There will be no loan any more."""
        if self._loan is not None:
            self._loan.close()

    def forget(self) -> list[Future[Any]]:
        """Nothing is lent any more, in a forked child: the channels are the parent's. Futures of what is on loan."""
        loan, self._loan, self.borrowing = self._loan, None, None
        return [] if loan is None else [request.claim(Future()) for request in loan.requests()]

    @property
    def lent(self) -> bool:
        """True while channels are on loan."""
        return self.borrowing is not None

    def may_lend(self, now_s: float) -> bool:
        """True if a loan is wanted; asking uses the wish up."""
        if self.wanted is None or self.borrowing is not None or now_s < self._not_before_s:
            return False
        self._wanted, self.wanted = self.wanted, None
        return True

    def add(self, port: Port, id_before: int) -> None:
        """A channel is to be lent; its calls are numbered from the one after `id_before`. `begin` follows."""
        self._coming.append((port, id_before))

    def begin(self) -> None:
        """Lend the channels that were added, if there are any."""
        loan, coming = self._loan, self._coming
        if not coming or loan is None:
            return
        self._coming = []
        self._ports = [port for port, _ in coming]
        self._generation += 1
        self._seen = (loan.activity, time.monotonic())
        self._used_s, self._look_costs_s = None, float("inf")
        channels = [self._terms(port, id_before) for port, id_before in coming]
        known_to_all = frozenset.intersection(*(frozenset(indices) for *_, indices in channels))
        loan.begin(self._generation, channels, _CALL, LENT_IDS, self._limit_bytes)
        look_up = functools.partial(self._look_up, known_to_all)
        load = functools.partial(self._load, tuple(port.info.node for port, _ in coming))
        self.borrowing = Borrowing(loan, self._generation, look_up, load, self._limit_bytes, Future)

    def _terms(self, port: Port, id_before: int) -> tuple[Channel, int, int, int, dict[bytes, int]]:
        if self._wanted is not None:
            with contextlib.suppress(ChannelClosed, ChannelBroken):  # found out by the first call
                port.announce(self._wanted)
        return port.channel, id_before, port.info.lease_seq, port.info.epoch, port.indices()

    def recall(self, now_s: float) -> None:
        """Let nobody borrow any more, from any thread: somebody waits for a channel."""
        if self._loan is not None and self.borrowing is not None:
            self._loan.recall()
            self._not_before_s = now_s + APART_S

    def is_over(self, now_s: float) -> bool:
        """True if the I/O thread has to end the loan: it is recalled, calls on it are left, or nobody borrows."""
        loan = self._loan
        if loan is None or self.borrowing is None:
            return False
        if loan.is_over:
            return True
        activity, since_s = self._seen
        if loan.activity != activity:
            self._seen = (loan.activity, now_s)
            return False
        return loan.unused and now_s - since_s >= (TEND_S if loan.outstanding else IDLE_S)

    def next_look_s(self, now_s: float, used_s: float) -> float | None:
        """When the I/O thread, which has used the CPU for `used_s`, has to look again; None: when it is woken."""
        loan = self._loan
        if loan is None or self.borrowing is None:
            return None
        if loan.unattended != self._unattended[0]:
            self._unattended = (loan.unattended, now_s)
        quiet = now_s - self._unattended[1] >= QUIET_S
        loan.watched = not quiet or (loan.outstanding > 0 and loan.unused)  # else a borrower sees to it
        tend_s = TEND_S
        if self._used_s is not None:
            self._look_costs_s = min(self._look_costs_s, used_s - self._used_s)
            tend_s = max(TEND_S, min(TEND_SHARE * self._look_costs_s, QUIET_S))
        self._used_s = used_s
        return now_s + (tend_s if loan.watched else IDLE_S)

    def waiting(self) -> int:
        """Calls that wait for a channel on loan."""
        return self._loan.waiting if self._loan is not None and self.borrowing is not None else 0

    def outstanding(self) -> int:
        """Calls that were sent on a loan and not answered, or wait."""
        return self._loan.outstanding if self._loan is not None and self.borrowing is not None else 0

    def end(self) -> tuple[list[Returned], list[Request]]:
        """End the loan, once its borrower has let go of the channels: these, and what waited for them, in order."""
        if self.borrowing is None or self._loan is None:
            return [], []
        self.borrowing = None
        ended = self._loan.end()
        if ended is None:
            return [], []
        channels, waiting = ended
        ports, self._ports = self._ports, []
        return [Returned(port, *channel) for port, channel in zip(ports, channels, strict=True)], waiting

    def awaited(self) -> deque[Future[Any]]:
        """Futures of calls that were answered, whose end somebody waits for."""
        return deque() if self._loan is None else self._loan.awaited

    def answered(self) -> int:
        """Calls that the present loan has answered, which the core doesn't know of yet."""
        return self._loan.answers if self._loan is not None and self.borrowing is not None else 0

    # --- borrowers --------------------------------------------------------------------------------

    def _load(
        self, nodes: Sequence[str], request: Request, frame: Frame | None, error: BaseException | None
    ) -> tuple[object, BaseException | None]:
        """Of an answer that is no small plain result, or of the error that taking one gave: value and error.

        Args:
            nodes: of the channels on loan.
        """
        value, room = None, request.about[2]
        if frame is not None:
            value, error = outcome(frame, self._limit_bytes, room)
        elif room is None:  # else it is of those that its room raises
            error = unpicklable_result(error)
        locate(error, nodes[request.channel])
        return value, error

    def _look_up(self, known: frozenset[bytes], function: Callable[..., Any]) -> Definition | None:
        """A function that all channels on loan know; None if they don't, or if it travels as an argument."""
        try:
            with self._functions_lock:
                definition, applied = self._functions.define(function)
        except RfaasError:
            return None
        return None if applied or definition.identity not in known else definition


def segments_of(payload: bytes | Sequence[Any]) -> list[Any]:
    """The segments of a request that becomes a call like any other."""
    return [payload] if isinstance(payload, bytes) else list(payload)
