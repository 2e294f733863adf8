"""Channels of idle workers on loan to who calls again and again. Sans-IO, a part of `rfaas.client.core`.

What is sent there the borrower decides (`rfaas.client.lane`); the core hears of it when a channel comes back.
"""

from __future__ import annotations

from typing import Final

from rfaas.client.behind import Behind
from rfaas.client.call_book import CallBook
from rfaas.client.channel_ends import ChannelEnds
from rfaas.client.channel_table import ChannelTable
from rfaas.client.chores import Chores
from rfaas.client.dispatching import Dispatching
from rfaas.client.effects import Effect, Lent
from rfaas.client.events import Borrowed, Lend, Returned
from rfaas.client.returns import Returns
from rfaas.client.target import Target

LENT_IDS: Final = 1 << 20  # calls that one loan is good for
MOST_LENT: Final = 64  # channels at a time


class Loans:
    """The channels of one client that are on loan.

    Attributes:
        n_lent: how many there are.

    Args:
        channels, calls, dispatching, chores, behind, returns, ends, target, counters: shared with the core.
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
        ends: ChannelEnds,
        target: Target,
        counters: dict[str, int],
    ) -> None:
        self.n_lent = 0
        self._channels = channels
        self._calls = calls
        self._dispatching = dispatching
        self._chores = chores
        self._behind = behind
        self._returns = returns
        self._ends = ends
        self._target = target
        self._counters = counters

    def on_lend(self, event: Lend, now_s: float, out: list[Effect]) -> None:
        """Lend what idles, if nobody waits."""
        if self.n_lent or self._calls.closing or self._calls.queue or self._chores.counts_calls:
            return
        while self.n_lent < MOST_LENT and (channel := self._channels.take_idle()) is not None:
            self._channels.lend(channel)
            self.n_lent += 1
            out.append(Lent(channel.info.number, self._dispatching.last_call_id))
            self._dispatching.last_call_id += LENT_IDS

    def on_borrowed(self, event: Borrowed, now_s: float, out: list[Effect]) -> None:
        """So many calls are under way or wait there."""
        self._target.n_borrowed = event.n_calls
        if event.n_calls > self.n_lent:
            self._behind.ask_lent(out)

    def on_returned(self, event: Returned, now_s: float, out: list[Effect]) -> None:
        """A channel comes back, maybe with calls that run there."""
        channel = self._channels.get(event.channel)
        for counter in ("submitted", "dispatched", "answered"):
            self._counters[counter] += event.n_calls
        assert channel is not None, "a channel on loan is not forgotten"
        self.n_lent -= 1
        channel.granted += event.n_calls + event.credits
        channel.answered += event.n_calls
        if event.credits:
            self._channels.attend(channel)
        for call in event.calls:
            self._calls.adopt(call, now_s)
            self._counters["dispatched"] += 1
            call.first_call_id, call.channel, call.dispatches = call.call_id, channel.info.number, 1
            self._behind.sent(channel, call, now_s)
            channel.running[call.call_id] = call
        self._channels.end_loan(channel)
        if self._returns.leaving:
            self._returns.is_due = True
        if self._calls.terminated:
            self._ends.terminate_all(out)
