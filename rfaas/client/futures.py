"""The future of a call: a real `concurrent.futures.Future`, so that `wait`, `as_completed` and asyncio take it.

Must not decide anything: the core says when a call runs, waits again, or ends. A call on a channel on loan
(`rfaas.client.lane`) is the borrower's: its future asks for the answer when somebody asks it, and has the I/O thread
see to the call as soon as anybody wants to be told.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import Any, Final, TypeVar

from rfaas.client._borrowing import ENDED, Borrowing, Pending

R = TypeVar("R")

_log = logging.getLogger(__name__)
_standard_log = logging.getLogger("concurrent.futures")  # whoever silences or watches callbacks looks there

_HANDED_OVER_S: Final = 5.0  # the I/O thread takes a call over within a millisecond
_LOOK_S: Final = 0.0002
_OWN_THREAD: Final = (
    "this thread ends the futures of its executor and runs their callbacks: it would wait for itself; "
    "submit from here and add a callback, or wait in another thread"
)
serving: Final = threading.local()  # in such a thread: `ends(future)`, whether that future is one of those


class Future(Pending[R], concurrent.futures.Future[R]):
    """What `Executor.submit` returns; made by executors only.

    Unlike the standard one it can go from running back to pending: when a call is proven not to have started on a
    worker that went away, it waits for another, and may be cancelled again. What is hot of it is compiled (`Pending`).
    """

    @property
    def _state(self) -> str:
        request = self._request
        if request is None:
            return FINISHED if self._first is ENDED else self._own_state
        if request.done or request.withdrawn:
            self.settle()
            return self._own_state
        return RUNNING if request.sent and not request.behind else PENDING

    @_state.setter
    def _state(self, state: str) -> None:
        self._own_state = state
        if state == FINISHED:  # by somebody else: what its call brings is dropped
            self._request = None

    # --- what its user asks -------------------------------------------------------------------------

    def _result_in_time(self, timeout: float | None) -> R:
        """The result as of any future: who waits is told.

        Raises:
            RuntimeError: in a callback of the same executor, if this call is not over: nothing else could end it.
        """
        self._refuse_own_thread(timeout)
        return concurrent.futures.Future.result(self, timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As the standard one's, and meanwhile this thread looks after what is on loan."""
        if self._request is not None:
            timeout = self._await_answer(timeout)
        self._refuse_own_thread(timeout)
        return super().exception(timeout)

    def done(self) -> bool:
        """As the standard one's. Asking again and again is a way to make progress."""
        request = self._request
        if request is None:
            return self._own_state in (FINISHED, CANCELLED, CANCELLED_AND_NOTIFIED)
        if not request.done:
            self._borrowing.look()
        return self._state in (FINISHED, CANCELLED_AND_NOTIFIED)

    def running(self) -> bool:
        """As the standard one's."""
        return self._state == RUNNING

    def cancelled(self) -> bool:
        """As the standard one's."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def cancel(self, *, interrupt: bool = False) -> bool:
        """Cancel the call if it has not started at a worker.

        A call that lies behind another at its worker is asked back for that, which takes a few milliseconds at most
        (0.25 s where the worker gives no word); in a callback of a future it counts as started.

        Args:
            interrupt: also if it was: the worker that runs it is killed and another takes its place.

        Returns:
            True: it is cancelled and never runs; or, with `interrupt`, it is being ended: the future then gets the
            error `Cancelled` with `may_have_run`, unless the result was on its way already, which wins.
            False: it has started, or is over; nothing has changed.
        """
        request = self._request
        if request is not None and not request.done:
            if self._borrowing.withdraw(request):  # in one step; nobody waits to be told
                return True
            if request.sent and not request.behind and not interrupt:
                return False
            self.give_up()
            over_s = time.monotonic() + _HANDED_OVER_S
            while self._request is not None and not request.done and time.monotonic() < over_s:
                time.sleep(_LOOK_S)
        withdraw = self._withdraw
        return (withdraw is not None and withdraw(interrupt)) or self.cancelled()

    # --- on loan ------------------------------------------------------------------------------------

    def _await_answer(self, timeout: float | None) -> float | None:
        """Wait for the answer of a request; if it comes another way, return how long to wait for that."""
        request = self._request
        if request is None:
            return timeout
        begin_s = 0.0 if timeout is None else time.monotonic()
        if request.done or self._borrowing.wait(request, timeout):
            self.settle()
            return timeout
        if request.is_on_loan:
            self.give_up()
        return None if timeout is None else max(0.0, timeout - (time.monotonic() - begin_s))

    def is_of(self, borrowing: Borrowing | None) -> bool:
        """True if the call is on a channel on loan, this one."""
        return self._request is not None and self._borrowing is borrowing

    def _refuse_own_thread(self, timeout: float | None) -> None:
        """Refuse to wait in the thread that would have to end this call meanwhile."""
        ends: Callable[[Future[Any]], bool] | None = getattr(serving, "ends", None)
        if ends is not None and (timeout is None or timeout > 0) and self._state in (PENDING, RUNNING) and ends(self):
            raise RuntimeError(_OWN_THREAD)

    def _taken_over(self, withdraw: Callable[[bool], bool], *, running: bool) -> None:
        """The call is the core's from now on."""
        self._withdraw = withdraw
        if self._own_state in (PENDING, RUNNING):  # else somebody else has resolved it
            self._own_state = RUNNING if running else PENDING
        self._request = None

    # --- what the core says -------------------------------------------------------------------------

    def _end_cancelled(self) -> None:
        """Mark it cancelled, run the callbacks, tell those who `wait`. Harmless if that was done before, or half."""
        super().cancel()
        with self._condition:
            if self._state == CANCELLED:
                self._state = CANCELLED_AND_NOTIFIED
                for waiter in self._waiters:
                    waiter.add_cancelled(self)
        self._withdraw = None

    def _end(self, value: R | None, error: BaseException | None) -> None:
        """Set result or error, and run the callbacks in this thread."""
        self._withdraw = None
        if self._own_state not in (PENDING, RUNNING):
            _log.warning("a future was resolved by somebody else; what its call brought is dropped")
            return
        self._finish(value, error)

    def _tell(self, condition: threading.Condition) -> None:
        """Be finished in the eyes of those who wait, and run the callbacks; result or error are there."""
        with condition:
            if self._told:
                return
            self._own_state, self._told = FINISHED, True
            for waiter in self._waiters:
                (waiter.add_result if self._exception is None else waiter.add_exception)(self)
            self._condition.notify_all()
        self._invoke_callbacks()

    def _invoke_callbacks(self) -> None:
        """Run each callback, whatever the others raise; all is logged by the standard executors' logger.

        A KeyboardInterrupt or SystemExit goes on where somebody can see it, in the main thread. Elsewhere it is logged
        too: it would end the thread that serves every other call.
        """
        for callback in self._done_callbacks:
            try:
                callback(self)
            except Exception:
                _standard_log.exception("exception calling callback for %r", self)
            except BaseException:
                if threading.current_thread() is threading.main_thread():
                    raise
                _standard_log.exception("exception calling callback for %r", self)

    def _mark_running(self) -> None:
        if self._own_state == PENDING:
            self._own_state = RUNNING

    def _mark_pending(self) -> None:
        if self._own_state == RUNNING:
            self._own_state = PENDING

    def _fail_in_forked_child(self, error: BaseException) -> None:
        """Give an error to a future that the parent process will resolve; its callbacks are the parent's."""
        self._request = None
        if self._first is not ENDED:
            self._condition = self._first = threading.Condition()  # a thread of the parent's may hold the old one
        self._withdraw = None
        if self._state in (PENDING, RUNNING):
            self._done_callbacks.clear()
            self._exception, self._state = error, FINISHED
