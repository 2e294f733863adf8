"""A worker: serves calls on the channels that its agent hands it, until it is told to drain or its agent ends.

Must not listen, accept or dial, and never decides about leases. The template forks it (or, with threads in the
template, spawns it) in the user's own environment. Spec: docs/spec/001-invocation.md; messages: `control`.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import os
import platform
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import msgpack

from rfaas_executors import control
from rfaas_executors._hot_calls import HotCalls
from rfaas_executors._process import (
    HeldDescriptors,
    StatePage,
    install_quiet_signals,
    mark_process,
    put_back_surroundings,
)
from rfaas_executors.agent_line import AgentLine
from rfaas_executors.attending import attend, leave
from rfaas_executors.calls import NATIVE, PYTHON, Defined, Functions, Outcome, WorkerExit, failure, still_this_process
from rfaas_executors.context import CallContext, is_delivered
from rfaas_executors.family import reap_adopted
from rfaas_executors.streams import Streams
from rfaas_transport import array_memory, shared_memory, verbs
from rfaas_transport._core import Attendant, Channel, Frame, Poller
from rfaas_transport.current_call import end_current, set_current
from rfaas_transport.errors import ChannelBroken, ChannelClosed, PayloadTooLarge, ProtocolError, RfaasError
from rfaas_transport.frame import Kind, Status

if TYPE_CHECKING:
    from rfaas_executors._compiled import NativeFunction
    from rfaas_executors.native_calls import NativeCalls

CREDITS = 1  # calls that a channel may have here at once
MORE_CREDITS = 7  # that it may have once it is attended: enough that the next one is there when one ends
SOON_S = 0.0001  # who calls again and again calls within it, over a network too
TIDY_EVERY_NS = 1_000_000  # it does no longer wait for what is to be done after each call,
TIDY_SHARE = 20  # unless that took more than this part of the time, on a slow machine: then it does for so much longer,
TIDY_AT_LAST_NS = 20_000_000  # but never longer than this, since the agent is heard then too
LOOK_S = 0.0002  # how long one channel is polled before the agent and the others are looked at
HOT_PART_NS = 10_000_000  # polling is billed in parts: who is killed at it has paid for all but the last
MANY_CALLS = 8  # served since it woke: more will come, and the poller need not hear of each
FLUSH_S = 5.0  # for the last result to reach the peer's kernel; the agent's drain_s usually ends sooner
REAP_EVERY_CALLS = 32  # what detached itself and ended is reaped
_CONTROL = 0  # the poller's token of the control socket; channels use their descriptors


@dataclass(slots=True)
class Connection:
    """One channel with what was defined on it.

    Attributes:
        descriptor: of the connection that it was made of.
        parked: a call that waits for the function's blobs.
        behind: calls, and functions, that came after it.
        attendant: reads the channel while a function runs, once the client has asked for that.
    """

    channel: Channel
    descriptor: int
    number: int
    page_slot: int
    lease_seq: int
    epoch: int
    lease: str
    holder: str
    hot_for_s: float
    awake: bool = False  # polled without pause: its descriptor tells nothing
    n_hot: int = 0  # calls that were served since it is awake
    is_left_out: bool = False  # of the poller, while awake: what comes would be told to it first
    functions: dict[int, Defined] = field(default_factory=dict)
    parked: Frame | None = None
    awaited: int = 0  # blobs that it still waits for
    parked_at_ns: int = 0
    behind: deque[Frame] = field(default_factory=deque)
    attendant: Attendant | None = None
    hot: HotCalls | NativeCalls | None = None  # of the function that ran here last
    hot_identity: bytes = b""  # of that function


class Worker:
    """Owns the control socket, the state page and every channel it is given.

    Args:
        identity: `slot`, `generation`, `node` as the agent named them; sent in HELLO.
        streams: where its prints go; None: where they always went.
    """

    def __init__(
        self, agent: socket.socket, page: StatePage, identity: dict[str, Any], streams: Streams | None = None
    ) -> None:
        self._line = AgentLine(agent)
        self._page = page
        self._streams = streams or Streams(page)
        self._identity = identity
        self._pid = os.getpid()
        mark_process()
        self._functions = Functions(self._line, page)
        self._connections: dict[int, Connection] = {}  # by descriptor
        self._coming: dict[int, control.Message] = {}  # by descriptor: channels whose memory is still to come
        self._poller = Poller()
        self._held = HeldDescriptors()
        self._n_calls = 0  # since what detached itself was reaped
        self._untidy = False  # what is to be done after a call is still to be done
        self._tidied_at_ns = 0
        self._tidying_ns = 0  # of the CPU that it took the last time
        self._last = b""  # identity of the function that ran last
        self._told_of_deadlines = False
        self._event_log: Any = _event_log()

    def run(self) -> int:
        """Serve until drained, until the agent is lost or a function took away what that needs; return the status."""
        self._poller.add(self._line.fileno(), _CONTROL)
        for descriptor in (self._line.fileno(), *self._poller.descriptors):
            self._held.add(descriptor)
        try:
            while not self._line.draining:
                if self._untidy:
                    self._tidy_up()
                    continue
                tokens = self._sleep()
                if _CONTROL in tokens:  # before any call: it may say that none is to be taken
                    self._read_control()
                for token in tokens:
                    if token in self._coming:
                        self._accept(token)
                    elif token in self._connections and not self._line.draining:
                        self._serve(self._connections[token])
            if self._line.lost:
                self._give_back()
            self._flush()
            return 0
        except WorkerExit as request:
            still_this_process()
            self._page.say_last(request.why)
            return request.status
        except _ANYTHING:
            still_this_process()
            self._page.say_last(_BROKEN_FROM_WITHIN)  # first: what is below may fail likewise
            self._page.say_last(_BROKEN_FROM_WITHIN + traceback.format_exc().strip().rpartition("\n")[2].encode())
            raise
        finally:
            for connection in self._connections.values():
                leave(connection.attendant)

    def _sleep(self) -> list[int]:
        """Wait for agent and clients; who attends their channels rests meanwhile."""
        attendants = [one.attendant for one in self._connections.values() if one.attendant is not None]
        for attendant in attendants:
            attendant.rest()
        tokens = self._poller.wait(None)
        for attendant in attendants:
            attendant.resume()
        return tokens

    # --- the agent's side -----------------------------------------------------------------------

    def _read_control(self) -> None:
        """Take every message that waits, and the connections that came; never blocks."""
        self._line.read()
        for message, descriptor in self._line.take_handed() if self._line.handed else ():
            if self._line.draining:
                os.close(descriptor)
            elif message.get("medium") == "shm":
                self._coming[descriptor] = message
                self._poller.add(descriptor, descriptor)
            else:
                self._begin(message, descriptor)

    def _begin(self, message: control.Message, descriptor: int) -> None:
        """Make a channel of a connection; what is to be encrypted never is a plain one."""
        medium = message.get("medium")
        try:
            if medium == "verbs":
                channel = verbs.adopt(descriptor)
            else:
                channel = Channel.from_fd(descriptor, key=message["key"] if medium == "tls" else None)
        except (OSError, RfaasError, MemoryError):  # it can't be in this interpreter; the client gets a farewell
            os.close(descriptor)
            self._line.tell({"m": "closed", "channel": message["channel"]})
            return
        self._adopt(message, channel, descriptor)

    def _accept(self, descriptor: int) -> None:
        """Take the memory of a connection that is to be a channel over it, once the client has sent it."""
        try:
            channel = shared_memory.accept(descriptor)
        except (OSError, RfaasError, MemoryError):  # the client left, or it is no client of ours
            self._poller.remove(descriptor)
            os.close(descriptor)
            self._line.tell({"m": "closed", "channel": self._coming.pop(descriptor)["channel"]})
            return
        if channel is not None:
            self._poller.remove(descriptor)
            self._adopt(self._coming.pop(descriptor), channel, descriptor)

    def _adopt(self, message: control.Message, channel: Channel, descriptor: int) -> None:
        connection = Connection(
            channel,
            descriptor,
            message["channel"],
            message["page_slot"],
            message["lease_seq"],
            message["epoch"],
            message["lease"],
            message["holder"],
            message.get("hot_for_s", 0.0),
        )
        self._page.open(connection.page_slot, connection.number)
        self._connections[channel.fileno()] = connection
        self._poller.add(channel.fileno(), channel.fileno())
        self._held.add(descriptor)
        hello = {**self._identity, "pid": self._pid, "python": platform.python_version()}
        self._send(connection, Kind.HELLO, credits=CREDITS, segments=[msgpack.packb(hello)])

    # --- frames ---------------------------------------------------------------------------------

    def _serve(self, connection: Connection) -> None:
        """Handle what has come on one channel."""
        try:
            while not connection.channel.closed:
                frame = connection.channel.poll() if connection.hot is None else None  # else that is the shorter way
                frame = frame or self._look_for_frame(connection)
                if frame is None:
                    self._poller.want_write(connection.channel.fileno(), connection.channel.wants_write)
                    return
                self._handle(connection, frame)
                if self._line.draining:  # found out after a call, before its result went
                    return
        except (ChannelClosed, ChannelBroken):
            self._drop(connection)

    def _look_for_frame(self, connection: Connection) -> Frame | None:
        """Poll for a while what was just served, in the hope of its next call; None: sleep."""
        channel, hot_for_s = connection.channel, connection.hot_for_s
        if hot_for_s <= 0:
            return None
        if not connection.awake:
            connection.awake = True
            connection.n_hot = 0
            channel.stay_awake(True)
        start_ns = busy_ns = now_ns = time.monotonic_ns()
        before_ns = self._page.usage()[0]
        frame = None
        while frame is None and now_ns - busy_ns < hot_for_s * 1e9:
            frame = self._next_frame(connection, self._soon_s() if self._untidy else LOOK_S)
            now_ns = time.monotonic_ns()
            if now_ns - start_ns >= HOT_PART_NS:
                start_ns, before_ns = now_ns, self._account_hot(now_ns - start_ns, before_ns)
            if connection.hot is not None and connection.hot.n_calls:
                busy_ns = now_ns
                connection.n_hot += connection.hot.n_calls
                if connection.n_hot >= MANY_CALLS and not connection.is_left_out:
                    self._leave_out(connection)
            if self._untidy and self._may_tidy_up(frame, now_ns - busy_ns, now_ns - self._tidied_at_ns):
                self._tidy_up()
            if frame is None and (self._line.draining or self._poller.wait(0.0)):
                break
        self._account_hot(now_ns - start_ns, before_ns)
        if frame is None:
            connection.awake = False
            if connection.is_left_out:
                connection.is_left_out = False
                self._poller.add(channel.fileno(), channel.fileno())
            if channel.stay_awake(False):
                return channel.poll()
        return frame

    def _account_hot(self, awake_ns: int, before_ns: int) -> int:
        """Bill time spent awake, less what calls ran in it, `before_ns` at its start; return what they have run now."""
        running_ns: int = self._page.usage()[0]
        self._page.account_hot(max(0, awake_ns - (running_ns - before_ns)))
        return running_ns

    def _leave_out(self, connection: Connection) -> None:
        """Have the poller hear no more of a channel that is polled: the kernel tells it in the sender's time."""
        if connection.channel.medium != "shm":  # nobody rings there
            self._poller.remove(connection.channel.fileno())
            connection.is_left_out = True

    def _next_frame(self, connection: Connection, soon_s: float) -> Frame | None:
        """A frame that comes within `soon_s`, once the calls of the function that ran last are served."""
        hot = connection.hot
        if hot is None or connection.parked is not None:  # calls run in the order in which they came
            return connection.channel.spin(soon_s)
        if self._untidy and connection.hot_identity != self._last:  # no function meets what another one left
            self._tidy_up()
        came = hot.run(soon_s, self._tidy_every_ns())
        if hot.n_calls:
            self._untidy, self._last = True, connection.hot_identity
            self._n_calls += hot.n_calls - 1  # the tidying up counts one
        if not isinstance(came, tuple):
            return came
        frame, outcome, printed = came
        if outcome is None:
            self._give_up_interrupted(connection, frame)
        else:
            self._end_call(connection, frame, outcome, printed)
        return None

    def _handle(self, connection: Connection, frame: Frame) -> None:
        if connection.parked is not None and frame.kind in (Kind.CALL, Kind.DEFINE):
            connection.behind.append(frame)
            return
        try:
            if frame.kind == Kind.CALL:
                self._on_call(connection, frame)
            elif frame.kind == Kind.DEFINE:
                connection.hot = None
                connection.functions[frame.function] = self._functions.define(frame.segments[0], frame.segments[1:])
            elif frame.kind == Kind.BLOB:
                self._on_blob(connection, frame)
            elif frame.kind == Kind.TAKE_BACK:
                self._on_take_back(connection, frame)
            elif frame.kind not in (Kind.CREDIT, Kind.ERROR, Kind.BYE):
                self._refuse(connection, frame, f"a worker takes no frame of kind {frame.kind}")
        except (ProtocolError, IndexError) as error:
            self._refuse(connection, frame, str(error))

    def _on_take_back(self, connection: Connection, frame: Frame) -> None:
        """Give a call back that has not been begun. While a function runs, whoever attends the channel does it."""
        if frame.call_id == 0:
            if connection.attendant is None:
                connection.attendant = attend(connection.channel, self._page, connection.page_slot)
                more = 0 if connection.attendant is None else MORE_CREDITS
                self._send(connection, Kind.TAKEN, credits=more)
            return
        for call in connection.behind:
            if call.kind == Kind.CALL and call.call_id == frame.call_id:
                connection.behind.remove(call)
                self._send(connection, Kind.TAKEN, call_id=call.call_id, credits=CREDITS)
                return

    def _on_call(self, connection: Connection, frame: Frame) -> None:
        if (frame.lease_seq, frame.epoch) != (connection.lease_seq, connection.epoch):
            self._reply(connection, frame, Outcome(Status.STALE, []))
            return
        function = connection.functions.get(frame.function)
        if function is None:
            unknown = ProtocolError(f"function {frame.function} was not defined on this channel")
            self._reply(connection, frame, failure(Status.BAD_FUNCTION, unknown))
            return
        if not frame.segments and function.manifest.kind == PYTHON:
            self._refuse(connection, frame, "a call needs a segment with its arguments")
            return
        if self._untidy and function.identity != self._last:  # no function meets what another one left
            self._tidy_up()
        if missing := self._functions.missing(function):
            connection.parked, connection.parked_at_ns = frame, time.monotonic_ns()
            self._fetch(connection, frame, missing)
            return
        self._execute(connection, frame, function, frame.deadline_ns)

    def _fetch(self, connection: Connection, call: Frame, missing: Sequence[bytes]) -> None:
        connection.awaited = len(missing)
        for digest in missing:
            self._send(connection, Kind.FETCH, call_id=call.call_id, segments=[digest])

    def _on_blob(self, connection: Connection, frame: Frame) -> None:
        """Keep a blob that was asked for, and run the call that waits for it when it was the last."""
        if frame.status == Status.OK and frame.segments:
            self._functions.add_blob(frame.segments[0])
        call = connection.parked
        if call is None:
            return
        connection.awaited -= 1
        function = connection.functions[call.function]
        if frame.status != Status.OK:
            connection.parked = None
            lost = ProtocolError("the client has no code for this function any more")
            self._reply(connection, call, failure(Status.BAD_FUNCTION, lost))
        elif connection.awaited > 0:
            return
        elif missing := self._functions.missing(function):  # a call on another channel has used up what came first
            self._fetch(connection, call, missing)
        else:
            connection.parked = None
            remaining_ns = call.deadline_ns and max(1, call.deadline_ns - time.monotonic_ns() + connection.parked_at_ns)
            self._execute(connection, call, function, remaining_ns)
        while connection.behind and connection.parked is None and not self._line.draining:
            self._handle(connection, connection.behind.popleft())

    def _execute(self, connection: Connection, frame: Frame, function: Defined, remaining_ns: int) -> None:
        """Run one call between STARTED and DONE, then send its result."""
        if remaining_ns and not self._told_of_deadlines:
            self._told_of_deadlines = True
            self._line.tell({"m": "deadlines"})
        if not self._page.start(connection.page_slot, frame.call_id, remaining_ns):
            self._give_up_interrupted(connection, frame)
            return
        self._log("started", connection, frame)
        ends_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + remaining_ns if remaining_ns else 0
        set_current(lambda: self._context(connection, frame, ends_ns))
        array_memory.serve(connection.channel, frame.is_placed)
        try:
            outcome = self._functions.run(function, _arguments(frame), frame, connection.holder, remaining_ns)
        finally:
            still_this_process()
            array_memory.serve(None)
            context = end_current()
            if isinstance(context, CallContext):
                context.close()
        self._last = function.identity
        self._end_call(connection, frame, outcome)
        if self._event_log is None and connection.hot_for_s > 0 and outcome.status == Status.OK:
            self._expect_more(connection, frame.function, function)

    def _context(self, connection: Connection, frame: Frame, ends_ns: int = 0) -> CallContext:
        return CallContext(self._line, connection.channel, connection.holder, frame, ends_ns, self._pid)

    def _give_up_interrupted(self, connection: Connection, frame: Frame) -> None:
        """The agent may be about to kill this process for this call: no other is to be met."""
        self._line.draining = True
        self._reply(connection, frame, Outcome(Status.NOT_STARTED, []))

    def _expect_more(self, connection: Connection, index: int, function: Defined) -> None:
        """Be ready for further calls of a function that has just run."""
        if connection.hot is not None and connection.hot_identity == function.identity:
            return
        connection.hot_identity = function.identity
        if function.manifest.kind == NATIVE and connection.channel.medium in ("shm", "verbs"):
            connection.hot = self._native_calls(connection, index, function)
            return
        connection.hot = HotCalls(
            connection.channel,
            self._page,
            connection.page_slot,
            connection.lease_seq,
            connection.epoch,
            index,
            self._functions.load(function),
            self._streams,
            functools.partial(self._context, connection),
            _watched(connection),
            self._held,
            None if function.manifest.kind == PYTHON else self._functions.over_bytes.call,
            connection.holder,
        )

    def _native_calls(self, connection: Connection, index: int, function: Defined) -> NativeCalls:
        from rfaas_executors.native_calls import NativeCalls  # others need none of it

        return NativeCalls(
            connection.channel,
            self._page,
            connection.page_slot,
            connection.lease_seq,
            connection.epoch,
            index,
            cast("NativeFunction", self._functions.load(function)),
            self._streams,
            connection.holder,
            _watched(connection),
        )

    def _end_call(self, connection: Connection, frame: Frame, outcome: Outcome, printed: bool | None = None) -> None:
        """After a function: say DONE, send the result, and put in order what it may have changed.

        Args:
            printed: whether anything was; None: not looked yet.
        """
        if printed is None:
            printed = self._streams.call_printed()
        outcome = self._settled(connection, frame, outcome)
        if not self._page.finish(connection.page_slot, frame.call_id, frame.in_size, outcome.size_bytes):
            self._line.draining = True
        if self._event_log is not None:  # it opens its file, for which the function may have left no descriptor
            put_back_surroundings()
        self._log("done", connection, frame)
        # What was printed is told on the control socket too, which must be ours for that: then all are compared now.
        self._untidy = connection.awake and not printed and self._held.holds(connection.descriptor)
        lost = [] if self._untidy else self._held.lost()
        if lost:
            self._leave_without(lost, connection)
        elif printed:  # the client shows it before the result
            self._line.tell({"m": "printed", "channel": connection.number, "call_id": frame.call_id})
            self._send(connection, Kind.OUTPUT, call_id=frame.call_id)
        if not (lost or self._untidy):
            self._read_control()
        self._reply(connection, frame, outcome)
        if not self._untidy:
            self._tidy(lost)

    def _settled(self, connection: Connection, frame: Frame, outcome: Outcome) -> Outcome:
        """What is sent, now that neither it nor what the function keeps depends on the client's own memory."""
        if not isinstance(outcome.segments, list):
            outcome.segments = list(outcome.segments)
        try:
            connection.channel.settle(frame, outcome.segments)
        except MemoryError as error:  # what it keeps may change under it: this process must not go on
            self._line.draining = True
            return failure(Status.EXCEPTION, error)
        return outcome

    def _tidy_up(self) -> None:
        """What was put off while calls of one function came one upon the other, so that none of them waited for it.

        Raises:
            WorkerExit: as `_tidy`.
        """
        self._untidy, self._tidied_at_ns = False, time.monotonic_ns()
        begun_ns = time.thread_time_ns()
        if lost := self._held.lost():
            self._connections = _without(self._connections, lost)
        else:
            self._read_control()
        self._tidy(lost)
        self._tidying_ns = time.thread_time_ns() - begun_ns

    def _tidy_every_ns(self) -> int:
        return min(max(TIDY_EVERY_NS, TIDY_SHARE * self._tidying_ns), TIDY_AT_LAST_NS)

    def _may_tidy_up(self, frame: Frame | None, idle_ns: int, untidy_ns: int) -> bool:
        """Whether nobody calls again and again, or it has waited long enough.

        A look may end early, since another process had the CPU: the next call is then as near as before.
        """
        return untidy_ns > self._tidy_every_ns() or (frame is None and idle_ns >= self._soon_s() * 1e9)

    def _soon_s(self) -> float:
        """How long to wait for the next call rather than tidy up: twice as long as that would take."""
        return max(SOON_S, min(2 * self._tidying_ns, TIDY_EVERY_NS) * 1e-9)

    def _tidy(self, lost: list[int]) -> None:
        """Once the result is on its way: undo what would harm the next call, or leave if that can't be done.

        Raises:
            WorkerExit: descriptors of ours are lost.
        """
        if lost:
            self._flush()
            raise WorkerExit(os.EX_IOERR, _lost_text(lost))
        self._n_calls += 1
        if self._n_calls >= REAP_EVERY_CALLS:
            self._n_calls = 0
            reap_adopted()
        install_quiet_signals()  # the function may have put its own in place
        if not (put_back_surroundings() and _is_sound()):
            self._line.draining = True  # what was sent meanwhile has not started: it goes elsewhere

    def _leave_without(self, lost: list[int], connection: Connection) -> None:
        """A function closed or replaced descriptors of ours: use no such one again, it may be anybody's now.

        Raises:
            WorkerExit: the channel of this very call is among them: its result can't be sent.
        """
        if connection.descriptor in lost:
            raise WorkerExit(os.EX_IOERR, _lost_text(lost))
        self._line.draining = True
        self._connections = _without(self._connections, lost)

    def _reply(self, connection: Connection, frame: Frame, outcome: Outcome) -> None:
        credits = 0 if self._line.draining else CREDITS
        fields: dict[str, Any] = {
            "call_id": frame.call_id,
            "function": frame.function,
            "attempt": frame.attempt,
            "credits": credits,
        }
        try:
            if frame.out_size and outcome.size_bytes > max(frame.out_size, outcome.least_bytes):
                raise PayloadTooLarge
            fields["out_size"] = outcome.needed_bytes
            self._send(connection, Kind.RESULT, status=outcome.status, segments=outcome.segments, **fields)
        except PayloadTooLarge:
            fields |= {"out_size": outcome.size_bytes, "segments": outcome.summary(frame.out_size)}
            self._send(connection, Kind.RESULT, status=Status.TOO_LARGE, **fields)

    def _refuse(self, connection: Connection, frame: Frame, why: str) -> None:
        self._send(connection, Kind.ERROR, call_id=frame.call_id, status=Status.BAD_FRAME, text=why)

    def _send(self, connection: Connection, kind: int, **fields: Any) -> None:  # noqa: ANN401 - those of Channel.send
        """Send or queue a frame; a channel that ended meanwhile is found out by its next poll."""
        try:
            whole = connection.channel.send(kind, **fields)
        except (ChannelClosed, ChannelBroken):
            return
        if not whole and not connection.is_left_out:  # who is awake writes with each look
            with contextlib.suppress(OSError):  # without a poller it is written by `_flush`
                self._poller.want_write(connection.channel.fileno(), True)

    def _drop(self, connection: Connection) -> None:
        leave(connection.attendant)
        descriptor = connection.channel.fileno()
        self._held.remove(connection.descriptor)
        self._poller.remove(descriptor)
        del self._connections[descriptor]
        connection.channel.close()
        self._line.tell(control.closed(connection.number, violated=connection.channel.violated))

    # --- the end --------------------------------------------------------------------------------

    def _give_back(self) -> None:
        """Without an agent no farewell will prove what did not start: say it here, of calls that lie unread."""
        for connection in list(self._connections.values()):
            for call in (*([] if connection.parked is None else [connection.parked]), *connection.behind):
                if call.kind == Kind.CALL:
                    self._reply(connection, call, Outcome(Status.NOT_STARTED, []))
            with contextlib.suppress(ChannelClosed, ChannelBroken):
                while (frame := connection.channel.poll()) is not None:
                    if frame.kind == Kind.CALL:
                        self._reply(connection, frame, Outcome(Status.NOT_STARTED, []))

    def _flush(self) -> None:
        """Wait until the peers' kernels have what was sent: unread bytes here reset a connection when it closes.

        On a unix socket that needs no waiting: what was written lies in the peer's own queue.
        """
        give_up_s = time.monotonic() + FLUSH_S
        waiting = list(self._connections.values())
        for connection in waiting:
            self._send(connection, Kind.BYE)
        while waiting and time.monotonic() < give_up_s:
            waiting = [connection for connection in waiting if not is_delivered(connection.channel)]
            if waiting:
                time.sleep(0.0005)

    def _log(self, event: str, connection: Connection, frame: Frame) -> None:
        if self._event_log is not None:
            self._event_log.write(
                event,
                client=connection.holder,
                channel=connection.number,
                call_id=frame.call_id,
                attempt=frame.attempt,
                lease=connection.lease,
                lease_seq=connection.lease_seq,
                node=self._identity["node"],
            )


