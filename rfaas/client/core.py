"""Deciding what a client does: which call goes to which worker when, and how each ends. Sans-IO.

`ClientCore.step(event, now_s)` answers with effects, which the I/O thread does in order. No I/O, clock, lock, thread or
log in here: production, tests and simulators run the same code. Spec: docs/spec/001-invocation.md sections 3, 5, 6.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any, Final

from rfaas.client.call_queue import CallQueue
from rfaas.client.channel_table import Channel, ChannelTable
from rfaas.client.events import (
    Call,
    Cancel,
    ChannelEnded,
    ChannelOpened,
    ChannelsCondemned,
    CloseChannel,
    Connect,
    Deliver,
    Denied,
    Dispatch,
    Drained,
    Effect,
    Event,
    Fail,
    FrameArrived,
    Lease,
    LeaseEnded,
    LeaseGranted,
    Notice,
    Queued,
    Requeued,
    SendFailed,
    SendWant,
    SessionFailed,
    SessionLost,
    SessionUp,
    Shutdown,
    Submit,
    Tick,
    Verdict,
    Withdrawn,
)
from rfaas.client.losses import Fate, judge, make_error
from rfaas.client.timers import Timers
from rfaas_transport.errors import (
    AcquireTimeout,
    Cancelled,
    DeadlineExceeded,
    EnvironmentFailed,
    LeaseDenied,
    Phase,
    ProtocolError,
    ReasonCode,
    RfaasError,
)
from rfaas_transport.frame import Kind, Status

RESULT: Final = int(Kind.RESULT)  # plain integers: comparing with an IntEnum costs a call
ERROR: Final = int(Kind.ERROR)
STALE: Final = int(Status.STALE)
NOT_STARTED: Final = int(Status.NOT_STARTED)

FAREWELL_WAIT_S: Final = 2.0  # a channel that ended gets no farewell later than this (spec 001 section 5)
END_WAIT_S: Final = 0.5  # after a farewell: what the worker had sent is on its way, and then the end of the channel
LOST_WAIT_S: Final = 0.25  # the same after a loss, of which the session process tells only after 1.5 s
KILL_WAIT_S: Final = 0.9  # the agent kills an overdue call; without word of it the future fails within a second
LOWER_WANT_AFTER_S: Final = 5.0  # without a waiting call, nothing is worth asking for again after a reclaim
RETRY_PAUSE_S: Final = 0.05
RETRY_PAUSE_MAX_S: Final = 5.0
RECONNECT_PAUSE_S: Final = 0.5
DENIED_PAUSE_S: Final = 5.0  # while workers serve, more of them are not asked for so soon after a denial


class ClientCore:
    """The calls, channels and wishes of one client.

    Args:
        max_workers: ceiling of the standing target.
        acquire_timeout_s: how long a call may wait while there is no worker; None: for ever.
        seed: of the jitter between retries; None: random.
    """

    def __init__(self, max_workers: int, acquire_timeout_s: float | None = None, seed: int | None = None) -> None:
        self._max_workers = max_workers
        self._acquire_timeout_s = acquire_timeout_s
        self._random = random.Random(seed)
        self._queue = CallQueue()
        self._outstanding = 0
        self._last_call_id = 0
        self._channels = ChannelTable()
        self._leases: dict[bytes, Lease] = {}
        self._timers = Timers()
        self._session = "down"  # down, joining, up, pausing (after a failure, while there are leases)
        self._embedded = False
        self._closing = False
        self._drained = False
        self._want = 0
        self._want_told = 0
        self._content_until_s = 0.0  # with the workers that serve, if there are any
        self._nothing_waits_since_s: float | None = None
        self._starved_since_s: float | None = None
        self._why_waiting = ""
        self._why_more = ""
        self.counters: dict[str, int] = dict.fromkeys(_COUNTERS, 0)

    def step(self, event: Event, now_s: float) -> list[Effect]:
        """Take one event at `now_s` (monotonic seconds, never going back); Tick does what is due by then.

        Returns:
            What to do, in order. Each call resolves in exactly one Deliver, Fail or Withdrawn.
        """
        out: list[Effect] = []
        _HANDLERS[type(event)](self, event, now_s, out)
        self._finish_step(now_s, out)
        return out

    def _finish_step(self, now_s: float, out: list[Effect]) -> None:
        self._feed_workers(now_s, out)
        self._ask_for_workers(now_s, out)
        if self._closing and self._outstanding == 0 and not self._drained:
            self._drained = True
            out.append(Drained())

    def next_due_s(self) -> float | None:
        """When the next Tick is needed at the latest; None: not before another event."""
        return self._timers.next_due_s()

    def statistics(self) -> dict[str, int]:
        """Counters since the start, and how many calls wait, run, and how many workers serve now."""
        channels = self._channels
        return {
            **self.counters,
            "queued": len(self._queue),
            "running": sum(len(c.running) for c in channels),
            "workers": sum(1 for c in channels if c.usable and c.greeted),
            "want": self._want,
        }

    def recover(
        self, unresolved: list[Call], credits: dict[int, int], now_s: float, *, is_joining: bool
    ) -> list[Effect]:
        """Put the books in order after an exception broke off a step of Submit, Cancel or Shutdown.

        Args:
            unresolved: every call without an end, oldest first.
            credits: what each channel really has left, by number; it tells which dispatches were sent.
            now_s: as for `step`.
            is_joining: the last Connect is being carried out.

        Returns:
            What to do. Effects of the broken step that were not carried out are void.
        """
        out: list[Effect] = []
        self._channels.recover(credits)
        elsewhere = {id(call) for channel in self._channels for call in channel.running.values()}
        elsewhere |= {id(call) for call in self._timers.pending(self._on_pause_over)}
        self._queue.clear()
        self._outstanding = len(unresolved)
        for call in unresolved:
            if id(call) not in elsewhere:
                self._readmit(call, now_s, out)
        self._want_told = 0
        if self._session == "joining" and not is_joining:
            self._session = "down"
        self._drained = False
        self._finish_step(now_s, out)
        return out

    def _readmit(self, call: Call, now_s: float, out: list[Effect]) -> None:
        """Queue a call whose submit or dispatch was broken off."""
        if call.call_id and not call.may_have_run:
            out.append(Requeued(call))
        call.submitted_at_s = call.submitted_at_s or now_s
        self._set_deadline(call)
        self._queue.add(call, front=False)

    # --- calls --------------------------------------------------------------------------------

    def _on_submit(self, event: Submit, now_s: float, out: list[Effect]) -> None:
        call = event.call
        call.submitted_at_s = now_s
        self.counters["submitted"] += 1
        self._outstanding += 1
        self._set_deadline(call)
        self._queue.add(call, front=False)

    def _set_deadline(self, call: Call) -> None:
        timeout_s = call.settings.call_timeout_s
        if timeout_s is not None:
            call.deadline_s = call.submitted_at_s + timeout_s
            self._timers.add(call.deadline_s, self._on_deadline, call)
            self._timers.drop_stale(_is_stale, self._outstanding)

    def _on_cancel(self, event: Cancel, now_s: float, out: list[Effect]) -> None:
        if event.call.queued and not event.call.may_have_run:
            self._withdraw(event.call, out)

    def _on_shutdown(self, event: Shutdown, now_s: float, out: list[Effect]) -> None:
        self._closing = True
        if not event.cancel_queued:
            return
        for call in [*self._queue, *self._timers.pending(self._on_pause_over)]:
            if call.resolved:
                continue
            if call.may_have_run:
                self._fail(call, self._unsent_error(Cancelled, call, "cancelled by shutdown between two runs"), out)
            else:
                self._withdraw(call, out)

    def _resolve(self, call: Call) -> None:
        assert not call.resolved
        self._queue.remove(call)
        call.resolved = True
        self._outstanding -= 1

    def _fail(self, call: Call, error: RfaasError, out: list[Effect]) -> None:
        self.counters["failed"] += 1
        self._resolve(call)
        out.append(Fail(call, error))

    def _withdraw(self, call: Call, out: list[Effect]) -> None:
        self.counters["cancelled"] += 1
        self._resolve(call)
        out.append(Withdrawn(call))

    def _fail_queued(self, error: RfaasError, out: list[Effect]) -> None:
        """Fail every call that waits, each with an error of its own."""
        for call in [*self._queue, *self._timers.pending(self._on_pause_over)]:
            if not call.resolved:
                own = copy.copy(error)
                own.may_have_run, own.attempt, own.phase = call.may_have_run, call.attempt, "QUEUED"
                self._fail(call, own, out)

    def _unsent_error(
        self, kind: type[RfaasError], call: Call, message: str, phase: Phase = "QUEUED", hint: str = ""
    ) -> RfaasError:
        return kind(message, may_have_run=call.may_have_run, phase=phase, attempt=call.attempt, hint=hint)

    def _on_deadline(self, call: Call, now_s: float, out: list[Effect]) -> None:
        if call.resolved:
            return
        assert call.deadline_s is not None
        timeout_s = call.settings.call_timeout_s
        if call.call_id == 0:
            message = f"call_timeout_s={timeout_s} passed before a worker could take the call"
            message += f" ({self._why_waiting})" if self._why_waiting else ""
            self._fail(call, self._unsent_error(DeadlineExceeded, call, message), out)
        elif now_s < call.deadline_s + KILL_WAIT_S:
            self._timers.add(call.deadline_s + KILL_WAIT_S, self._on_deadline, call)
        else:  # its agent should have killed the worker and said so
            call.may_have_run = True
            message = f"call_timeout_s={timeout_s} passed, and no word came from the agent"
            self._fail(call, self._unsent_error(DeadlineExceeded, call, message, phase="SENT"), out)

    # --- workers ------------------------------------------------------------------------------

    def _feed_workers(self, now_s: float, out: list[Effect]) -> None:
        """Hand waiting calls to idle workers, oldest first; the worker that was busy last comes first."""
        while self._queue and (channel := self._channels.take_idle()) is not None:
            self._dispatch(channel, self._queue.take(), now_s, out)

    def _dispatch(self, channel: Channel, call: Call, now_s: float, out: list[Effect]) -> None:
        self._last_call_id += 1
        call.call_id = self._last_call_id
        call.dispatches += 1
        channel.running[call.call_id] = call
        self.counters["dispatched"] += 1
        remaining_s = None if call.deadline_s is None else max(0.0, call.deadline_s - now_s)
        out.append(Dispatch(channel.info.number, call, call.call_id, remaining_s))

    def _on_channel_opened(self, event: ChannelOpened, now_s: float, out: list[Effect]) -> None:
        self._channels.open(event.info)
        if self._drained:
            self._channels.remove(event.info.number)
            out.append(CloseChannel(event.info.number))

    def _on_frame(self, event: FrameArrived, now_s: float, out: list[Effect]) -> None:
        channel = self._channels.get(event.channel)
        if channel is None:
            return
        frame = event.frame
        if frame.kind == RESULT:
            self._on_result(channel, event, out)
        elif frame.kind == ERROR and frame.call_id in channel.running:
            call = channel.running.pop(frame.call_id)
            channel.answered += 1
            if not call.resolved:
                error = self._unsent_error(ProtocolError, call, f"the worker refused the call: {frame.text}", "SENT")
                self._fail(call, error, out)
        self._channels.grant(channel, frame.credits)

    def _on_result(self, channel: Channel, event: FrameArrived, out: list[Effect]) -> None:
        call = channel.running.pop(event.frame.call_id, None)
        channel.answered += call is not None
        if call is None or call.resolved:  # I7: a result reaches the dispatch it belongs to, or nobody
            self.counters["late_results"] += 1
            return
        if event.frame.status == STALE:
            channel.usable = False  # the worker belongs to another lease by now
        if event.frame.status in (STALE, NOT_STARTED):
            self._dispatch_again(call, out)
            return
        self.counters["answered"] += 1
        self._resolve(call)
        out.append(Deliver(call, event.frame, channel.info))

    def _dispatch_again(self, call: Call, out: list[Effect]) -> None:
        """Queue a call again that is proven not started; it costs nothing and goes first."""
        self.counters["redispatched"] += 1
        self._queue.add(call, front=True)
        if not call.may_have_run:
            out.append(Requeued(call))

    def _on_send_failed(self, event: SendFailed, now_s: float, out: list[Effect]) -> None:
        channel = self._channels.get(event.channel)
        call = channel.running.pop(event.call_id, None) if channel is not None else None
        if channel is None or call is None:
            return
        call.dispatches -= 1  # nothing was sent
        if event.broken:
            channel.usable = False
            self._dispatch_again(call, out)
        else:
            self._channels.give_back(channel)
            if not call.resolved:
                error = event.error
                error.may_have_run, error.attempt, error.phase = call.may_have_run, call.attempt, "QUEUED"
                self._fail(call, error, out)

    def _on_channel_ended(self, event: ChannelEnded, now_s: float, out: list[Effect]) -> None:
        channel = self._channels.get(event.channel)
        if channel is None or channel.ended:
            return
        channel.ended = True
        channel.usable = False
        if channel.verdict is not None:
            self._settle(channel, channel.verdict, now_s, out)
        else:
            self._timers.add(now_s + FAREWELL_WAIT_S, self._on_no_farewell, channel)

    def _on_no_farewell(self, channel: Channel, now_s: float, out: list[Effect]) -> None:
        if channel.verdict is None:
            silence = Verdict(reason_code=ReasonCode.NONE, silent=True)
            self._settle(channel, silence, now_s, out)

    def _on_condemned(self, event: ChannelsCondemned, now_s: float, out: list[Effect]) -> None:
        known = event.verdict.last_started is not None
        for number in event.channels:
            channel = self._channels.get(number)
            if channel is not None and channel.verdict is None:
                self._condemn(channel, event.verdict, END_WAIT_S if known else LOST_WAIT_S, now_s, out)

    def _condemn(self, channel: Channel, verdict: Verdict, wait_s: float, now_s: float, out: list[Effect]) -> None:
        """Apply a verdict once the channel is read to its end: results that arrived whole win (spec 001 section 5)."""
        channel.verdict = verdict
        channel.usable = False
        if channel.ended:
            self._settle(channel, verdict, now_s, out)
        else:
            self._timers.add(now_s + wait_s, self._on_no_end, channel)

    def _on_no_end(self, channel: Channel, now_s: float, out: list[Effect]) -> None:
        if channel.verdict is not None:
            self._settle(channel, channel.verdict, now_s, out)

    def _settle(self, channel: Channel, verdict: Verdict, now_s: float, out: list[Effect]) -> None:
        """Decide about every call of a channel that will not answer any more."""
        if self._channels.remove(channel.info.number) is None:
            return  # done before
        out.append(CloseChannel(channel.info.number))
        again = []
        for call in channel.running.values():
            if not call.resolved and self._judge(call, channel, verdict, now_s, out):
                again.append(call)
        for call in reversed(again):  # each goes to the front: the oldest ends up first
            self._dispatch_again(call, out)
        channel.running.clear()

    def _judge(self, call: Call, channel: Channel, verdict: Verdict, now_s: float, out: list[Effect]) -> bool:
        """Decide about one call; True: it goes to the front of the queue."""
        fate = judge(call, verdict)
        if fate is not Fate.FREE:
            call.may_have_run = True
        if fate is Fate.FAIL:
            self._fail(call, make_error(call, verdict, channel.info), out)
        elif fate is Fate.LATER:
            call.call_id = 0
            pause_s = min(RETRY_PAUSE_MAX_S, RETRY_PAUSE_S * 2 ** (call.retries_used - 1))
            self.counters["retried"] += 1
            self._timers.add(now_s + pause_s * self._random.uniform(0.5, 1.5), self._on_pause_over, call)
        elif fate is Fate.AT_ONCE:
            self.counters["reclaimed"] += 1
        return fate in (Fate.FREE, Fate.AT_ONCE)

    def _on_pause_over(self, call: Call, now_s: float, out: list[Effect]) -> None:
        if not call.resolved:
            self._queue.add(call, front=True)

    # --- leases and the session process -------------------------------------------------------

    def _on_lease_granted(self, event: LeaseGranted, now_s: float, out: list[Effect]) -> None:
        self._leases[event.lease.lease] = event.lease
        self._why_waiting = self._why_more = ""

    def _on_lease_ended(self, event: LeaseEnded, now_s: float, out: list[Effect]) -> None:
        self._leases.pop(event.lease, None)

    def _on_notice(self, event: Notice, now_s: float, out: list[Effect]) -> None:
        self.counters["notices"] += 1
        for channel in self._channels:
            if channel.info.number in event.channels or channel.info.lease == event.lease:
                channel.usable = False

    def _on_queued(self, event: Queued, now_s: float, out: list[Effect]) -> None:
        self._why_waiting, self._why_more = event.reason, f": {event.hint}" if event.hint else ""

    def _on_denied(self, event: Denied, now_s: float, out: list[Effect]) -> None:
        self._want = self._want_told = 0  # the session process dropped the target with its answer
        if self._channels.any_serving():  # one node without the user's modules says nothing about the others
            self._why_waiting, self._why_more = f"more workers were denied ({event.code})", f": {event.hint}"
            self._content_until_s = now_s + DENIED_PAUSE_S
            self._timers.add(self._content_until_s, self._on_content_no_more, None)
        else:
            self._fail_queued(_denial(event), out)

    def _on_content_no_more(self, _: None, now_s: float, out: list[Effect]) -> None:
        """The end of this step asks for workers again."""

    def _on_session_up(self, event: SessionUp, now_s: float, out: list[Effect]) -> None:
        self._session = "up"
        self._embedded = event.embedded
        self._want_told = 0

    def _on_session_lost(self, event: SessionLost, now_s: float, out: list[Effect]) -> None:
        if self._session == "down":
            return
        self._session = "down"
        self.counters["sessions_lost"] += 1
        if self._embedded:  # agent and workers died with it
            self._leases.clear()
            self._want = 0
            verdict = Verdict(reason_code=ReasonCode.AGENT_LOST, hint="the embedded session process ended")
            for channel in list(self._channels):
                if channel.verdict is None:
                    self._condemn(channel, verdict, END_WAIT_S, now_s, out)
        if self._leases and not self._drained:  # somebody must renew them
            self._connect(out)

    def _on_session_failed(self, event: SessionFailed, now_s: float, out: list[Effect]) -> None:
        self._want_told = 0
        if not self._channels.any_serving():  # else what waits gets those workers, with or without a session process
            self._fail_queued(event.error, out)
        if self._leases:  # somebody must renew them
            self._session = "pausing"
            self._timers.add(now_s + RECONNECT_PAUSE_S, self._on_reconnect, None)
        else:
            self._session = "down"
            self._want = 0

    def _on_reconnect(self, _: None, now_s: float, out: list[Effect]) -> None:
        if self._session == "pausing":
            self._session = "down"  # the end of this step connects again if there are calls

    def _connect(self, out: list[Effect]) -> None:
        self._session = "joining"
        resume = tuple((lease, self._channels.live_of(lease.lease)) for lease in self._leases.values())
        out.append(Connect(resume))

    # --- the standing target, and waiting without a worker ------------------------------------

    def _ask_for_workers(self, now_s: float, out: list[Effect]) -> None:
        if now_s >= self._content_until_s or not self._channels.any_serving():
            self._want = max(self._want, min(self._max_workers, self._outstanding))
        if self._session == "down" and (self._queue or (self._leases and self._outstanding)):
            self._connect(out)
        self._watch_for_quiet(now_s)
        self._watch_for_starving(now_s)
        if self._session == "up" and self._want != self._want_told:
            self._want_told = self._want
            out.append(SendWant(self._want))

    def _watch_for_quiet(self, now_s: float) -> None:
        """Lower the target when nothing has waited for a while: it takes no worker away, but asks for no new one."""
        if self._queue or self._want <= 1:
            self._nothing_waits_since_s = None
        elif self._nothing_waits_since_s is None:
            self._nothing_waits_since_s = now_s
            self._timers.add(now_s + LOWER_WANT_AFTER_S, self._on_quiet, now_s)

    def _on_quiet(self, since_s: float, now_s: float, out: list[Effect]) -> None:
        if self._nothing_waits_since_s == since_s:
            self._nothing_waits_since_s = None
            self._want = min(self._want, max(1, self._outstanding))

    def _watch_for_starving(self, now_s: float) -> None:
        if self._acquire_timeout_s is None:
            return
        if not self._queue or self._channels.any_serving():
            self._starved_since_s = None
        elif self._starved_since_s is None:
            self._starved_since_s = now_s
            self._timers.add(now_s + self._acquire_timeout_s, self._on_starved, now_s)

    def _on_starved(self, since_s: float, now_s: float, out: list[Effect]) -> None:
        if self._starved_since_s != since_s or self._acquire_timeout_s is None:
            return
        for call in self._queue:
            if call.resolved:
                continue
            due_s = max(call.submitted_at_s, since_s) + self._acquire_timeout_s
            if due_s > now_s:
                self._timers.add(due_s, self._on_starved, since_s)
                break
            message = f"no worker came within acquire_timeout_s={self._acquire_timeout_s}"
            message += f" ({self._why_waiting}{self._why_more})" if self._why_waiting else ""
            hint = "wait longer, or ask for less: fewer cores or less memory a worker"
            self._fail(call, self._unsent_error(AcquireTimeout, call, message, hint=hint), out)

    def _on_tick(self, event: Tick, now_s: float, out: list[Effect]) -> None:
        for handler, subject in self._timers.pop_due(now_s):
            handler(subject, now_s, out)


def _denial(event: Denied) -> RfaasError:
    if event.code == EnvironmentFailed.code:  # the hint is what the interpreter said
        message = f"this program's interpreter and modules could not be started for its functions: {event.hint}"
        return EnvironmentFailed(message, hint="they must be reachable from where functions run")
    code = ReasonCode.QUOTA if event.code == "quota" else ReasonCode.NONE
    return LeaseDenied(f"no lease is given ({event.code})", hint=event.hint, reason_code=code)


def _is_stale(handler: Callable[..., None], subject: object) -> bool:
    return isinstance(subject, Call) and subject.resolved


_COUNTERS: Final = (
    "submitted",
    "dispatched",
    "answered",
    "failed",
    "cancelled",
    "redispatched",
    "retried",
    "reclaimed",
    "notices",
    "late_results",
    "sessions_lost",
)

_HANDLERS: Final[dict[type, Callable[[ClientCore, Any, float, list[Effect]], None]]] = {
    Submit: ClientCore._on_submit,
    Cancel: ClientCore._on_cancel,
    Shutdown: ClientCore._on_shutdown,
    Tick: ClientCore._on_tick,
    SessionUp: ClientCore._on_session_up,
    SessionLost: ClientCore._on_session_lost,
    SessionFailed: ClientCore._on_session_failed,
    LeaseGranted: ClientCore._on_lease_granted,
    LeaseEnded: ClientCore._on_lease_ended,
    ChannelOpened: ClientCore._on_channel_opened,
    FrameArrived: ClientCore._on_frame,
    ChannelEnded: ClientCore._on_channel_ended,
    SendFailed: ClientCore._on_send_failed,
    ChannelsCondemned: ClientCore._on_condemned,
    Notice: ClientCore._on_notice,
    Queued: ClientCore._on_queued,
    Denied: ClientCore._on_denied,
}
