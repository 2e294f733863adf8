"""The future of a call: a real `concurrent.futures.Future`, so that `wait`, `as_completed` and asyncio take it.

Must not decide anything: the core says when a call runs, waits again, or ends.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections.abc import Callable
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TypeVar

R = TypeVar("R")

_log = logging.getLogger(__name__)
_standard_log = logging.getLogger("concurrent.futures")  # whoever silences or watches callbacks looks there


class Future(concurrent.futures.Future[R]):
    """What `Executor.submit` returns; made by executors only.

    Unlike the standard one it can go from running back to pending: when a call is proven not to have started on a
    worker that went away, it waits for another, and may be cancelled again.
    """

    _withdraw: Callable[[bool], bool] | None = None  # cancels the call; False if it can't any more

    def cancel(self, *, interrupt: bool = False) -> bool:
        """Cancel the call if it has not been sent to a worker.

        Args:
            interrupt: also if it was: the worker that runs it is killed and another takes its place.

        Returns:
            True: it is cancelled and never runs; or, with `interrupt`, it is being ended: the future then gets the
            error `Cancelled` with `may_have_run`, unless the result was on its way already, which wins.
            False: it was sent, or is over; nothing has changed.
        """
        withdraw = self._withdraw
        return (withdraw is not None and withdraw(interrupt)) or self.cancelled()

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
        try:
            if error is None:
                self.set_result(value)  # type: ignore[arg-type]  # None is a result too
            else:
                self.set_exception(error)
        except concurrent.futures.InvalidStateError:
            _log.warning("a future was resolved by somebody else; what its call brought is dropped")

    def _invoke_callbacks(self) -> None:
        """Run each callback, whatever the others raise; all is logged by the standard executors' logger.

        A KeyboardInterrupt or SystemExit goes on where somebody can see it, in the main thread. Elsewhere it is logged
        too: it would end the thread that serves every other call.
        """
        for callback in self._done_callbacks:  # type: ignore[attr-defined]  # not in the stubs, but there since 3.2
            try:
                callback(self)
            except Exception:
                _standard_log.exception("exception calling callback for %r", self)
            except BaseException:
                if threading.current_thread() is threading.main_thread():
                    raise
                _standard_log.exception("exception calling callback for %r", self)

    def _mark_running(self) -> None:
        with self._condition:
            if self._state == PENDING:
                self._state = RUNNING

    def _mark_pending(self) -> None:
        with self._condition:
            if self._state == RUNNING:
                self._state = PENDING

    def _fail_in_forked_child(self, error: BaseException) -> None:
        """Give an error to a future that the parent process will resolve; its callbacks are the parent's."""
        self._condition = threading.Condition()  # the old one may be held by a thread that exists in the parent only
        self._withdraw = None
        if self._state in (PENDING, RUNNING):
            self._done_callbacks.clear()  # type: ignore[attr-defined]  # not in the stubs, but there since 3.2
            self._exception, self._state = error, FINISHED
