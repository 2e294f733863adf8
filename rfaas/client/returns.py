"""Which leases a client gives back because it wants fewer workers, and when. Sans-IO, a part of `rfaas.client.core`.

A lease is given back whole, and only while nothing runs at its workers: those that idle go at once. While none idles,
as many as are too many take no further call, and whoever ends its calls first goes. What is given back is never used
again, whoever offers it: a session process that takes the place of another may not have heard of it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from rfaas.client.behind import Behind
from rfaas.client.channel_table import Channel, ChannelTable
from rfaas.client.effects import Effect, GiveBack, Recall
from rfaas.client.leases import Leases
from rfaas.client.records import Lease

REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class Holding:
    """Workers of the leases of one client, by what becomes of them.

    Attributes:
        kept: held, and to stay.
        in_notice: go back to their owner.
        leaving: take no further call, and are given back when they have ended theirs.
        returned: given back, and their end was not heard of yet.
    """

    kept: int = 0
    in_notice: int = 0
    leaving: int = 0
    returned: int = 0


class Returns:
    """Leases that are given back.

    Args:
        channels, behind, leases: shared with the core.

    Attributes:
        is_due: something changed: `tend` has to choose.
        leaving: leases that get no further call, and go when they have ended theirs. While there are some, a call that
            ends makes `tend` due: its worker may go in the place of one that is busy.
    """

    def __init__(self, channels: ChannelTable, behind: Behind, leases: Leases) -> None:
        self._channels = channels
        self._behind = behind
        self._leases = leases
        self._target: int | None = None
        self.leaving: dict[bytes, Lease] = {}
        self._returned: OrderedDict[bytes, None] = OrderedDict()
        self.is_due = False  # something changed

    def resize(self, workers: int | None) -> None:
        """Keep so many workers from now on; None: all."""
        self._target = workers
        self.is_due = True

    def changed(self) -> None:
        """A lease came, went or was given notice."""
        self.is_due = self._target is not None

    def takes(self, lease: bytes) -> bool:
        """True if calls may go to workers of this lease."""
        return lease not in self._returned and lease not in self.leaving

    def is_returned(self, lease: bytes) -> bool:
        """True if it was given back, whoever offers it."""
        return lease in self._returned

    def holding(self) -> Holding:
        """What there is now."""
        counts = dict.fromkeys(("kept", "in_notice", "leaving", "returned"), 0)
        for lease in self._leases:
            if lease.lease in self._returned:
                counts["returned"] += lease.workers
            elif lease.lease in self._leases.noticed:
                counts["in_notice"] += lease.workers
            else:
                counts["leaving" if lease.lease in self.leaving else "kept"] += lease.workers
        return Holding(**counts)

    def on_channel(self, channel: Channel) -> None:
        """A channel opened: what is decided of its lease holds for it."""
        if channel.info.lease in self._returned:
            channel.usable = False
        elif channel.info.lease in self.leaving:
            self._channels.leave(channel)

    def forget(self, lease: bytes) -> None:
        """A lease has ended."""
        self.leaving.pop(lease, None)
        self.changed()

    def again(self, out: list[Effect]) -> None:
        """Whoever was told what is given back may not have passed it on. Repeating does no harm."""
        out.extend(GiveBack(lease.lease) for lease in self._leases if lease.lease in self._returned)

    def recover(self, out: list[Effect]) -> None:
        """Put this in order after a step was broken off: what was decided may not have been noted everywhere."""
        for channel in self._channels:
            if channel.leaving and channel.info.lease not in self.leaving:
                self._channels.stay(channel)
            self.on_channel(channel)
        self.is_due = True
        self.again(out)

    def tend(self, out: list[Effect]) -> None:
        """Before calls are handed out: choose what goes, and let go what is idle."""
        channels = self._channels.by_lease()
        if self.is_due:
            self.is_due = False
            self._choose(channels)
        for lease in list(self.leaving):
            self._let_go(lease, channels.get(lease, []), out)

    def _choose(self, channels: dict[bytes, list[Channel]]) -> None:
        """Have those leave that will be missed the least: not up yet, idle, then with the fewest calls."""
        noticed = self._leases.noticed
        open_leases = [one for one in self._leases if one.lease not in self._returned and one.lease not in noticed]
        surplus = 0 if self._target is None else sum(lease.workers for lease in open_leases) - self._target
        chosen: dict[bytes, Lease] = {}
        if surplus > 0:
            worth = {lease.lease: self._worth(lease.lease, channels.get(lease.lease, [])) for lease in open_leases}
            open_leases.sort(key=lambda lease: worth[lease.lease])
        for lease in open_leases:
            if lease.workers <= surplus:
                surplus -= lease.workers
                chosen[lease.lease] = lease
        before, self.leaving = self.leaving, chosen
        for key in before.keys() - chosen.keys():
            for channel in channels.get(key, []):
                self._channels.stay(channel)
        for key in chosen.keys() - before.keys():
            for channel in channels.get(key, []):
                self._channels.leave(channel)

    def _worth(self, lease: bytes, channels: list[Channel]) -> tuple[int, bool]:
        """Calls there, and among equals whether it was to stay so far: whom to miss the least comes first."""
        n_calls = sum(len(channel.running) + channel.lent for channel in channels)
        return n_calls if channels else -1, lease not in self.leaving

    def _let_go(self, lease: bytes, channels: list[Channel], out: list[Effect]) -> None:
        if any(channel.lent for channel in channels):
            out.append(Recall())
        for channel in channels:
            for call in channel.running.values():
                self._behind.take_back(call, out)
        if any(channel.lent or channel.running for channel in channels):
            return
        del self.leaving[lease]
        self._returned[lease] = None
        if len(self._returned) > REMEMBERED:
            self._returned.popitem(last=False)
        for channel in channels:
            channel.usable = False
        out.append(GiveBack(lease))
