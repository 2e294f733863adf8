"""How channels end, and what then becomes of the calls on them. Sans-IO, a part of `rfaas.client.core`.

Results that arrived whole win, so a verdict waits for the channel's end. Spec: docs/spec/001-invocation.md section 5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rfaas.client.call_book import CallBook, unsent_error
from rfaas.client.channel_table import Channel, ChannelTable
from rfaas.client.chores import Chores
from rfaas.client.effects import CloseChannel, Effect, SendInterrupt
from rfaas.client.events import ChannelEnded, ChannelsCondemned
from rfaas.client.losses import Fate, judge, make_error
from rfaas.client.records import Call, Verdict
from rfaas.client.timers import Timers
from rfaas_transport.errors import ExecutorBroken, ReasonCode

FAREWELL_WAIT_S: Final = 2.0  # a channel that ended gets no farewell later than this (spec 001 section 5)
ASK_WAIT_S: Final = 0.25  # its farewell is on the way if its worker died; else the agent is asked to end the call
END_WAIT_S: Final = 0.5  # after a farewell: what the worker had sent is on its way, and then the end of the channel
LOST_WAIT_S: Final = 0.25  # the same after a loss, of which the session process tells only after 1.5 s


class ChannelEnds:
    """Ends of the channels of one client.

    Args:
        channels, calls, chores, timers, counters: shared with the core.
        can_ask: whether there is a session process to speak to.
    """

    def __init__(
        self,
        channels: ChannelTable,
        calls: CallBook,
        chores: Chores,
        timers: Timers,
        counters: dict[str, int],
        can_ask: Callable[[], bool],
    ) -> None:
        self._channels = channels
        self._calls = calls
        self._chores = chores
        self._timers = timers
        self._counters = counters
        self._can_ask = can_ask

    def on_ended(self, event: ChannelEnded, now_s: float, out: list[Effect]) -> None:
        """A channel was read to its end."""
        channel = self._channels.get(event.channel)
        if channel is None or channel.ended:
            return
        channel.ended = True
        channel.broke = event.why
        channel.usable = False
        if channel.verdict is not None:
            self._settle(channel, channel.verdict, now_s, out)
        else:
            self._timers.add(now_s + ASK_WAIT_S, self._on_no_word, channel)
            self._timers.add(now_s + FAREWELL_WAIT_S, self._on_no_farewell, channel)

    def _on_no_word(self, channel: Channel, now_s: float, out: list[Effect]) -> None:
        """The worker of a channel that ended may live: have its agent end what runs there, and say what it knows."""
        if channel.verdict is None and self._can_ask():
            runs = (call_id for call_id, call in channel.running.items() if not call.behind)
            out.extend(SendInterrupt(channel.info.number, call_id) for call_id in runs)

    def _on_no_farewell(self, channel: Channel, now_s: float, out: list[Effect]) -> None:
        if channel.verdict is None:
            self._settle(channel, Verdict(reason_code=ReasonCode.NONE, silent=True), now_s, out)

    def on_condemned(self, event: ChannelsCondemned, now_s: float, out: list[Effect]) -> None:
        """A farewell came, or the loss of an agent."""
        known = event.verdict.last_started is not None
        for number in event.channels:
            channel = self._channels.get(number)
            if channel is not None:
                self._condemn(channel, event.verdict, END_WAIT_S if known else LOST_WAIT_S, now_s, out)

    def condemn_all(self, verdict: Verdict, now_s: float, out: list[Effect]) -> None:
        """No channel answers any more."""
        for channel in list(self._channels):
            self._condemn(channel, verdict, END_WAIT_S, now_s, out)

    def terminate_all(self, out: list[Effect]) -> None:
        """Close every channel; what was sent fails."""
        for channel in list(self._channels):
            if channel.lent:
                continue  # once it is back
            self._channels.remove(channel.info.number)
            out.append(CloseChannel(channel.info.number))
            for call in channel.running.values():
                if call is not channel.chore and not call.resolved:
                    call.may_have_run = True
                    message = f"its worker on {channel.info.node or 'an unnamed node'} was ended by its own executor"
                    self._calls.fail(call, unsent_error(ExecutorBroken, call, message, "SENT"), out)

    def _condemn(self, channel: Channel, verdict: Verdict, wait_s: float, now_s: float, out: list[Effect]) -> None:
        """Apply a verdict, the first only, once the channel is read to its end."""
        if channel.verdict is not None:
            return
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
            if call is channel.chore:
                self._chores.lost(channel, call, verdict, out)
            elif not call.resolved and self._judge(call, channel, verdict, now_s, out):
                again.append(call)
        for call in reversed(again):  # each goes to the front: the oldest ends up first
            self._calls.dispatch_again(call, out)
        channel.running.clear()

    def _judge(self, call: Call, channel: Channel, verdict: Verdict, now_s: float, out: list[Effect]) -> bool:
        """Decide about one call; True: it goes to the front of the queue."""
        fate = judge(call, verdict)
        if fate is not Fate.FREE:
            call.may_have_run = True
        if fate is Fate.FAIL:
            self._calls.fail(call, make_error(call, verdict, channel.info, channel.broke), out)
        elif fate is Fate.LATER:
            self._calls.pause(call, now_s)
        elif fate is Fate.AT_ONCE:
            self._counters["reclaimed"] += 1
        return fate in (Fate.FREE, Fate.AT_ONCE)
