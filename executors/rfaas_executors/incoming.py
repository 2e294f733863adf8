"""What clients send to a worker, and in which order it is done: calls, functions, their blobs, and what is taken back.

A call whose function is not here whole is parked, and what came after it waits behind it. Spec:
docs/spec/001-invocation.md sections 3 and 4.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from rfaas_executors._process import StatePage
from rfaas_executors.agent_line import AgentLine
from rfaas_executors.attending import attend
from rfaas_executors.calls import PYTHON, Functions, Outcome, failure
from rfaas_executors.connection import Connection
from rfaas_executors.replies import CREDITS, Replies
from rfaas_executors.running import Running
from rfaas_executors.tidying import Tidying
from rfaas_transport._core import Frame
from rfaas_transport.errors import ProtocolError
from rfaas_transport.frame import Kind, Status

MORE_CREDITS: Final = 7  # calls that a channel has beside the one, once it is attended: so that the next one is there


class Incoming:
    """The frames that come to one worker.

    Args:
        line, page, functions, replies, tidying, running: shared with the worker.
    """

    def __init__(
        self,
        line: AgentLine,
        page: StatePage,
        functions: Functions,
        *,
        replies: Replies,
        tidying: Tidying,
        running: Running,
    ) -> None:
        self._line = line
        self._page = page
        self._functions = functions
        self._replies = replies
        self._tidying = tidying
        self._running = running

    def handle(self, connection: Connection, frame: Frame) -> None:
        """Do what a frame asks for, unless it lies behind a call that waits for its function."""
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
                self._replies.refuse(connection, frame, f"a worker takes no frame of kind {frame.kind}")
        except (ProtocolError, IndexError) as error:
            self._replies.refuse(connection, frame, str(error))

    def _on_take_back(self, connection: Connection, frame: Frame) -> None:
        """Give a call back that has not been begun. While a function runs, whoever attends the channel does it."""
        if frame.call_id == 0:
            if connection.attendant is None:
                connection.attendant = attend(connection.channel, self._page, connection.page_slot)
                more = 0 if connection.attendant is None else MORE_CREDITS
                self._replies.send(connection, Kind.TAKEN, credits=more)
            return
        for call in connection.behind:
            if call.kind == Kind.CALL and call.call_id == frame.call_id:
                connection.behind.remove(call)
                self._replies.send(connection, Kind.TAKEN, call_id=call.call_id, credits=CREDITS)
                return

    def _on_call(self, connection: Connection, frame: Frame) -> None:
        if (frame.lease_seq, frame.epoch) != (connection.lease_seq, connection.epoch):
            self._replies.reply(connection, frame, Outcome(Status.STALE, []))
            return
        function = connection.functions.get(frame.function)
        if function is None:
            unknown = ProtocolError(f"function {frame.function} was not defined on this channel")
            self._replies.reply(connection, frame, failure(Status.BAD_FUNCTION, unknown))
            return
        if not frame.segments and function.manifest.kind == PYTHON:
            self._replies.refuse(connection, frame, "a call needs a segment with its arguments")
            return
        if self._tidying.untidy and function.identity != self._tidying.last:  # no function meets what another one left
            self._tidying.tidy_up()
        if missing := self._functions.missing(function):
            connection.parked, connection.parked_at_ns = frame, time.monotonic_ns()
            self._fetch(connection, frame, missing)
            return
        self._running.execute(connection, frame, function, frame.deadline_ns)

    def _fetch(self, connection: Connection, call: Frame, missing: Sequence[bytes]) -> None:
        connection.awaited = len(missing)
        for digest in missing:
            self._replies.send(connection, Kind.FETCH, call_id=call.call_id, segments=[digest])

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
            self._replies.reply(connection, call, failure(Status.BAD_FUNCTION, lost))
        elif connection.awaited > 0:
            return
        elif missing := self._functions.missing(function):  # a call on another channel has used up what came first
            self._fetch(connection, call, missing)
        else:
            connection.parked = None
            remaining_ns = call.deadline_ns and max(1, call.deadline_ns - time.monotonic_ns() + connection.parked_at_ns)
            self._running.execute(connection, call, function, remaining_ns)
        while connection.behind and connection.parked is None and not self._line.draining:
            self.handle(connection, connection.behind.popleft())
