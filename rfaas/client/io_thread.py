"""The thread of one executor that waits for channels and session process, decodes results and runs callbacks.

It starts with the first call and ends after the last one. Must not decide anything about calls.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import Future as StandardFuture
from concurrent.futures import InvalidStateError
from typing import Any

from rfaas.client import events, session_events
from rfaas.client.books import Books
from rfaas.client.chores import Chores
from rfaas.client.effects import Broke, Examine
from rfaas.client.endings import is_retried, resolve, why_broken
from rfaas.client.events import (
    Borrowed,
    Break,
    ChannelEnded,
    ChannelOpened,
    Event,
    Examined,
    FrameArrived,
    Lend,
    SessionLost,
    Shutdown,
    Submit,
    Tick,
)
from rfaas.client.futures import Future, serving
from rfaas.client.lane import segments_of
from rfaas.client.mismatch import Differs, Mismatches
from rfaas.client.opening import open_channel
from rfaas.client.port import Port
from rfaas.client.ports import SESSION_TOKEN, Ports, Work
from rfaas.client.printouts import Printed, PrintedAll
from rfaas.client.records import Call
from rfaas.client.safe_log import SafeLogger
from rfaas.client.serial import follows
from rfaas.client.session_link import SessionLink
from rfaas.config import ExecutorConfig
from rfaas_transport._core import Frame, Poller, Request
from rfaas_transport.errors import ChannelBroken, ChannelClosed, ProtocolError, RfaasError
from rfaas_transport.frame import Kind

_log = SafeLogger(__name__)


class IoThread(Books, ABC):
    """The thread with what hangs on it: poller, channels, session connection.

    Args:
        config: of the executor.
        chores: what workers do besides calls.
        initializer_name: of the function that each worker calls first, for messages.
        client_id: 16 random bytes.
    """

    def __init__(self, config: ExecutorConfig, chores: Chores, initializer_name: str, client_id: bytes) -> None:
        super().__init__(config, chores, client_id)
        self._client_id = client_id
        self._mismatches = Mismatches()
        self._initializer_name = initializer_name
        self._broken: RfaasError | None = None
        self.over: StandardFuture[None] = StandardFuture()  # done when the I/O thread has done its last
        self._shut = ""  # why no call is taken any more
        self._n_borrowed = 0  # calls on loan that the core was told of
        self._unusable: deque[tuple[bytes, str]] = deque()  # leases whose workers RDMA does not reach, and why
        self._abandoned = False  # the executor was collected: set without the lock

    def _start(self) -> None:
        self._poller = Poller()
        self._lane.open(self._poller)
        self._ports = Ports(self._poller, self._config.payload_limit_bytes or 0)
        self._session = SessionLink(self._config, self._client_id, self._poller)
        self._thread = threading.Thread(target=self._run, name="rfaas-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        if threading.current_thread() is not self._thread:
            return  # its start was interrupted, and another one took its place
        serving.ends = self._ends
        try:
            while not self._turn():
                pass
        except BaseException as error:  # a fault of ours; no future may wait for ever because of it
            self._fail_all(error)  # first: a handler of the program's may take its time
            _log.exception("the I/O thread of an executor failed; its calls fail with it")
        finally:
            try:
                self._leave()
            finally:
                self._say_over()  # whatever went wrong: somebody may await it

    def _ends(self, future: Future[Any]) -> bool:
        """True if only this thread can end a future."""
        return future in self._calls or (self._lane.lent and future.is_of(self._lane.borrowing))

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
        self._tend_lane()
        while self._unread:
            self._serve_channel(self._unread.popleft())
        self._look_at_tried()
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
            lane_s = self._lane.next_look_s(time.monotonic(), time.thread_time())
            due_s = min(filter(None, (*self._due_s(), lane_s)), default=None)
            self._wake_by_s = float("inf") if due_s is None else due_s
            self._asleep = True
            return None if due_s is None else max(0.0, due_s - time.monotonic())

    def _due_s(self) -> tuple[float | None, ...]:
        return self._core.next_due_s(), self._printouts.due_s(), self._ports.tried_until_s()

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
            room = ending.call.work.room
            ending.call.work = None  # its arguments go, though a timer may still know the call
            self._history.resolved(ending)
            resolve(ending, future, self._config.payload_limit_bytes or 0, room)
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
            if self._lane.may_lend(time.monotonic()):  # before the caller wakes up, and comes back
                self._lend_idle()
        if self._idles_beside_loan():
            self._bring_lane_back()  # for the worker that has just become idle
        self._resolve()

    def _read(self, port: Port) -> None:
        """Take what has arrived on a channel, to its end if it has one."""
        try:
            while (frame := port.channel.poll()) is not None:
                self._take(port, frame)
                if port.channel.closed:
                    return
            self._ports.watch_write(port)
        except (ChannelClosed, ChannelBroken, ProtocolError) as end:
            if isinstance(end, ProtocolError):
                _log.error("channel %d: %s", port.info.number, end)
            self._end_channel(port, str(end), broke=isinstance(end, ChannelBroken))

    def _end_channel(self, port: Port, why: str, *, broke: bool = True) -> None:
        if self._ports.has_failed(port):  # its worker is reached over another medium then
            self._unusable.append((port.info.lease, why))
        self._ports.end(port)
        self._apply(ChannelEnded(port.info.number, why if broke else ""))

    def _look_at_tried(self) -> None:
        """Give up channels over RDMA on which the worker is not heard in time."""
        for port in self._ports.overdue(time.monotonic()):
            with self._lock:
                self._check_books()
                self._end_channel(port, "nothing of the worker came over RDMA: the two devices may be on two fabrics")
            self._resolve()

    def _take(self, port: Port, frame: Frame) -> None:
        if frame.kind == Kind.FETCH:
            port.answer_fetch(frame)
        elif frame.kind == Kind.OUTPUT:
            self._printouts.expect(port.info.number, frame.call_id)
        self._apply(FrameArrived(port.info.number, frame))

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
            want, self._want = self._want, None
        lost = self._session.want(want) if want is not None else None
        while self._give_back and lost is None:  # after the want: else others would be given for them
            lost = self._session.give_back(self._give_back.popleft())
        while self._unusable and lost is None:
            lost = self._session.unusable(*self._unusable.popleft())
        while self._interrupts and lost is None:
            lost = self._session.interrupt(self._interrupts.popleft())
        if lost is not None:
            self._step(lost)

    def _lend_idle(self) -> None:
        """Lend the idle channels if somebody calls again and again; under the lock."""
        self._apply(Lend())
        self._lane.begin()

    def _tend_lane(self) -> None:
        """See to what is on loan, as often as that needs it."""
        awaited = self._lane.awaited()
        while awaited:
            awaited.popleft().settle()
        if self._lane.is_over(time.monotonic()) or self._idles_beside_loan():
            self._bring_lane_back()  # a worker that has come since, or was busy then, takes part in the next loan
        elif self._lane.waiting() and self._lane.outstanding() != self._n_borrowed:
            self._n_borrowed = self._lane.outstanding()
            self._step(Borrowed(self._n_borrowed))

    def _idles_beside_loan(self) -> bool:
        """True if calls wait for the workers on loan while another one is idle."""
        if not self._lane.waiting():
            return False
        with self._lock:
            return self._core.has_idle

    def _bring_lane_back(self) -> None:
        """End the loan, if there is one. Calls that were sent on it and not answered become ones like any other."""
        returned, waiting = self._lane.end()
        if not returned:
            return
        with self._lock:
            self._check_books()
            if self._n_borrowed:
                self._n_borrowed = 0
                self._apply(Borrowed(0))
            for request in waiting:  # first: without a call an executor that shuts down would end
                self._apply(Submit(self._adopt(request)))
            for one in returned:
                calls = tuple(self._adopt(request, one.call_id + i) for i, request in enumerate(one.requests))
                self._ports.watch(one.port)
                if one.port.channel.stay_awake(False):
                    self._unread.append(one.port.token)
                self._apply(events.Returned(one.port.info.number, one.n_calls, calls, one.credits))
                if one.frame is not None:
                    self._take(one.port, one.frame)
        self._resolve()

    def _adopt(self, request: Request, call_id: int = 0) -> Call:
        """The call of a borrower: sent as number `call_id`, or still to be sent."""
        future: Future[Any] = request.claim(Future())
        definition, settings, room = request.about
        work = Work(future, definition, segments_of(request.payload), room)
        call = Call(next(self._numbers), work, settings, call_id=call_id)
        call.follows = follows(definition, work.segments, settings)
        future._taken_over(
            lambda interrupt: self._withdraw(call, interrupt), running=call_id != 0 and not request.behind
        )
        self._calls[future] = call
        return call

    @abstractmethod
    def _withdraw(self, call: Call, interrupt: bool) -> bool:
        """Cancel a call; with what any thread may ask (`Engine`)."""

    def _serve_session(self) -> None:
        for event, descriptor in self._session.serve():
            if isinstance(event, Printed | PrintedAll):
                self._show(event)
            elif isinstance(event, Differs):
                self._mismatches.tell(event)
            elif isinstance(event, ChannelOpened) and descriptor is not None:
                self._bring_lane_back()
                self._open_channel(event, descriptor)
            else:
                self._bring_lane_back()  # what is said of channels is said of those that the core has
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
            channel = open_channel(event, descriptor, self._config)
        except (OSError, ValueError) as error:  # its calls will wait for another worker
            ended = isinstance(error, ConnectionError)  # the worker left first, as after a `resize`: nothing is wrong
            _log.log(logging.INFO if ended else logging.ERROR, "channel %d can't be used: %s", event.info.number, error)
            session_events.close_all([descriptor])
            if event.info.medium == "verbs":
                self._unusable.append((event.info.lease, str(error)))
            return
        self._printouts.open(event.info)
        with self._lock:
            self._ports.open(event.info, channel)
        self._step(event)

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
        self._lane.close()
        self.reclaims.close()
        self._session.leave()
        self._poller.close()

    def _say_over(self) -> None:
        with contextlib.suppress(InvalidStateError):
            self.over.set_result(None)
