"""Deciding what a client does: which call goes to which worker when, and how each ends. Sans-IO.

`ClientCore.step(event, now_s)` answers with effects, which the I/O thread does in order. No I/O, clock, lock, thread or
log in here: production, tests and simulators run the same code. Its parts: calls (`call_book`), ends of channels
(`channel_ends`), the standing target (`target`), what is given back (`returns`), what workers do beside calls
(`chores`).
Spec: docs/spec/001-invocation.md sections 3, 5, 6, 8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from rfaas.client.behind import Behind
from rfaas.client.call_book import CallBook, unsent_error
from rfaas.client.capacity import Capacity
from rfaas.client.channel_ends import ChannelEnds
from rfaas.client.channel_table import Channel, ChannelTable
from rfaas.client.chores import Chores
from rfaas.client.events import (
    Borrowed,
    Break,
    Call,
    Cancel,
    CancelOverdue,
    ChannelEnded,
    ChannelOpened,
    ChannelsCondemned,
    CloseChannel,
    Connect,
    Denied,
    Dispatch,
    Drained,
    Effect,
    Event,
    Examine,
    Examined,
    FrameArrived,
    Lease,
    LeaseEnded,
    LeaseGranted,
    Lend,
    Lent,
    Notice,
    Queued,
    Recall,
    Resize,
    Returned,
    SendFailed,
    SendInterrupt,
    SessionFailed,
    SessionLost,
    SessionUp,
    Shutdown,
    Submit,
    TellGain,
    TellReclaim,
    Terminate,
    Tick,
    Verdict,
)
from rfaas.client.returns import Returns
from rfaas.client.target import Target
from rfaas.client.timers import Timers
from rfaas_transport.errors import ProtocolError, ReasonCode, RfaasError
from rfaas_transport.frame import Kind, Status

RESULT: Final = int(Kind.RESULT)  # plain integers: comparing with an IntEnum costs a call
ERROR: Final = int(Kind.ERROR)
CHECKPOINT: Final = int(Kind.CHECKPOINT)
TAKEN: Final = int(Kind.TAKEN)
STALE: Final = int(Status.STALE)
NOT_STARTED: Final = int(Status.NOT_STARTED)
EXCEPTION: Final = int(Status.EXCEPTION)
FUNCTION_ERROR: Final = int(Status.FUNCTION_ERROR)

RECONNECT_PAUSE_S: Final = 0.5
IDLE_RECONNECT_PAUSE_S: Final = 2.0  # while nothing is lost by it: no lease, no call
LENT_IDS: Final = 1 << 20  # calls that one loan is good for
MOST_LENT: Final = 64  # channels at a time


class ClientCore:
    """The calls, channels and wishes of one client.

    Args:
        max_workers: ceiling of the standing target.
        acquire_timeout_s: how long a call may wait while there is no worker; None: for ever.
        seed: of the jitter between retries; None: random.
        chores: what workers do before their first call and after their last; None: nothing.
    """

    def __init__(
        self,
        max_workers: int,
        acquire_timeout_s: float | None = None,
        seed: int | None = None,
        chores: Chores | None = None,
    ) -> None:
        self.counters: dict[str, int] = dict.fromkeys(_COUNTERS, 0)
        self._timers = Timers()
        self._channels = ChannelTable()
        self._target = Target(max_workers, acquire_timeout_s, self._channels, self._timers)
        self._calls = CallBook(self._timers, self.counters, lambda: self._target.why_waiting, seed)
        self._target.watch(self._calls)
        self._chores = chores or Chores()
        self._broken_by: RfaasError | None = None  # what calls fail with when no worker can be initialized
        self._ends = ChannelEnds(self._channels, self._calls, self._chores, self._timers, self.counters, self._can_ask)
        self._behind = Behind(self._channels, self._timers)
        self._last_call_id = 0
        self._leases: dict[bytes, Lease] = {}
        self._noticed: set[bytes] = set()  # leases whose notice was passed on
        self._gained: set[bytes] = set()  # leases of which a worker was there
        self._returns = Returns(self._channels, self._behind, self._leases, self._noticed)
        self._session = "down"  # down, joining, up, pausing (after a failure, while there are leases)
        self._embedded = False
        self._n_lent = 0  # channels on loan
        self._closing = False
        self._cancels_queued = False
        self._drained = False
        self._handlers = self._all_handlers()

    def _all_handlers(self) -> dict[type, Callable[[Any, float, list[Effect]], None]]:
        return {
            Submit: self._on_submit,
            Cancel: self._on_cancel,
            CancelOverdue: self._on_cancel_overdue,
            Shutdown: self._on_shutdown,
            Terminate: self._on_terminate,
            Resize: self._on_resize,
            Break: self._on_break,
            Lend: self._on_lend,
            Returned: self._on_returned,
            Borrowed: self._on_borrowed,
            Tick: self._on_tick,
            SessionUp: self._on_session_up,
            SessionLost: self._on_session_lost,
            SessionFailed: self._on_session_failed,
            LeaseGranted: self._on_lease_granted,
            LeaseEnded: self._on_lease_ended,
            ChannelOpened: self._on_channel_opened,
            FrameArrived: self._on_frame,
            ChannelEnded: self._ends.on_ended,
            SendFailed: self._on_send_failed,
            ChannelsCondemned: self._ends.on_condemned,
            Notice: self._on_notice,
            Examined: self._calls.on_examined,
            Queued: self._target.on_queued,
            Denied: self._target.on_denied,
        }

    @property
    def has_idle(self) -> bool:
        """True if a worker that is not on loan waits for a call."""
        return self._channels.has_idle

    def step(self, event: Event, now_s: float) -> list[Effect]:
        """Take one event at `now_s` (monotonic seconds, never going back); Tick does what is due by then.

        Returns:
            What to do, in order. Each call resolves in exactly one Deliver, Fail or Withdrawn.
        """
        out: list[Effect] = []
        self._handlers[type(event)](event, now_s, out)
        self._finish_step(now_s, out)
        return out

    def _finish_step(self, now_s: float, out: list[Effect]) -> None:
        if self._returns.is_due or self._returns.leaving:
            self._returns.tend(out)
        self._feed_workers(now_s, out)
        self._behind.tend(now_s, out)
        self._ask_for_workers(now_s, out)
        if self._n_lent and (self._closing or self._calls.queue):
            out.append(Recall())
        if self._closing and self._calls.outstanding == 0 and self._n_lent == 0 and not self._drained:
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
            "queued": len(self._calls.queue),
            "running": sum(1 for c in channels for call in c.running.values() if call is not c.chore),
            "workers": sum(1 for c in channels if c.usable and c.greeted),
            "want": self._target.want,
        }

    def capacity(self) -> Capacity:
        """What there is now; calls on channels on loan are not known here."""
        holding = self._returns.holding()
        ready = [c for c in self._channels if c.usable and c.greeted and not c.leaving]
        statistics = self.statistics()
        wanted = self._target.want if self._target.fixed is None else self._target.fixed
        return Capacity(
            wanted=wanted,
            have=holding.kept,
            ready=len(ready),
            idle=sum(1 for c in ready if not c.running),
            in_notice=holding.in_notice,
            returning=holding.leaving + holding.returned,
            queued=statistics["queued"],
            running=statistics["running"],
            why=self._target.why_waiting if holding.kept < wanted else "",
        )

    def recover(
        self, unresolved: list[Call], credits: dict[int, int], now_s: float, *, is_joining: bool
    ) -> list[Effect]:
        """Put the books in order after an exception broke off a step of Submit, Cancel, Shutdown or Terminate.

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
        self._behind.recover(now_s)
        running = {id(call) for channel in self._channels for call in channel.running.values()}
        self._calls.recover(unresolved, running, now_s, out)
        if self._calls.terminated:  # by the step that was broken off, maybe
            self._terminate(out)
        for channel in self._channels:
            self._do_chore(channel, now_s, out)
        self._target.tell_again()
        self._returns.recover(out)
        if self._session == "joining" and not is_joining:
            self._session = "down"
        self._drained = False
        self._interrupt_again(out)
        self._finish_step(now_s, out)
        return out

    # --- what the user does -------------------------------------------------------------------

    def _on_submit(self, event: Submit, now_s: float, out: list[Effect]) -> None:
        self._calls.admit(event.call, now_s)
        if self._cancels_queued or self._calls.terminated:  # one that comes back from a loan
            self._calls.cancel_waiting(out)

    def _on_cancel(self, event: Cancel, now_s: float, out: list[Effect]) -> None:
        call = event.call
        if call.behind and not call.resolved and (event.interrupt or not call.may_have_run):
            call.withdrawing = not event.interrupt
            self._behind.take_back(call, out)
        if self._calls.cancel(call, event.interrupt, now_s, out) and not call.behind and self._can_ask():
            out.append(SendInterrupt(call.channel, call.call_id))

    def _on_cancel_overdue(self, event: CancelOverdue, now_s: float, out: list[Effect]) -> None:
        event.call.withdrawing = False

    def _interrupt_again(self, out: list[Effect]) -> None:
        """Ask for what may not have been heard: whoever was to pass it on may be gone. Repeating does no harm."""
        for channel in self._channels:
            for call_id, call in channel.running.items():
                if call.interrupted and not call.behind and self._can_ask():
                    out.append(SendInterrupt(channel.info.number, call_id))

    def _on_shutdown(self, event: Shutdown, now_s: float, out: list[Effect]) -> None:
        self._closing = True
        if self._target.fixed == 0:  # nobody may be left to lift it, and calls that wait are to end
            self._on_resize(Resize(None, self._target.lease_workers), now_s, out)
        if event.cancel_queued:
            self._cancels_queued = True
            self._calls.cancel_waiting(out)
            self._behind.withdraw_all(out)

    def _on_terminate(self, event: Terminate, now_s: float, out: list[Effect]) -> None:
        self._closing = self._calls.terminated = True
        self._terminate(out)

    def _terminate(self, out: list[Effect]) -> None:
        self._calls.cancel_waiting(out)
        self._ends.terminate_all(out)

    def _on_resize(self, event: Resize, now_s: float, out: list[Effect]) -> None:
        self._target.resize(event.workers, event.lease_workers)
        self._returns.resize(event.workers)

    def _on_break(self, event: Break, now_s: float, out: list[Effect]) -> None:
        self._closing = self._chores.broke = True
        self._broken_by = event.error  # calls fail at the end of the step, those that come back later too

    def _on_tick(self, event: Tick, now_s: float, out: list[Effect]) -> None:
        for handler, subject in self._timers.pop_due(now_s):
            handler(subject, now_s, out)

    # --- workers ------------------------------------------------------------------------------

    def _feed_workers(self, now_s: float, out: list[Effect]) -> None:
        """Hand waiting calls to idle workers, oldest first; the worker that was busy last comes first."""
        if self._broken_by is not None:
            self._calls.fail_waiting(self._broken_by, out)
        queue = self._calls.queue
        while queue and not self._chores.broke:
            channel = self._channels.take_idle()
            if channel is None and not self._chores.counts_calls:
                channel = self._behind.place(queue.first(), now_s)
            if channel is None:
                return
            self._dispatch(channel, queue.take(), now_s, out)

    def _dispatch(self, channel: Channel, call: Call, now_s: float, out: list[Effect]) -> None:
        self._last_call_id += 1
        call.call_id = self._last_call_id
        call.first_call_id = call.first_call_id or call.call_id
        call.channel = channel.info.number
        call.dispatches += 1
        self._behind.sent(channel, call, now_s)
        channel.running[call.call_id] = call
        if call is not channel.chore:
            self.counters["dispatched"] += 1
            self._chores.count(channel)
        remaining_s = None if call.deadline_s is None else max(0.0, call.deadline_s - now_s)
        out.append(Dispatch(channel.info.number, call, call.call_id, remaining_s))

    def _do_chore(self, channel: Channel, now_s: float, out: list[Effect]) -> None:
        """Have a worker that idles do what it owes before its first call or after its last."""
        chore = self._chores.due(channel)
        if chore is not None:
            self._channels.spend(channel)
            self._dispatch(channel, chore, now_s, out)

    def _on_lend(self, event: Lend, now_s: float, out: list[Effect]) -> None:
        if self._n_lent or self._closing or self._calls.queue or self._chores.counts_calls:
            return
        while self._n_lent < MOST_LENT and (channel := self._channels.take_idle()) is not None:
            self._channels.lend(channel)
            self._n_lent += 1
            out.append(Lent(channel.info.number, self._last_call_id))
            self._last_call_id += LENT_IDS

    def _on_borrowed(self, event: Borrowed, now_s: float, out: list[Effect]) -> None:
        self._target.n_borrowed = event.n_calls
        if event.n_calls > self._n_lent:
            self._behind.ask_lent(out)

    def _on_returned(self, event: Returned, now_s: float, out: list[Effect]) -> None:
        channel = self._channels.get(event.channel)
        for counter in ("submitted", "dispatched", "answered"):
            self.counters[counter] += event.n_calls
        assert channel is not None, "a channel on loan is not forgotten"
        self._n_lent -= 1
        channel.granted += event.n_calls + event.credits
        channel.answered += event.n_calls
        if event.credits:
            self._channels.attend(channel)
        for call in event.calls:
            self._calls.adopt(call, now_s)
            self.counters["dispatched"] += 1
            call.first_call_id, call.channel, call.dispatches = call.call_id, channel.info.number, 1
            self._behind.sent(channel, call, now_s)
            channel.running[call.call_id] = call
        self._channels.end_loan(channel)
        if self._returns.leaving:
            self._returns.is_due = True
        if self._calls.terminated:
            self._ends.terminate_all(out)

    def _on_channel_opened(self, event: ChannelOpened, now_s: float, out: list[Effect]) -> None:
        self._returns.on_channel(self._channels.open(event.info, ready=self._chores.is_ready(event.info)))
        if self._drained:
            self._channels.remove(event.info.number)
            out.append(CloseChannel(event.info.number))

    def _on_frame(self, event: FrameArrived, now_s: float, out: list[Effect]) -> None:
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
            self._behind.answered(channel, call, now_s, out, can_ask=self._can_ask())
            if call is channel.chore:
                self._chores.answered(channel, call, frame, out)
            elif not call.resolved:
                error = unsent_error(ProtocolError, call, f"the worker refused the call: {frame.text}", "SENT")
                self._calls.fail(call, error, out)
        if frame.credits and not channel.greeted:
            self._on_greeting(channel, out)
        self._channels.grant(channel, frame.credits)
        if self._returns.leaving:
            self._returns.is_due = True
        self._do_chore(channel, now_s, out)

    def _on_greeting(self, channel: Channel, out: list[Effect]) -> None:
        lease = self._leases.get(channel.info.lease)
        if lease is not None and lease.lease not in self._gained and self._returns.takes(lease.lease):
            self._gained.add(lease.lease)
            out.append(TellGain(lease))

    def _on_taken(self, channel: Channel, event: FrameArrived, now_s: float, out: list[Effect]) -> None:
        if event.frame.call_id == 0:
            self._channels.attend(channel)
            return
        call = channel.running.pop(event.frame.call_id, None)
        if call is None:
            return
        channel.answered += 1
        self._behind.answered(channel, call, now_s, out, can_ask=self._can_ask())
        if not call.resolved:
            self._calls.dispatch_again(call, out)

    def _on_result(self, channel: Channel, event: FrameArrived, now_s: float, out: list[Effect]) -> None:
        call = channel.running.pop(event.frame.call_id, None)
        if call is not None:
            channel.answered += 1
            self._behind.answered(channel, call, now_s, out, can_ask=self._can_ask())
            if self._calls.queue and not self._chores.counts_calls:
                self._behind.ask(channel, out)
        if call is not None and call is channel.chore:
            self._chores.answered(channel, call, event.frame, out)
            return
        if call is None or call.resolved:  # I7: a result reaches the dispatch it belongs to, or nobody
            self.counters["late_results"] += 1
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

    def _on_send_failed(self, event: SendFailed, now_s: float, out: list[Effect]) -> None:
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

    # --- leases and the session process -------------------------------------------------------

    def _can_ask(self) -> bool:
        return self._session == "up"

    def _on_lease_granted(self, event: LeaseGranted, now_s: float, out: list[Effect]) -> None:
        self._leases[event.lease.lease] = event.lease
        if self._returns.is_returned(event.lease.lease):  # by one who had not heard of it
            self._returns.again(out)
            return
        self._target.on_granted()
        self._returns.changed()

    def _on_lease_ended(self, event: LeaseEnded, now_s: float, out: list[Effect]) -> None:
        self._leases.pop(event.lease, None)
        self._noticed.discard(event.lease)
        self._gained.discard(event.lease)
        self._returns.forget(event.lease)

    def _on_notice(self, event: Notice, now_s: float, out: list[Effect]) -> None:
        self.counters["notices"] += 1
        for channel in self._channels:
            if channel.info.number in event.channels or channel.info.lease == event.lease:
                channel.usable = False
        if event.lease not in self._noticed:  # an agent that is reached again says it again
            self._noticed.add(event.lease)
            self._returns.forget(event.lease)  # its owner's word goes first
            if not self._returns.is_returned(event.lease):
                out.append(TellReclaim(event))

    def _on_session_up(self, event: SessionUp, now_s: float, out: list[Effect]) -> None:
        self._session = "up"
        self._embedded = event.embedded
        self._target.tell_again()
        self._returns.again(out)
        self._interrupt_again(out)

    def _on_session_lost(self, event: SessionLost, now_s: float, out: list[Effect]) -> None:
        if self._session == "down":
            return
        self._session = "down"
        self.counters["sessions_lost"] += 1
        if self._embedded:  # agent and workers died with it
            for lease in list(self._leases):
                self._returns.forget(lease)
            self._leases.clear()
            self._noticed.clear()
            self._gained.clear()
            self._target.drop()
            verdict = Verdict(reason_code=ReasonCode.AGENT_LOST, hint="the embedded session process ended")
            self._ends.condemn_all(verdict, now_s, out)
        if self._leases and not self._drained:  # somebody must renew them
            self._connect(out)

    def _on_session_failed(self, event: SessionFailed, now_s: float, out: list[Effect]) -> None:
        self._target.tell_again()
        if not self._channels.any_serving():  # else what waits gets those workers, with or without a session process
            self._calls.fail_waiting(event.error, out)
        if self._leases or self._holds_out():  # somebody must renew them, or ask for more
            self._session = "pausing"
            pause_s = RECONNECT_PAUSE_S if self._leases else IDLE_RECONNECT_PAUSE_S
            self._timers.add(now_s + pause_s, self._on_reconnect, None)
        else:
            self._session = "down"
            self._target.drop()

    def _on_reconnect(self, _: None, now_s: float, out: list[Effect]) -> None:
        if self._session == "pausing":
            self._session = "down"  # the end of this step connects again if there are calls

    def _is_needed(self) -> bool:
        return bool(self._calls.queue or (self._leases and self._calls.outstanding) or self._holds_out())

    def _holds_out(self) -> bool:
        """True if workers are wanted whatever calls there are."""
        return bool(self._target.fixed) and not self._closing

    def _connect(self, out: list[Effect]) -> None:
        self._session = "joining"
        resume = tuple((lease, self._channels.live_of(lease.lease)) for lease in self._leases.values())
        out.append(Connect(resume))

    def _ask_for_workers(self, now_s: float, out: list[Effect]) -> None:
        if self._chores.broke:
            return
        self._target.update(now_s)
        if self._session == "down" and self._is_needed():
            self._connect(out)
        if self._session == "up" and (want := self._target.untold()) is not None:
            out.append(want)


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
