"""The channels of a client, and which of them may take a call now. Sans-IO.

Knows credits and usability; what becomes of calls is decided in `rfaas.client.answers` and `rfaas.client.channel_ends`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rfaas.client.records import Call, ChannelInfo, Verdict


@dataclass(slots=True, eq=False)
class Channel:
    """One channel.

    Attributes:
        credits: calls that its worker takes now.
        greeted: its worker has given a credit at least once.
        usable: False after a notice, a verdict or the end: nothing is sent any more.
        ended: it was read to its end.
        broke: how, if not in order; for people.
        running: calls sent and not answered, by call id; in rising order.
        granted: credits that it ever gave.
        answered: calls that it has answered.
        verdict: why nothing will come any more, once somebody said so.
        ready: its worker may have the user's calls: it is initialized.
        chore: what the worker does beside the user's calls now (rfaas.client.chores).
        n_calls: calls of the user's that were sent.
        lent: on loan to who invokes; its credit counts as spent.
        spent: it gets no further call: it had as many as a worker takes.
        idle: it is among those that `take_idle` gives.
        asked: for more credits than one.
        since_s: when the call that runs was sent, or the one before it was answered.
        took_s: how long the call before it ran, as far as this side knows.
        quick_with: the function whose last call was short; empty: none.
        leaving: its lease is to be given back: it gets no further call, unless it stays after all.
        relieved: `since_s` of the call from behind which all was taken back.
    """

    info: ChannelInfo
    credits: int = 0
    greeted: bool = False
    usable: bool = True
    ended: bool = False
    broke: str = ""
    running: dict[int, Call] = field(default_factory=dict)
    verdict: Verdict | None = None
    granted: int = 0
    answered: int = 0
    ready: bool = True
    chore: Call | None = None
    n_calls: int = 0
    lent: bool = False
    spent: bool = False
    idle: bool = False
    asked: bool = False
    since_s: float = 0.0
    took_s: float = 0.0
    quick_with: bytes = b""
    relieved: float = -1.0
    leaving: bool = False

    @property
    def serves(self) -> bool:
        """True if its worker may be sent the user's calls, as far as that does not depend on what it does now."""
        return self.usable and not self.spent and not self.lent and not self.leaving


class ChannelTable:
    """Channels by number; those with a credit as a stack, so that the warmest worker is asked first."""

    def __init__(self) -> None:
        self._by_number: dict[int, Channel] = {}
        self._idle: list[Channel] = []  # each with a credit and no call, once; some may have become unusable since
        self.attended: list[Channel] = []  # with more credits than one

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._by_number.values())

    def get(self, number: int) -> Channel | None:
        """The channel of this number, if it is open."""
        return self._by_number.get(number)

    def open(self, info: ChannelInfo, *, ready: bool = True) -> Channel:
        """Add a channel; it has no credit yet."""
        channel = self._by_number[info.number] = Channel(info, ready=ready)
        return channel

    def remove(self, number: int) -> Channel | None:
        """Forget a channel; None if it was forgotten before."""
        channel = self._by_number.pop(number, None)
        if channel is not None:
            channel.usable = False
            if channel in self.attended:
                self.attended.remove(channel)
        return channel

    def grant(self, channel: Channel, credits: int) -> None:
        """Note that the worker takes `credits` more calls."""
        if credits:
            channel.granted += credits
            channel.greeted = True
            self._add_credits(channel, credits)

    def attend(self, channel: Channel) -> None:
        """Note that the worker takes calls behind others."""
        if channel not in self.attended:
            self.attended.append(channel)

    def give_back(self, channel: Channel) -> None:
        """Put back a credit that was taken and not spent."""
        self._add_credits(channel, 1)

    def _add_credits(self, channel: Channel, credits: int) -> None:
        channel.credits += credits
        if channel.credits > 0 and channel.ready and not channel.running and not channel.lent and not channel.idle:
            channel.idle = True
            self._idle.append(channel)

    def spend(self, channel: Channel) -> None:
        """Spend a credit of this channel, for a chore or for a call behind another."""
        channel.credits -= 1
        if channel.idle:
            channel.idle = False
            self._idle.remove(channel)

    @property
    def has_idle(self) -> bool:
        """True if a worker waits for a call."""
        return any(c.usable and not c.spent and not c.leaving for c in self._idle)

    def take_idle(self) -> Channel | None:
        """Spend a credit of the idle channel that was used last; None if all are busy. Whoever gets it uses it now."""
        while self._idle:
            channel = self._idle.pop()
            channel.idle = False
            if channel.usable and not channel.spent and not channel.leaving:  # asked for each call: no property
                channel.credits -= 1
                return channel
        return None

    def leave(self, channel: Channel) -> None:
        """Send nothing more there."""
        channel.leaving = True

    def stay(self, channel: Channel) -> None:
        """Take `leave` back."""
        channel.leaving = False
        self._add_credits(channel, 0)

    def by_lease(self) -> dict[bytes, list[Channel]]:
        """The channels of each lease that has some."""
        found: dict[bytes, list[Channel]] = {}
        for channel in self._by_number.values():
            found.setdefault(channel.info.lease, []).append(channel)
        return found

    def lend(self, channel: Channel) -> None:
        """Note that an idle channel is on loan, with all its credits."""
        channel.lent = True
        channel.credits = 0

    def end_loan(self, channel: Channel) -> None:
        """Note that it is back: what it has answered and what runs there is noted already."""
        channel.lent = False
        self._add_credits(channel, channel.granted - channel.answered - len(channel.running))

    def recover(self, credits: dict[int, int]) -> None:
        """Set right what an interrupted dispatch left, from the credits that each channel really has.

        A call counts as sent exactly if its credit is spent.
        """
        for channel in self._by_number.values():
            left = credits.get(channel.info.number, 0)
            n_sent = channel.granted - left - channel.answered
            for call_id in list(channel.running)[n_sent:]:
                del channel.running[call_id]
            if channel.chore is not None and channel.chore.call_id not in channel.running:
                channel.chore = None  # noted, and not sent
            channel.credits = 0 if channel.lent else left
        self._idle = []
        for channel in self._by_number.values():
            channel.idle = False
            self._add_credits(channel, 0)

    def any_serving(self) -> bool:
        """True if at least one worker is there, idle or busy."""
        return any(c.usable and c.greeted and not c.leaving for c in self._by_number.values())

    def live_of(self, lease: bytes) -> tuple[ChannelInfo, ...]:
        """The open channels of one lease, for `resume`."""
        return tuple(c.info for c in self._by_number.values() if c.info.lease == lease and not c.ended)
