"""The channels of a client, and which of them may take a call now. Sans-IO.

Knows credits and usability; what becomes of calls is decided in `rfaas.client.core`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rfaas.client.events import Call, ChannelInfo, Verdict


@dataclass(slots=True, eq=False)
class Channel:
    """One channel.

    Attributes:
        credits: calls that its worker takes now.
        greeted: its worker has given a credit at least once.
        usable: False after a notice, a verdict or the end: nothing is sent any more.
        ended: it was read to its end.
        running: calls sent and not answered, by call id; in rising order.
        granted: credits that it ever gave.
        answered: calls that it has answered.
        verdict: why nothing will come any more, once somebody said so.
        ready: its worker may have the user's calls: it is initialized.
        chore: what the worker does beside the user's calls now (rfaas.client.chores).
        n_calls: calls of the user's that were sent.
        lent: on loan to who invokes; its credit counts as spent.
        spent: it gets no further call: it had as many as a worker takes.
    """

    info: ChannelInfo
    credits: int = 0
    greeted: bool = False
    usable: bool = True
    ended: bool = False
    running: dict[int, Call] = field(default_factory=dict)
    verdict: Verdict | None = None
    granted: int = 0
    answered: int = 0
    ready: bool = True
    chore: Call | None = None
    n_calls: int = 0
    lent: bool = False
    spent: bool = False


class ChannelTable:
    """Channels by number; those with a credit as a stack, so that the warmest worker is asked first."""

    def __init__(self) -> None:
        self._by_number: dict[int, Channel] = {}
        self._idle: list[Channel] = []  # each with a credit, once; some may have become unusable since

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._by_number.values())

    def get(self, number: int) -> Channel | None:
        """The channel of this number, if it is open."""
        return self._by_number.get(number)

    def open(self, info: ChannelInfo, *, ready: bool = True) -> None:
        """Add a channel; it has no credit yet."""
        self._by_number[info.number] = Channel(info, ready=ready)

    def remove(self, number: int) -> Channel | None:
        """Forget a channel; None if it was forgotten before."""
        channel = self._by_number.pop(number, None)
        if channel is not None:
            channel.usable = False
        return channel

    def grant(self, channel: Channel, credits: int) -> None:
        """Note that the worker takes `credits` more calls."""
        if credits:
            channel.granted += credits
            channel.greeted = True
            self._add_credits(channel, credits)

    def give_back(self, channel: Channel) -> None:
        """Put back a credit that was taken and not spent."""
        self._add_credits(channel, 1)

    def _add_credits(self, channel: Channel, credits: int) -> None:
        if channel.credits == 0 and channel.ready:
            self._idle.append(channel)
        channel.credits += credits

    def spend(self, channel: Channel) -> None:
        """Spend a credit of this channel, for a chore."""
        channel.credits -= 1
        if channel.credits == 0 and channel in self._idle:
            self._idle.remove(channel)

    def take_idle(self) -> Channel | None:
        """Spend a credit of the idle channel that was used last; None if all are busy."""
        while self._idle:
            channel = self._idle[-1]
            if channel.usable and not channel.spent:
                channel.credits -= 1
                if channel.credits == 0:
                    self._idle.pop()
                return channel
            self._idle.pop()
        return None

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
        self._idle = [channel for channel in self._by_number.values() if channel.credits and channel.ready]

    def any_serving(self) -> bool:
        """True if at least one worker is there, idle or busy."""
        return any(channel.usable and channel.greeted for channel in self._by_number.values())

    def live_of(self, lease: bytes) -> tuple[ChannelInfo, ...]:
        """The open channels of one lease, for `resume`."""
        return tuple(c.info for c in self._by_number.values() if c.info.lease == lease and not c.ended)
