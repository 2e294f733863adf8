"""How a worker runs one call: between STARTED and DONE on the page, then its result goes out.

The page tells the agent what had started when a worker dies, so the order of these steps is the contract (docs/spec/
001-invocation.md section 5). Further calls of the same function are left to `_hot_calls` and `native_calls`, which do
the same in the same order.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from rfaas_executors._hot_calls import HotCalls
from rfaas_executors._process import HeldDescriptors, StatePage, put_back_surroundings
from rfaas_executors.agent_line import AgentLine
from rfaas_executors.calls import NATIVE, PYTHON, Defined, Functions, Outcome, failure, still_this_process
from rfaas_executors.connection import Connection
from rfaas_executors.connections import Connections
from rfaas_executors.context import CallContext
from rfaas_executors.replies import Replies
from rfaas_executors.streams import Streams
from rfaas_executors.tidying import Tidying
from rfaas_transport import array_memory
from rfaas_transport._core import Frame
from rfaas_transport.current_call import end_current, set_current
from rfaas_transport.frame import Kind, Status

if TYPE_CHECKING:
    from rfaas_executors._compiled import NativeFunction
    from rfaas_executors.native_calls import NativeCalls


class Running:
    """Runs the calls of one worker, one at a time.

    Args:
        line, page, functions, streams, held, connections, replies, tidying: shared with the worker.
        node: of the agent, for the event log.
    """

    def __init__(
        self,
        line: AgentLine,
        page: StatePage,
        functions: Functions,
        *,
        streams: Streams,
        held: HeldDescriptors,
        connections: Connections,
        replies: Replies,
        tidying: Tidying,
        node: str,
    ) -> None:
        self._line = line
        self._page = page
        self._functions = functions
        self._streams = streams
        self._held = held
        self._connections = connections
        self._replies = replies
        self._tidying = tidying
        self._node = node
        self._pid = os.getpid()
        self._told_of_deadlines = False
        self._event_log: Any = _event_log()

    def execute(self, connection: Connection, frame: Frame, function: Defined, remaining_ns: int) -> None:
        """Run one call between STARTED and DONE, then send its result."""
        if remaining_ns and not self._told_of_deadlines:
            self._told_of_deadlines = True
            self._line.tell({"m": "deadlines"})
        if not self._page.start(connection.page_slot, frame.call_id, remaining_ns):
            self.give_up_interrupted(connection, frame)
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
        self._tidying.last = function.identity
        self.end_call(connection, frame, outcome)
        if self._event_log is None and connection.hot_for_s > 0 and outcome.status == Status.OK:
            self._expect_more(connection, frame.function, function)

    def end_call(self, connection: Connection, frame: Frame, outcome: Outcome, printed: bool | None = None) -> None:
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
        self._tidying.untidy = connection.awake and not printed and self._held.holds(connection.descriptor)
        lost = [] if self._tidying.untidy else self._held.lost()
        if lost:
            self._tidying.leave_without(lost, connection)
        elif printed:  # the client shows it before the result
            self._line.tell({"m": "printed", "channel": connection.number, "call_id": frame.call_id})
            self._replies.send(connection, Kind.OUTPUT, call_id=frame.call_id)
        if not (lost or self._tidying.untidy):
            self._connections.read_control()
        self._replies.reply(connection, frame, outcome)
        if not self._tidying.untidy:
            self._tidying.tidy(lost)

    def give_up_interrupted(self, connection: Connection, frame: Frame) -> None:
        """The agent may be about to kill this process for this call: no other is to be met."""
        self._line.draining = True
        self._replies.reply(connection, frame, Outcome(Status.NOT_STARTED, []))

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

    def _context(self, connection: Connection, frame: Frame, ends_ns: int = 0) -> CallContext:
        return CallContext(self._line, connection.channel, connection.holder, frame, ends_ns, self._pid)

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
            connection.watched(),
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
            connection.watched(),
        )

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
                node=self._node,
            )


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
