"""What any thread may ask of an executor's calls: submit, cancel, shut down.

Any thread may submit: it sends by itself if a worker idles, so no other thread has to wake up. All else (reading,
decoding results, callbacks) happens in the I/O thread. In layers, each of which knows those below only: the books
(`books`), the thread (`io_thread`), and this. Must not decide anything about calls: `rfaas.client.core` does.
"""

from __future__ import annotations

import contextlib
import copy
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import Future as StandardFuture
from dataclasses import replace
from typing import Any

from rfaas.client import lifetime
from rfaas.client._borrowing import Lender
from rfaas.client.applying import Initializer, leave
from rfaas.client.byte_results import Room
from rfaas.client.capacity import Capacity
from rfaas.client.chores import Chores
from rfaas.client.effects import Withdrawn
from rfaas.client.events import Cancel, CancelOverdue, Resize, Shutdown, Submit, Terminate
from rfaas.client.futures import Future
from rfaas.client.io_thread import IoThread
from rfaas.client.lane import Lane
from rfaas.client.ports import Work
from rfaas.client.records import Call
from rfaas.client.serial import (
    Definition,
    FunctionCache,
    Segments,
    as_serialization_error,
    check_size,
    define_chore,
    dump_arguments,
    follows,
)
from rfaas.client.shipping import Bundle
from rfaas.config import CallSettings, ExecutorConfig
from rfaas.functions import ByteArguments, ByteFunction

WORD_S = 0.25  # a worker that runs a function answers within some milliseconds


