"""Deciding what a client does: which call goes to which worker when, and how each ends. Sans-IO.

`ClientCore.step(event, now_s)` answers with effects, which the I/O thread does in order. No I/O, clock, lock, thread or
log in here: production, tests and simulators run the same code.

Books: calls (`call_book`), channels (`channel_table`), leases (`leases`), the standing target (`target`), what workers
do beside calls (`chores`). What acts on them: sending (`dispatching`, `behind`), what workers answer (`answers`), ends
of channels (`channel_ends`), channels on loan (`loans`), leases that go back (`returns`), the session process
(`session_state`). Here is what the user does, and what concerns several parts.
Spec: docs/spec/001-invocation.md sections 3, 5, 6, 8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from rfaas.client.answers import Answers
from rfaas.client.behind import Behind
from rfaas.client.call_book import CallBook
from rfaas.client.capacity import Capacity
from rfaas.client.channel_ends import ChannelEnds
from rfaas.client.channel_table import ChannelTable
from rfaas.client.chores import Chores
from rfaas.client.dispatching import Dispatching
from rfaas.client.effects import (
    CloseChannel,
    Drained,
    Effect,
    Recall,
    SendInterrupt,
)
from rfaas.client.events import (
    Borrowed,
    Break,
    Cancel,
    CancelOverdue,
    ChannelEnded,
    ChannelOpened,
    ChannelsCondemned,
    Denied,
    Event,
    Examined,
    FrameArrived,
    LeaseEnded,
    LeaseGranted,
    Lend,
    Notice,
    Queued,
    Resize,
    Returned,
    SendFailed,
    SessionFailed,
    SessionLost,
    SessionUp,
    Shutdown,
    Submit,
    Terminate,
    Tick,
)
from rfaas.client.leases import Leases
from rfaas.client.loans import Loans
from rfaas.client.records import Call, Verdict
from rfaas.client.returns import Returns
from rfaas.client.session_state import SessionState
from rfaas.client.target import Target
from rfaas.client.timers import Timers
from rfaas_transport.errors import ReasonCode


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
        self._behind = Behind(self._channels, self._timers)
        self._leases = Leases()
        self._returns = Returns(self._channels, self._behind, self._leases)
        self._cancels_queued = False
        self._wire()
        self._handlers = self._all_handlers()

    def _wire(self) -> None:
        """Make the parts that act on others; those before only keep books."""
        channels, calls, chores, counters = self._channels, self._calls, self._chores, self.counters
        self._session = SessionState(
            self._leases,
            self._returns,
            calls=calls,
            channels=channels,
            target=self._target,
            timers=self._timers,
            counters=counters,
        )
        self._ends = ChannelEnds(channels, calls, chores, self._timers, counters, self._session.can_ask)
        self._dispatching = Dispatching(calls, channels, self._behind, chores, counters)
        self._answers = Answers(
            channels,
            calls,
            self._dispatching,
            chores=chores,
            behind=self._behind,
            returns=self._returns,
            session=self._session,
            counters=counters,
        )
        self._loans = Loans(
            channels,
            calls,
            self._dispatching,
            chores=chores,
            behind=self._behind,
            returns=self._returns,
            ends=self._ends,
            target=self._target,
            counters=counters,
        )

    def _all_handlers(self) -> dict[type, Callable[[Any, float, list[Effect]], None]]:
        return {
            Submit: self._on_submit,
            Cancel: self._on_cancel,
            CancelOverdue: self._on_cancel_overdue,
            Shutdown: self._on_shutdown,
            Terminate: self._on_terminate,
            Resize: self._on_resize,
            Break: self._on_break,
            Lend: self._loans.on_lend,
            Returned: self._loans.on_returned,
            Borrowed: self._loans.on_borrowed,
            Tick: self._on_tick,
            SessionUp: self._on_session_up,
            SessionLost: self._on_session_lost,
            SessionFailed: self._session.on_failed,
            LeaseGranted: self._session.on_lease_granted,
            LeaseEnded: self._session.on_lease_ended,
            ChannelOpened: self._on_channel_opened,
            FrameArrived: self._answers.on_frame,
            ChannelEnded: self._ends.on_ended,
            SendFailed: self._answers.on_send_failed,
            ChannelsCondemned: self._ends.on_condemned,
            Notice: self._session.on_notice,
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
        self._dispatching.feed_workers(now_s, out)
        self._behind.tend(now_s, out)
        if not self._chores.broke:
            self._session.tend(now_s, out)
        if self._loans.n_lent and (self._calls.closing or self._calls.queue):
            out.append(Recall())
        if self._calls.closing and self._calls.outstanding == 0 and self._loans.n_lent == 0 and not self._calls.drained:
            self._calls.drained = True
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
            self._dispatching.do_chore(channel, now_s, out)
        self._returns.recover(out)
        self._session.recover(is_joining=is_joining)
        self._calls.drained = False
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
        if self._calls.cancel(call, event.interrupt, now_s, out) and not call.behind and self._session.can_ask():
            out.append(SendInterrupt(call.channel, call.call_id))

    def _on_cancel_overdue(self, event: CancelOverdue, now_s: float, out: list[Effect]) -> None:
        event.call.withdrawing = False

    def _on_shutdown(self, event: Shutdown, now_s: float, out: list[Effect]) -> None:
        self._calls.closing = True
        if self._target.fixed == 0:  # nobody may be left to lift it, and calls that wait are to end
            self._on_resize(Resize(None, self._target.lease_workers), now_s, out)
        if event.cancel_queued:
            self._cancels_queued = True
            self._calls.cancel_waiting(out)
            self._behind.withdraw_all(out)

    def _on_terminate(self, event: Terminate, now_s: float, out: list[Effect]) -> None:
        self._calls.closing = self._calls.terminated = True
        self._terminate(out)

    def _terminate(self, out: list[Effect]) -> None:
        self._calls.cancel_waiting(out)
        self._ends.terminate_all(out)

    def _on_resize(self, event: Resize, now_s: float, out: list[Effect]) -> None:
        self._target.resize(event.workers, event.lease_workers)
        self._returns.resize(event.workers)

    def _on_break(self, event: Break, now_s: float, out: list[Effect]) -> None:
        self._calls.closing = self._chores.broke = True
        self._dispatching.broken_by = event.error  # calls fail at the end of the step, those that come back later too

    def _on_tick(self, event: Tick, now_s: float, out: list[Effect]) -> None:
        for handler, subject in self._timers.pop_due(now_s):
            handler(subject, now_s, out)

    # --- what concerns several parts -------------------------------------------------------------

    def _on_channel_opened(self, event: ChannelOpened, now_s: float, out: list[Effect]) -> None:
        self._returns.on_channel(self._channels.open(event.info, ready=self._chores.is_ready(event.info)))
        if self._calls.drained:
            self._channels.remove(event.info.number)
            out.append(CloseChannel(event.info.number))

    def _on_session_up(self, event: SessionUp, now_s: float, out: list[Effect]) -> None:
        self._session.on_up(event, out)
        self._interrupt_again(out)

    def _on_session_lost(self, event: SessionLost, now_s: float, out: list[Effect]) -> None:
        if self._session.on_lost(out):  # agent and workers died with it
            verdict = Verdict(reason_code=ReasonCode.AGENT_LOST, hint="the embedded session process ended")
            self._ends.condemn_all(verdict, now_s, out)

    def _interrupt_again(self, out: list[Effect]) -> None:
        """Ask for what may not have been heard: whoever was to pass it on may be gone. Repeating does no harm."""
        for channel in self._channels:
            for call_id, call in channel.running.items():
                if call.interrupted and not call.behind and self._session.can_ask():
                    out.append(SendInterrupt(channel.info.number, call_id))


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
