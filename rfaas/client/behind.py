"""Calls that lie behind another at its worker: which may, where, and when they are taken back. Sans-IO.

A part of `rfaas.client.core`. A worker that answers within microseconds would wait for the client between two calls, so
the next one is sent before the answer came. That must cost no call its turn: a call lies only behind calls of its own
function whose last one was short, and what lies behind one that turns out to be long is taken back as soon as another
worker could run it. Spec: docs/spec/001-invocation.md section 3.
"""

from __future__ import annotations

from typing import Final

from rfaas.client.channel_table import Channel, ChannelTable
from rfaas.client.effects import Effect, SendInterrupt, Started, TakeBack
from rfaas.client.records import Call
from rfaas.client.timers import Timers

MOST_AT_ONCE: Final = 8  # calls at a worker
QUICK_S: Final = 0.001  # who answers within it gets calls behind others
LONG_S: Final = 0.002  # a call that has run for so long is a long one
ASK: Final = 0  # TAKE_BACK of this number asks whether take-backs are answered


class Behind:
    """What lies behind other calls, on the channels of one client.

    Args:
        channels, timers: shared with the core.
    """

    def __init__(self, channels: ChannelTable, timers: Timers) -> None:
        self._channels = channels
        self._timers = timers
        self._looking = False  # a timer is set
        self._waiting: list[Channel] = []  # channels with a long call and calls behind it, which nobody could take yet

    # --- sending ----------------------------------------------------------------------------------

    def ask(self, channel: Channel, out: list[Effect]) -> None:
        """A call was answered while others wait: ask, once, for more credits of a worker that is quick with it."""
        if channel.quick_with and not channel.asked:
            channel.asked = True
            out.append(TakeBack(channel.info.number, ASK))

    def ask_lent(self, out: list[Effect]) -> None:
        """Calls wait for the channels on loan: ask, once, for more credits."""
        for channel in self._channels:
            if channel.lent and channel.usable and not channel.asked:
                channel.asked = True
                out.append(TakeBack(channel.info.number, ASK))

    def place(self, call: Call, now_s: float) -> Channel | None:
        """Spend a credit of the busy worker where this call waits the shortest; None: it waits in the queue."""
        best: Channel | None = None
        if call.follows:
            for channel in self._channels.attended:
                if self._takes(channel, call, now_s) and (best is None or len(channel.running) < len(best.running)):
                    best = channel
        if best is not None:
            self._channels.spend(best)
        return best

    def _takes(self, channel: Channel, call: Call, now_s: float) -> bool:
        return (
            0 < len(channel.running) < MOST_AT_ONCE
            and len(channel.running) * channel.took_s < QUICK_S
            and channel.credits > 0
            and channel.quick_with == call.follows
            and now_s - channel.since_s < LONG_S
            and channel.serves
        )

    def sent(self, channel: Channel, call: Call, now_s: float) -> None:
        """A call was sent to this channel, where others may run."""
        call.behind = bool(channel.running)
        call.taking_back = False
        if not call.behind:
            channel.since_s = now_s
        else:
            self._look_later(now_s)

    # --- what comes ---------------------------------------------------------------------------------

    def answered(self, channel: Channel, call: Call, now_s: float, out: list[Effect], *, can_ask: bool) -> None:
        """This call left its channel; the next one, if there is one, runs from now on."""
        if not call.behind:
            channel.took_s = now_s - channel.since_s
            channel.quick_with = call.follows if channel.took_s < QUICK_S else b""
            channel.since_s = now_s
            self._start_first(channel, now_s, out, can_ask=can_ask)
        call.behind = False

    def _start_first(self, channel: Channel, now_s: float, out: list[Effect], *, can_ask: bool) -> None:
        """The oldest call of a channel runs."""
        first = next(iter(channel.running.values()), None)
        if first is None or not first.behind:
            return
        first.behind = first.withdrawing = False
        out.append(Started(first))
        if first.interrupted and can_ask:  # it could not be taken back
            out.append(SendInterrupt(channel.info.number, first.call_id))
        if len(channel.running) > 1:
            self._look_later(now_s)

    # --- taking back ----------------------------------------------------------------------------------

    def take_back(self, call: Call, out: list[Effect]) -> None:
        """Ask for a call that lies behind another, once."""
        if call.behind and not call.taking_back:
            call.taking_back = True
            out.append(TakeBack(call.channel, call.call_id))

    def withdraw_all(self, out: list[Effect]) -> None:
        """Take back, for good, all that has not started."""
        for channel in self._channels.attended:
            for call in channel.running.values():
                if call.behind and not call.may_have_run:
                    call.withdrawing = True
                    self.take_back(call, out)

    def tend(self, now_s: float, out: list[Effect]) -> None:
        """After a step: what lies behind a long call goes to who could run it by now."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for channel in waiting:
            if self._is_long(channel, now_s):
                self._relieve(channel, now_s, out)

    def _look_later(self, now_s: float, in_s: float = LONG_S) -> None:
        if not self._looking:
            self._looking = True
            self._timers.add(now_s + in_s, self._on_look, None)

    def _on_look(self, _: None, now_s: float, out: list[Effect]) -> None:
        self._looking = False
        next_s = float("inf")
        for channel in self._channels.attended:
            if len(channel.running) < 2 or channel in self._waiting or channel.relieved == channel.since_s:
                continue
            if self._is_long(channel, now_s):
                self._relieve(channel, now_s, out)
            else:
                next_s = min(next_s, channel.since_s + LONG_S)
        if next_s < float("inf"):
            self._look_later(now_s, max(next_s - now_s, LONG_S / 2))

    def _is_long(self, channel: Channel, now_s: float) -> bool:
        return len(channel.running) > 1 and now_s - channel.since_s >= LONG_S

    def _relieve(self, channel: Channel, now_s: float, out: list[Effect]) -> None:
        channel.quick_with = b""
        if not any(self._could_run(other, now_s) for other in self._channels if other is not channel):
            self._waiting.append(channel)
            return
        channel.relieved = channel.since_s
        for call in channel.running.values():
            self.take_back(call, out)

    def _could_run(self, channel: Channel, now_s: float) -> bool:
        is_quick = bool(channel.quick_with) and now_s - channel.since_s < LONG_S
        return channel.serves and channel.ready and (is_quick if channel.running else channel.credits > 0)

    def recover(self, now_s: float) -> None:
        """Put this in order after a step was broken off: what was asked may not have been sent."""
        self._waiting = []
        for channel in self._channels:
            for i, call in enumerate(channel.running.values()):
                call.behind = i > 0
                call.taking_back = False
        self._looking = False
        self._look_later(now_s)