class Engine(IoThread):
    """Runs the calls of one executor.

    Args:
        config: of the executor.
        initializer: what each worker calls with `initargs` before its first call.
        max_calls: calls that a worker takes before another takes its place; None: any number.
        files: come along with every function.

    Raises:
        SerializationError: the initializer or its arguments can't be pickled.
    """

    def __init__(
        self,
        config: ExecutorConfig,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_calls: int | None = None,
        files: Bundle | None = None,
    ) -> None:
        first = None if initializer is None else define_chore(Initializer(initializer), initargs, files)
        chores = Chores(
            initializer=None if first is None else Work(None, *first),
            leave=None if max_calls is None else Work(None, *define_chore(leave, ())),
            max_calls=max_calls,
        )
        super().__init__(config, chores, getattr(initializer, "__qualname__", repr(initializer)), os.urandom(16))
        # What an initializer of the main program sets there, on each worker, is for the functions that come after it.
        self._functions = FunctionCache(adopting=getattr(initializer, "__module__", "") == "__main__", files=files)
        self._functions_lock = threading.RLock()  # pickling runs the user's code, which may submit too
        limit_bytes = config.payload_limit_bytes or 0
        self._lane = Lane(self._functions, self._functions_lock, limit_bytes, config.hot_for_s)

    @property
    def lender(self) -> Lender:
        """Who has the channels that calls may borrow."""
        return self._lane

    def submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], settings: CallSettings
    ) -> Future[Any]:
        """Queue a call, and send it now if a worker idles. Never waits for anybody. A next one like it may borrow.

        Raises:
            RuntimeError: the executor, or the interpreter, shuts down; or this is a forked child. Nothing was queued.
            ExecutorBroken: no worker can be initialized. Nothing was queued.
        """
        self._refuse_if_shut()
        lends = settings.call_timeout_s is None and not settings.retry_on and not self._history.enabled
        return self.submit_to_core(function, args, kwargs, settings, lends=lends)

    def submit_to_core(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        settings: CallSettings,
        *,
        lends: bool = False,
    ) -> Future[Any]:
        """Submit a call for whose end somebody wants to be told: not on a channel on loan.

        Args:
            lends: the next one like it may be.
        """
        future: Future[Any] = Future()
        try:
            packed = self._packed(function, args, kwargs)
            if lends:  # an event log tells of each call
                self._lane.wanted = packed[0]
        except Exception as error:  # as in the standard executors, what can't be pickled is the future's error
            future._end(None, as_serialization_error(error))
            return future
        call = Call(next(self._numbers), Work(future, *packed), settings, follows=follows(*packed[:2], settings))
        future._withdraw = lambda interrupt: self._withdraw(call, interrupt)
        if self._inside():
            self._note(Submit(call))
            return future
        with self._lock:
            self._refuse_if_shut()
            self._ensure_started()
            self._apply(Submit(call))
        return future

    def _ensure_started(self) -> None:
        """Have the I/O thread run, and the books in order; under the lock."""
        if self._thread is None or self._thread.ident is None:  # not started, or interrupted before it was
            lifetime.register(self)
            self._start()
        self._check_books()

    def resize(self, workers: int | None, lease_workers: int) -> None:
        """Want so many workers from now on; None: as many as the calls need. Never waits for anybody.

        Raises:
            RuntimeError: no worker can be initialized; or it is shut down, and the last call has ended. Nothing was
                changed.
        """
        if self._broken is not None or self._drained or (self._shut and self._thread is None):
            self._refuse_if_shut()
        if self._inside():
            self._note(Resize(workers, lease_workers))
            return
        with self._lock:
            if self._drained:
                self._refuse_if_shut()
            if workers is not None or self._thread is not None:
                self._ensure_started()
                self._apply(Resize(workers, lease_workers))

    @property
    def ceiling(self) -> int:
        """Workers that calls can ask for at most."""
        return self._config.max_workers

    def capacity(self) -> Capacity:
        """What there is now; calls on channels on loan count as running, or waiting."""
        with self._lock:
            if self._drained:
                return Capacity()
            capacity = self._core.capacity()
            waiting = self._lane.waiting()
            running = self._lane.outstanding() - waiting
            idle = max(0, capacity.idle - running)
            return replace(capacity, idle=idle, queued=capacity.queued + waiting, running=capacity.running + running)

    def invoke(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], settings: CallSettings
    ) -> Any:  # noqa: ANN401 - the function's own
        """Call, and wait for the future.

        Raises:
            BaseException: what the function raised, or as `submit`.
        """
        future = self.submit(function, args, kwargs, settings)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
        finally:
            del future  # an exception's traceback would keep it, and it the exception

    def _packed(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Definition, Segments, Room | None]:
        if isinstance(function, ByteFunction):
            return self._packed_bytes(function, function.pack(args, kwargs))
        with self._functions_lock:
            definition, applied = self._functions.define(function)
            passed = self._functions.as_argument(function)
        segments = dump_arguments((passed, args, kwargs), {}) if applied else dump_arguments(args, kwargs)
        if self._config.payload_limit_bytes is not None:
            check_size(segments, self._config.payload_limit_bytes)
        return definition, segments, None

    def _packed_bytes(
        self, function: ByteFunction, arguments: ByteArguments
    ) -> tuple[Definition, Segments, Room | None]:
        """The input as it is: nothing of it is pickled."""
        definition = self._functions.known(function)
        if definition is None:
            with self._functions_lock:
                definition, _ = self._functions.define(function)
        segments: Segments = [arguments.data]
        if self._config.payload_limit_bytes is not None:
            check_size(segments, self._config.payload_limit_bytes)
        return definition, segments, Room(arguments.capacity_bytes, arguments.out)

    @property
    def refuses(self) -> bool:
        """True if no call is taken: `submit` says why."""
        return bool(self._shut) or self._broken is not None

    def _refuse_if_shut(self) -> None:
        if self._broken is not None:
            refusal = copy.copy(self._broken)
            raise refusal from self._broken.__cause__
        if self._shut:
            raise RuntimeError(f"cannot schedule new futures after {self._shut}")

    def _withdraw(self, call: Call, interrupt: bool) -> bool:
        """Cancel a call that can't have run, its callbacks included; False if it is too late, or not sure yet.

        With `interrupt`, True too if it was sent and is being ended.
        """
        if self._inside() or call.submitted_at_s == 0.0:  # its Submit is a note itself: this must come after that
            self._note(Cancel(call, interrupt))
            return interrupt and not call.resolved
        future: Future[Any] | None = None if call.work is None else call.work.future  # goes when it is resolved
        try:
            with self._lock:
                self._check_books()
                was_over = call.resolved
                self._apply(Cancel(call, interrupt))
                self._await_word(call)
                ending = next((e for e in self._endings if e.call is call and isinstance(e, Withdrawn)), None)
                if ending is not None:
                    self._endings.remove(ending)  # here and now, as with the standard executors
                elif not any(e.call is call and isinstance(e, Withdrawn) for e in self._resolving):
                    return interrupt and not was_over
            assert future is not None, "it was not resolved yet"
            if ending is None:  # the I/O thread is at it
                with contextlib.suppress(CancelledError, TimeoutError):
                    future.exception(WORD_S)
                return future.cancelled()
            self._history.resolved(ending)
            future._end_cancelled()
            del self._calls[future]
        except BaseException:
            self._suspect = True
            self._poller.wake()
            raise
        return True

    def _await_word(self, call: Call) -> None:
        """Wait until a call that lies behind another is given back, or runs; at most WORD_S. With the lock held."""
        if not call.withdrawing:
            return
        if threading.get_ident() == (self._thread.ident if self._thread else 0):
            self._apply(CancelOverdue(call))  # nobody else reads the answer
            return
        over_s = time.monotonic() + WORD_S
        self._n_cancelling += 1
        try:
            while call.withdrawing and not call.resolved and (left_s := over_s - time.monotonic()) > 0:
                self._word.wait(left_s)
        finally:
            self._n_cancelling -= 1
        self._check_books()
        if call.withdrawing and not call.resolved:
            self._apply(CancelOverdue(call))

    def shutdown(self, *, wait: bool, cancel_queued: bool, why: str = "shutdown") -> None:
        """Take no more calls; let the I/O thread end after the last one. Repeatable.

        Args:
            wait: return after every future is resolved and its callbacks have run.
            cancel_queued: calls that were not sent are cancelled.
            why: for the message that refuses later calls.
        """
        self._end(Shutdown(cancel_queued), why)
        thread = self._thread
        if wait and thread is not None and thread.ident not in (None, threading.get_ident()) and not self._inside():
            thread.join()

    def terminate(self) -> None:
        """Take no more calls, and end those that are there: what was not sent is cancelled, the rest fails. Repeatable.

        Returns at once; the workers end a moment later, and the I/O thread with them.
        """
        self._end(Terminate(), "shutdown")

    def _end(self, event: Shutdown | Terminate, why: str) -> None:
        if self._inside():
            self._shut = self._shut or why
            self._note(event)
            return
        with self._lock:
            self._shut = self._shut or why
            thread = self._thread
            if thread is not None and not self._drained:
                self._check_books()
                self._apply(event)
        if thread is None:
            self._say_over()

    def abandon(self) -> None:
        """Shut down without waiting; safe in a garbage collection, which may come while this thread holds the lock."""
        self._shut = self._shut or "the executor was collected"
        self._abandoned = True
        if self._thread is not None:
            self._poller.wake()

    def statistics(self) -> dict[str, int]:
        """Counters of calls, workers and sessions since the start."""
        with self._lock:
            statistics = self._core.statistics()
            for counter in ("submitted", "dispatched", "answered"):
                statistics[counter] += self._lane.answered()
            return statistics

    def media(self) -> list[str]:
        """What each channel to a worker runs over: shm, unix, tcp; empty before the first."""
        with self._lock:
            return [] if self._thread is None else self._ports.media()

    @property
    def session_pid(self) -> int | None:
        """Pid of the session process, while we are connected to one; for people and tests."""
        return None if self._thread is None else self._session.session_pid

    def forget_in_forked_child(self, error: BaseException) -> None:
        """Make a forked child's copy harmless: its descriptors are closed, its futures fail, new calls are refused.

        The parent's lock may be held by a thread that does not exist here, so nothing waits for it.
        """
        self._lock = threading.RLock()
        self.over = StandardFuture()
        self._functions_lock = threading.RLock()
        lent = self._lane.forget()
        self._shut = lifetime.FORKED
        if self._thread is None:
            return
        self._thread = None
        lifetime.drop_descriptors(self._ports.descriptors())
        self._session.close_in_forked_child()
        self._poller.close()
        for future in (*self._calls, *lent):
            future._fail_in_forked_child(error)
