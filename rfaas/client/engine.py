"""The I/O of one executor: a lock around the core, one thread that waits for channels and session process.

Any thread may submit: it sends by itself if a worker idles, so no other thread has to wake up. All else (reading,
decoding results, callbacks) happens in the I/O thread, which starts with the first call. Must not decide anything about
calls: `rfaas.client.core` does. Locks: this one first, then a future's; user code never runs under either.

A KeyboardInterrupt can hit the main thread between any two lines, while it holds the lock too. Then `_mid_step` stays
set, and whoever steps next puts the books in order (`_recover`) from what is certain: the futures that have no end, and
the credits that the channels have really spent. A finalizer or a signal handler can hit there too, and submit or cancel
by itself: what comes from inside is left as a note to the I/O thread.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future as StandardFuture
from concurrent.futures import InvalidStateError
from typing import Any

from rfaas.client import lifetime, session_events
from rfaas.client.applying import Initializer, leave
from rfaas.client.chores import Chores
from rfaas.client.core import ClientCore
from rfaas.client.endings import Ending, is_retried, resolve, why_broken
from rfaas.client.events import (
    Break,
    Broke,
    Call,
    Cancel,
    ChannelEnded,
    ChannelOpened,
    CloseChannel,
    Connect,
    Deliver,
    Dispatch,
    Drained,
    Effect,
    Event,
    Examine,
    Examined,
    Fail,
    FrameArrived,
    Requeued,
    SendFailed,
    SendInterrupt,
    SendWant,
    SessionLost,
    Shutdown,
    Starving,
    Submit,
    TellReclaim,
    Terminate,
    Tick,
    Withdrawn,
)
from rfaas.client.futures import Future
from rfaas.client.history import History
from rfaas.client.mismatch import Differs, Mismatches
from rfaas.client.output_sinks import sink
from rfaas.client.port import Port
from rfaas.client.ports import SESSION_TOKEN, Ports, Work
from rfaas.client.printouts import Printed, PrintedAll, Printouts
from rfaas.client.reclaims import Reclaims
from rfaas.client.serial import FunctionCache, as_serialization_error, check_size, define_chore, dump_arguments
from rfaas.client.session_link import SessionLink
from rfaas.client.shipping import Bundle
from rfaas.config import CallSettings, ExecutorConfig
from rfaas_transport._core import Channel, Poller
from rfaas_transport.errors import Cancelled, ChannelBroken, ChannelClosed, ProtocolError, RfaasError
from rfaas_transport.frame import Kind

_log = logging.getLogger(__name__)


class Engine:
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
        self._client_id = os.urandom(16)
        self._config = config
        self._lock = threading.RLock()
        self._initializer_name = getattr(initializer, "__qualname__", repr(initializer))
        first = None if initializer is None else define_chore(Initializer(initializer), initargs, files)
        chores = Chores(
            initializer=None if first is None else Work(None, *first),
            leave=None if max_calls is None else Work(None, *define_chore(leave, ())),
            max_calls=max_calls,
        )
        self._core = ClientCore(config.max_workers, config.acquire_timeout_s, chores=chores)
        # What an initializer of the main program sets there, on each worker, is for the functions that come after it.
        self._functions = FunctionCache(adopting=getattr(initializer, "__module__", "") == "__main__", files=files)
        self._functions_lock = threading.RLock()  # pickling runs the user's code, which may submit too
        self._history = History(self._client_id)
        output = config.output
        self._printouts = Printouts(sink(output, self._client_id), output.prefix, output.limit_bytes)
        self._mismatches = Mismatches()
        self._numbers = itertools.count(1)  # of calls
        self._calls: dict[Future[Any], Call] = {}  # every future that is not resolved
        self._endings: deque[Ending] = deque()  # for the I/O thread to carry out
        self._resolving: list[Ending] = []  # which it carries out now
        self._examinations: deque[Examine] = deque()  # exceptions for the I/O thread to look at
        self._interrupts: deque[SendInterrupt] = deque()  # not told yet
        self.reclaims = Reclaims()
        self._notes: deque[Event] = deque()  # from inside, see above
        self._broke: Broke | None = None  # not looked into yet
        self._broken: RfaasError | None = None
        self.over: StandardFuture[None] = StandardFuture()  # done when the I/O thread has done its last
        self._mid_step = False
        self._suspect = False  # as _mid_step, set without the lock
        self._want: int | None = None  # not told yet
        self._connect: Connect | None = None  # not begun yet
        self._thread: threading.Thread | None = None  # with it, the poller and what hangs on it
        self._poller: Poller
        self._ports: Ports
        self._session: SessionLink
        self._asleep = False  # the I/O thread waits for channels, or is about to
        self._wake_by_s = float("inf")  # and wakes up by itself at this time
        self._shut = ""  # why no call is taken any more
        self._abandoned = False  # the executor was collected: set without the lock
        self._drained = False

    # --- any thread -----------------------------------------------------------------------------

    def submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], settings: CallSettings
    ) -> Future[Any]:
        """Queue a call, and send it now if a worker idles. Never waits for anybody.

        Raises:
            RuntimeError: the executor, or the interpreter, shuts down; or this is a forked child. Nothing was queued.
            ExecutorBroken: no worker can be initialized. Nothing was queued.
        """
        self._refuse_if_shut()
        future: Future[Any] = Future()
        try:
            with self._functions_lock:
                definition, applied = self._functions.define(function)
                passed = self._functions.as_argument(function)
            segments = dump_arguments((passed, args, kwargs), {}) if applied else dump_arguments(args, kwargs)
            if self._config.payload_limit_bytes is not None:
                check_size(segments, self._config.payload_limit_bytes)
        except Exception as error:  # as in the standard executors, what can't be pickled is the future's error
            future._end(None, as_serialization_error(error))
            return future
        call = Call(next(self._numbers), Work(future, definition, segments), settings)
        future._withdraw = lambda interrupt: self._withdraw(call, interrupt)
        if self._inside():
            self._note(Submit(call))
            return future
        with self._lock:
            self._refuse_if_shut()
            if self._thread is None or self._thread.ident is None:  # not started, or interrupted before it was
                self._start()
            self._check_books()
            self._apply(Submit(call))
        return future

    def _inside(self) -> bool:
        """True if this thread holds the lock: a finalizer or a signal handler has interrupted it."""
        return self._lock._is_owned()  # type: ignore[attr-defined,no-any-return]  # as threading.Condition itself does

    def _note(self, event: Event) -> None:
        """Leave an event to the I/O thread."""
        self._notes.append(event)
        if self._thread is not None:
            self._poller.wake()

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
        try:
            with self._lock:
                self._check_books()
                was_over = call.resolved
                self._apply(Cancel(call, interrupt))
                ending = next((e for e in self._endings if e.call is call and isinstance(e, Withdrawn)), None)
                if ending is None:
                    return interrupt and not was_over
                self._endings.remove(ending)  # here and now, as with the standard executors
            self._history.resolved(ending)
            future: Future[Any] = call.work.future
            future._end_cancelled()
            del self._calls[future]
        except BaseException:
            self._suspect = True
            self._poller.wake()
            raise
        return True

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

    def _say_over(self) -> None:
        with contextlib.suppress(InvalidStateError):
            self.over.set_result(None)

    def abandon(self) -> None:
        """Shut down without waiting; safe in a garbage collection, which may come while this thread holds the lock."""
        self._shut = self._shut or "the executor was collected"
        self._abandoned = True
        if self._thread is not None:
            self._poller.wake()

    def statistics(self) -> dict[str, int]:
        """Counters of calls, workers and sessions since the start."""
        with self._lock:
            return self._core.statistics()

    @property
    def session_pid(self) -> int | None:
        """Pid of the session process, while we are connected to one; for people and tests."""
        return None if self._thread is None else self._session.session_pid

    # --- effects, under the lock ------------------------------------------------------------------

    def _apply(self, event: Event) -> None:
        """Step the core and do what it asks. Futures to resolve are left to the I/O thread, woken if it is asleep.

        Whoever has just taken the lock calls `_check_books` before.
        """
        self._mid_step = True
        try:
            if isinstance(event, Submit):
                self._calls[event.call.work.future] = event.call
                self._history.submit(event.call)
            self._do(self._core.step(event, time.monotonic()))
        except BaseException:
            self._poller.wake()  # the I/O thread recovers, for nobody else may come
            raise
        self._mid_step = False

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:  # grows while it is read: a dispatch that fails has effects of its own
            if isinstance(effect, Dispatch):
                failed = self._send(effect)
                if failed is not None:
                    effects += self._core.step(failed, time.monotonic())
            elif isinstance(effect, Deliver | Fail | Withdrawn):
                self._endings.append(effect)
            elif isinstance(effect, Examine):
                self._examinations.append(effect)
            else:
                self._keep(effect)
        if self._asleep and self._is_wanted_by_s(self._wake_by_s):
            self._asleep = False
            self._poller.wake()

    def _send(self, dispatch: Dispatch) -> SendFailed | None:
        port = self._ports.get(dispatch.channel)
        if port is None:
            return SendFailed(dispatch.channel, dispatch.call_id, ChannelClosed("the channel is closed"), broken=True)
        work: Work = dispatch.call.work
        if work.future is not None:
            work.future._mark_running()
            self._history.sent(dispatch, port.info)
        return self._ports.send(port, dispatch, work)

    def _keep(self, effect: Effect) -> None:
        if isinstance(effect, Broke):
            self._broke = effect
        elif isinstance(effect, Requeued):
            effect.call.work.future._mark_pending()
        elif isinstance(effect, Starving):
            _log.warning("%d calls wait, and there is no worker: %s", effect.n_calls, effect.why or "nobody says why")
        elif isinstance(effect, SendWant):
            self._want = effect.workers
        elif isinstance(effect, SendInterrupt):
            self._interrupts.append(effect)
        elif isinstance(effect, TellReclaim):
            self.reclaims.tell(effect.notice)
        elif isinstance(effect, CloseChannel):
            self._ports.close(effect.channel)
        elif isinstance(effect, Connect):
            self._connect = effect
        elif isinstance(effect, Drained):
            self._drained = True

    def _is_wanted_by_s(self, time_s: float) -> bool:
        """True if the I/O thread has something to do before this time."""
        if self._endings or self._notes or self._drained or self._broke is not None:
            return True
        if self._examinations or self._interrupts or self._want is not None or self._connect is not None:
            return True
        due_s = self._core.next_due_s()
        return due_s is not None and due_s < time_s

    def _check_books(self) -> None:
        """Put the books in order if an exception interrupted the last step (see the top of this file).

        Not between reading a frame and applying it: the channel has counted its credit, the core has not.
        """
        if self._mid_step or self._suspect:
            self._recover()

    def _recover(self) -> None:
        self._suspect = False
        held = [ending for ending, _ in list(self._printouts.held.values())]
        known = {id(ending.call) for ending in (*self._endings, *self._resolving, *held)}
        for call in list(self._calls.values()):
            if call.resolved and id(call) not in known:  # how it was to end is not known any more
                error = Cancelled("interrupted while it was resolved", may_have_run=True)
                ran = call.call_id or call.may_have_run
                self._endings.append(Fail(call, error) if ran else Withdrawn(call))
        unresolved = [call for call in self._calls.values() if not call.resolved]
        for call in unresolved:
            self._history.submit(call)
        is_joining = self._connect is not None or self._session.joining
        effects = self._core.recover(unresolved, self._ports.credits(), time.monotonic(), is_joining=is_joining)
        self._mid_step = False
        self._do(effects)

    # --- the I/O thread -----------------------------------------------------------------------------

    def _start(self) -> None:
        lifetime.register(self)
        self._poller = Poller()
        self._ports = Ports(self._poller, self._config.payload_limit_bytes or 0)
        self._session = SessionLink(self._config, self._client_id, self._poller)
        self._thread = threading.Thread(target=self._run, name="rfaas-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        if threading.current_thread() is not self._thread:
            return  # its start was interrupted, and another one took its place
        try:
            while not self._turn():
                pass
        except BaseException as error:  # a fault of ours; no future may wait for ever because of it
            _log.exception("the I/O thread of an executor failed; its calls fail with it")
            self._fail_all(error)
        finally:
            try:
                self._leave()
            finally:
                self._say_over()  # whatever went wrong: somebody may await it

    def _turn(self) -> bool:
        """Do what is due, then wait for what comes; True: nothing is left to do."""
        if self._abandoned:
            self._abandoned = False
            self._step(Shutdown())
        self._step(Tick())
        while self._notes:
            self._step(self._notes.popleft())
        if self._broke is not None:
            self._look_into(self._broke)
        self._tell_session()
        if self._drained and not self._endings and not self._printouts.held:
            return True
        tokens = self._poller.wait(self._sleep_s())
        self._asleep = False
        for token in tokens:
            if token == SESSION_TOKEN:
                self._serve_session()
            else:
                self._serve_channel(token)
        return False

    def _sleep_s(self) -> float | None:
        """How long to wait at most; from here on, who brings something earlier must wake us."""
        with self._lock:
            if self._mid_step or self._suspect or self._is_wanted_by_s(0.0):
                return 0.0
            due_s = min(filter(None, (self._core.next_due_s(), self._printouts.due_s())), default=None)
            self._wake_by_s = float("inf") if due_s is None else due_s
            self._asleep = True
            return None if due_s is None else max(0.0, due_s - time.monotonic())

    def _step(self, event: Event) -> None:
        """Step the core from the I/O thread, and resolve what has ended."""
        with self._lock:
            self._check_books()
            self._apply(event)
        self._resolve()

    def _resolve(self) -> None:
        """Resolve futures: decodes results and runs callbacks, so no lock is held."""
        now_s = time.monotonic()
        with self._lock:
            self._resolving = [*self._printouts.release(now_s), *self._endings]
            self._endings.clear()
        for ending in self._resolving:
            if self._printouts.holds(ending, now_s):
                continue
            future: Future[Any] = ending.call.work.future
            ending.call.work = None  # its arguments go, though a timer may still know the call
            self._history.resolved(ending)
            resolve(ending, future, self._config.payload_limit_bytes or 0)
            self._calls.pop(future, None)
        self._resolving = []
        while self._examinations:
            self._examine(self._examinations.popleft())

    def _examine(self, question: Examine) -> None:
        """Have a function's exception looked at: unpickles, so no lock is held."""
        self._step(Examined(question.call, question.frame, question.info, is_retried(question)))

    def _look_into(self, broke: Broke) -> None:
        """Find out why no worker can be initialized, and end what waits with that."""
        error = why_broken(broke, self._initializer_name)
        _log.error("%s", error.message)
        with self._lock:
            self._broke = None
            self._broken = error
        self._step(Break(error))

    def _serve_channel(self, token: int) -> None:
        with self._lock:
            self._check_books()
            port = self._ports.by_token(token)
            if port is not None:
                self._read(port)
        self._resolve()

    def _read(self, port: Port) -> None:
        """Take what has arrived on a channel, to its end if it has one."""
        try:
            while (frame := port.channel.poll()) is not None:
                if frame.kind == Kind.FETCH:
                    port.answer_fetch(frame)
                elif frame.kind == Kind.OUTPUT:
                    self._printouts.expect(port.info.number, frame.call_id)
                self._apply(FrameArrived(port.info.number, frame))
                if port.channel.closed:
                    return
            self._ports.watch_write(port)
        except (ChannelClosed, ChannelBroken, ProtocolError) as end:
            if isinstance(end, ProtocolError):
                _log.error("channel %d: %s", port.info.number, end)
            self._ports.end(port)
            self._apply(ChannelEnded(port.info.number))

    def _tell_session(self) -> None:
        """Begin to join a session process if the core wants one, take what came of that, tell the newest target."""
        with self._lock:
            connect, self._connect = self._connect, None
        if connect is not None:
            self._session.join(connect)
        joined = self._session.joined()
        if joined is not None:
            self._step(joined)
        with self._lock:
            workers, self._want = self._want, None
        lost = self._session.want(workers) if workers is not None else None
        while self._interrupts and lost is None:
            lost = self._session.interrupt(self._interrupts.popleft())
        if lost is not None:
            self._step(lost)

    def _serve_session(self) -> None:
        for event, descriptor in self._session.serve():
            if isinstance(event, Printed | PrintedAll):
                self._show(event)
            elif isinstance(event, Differs):
                self._mismatches.tell(event)
            elif isinstance(event, ChannelOpened) and descriptor is not None:
                self._open_channel(event, descriptor)
            else:
                if isinstance(event, SessionLost):
                    self._printouts.lost()
                self._step(event)

    def _show(self, event: Printed | PrintedAll) -> None:
        """Show what a function printed; results that waited for it follow."""
        self._printouts.take(event)
        if self._printouts.held:
            self._resolve()

    def _open_channel(self, event: ChannelOpened, descriptor: int) -> None:
        try:
            channel = Channel.from_fd(descriptor)
        except (OSError, ValueError) as error:  # its calls will wait for another worker
            _log.error("channel %d can't be used: %s", event.info.number, error)
            session_events.close_all([descriptor])
            return
        self._printouts.open(event.info)
        with self._lock:
            self._ports.open(event.info, channel)
        self._step(event)

    # --- the end ------------------------------------------------------------------------------------

    def _fail_all(self, cause: BaseException) -> None:
        with self._lock:
            self._shut = self._shut or "a failure inside rfaas, see the log"
            futures = list(self._calls)
        for future in futures:
            error = RfaasError("rfaas failed in this process; see the log", may_have_run=True)
            error.__cause__ = cause
            future._end(None, error)

    def _leave(self) -> None:
        with self._lock:
            self._drained = True
            self._ports.close_all()
        for event in self._notes:  # from the inside of the last step: nobody will do them
            if isinstance(event, Submit):
                event.call.work.future._end(None, RuntimeError(f"cannot schedule new futures after {self._shut}"))
        self.reclaims.close()
        self._session.leave()
        self._poller.close()

    def forget_in_forked_child(self, error: BaseException) -> None:
        """Make a forked child's copy harmless: its descriptors are closed, its futures fail, new calls are refused.

        The parent's lock may be held by a thread that does not exist here, so nothing waits for it.
        """
        self._lock = threading.RLock()
        self.over = StandardFuture()
        self._functions_lock = threading.RLock()
        self._shut = lifetime.FORKED
        if self._thread is None:
            return
        self._thread = None
        lifetime.drop_descriptors(self._ports.descriptors())
        self._session.close_in_forked_child()
        self._poller.close()
        for future in self._calls:
            future._fail_in_forked_child(error)
