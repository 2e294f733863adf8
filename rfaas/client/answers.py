"""What workers answer, and which call ends or goes on by it. Sans-IO, a part of `rfaas.client.core`.

A result reaches the dispatch it belongs to, or nobody. Spec: docs/spec/001-invocation.md sections 3 to 5.
"""

from __future__ import annotations

from typing import Final

from rfaas.client.behind import Behind
from rfaas.client.call_book import CallBook, unsent_error
from rfaas.client.channel_table import Channel, ChannelTable
from rfaas.client.chores import Chores
from rfaas.client.dispatching import Dispatching
from rfaas.client.effects import Effect, Examine
from rfaas.client.events import FrameArrived, SendFailed
from rfaas.client.returns import Returns
from rfaas.client.session_state import SessionState
from rfaas_transport.errors import ProtocolError
from rfaas_transport.frame import Kind, Status

RESULT: Final = int(Kind.RESULT)  # plain integers: comparing with an IntEnum costs a call
ERROR: Final = int(Kind.ERROR)
CHECKPOINT: Final = int(Kind.CHECKPOINT)
TAKEN: Final = int(Kind.TAKEN)
STALE: Final = int(Status.STALE)
NOT_STARTED: Final = int(Status.NOT_STARTED)
EXCEPTION: Final = int(Status.EXCEPTION)
FUNCTION_ERROR: Final = int(Status.FUNCTION_ERROR)


class Answers:
    """What the workers of one client answer.

    Args:
        channels, calls, dispatching, chores, behind, returns, session, counters: shared with the core.
    """

    def __init__(
        self,
        channels: ChannelTable,
        calls: CallBook,
        dispatching: Dispatching,
        *,
        chores: Chores,
        behind: Behind,
        returns: Returns,
        session: SessionState,
        counters: dict[str, int],
    ) -> None:
        self._channels = channels
        self._calls = calls
        self._dispatching = dispatching
        self._chores = chores
        self._behind = behind
        self._returns = returns
        self._session = session
        self._counters = counters

    def on_frame(self, event: FrameArrived, now_s: float, out: list[Effect]) -> None:
        """A frame came."""
        channel = self._channels.get(event.channel)
        if channel is None:
            return
        frame = event.frame
        if frame.kind == RESULT:
            self._on_result(channel, event, now_s, out)
            if frame.credits == 0 and channel.asked:  # whatever else it gave, it takes no further call
                channel.usable = False
        elif frame.kind == TAKEN:
            self._on_taken(channel, event, now_s, out)
        elif frame.kind == CHECKPOINT and frame.call_id in channel.running:
            channel.running[frame.call_id].checkpoint = b"".join(frame.segments)
        elif frame.kind == ERROR and frame.call_id in channel.running:
            call = channel.running.pop(frame.call_id)
            channel.answered += 1
            self._behind.answered(channel, call, now_s, out, can_ask=self._session.can_ask())
            if call is channel.chore:
                self._chores.answered(channel, call, frame, out)
            elif not call.resolved:
                error = unsent_error(ProtocolError, call, f"the worker refused the call: {frame.text}", "SENT")
                self._calls.fail(call, error, out)
        if frame.credits and not channel.greeted:
            self._session.on_greeting(channel, out)
        self._channels.grant(channel, frame.credits)
        if self._returns.leaving:
            self._returns.is_due = True
        self._dispatching.do_chore(channel, now_s, out)

    def _on_taken(self, channel: Channel, event: FrameArrived, now_s: float, out: list[Effect]) -> None:
        if event.frame.call_id == 0:
            self._channels.attend(channel)
            return
        call = channel.running.pop(event.frame.call_id, None)
        if call is None:
            return
        channel.answered += 1
        self._behind.answered(channel, call, now_s, out, can_ask=self._session.can_ask())
        if not call.resolved:
            self._calls.dispatch_again(call, out)

    def _on_result(self, channel: Channel, event: FrameArrived, now_s: float, out: list[Effect]) -> None:
        call = channel.running.pop(event.frame.call_id, None)
        if call is not None:
            channel.answered += 1
            self._behind.answered(channel, call, now_s, out, can_ask=self._session.can_ask())
            if self._calls.queue and not self._chores.counts_calls:
                self._behind.ask(channel, out)
        if call is not None and call is channel.chore:
            self._chores.answered(channel, call, event.frame, out)
            return
        if call is None or call.resolved:  # I7: a result reaches the dispatch it belongs to, or nobody
            self._counters["late_results"] += 1
            return
        if event.frame.status == STALE:
            channel.usable = False  # the worker belongs to another lease by now
        if event.frame.status in (STALE, NOT_STARTED):
            self._calls.dispatch_again(call, out)
        elif event.frame.status in (EXCEPTION, FUNCTION_ERROR) and call.settings.retry_on and not call.interrupted:
            call.may_have_run, call.call_id, call.examining = True, 0, event.frame
            out.append(Examine(call, event.frame, channel.info))
        else:
            self._calls.deliver(call, event.frame, channel.info, out)

    def on_send_failed(self, event: SendFailed, now_s: float, out: list[Effect]) -> None:
        """A dispatch could not be handed over."""
        channel = self._channels.get(event.channel)
        call = channel.running.pop(event.call_id, None) if channel is not None else None
        if channel is None or call is None:
            return
        call.dispatches -= 1  # nothing was sent
        if call is channel.chore:
            self._chores.not_sent(channel, call, event.error, out, broken=event.broken)
        elif event.broken:
            channel.usable = False
            self._calls.dispatch_again(call, out)
        else:
            self._channels.give_back(channel)
            if not call.resolved:
                error = event.error
                error.may_have_run, error.attempt, error.phase = call.may_have_run, call.attempt, "QUEUED"
                self._calls.fail(call, error, out)