_BUILTINS = builtins.__dict__
_NEEDED = {name: _BUILTINS[name] for name in ("Exception", "bytes", "isinstance", "len", "list")}


def _is_sound() -> bool:
    """False if a function took away what every code needs; uses none of it itself."""
    for name, value in _NEEDED.items():
        if _BUILTINS.get(name) is not value:
            return False
    return "pickle" in sys.modules and sys.path != []


_ANYTHING = BaseException  # by a name of ours: a function may have emptied builtins
_BROKEN_FROM_WITHIN = b"the worker's own code failed; a function may have changed what it needs, as builtins: "


def _watched(connection: Connection) -> int:
    """The descriptor that answers go through; -1: through none that a function's own files could take the place of.

    That is so over shared memory, but to wake who sleeps, and over RDMA, whose device has a number high up
    (verbs_device.c).
    """
    return -1 if connection.channel.medium in ("shm", "verbs") else connection.descriptor


def _without(connections: dict[int, Connection], lost: Sequence[int]) -> dict[int, Connection]:
    """Those whose descriptors are still ours."""
    return {fd: one for fd, one in connections.items() if one.descriptor not in lost}


def _lost_text(lost: list[int]) -> str:
    numbers = ", ".join(map(str, lost[:8]))
    return f"a function closed or replaced descriptors that it had not opened ({numbers}): the worker's own connections"


def _arguments(frame: Frame) -> Sequence[memoryview]:
    """The segments of a CALL without the checkpoint of an earlier attempt."""
    segments, checkpoint = frame.segments, frame.checkpoint
    return segments if not checkpoint else (*segments[:checkpoint], *segments[checkpoint + 1 :])


def _event_log() -> object | None:
    """The event log if it is asked for. Imported only then: it would load `rfaas` into every worker."""
    if not os.environ.get("RFAAS_EVENT_LOG"):
        return None
    from rfaas.control.eventlog import EventLog

    return EventLog.from_environment("worker")
