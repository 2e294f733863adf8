"""The I/O of one executor: a lock around the core, one thread that waits for channels and session process.

Any thread may submit: it sends by itself if a worker idles, so no other thread has to wake up. All else (reading,
decoding results, callbacks) happens in the I/O thread, which starts with the first call. Must not decide anything about
calls: `rfaas.client.core` does. Locks: this one first, then a future's; user code never runs under either.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from rfaas.client import lifetime, session_events
from rfaas.client.core import ClientCore
from rfaas.client.events import (
    Call,
    Cancel,
    ChannelEnded,
    ChannelInfo,
    ChannelOpened,
    CloseChannel,
    Connect,
    Deliver,
    Dispatch,
    Drained,
    Effect,
    Event,
    Fail,
    FrameArrived,
    Requeued,
    SendFailed,
    SendWant,
    SessionFailed,
    SessionLost,
    SessionUp,
    Shutdown,
    Submit,
    Tick,
    Withdrawn,
)
from rfaas.client.futures import Future
from rfaas.client.history import History
from rfaas.client.joining import Joiner
from rfaas.client.port import Port
from rfaas.client.serial import Definition, FunctionCache, Segments, as_serialization_error, dump_arguments, load_result
from rfaas.config import CallSettings, ExecutorConfig
from rfaas.session.connection import SessionConnection, SessionEnded
from rfaas_transport._core import Channel, Poller
from rfaas_transport.errors import (
    ChannelBroken,
    ChannelClosed,
    NoCredit,
    PayloadTooLarge,
    ProtocolError,
    RfaasError,
)
from rfaas_transport.frame import Kind

EXECUTOR: Final = 1  # number of our only executor at the session process
SESSION_TOKEN: Final = 0
LEAVE_WAIT_S: Final = 1.0  # for the embedded session process to take its leave after ours

_log = logging.getLogger(__name__)


class Work:
    """What a call needs on this side: its future, and what is sent."""

    __slots__ = ("definition", "future", "segments")

    def __init__(self, future: Future[Any], definition: Definition, segments: Segments) -> None:
        self.future = future
        self.definition = definition
        self.segments = segments


Ending = Deliver | Fail | Withdrawn  # effects that resolve a future


class Engine:
    """Runs the calls of one executor.

    Args:
        config: of the executor.
    """

    def __init__(self, config: ExecutorConfig) -> None:
        self.config = config
        self.client_id = os.urandom(16)
        self._lock = threading.Lock()
        self._core = ClientCore(config.max_workers, config.acquire_timeout_s)
        self._functions = FunctionCache()
        self._functions_lock = threading.RLock()  # pickling runs the user's code, which may submit too
        self._history = History(self.client_id)
        self._ports: dict[int, Port] = {}  # by channel number
        self._ports_by_token: dict[int, Port] = {}
        self._last_token = SESSION_TOKEN
        self._endings: deque[Ending] = deque()  # left by submitting threads for the I/O thread
        self._connection: SessionConnection | None = None
        self._want: int | None = None  # not told yet
        self._connect: Connect | None = None  # not begun yet
        self._joiner = Joiner(config, self.client_id, EXECUTOR)
        self._poller: Poller | None = None
        self._thread: threading.Thread | None = None
        self._wake_by_s = float("inf")  # when the I/O thread wakes up by itself
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
        """
        self._refuse_if_shut()
        future: Future[Any] = Future()
        try:
            with self._functions_lock:
                definition, applied = self._functions.define(function)
            segments = dump_arguments((function, args, kwargs), {}) if applied else dump_arguments(args, kwargs)
        except Exception as error:  # as in the standard executors, what can't be pickled is the future's error
            future._end(None, as_serialization_error(error))
            return future
        call = Call(Work(future, definition, segments), settings)
        future._withdraw = lambda: self._withdraw(call)
        with self._lock:
            self._refuse_if_shut()
            if self._thread is None:
                self._start()
            self._history.submit(call, self._core.last_inv + 1)
            self._endings += self._apply(Submit(call))
            self._wake_if_needed()
        return future

    def _refuse_if_shut(self) -> None:
        if self._shut:
            raise RuntimeError(f"cannot schedule new futures after {self._shut}")

    def _withdraw(self, call: Call) -> bool:
        """Take a call out of the queue; True: it will never run, and its future is the caller's to resolve."""
        with self._lock:
            mine: list[Ending] = []
            for ending in self._apply(Cancel(call)):
                (mine if ending.call is call else self._endings).append(ending)
            if mine:
                self._history.resolved(mine[0])
            self._wake_if_needed()
            return bool(mine)

    def shutdown(self, *, wait: bool, cancel_queued: bool, why: str = "shutdown") -> None:
        """Take no more calls; let the I/O thread end after the last one. Repeatable.

        Args:
            wait: return after every future is resolved and its callbacks have run.
            cancel_queued: calls that were not sent are cancelled.
            why: for the message that refuses later calls.
        """
        with self._lock:
            self._shut = self._shut or why
            thread = self._thread
            if thread is not None and not self._drained:
                self._endings += self._apply(Shutdown(cancel_queued))
                self._wake()
        if wait and thread is not None and thread is not threading.current_thread():
            thread.join()

    def abandon(self) -> None:
        """Shut down without waiting; safe in a garbage collection, which may come while this thread holds the lock."""
        self._shut = self._shut or "the executor was collected"
        self._abandoned = True
        if self._poller is not None:
            self._poller.wake()

    def statistics(self) -> dict[str, int]:
        """Counters of calls, workers and sessions since the start."""
        with self._lock:
            return self._core.statistics()

    def worker_node_names(self) -> list[str]:
        """Nodes of the workers that this executor has now, one entry a worker."""
        with self._lock:
            return [port.info.node for port in self._ports.values()]

    # --- effects, under the lock ------------------------------------------------------------------

    def _apply(self, event: Event) -> list[Ending]:
        """Step the core and do what it asks; returns the futures to resolve, which needs the lock released."""
        endings: list[Ending] = []
        events = deque([event])
        while events:
            for effect in self._core.step(events.popleft(), time.monotonic()):
                if isinstance(effect, Dispatch):
                    failed = self._send(effect)
                    if failed is not None:
                        events.append(failed)
                elif isinstance(effect, Deliver | Fail | Withdrawn):
                    endings.append(effect)
                else:
                    self._note(effect)
        return endings

    def _note(self, effect: Effect) -> None:
        if isinstance(effect, Requeued):
            effect.call.work.future._mark_pending()
        elif isinstance(effect, SendWant):
            self._want = effect.workers
        elif isinstance(effect, CloseChannel):
            self._close_port(effect.channel)
        elif isinstance(effect, Connect):
            self._connect = effect
        elif isinstance(effect, Drained):
            self._drained = True

    def _send(self, dispatch: Dispatch) -> SendFailed | None:
        port = self._ports.get(dispatch.channel)
        if port is None:
            error: RfaasError = ChannelClosed("the channel is closed")
            return SendFailed(dispatch.channel, dispatch.call_id, error, broken=True)
        work: Work = dispatch.call.work
        work.future._mark_running()
        self._history.sent(dispatch, port.info)
        try:
            port.send_call(dispatch, work.definition, work.segments)
        except (PayloadTooLarge, ValueError) as unsendable:
            error = unsendable if isinstance(unsendable, RfaasError) else ProtocolError(str(unsendable))
            return SendFailed(dispatch.channel, dispatch.call_id, error, broken=False)
        except (NoCredit, ChannelClosed, ChannelBroken) as unusable:
            return SendFailed(dispatch.channel, dispatch.call_id, unusable, broken=True)
        if port.channel.wants_write:
            self._watch_write(port)
        return None

    def _watch_write(self, port: Port) -> None:
        assert self._poller is not None
        if not port.writing:
            port.writing = True
            self._poller.want_write(port.channel.fileno(), True)

    def _close_port(self, number: int) -> None:
        port = self._ports.pop(number, None)
        if port is not None:
            self._unwatch(port)

    def _unwatch(self, port: Port) -> None:
        if self._ports_by_token.pop(port.token, None) is not None:
            assert self._poller is not None
            self._poller.remove(port.channel.fileno())
            port.channel.close()

    def _wake_if_needed(self) -> None:
        """Wake the I/O thread if it would sleep over something: a wish for the session process, a timer, an ending."""
        due_s = self._core.next_due_s()
        sleeps_too_long = due_s is not None and due_s < self._wake_by_s
        if self._endings or self._want is not None or self._connect is not None or self._drained or sleeps_too_long:
            self._wake()

    def _wake(self) -> None:
        if self._poller is not None:
            self._poller.wake()

    # --- the I/O thread -----------------------------------------------------------------------------

    def _start(self) -> None:
        lifetime.register(self)
        self._poller = Poller()
        self._joiner.notify = self._poller.wake
        self._thread = threading.Thread(target=self._run, name="rfaas-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        assert self._poller is not None
        try:
            while not self._turn(self._poller):
                pass
        except BaseException as error:  # a fault of ours; no future may wait for ever because of it
            _log.exception("the I/O thread of an executor failed; its calls fail with it")
            self._fail_all(error)
        finally:
            self._leave()

    def _fail_all(self, cause: BaseException) -> None:
        with self._lock:
            self._shut = self._shut or "a failure inside rfaas, see the log"
            works = [call.work for call in self._core.unresolved()] + [ending.work for ending in self._endings]
        for work in works:
            error = RfaasError("rfaas failed in this process; see the log", may_have_run=True)
            error.__cause__ = cause
            work.future._end(None, error)

    def _turn(self, poller: Poller) -> bool:
        """Do what is due, then wait for what comes; True: nothing is left to do."""
        with self._lock:
            endings = [*self._endings, *self._apply(Shutdown() if self._abandoned else Tick())]
            self._endings.clear()
            drained = self._drained
        self._resolve(endings)
        self._take_joined()
        self._tell_session()
        if drained:
            return True
        for token in poller.wait(self._sleep_s()):
            if token == SESSION_TOKEN:
                self._serve_session()
            else:
                self._serve_channel(token)
        return False

    def _sleep_s(self) -> float | None:
        """How long to wait at most; from here on, who brings something earlier must wake us."""
        with self._lock:
            due_s = self._core.next_due_s()
            self._wake_by_s = float("inf") if due_s is None else due_s
            if self._endings or self._want is not None or self._connect is not None or self._drained:
                return 0.0
            return None if due_s is None else max(0.0, due_s - time.monotonic())

    def _step(self, event: Event) -> None:
        """Step the core from the I/O thread, and resolve what it ends."""
        with self._lock:
            endings = self._apply(event)
        self._resolve(endings)

    def _resolve(self, endings: list[Ending]) -> None:
        """Resolve futures: decodes results and runs callbacks, so no lock is held."""
        for ending in endings:
            work: Work = ending.work
            self._history.resolved(ending)
            if isinstance(ending, Withdrawn):
                work.future._end_cancelled()
            elif isinstance(ending, Fail):
                work.future._end(None, ending.error)
            else:
                self._deliver(ending, work.future)

    def _deliver(self, ending: Deliver, future: Future[Any]) -> None:
        try:
            value = load_result(ending.frame.status, ending.frame.segments)
        except BaseException as error:  # the function's own; a KeyboardInterrupt raised there is a result here
            if isinstance(error, RfaasError) and not error.node:
                error.node, error.attempt = ending.info.node, ending.call.attempt
            future._end(None, error)
        else:
            future._end(value, None)

    # --- channels -----------------------------------------------------------------------------------

    def _open_channel(self, info: ChannelInfo, descriptor: int) -> None:
        try:
            channel = Channel.from_fd(descriptor)
        except (OSError, ValueError) as error:  # its calls will wait for another worker
            _log.error("channel %d can't be used: %s", info.number, error)
            session_events.close_all([descriptor])
            return
        with self._lock:
            assert self._poller is not None
            self._last_token += 1
            port = Port(info, channel, self._last_token)
            self._ports[info.number] = port
            self._ports_by_token[port.token] = port
            self._poller.add(channel.fileno(), port.token)
            endings = self._apply(ChannelOpened(info))
        self._resolve(endings)

    def _serve_channel(self, token: int) -> None:
        with self._lock:
            port = self._ports_by_token.get(token)
            endings = self._read(port) if port is not None else []
        self._resolve(endings)

    def _read(self, port: Port) -> list[Ending]:
        """Take what has arrived on a channel, to its end if it has one."""
        assert self._poller is not None
        endings: list[Ending] = []
        try:
            while (frame := port.channel.poll()) is not None:
                if frame.kind == Kind.FETCH:
                    port.answer_fetch(frame)
                endings += self._apply(FrameArrived(port.info.number, frame))
                if port.channel.closed:
                    return endings
            if port.channel.wants_write != port.writing:
                port.writing = port.channel.wants_write
                self._poller.want_write(port.channel.fileno(), port.writing)
        except (ChannelClosed, ChannelBroken, ProtocolError) as end:
            if isinstance(end, ProtocolError):
                _log.error("channel %d: %s", port.info.number, end)
            self._unwatch(port)
            endings += self._apply(ChannelEnded(port.info.number))
        return endings

    # --- the session process ------------------------------------------------------------------------

    def _take_joined(self) -> None:
        """Begin to join a session process if the core wants one; take over what came of it."""
        with self._lock:
            connect, self._connect = self._connect, None
        if connect is not None:
            self._joiner.begin(connect)
        joined = self._joiner.take()
        if isinstance(joined, SessionConnection):
            self._connection = joined
            assert self._poller is not None
            self._poller.add(joined.fileno(), SESSION_TOKEN)
            self._step(SessionUp(embedded=joined.mode == "embedded"))
        elif joined is not None:
            self._step(SessionFailed(joined))

    def _tell_session(self) -> None:
        """Tell the newest target."""
        with self._lock:
            workers, self._want = self._want, None
        if workers is None or self._connection is None:
            return
        config = self.config
        want = {"m": "want", "executor": EXECUTOR, "workers": workers}
        try:
            self._connection.send({**want, "cores": config.cores, "memory_bytes": config.memory_bytes})
            self._watch_session_write()
        except SessionEnded:
            self._lose_session()

    def _watch_session_write(self) -> None:
        if self._connection is not None and self._poller is not None:
            self._poller.want_write(self._connection.fileno(), self._connection.wants_write)

    def _serve_session(self) -> None:
        try:
            while self._connection is not None:
                if self._connection.wants_write:
                    self._connection.flush()
                    self._watch_session_write()
                received = self._connection.receive()
                if received is None:
                    return
                self._on_message(*received)
        except (SessionEnded, ProtocolError) as end:
            _log.debug("session connection ended: %s", end)
            self._lose_session()

    def _on_message(self, message: dict[str, Any], descriptors: list[int]) -> None:
        try:
            event = session_events.parse(message)
        except (KeyError, TypeError, ValueError) as error:
            session_events.close_all(descriptors)
            raise ProtocolError(f"message {message.get('m')!r} of the session process: {error!r}") from error
        if isinstance(event, ChannelOpened) and descriptors:
            self._open_channel(event.info, descriptors.pop(0))
        elif event is not None and not isinstance(event, ChannelOpened):
            session_events.log_news(event)
            self._step(event)
        session_events.close_all(descriptors)

    def _lose_session(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self._poller is not None:
            self._poller.remove(connection.fileno())
            connection.close()
        self._step(SessionLost())

    # --- the end ------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Give everything back. The embedded session process ends then; wait for it, so that nothing is left behind."""
        self._joiner.close()
        with self._lock:
            for number in list(self._ports):
                self._close_port(number)
        connection, self._connection = self._connection, None
        if connection is not None and self._poller is not None:
            with contextlib.suppress(SessionEnded):
                connection.send({"m": "leave"})
                session_events.wait_for_end(connection, self._poller, LEAVE_WAIT_S)
            connection.close()
        with self._lock:
            if self._poller is not None:
                self._poller.close()
                self._poller = None

    def forget_in_forked_child(self, error: BaseException) -> None:
        """Make a forked child's copy harmless: its descriptors are closed, its futures fail, new calls are refused.

        The parent's lock may be held by a thread that does not exist here, so nothing waits for it.
        """
        self._lock = threading.Lock()
        self._functions_lock = threading.RLock()
        self._shut = lifetime.FORKED
        lifetime.drop_descriptors([port.channel.fileno() for port in self._ports.values() if not port.channel.closed])
        if self._connection is not None:
            self._connection.close()
        if self._poller is not None:
            self._poller.close()
            self._poller = None
        works = [call.work for call in self._core.unresolved()] + [ending.work for ending in self._endings]
        for work in works:
            if work is not None:
                work.future._fail_in_forked_child(error)
        self._thread = None
