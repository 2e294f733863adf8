"""Whether a client has a session process, and what it learns from it of leases. Sans-IO, a part of `rfaas.client.core`.

Joins one when calls, leases or a wish for workers need it, and tells it the standing target. Spec:
docs/spec/004-session.md.
"""

from __future__ import annotations

from typing import Final

from rfaas.client.call_book import CallBook
from rfaas.client.channel_table import Channel, ChannelTable
from rfaas.client.effects import Connect, Effect, TellGain, TellReclaim
from rfaas.client.events import LeaseEnded, LeaseGranted, Notice, SessionFailed, SessionUp
from rfaas.client.leases import Leases
from rfaas.client.returns import Returns
from rfaas.client.target import Target
from rfaas.client.timers import Timers

RECONNECT_PAUSE_S: Final = 0.5
IDLE_RECONNECT_PAUSE_S: Final = 2.0  # while nothing is lost by it: no lease, no call


class SessionState:
    """The session process of one client.

    Args:
        leases, returns, calls, channels, target, timers, counters: shared with the core.
    """

    def __init__(
        self,
        leases: Leases,
        returns: Returns,
        *,
        calls: CallBook,
        channels: ChannelTable,
        target: Target,
        timers: Timers,
        counters: dict[str, int],
    ) -> None:
        self._leases = leases
        self._returns = returns
        self._calls = calls
        self._channels = channels
        self._target = target
        self._timers = timers
        self._counters = counters
        self._state = "down"  # down, joining, up, pausing (after a failure, while there are leases)
        self._embedded = False

    def can_ask(self) -> bool:
        """True if there is one to speak to."""
        return self._state == "up"

    # --- leases ---------------------------------------------------------------------------------

    def on_lease_granted(self, event: LeaseGranted, now_s: float, out: list[Effect]) -> None:
        """A lease came."""
        self._leases.add(event.lease)
        if self._returns.is_returned(event.lease.lease):  # by one who had not heard of it
            self._returns.again(out)
            return
        self._target.on_granted()
        self._returns.changed()

    def on_greeting(self, channel: Channel, out: list[Effect]) -> None:
        """A worker gave its first credit."""
        lease = self._leases.get(channel.info.lease)
        if lease is not None and lease.lease not in self._leases.gained and self._returns.takes(lease.lease):
            self._leases.gained.add(lease.lease)
            out.append(TellGain(lease))

    def on_notice(self, event: Notice, now_s: float, out: list[Effect]) -> None:
        """Workers go back to their owner."""
        self._counters["notices"] += 1
        for channel in self._channels:
            if channel.info.number in event.channels or channel.info.lease == event.lease:
                channel.usable = False
        if event.lease not in self._leases.noticed:  # an agent that is reached again says it again
            self._leases.noticed.add(event.lease)
            self._returns.forget(event.lease)  # its owner's word goes first
            if not self._returns.is_returned(event.lease):
                out.append(TellReclaim(event))

    def on_lease_ended(self, event: LeaseEnded, now_s: float, out: list[Effect]) -> None:
        """A lease is FREE."""
        self._leases.remove(event.lease)
        self._returns.forget(event.lease)

    # --- the session process --------------------------------------------------------------------

    def on_up(self, event: SessionUp, out: list[Effect]) -> None:
        """One welcomed us; it knows nothing yet."""
        self._state = "up"
        self._embedded = event.embedded
        self._target.tell_again()
        self._returns.again(out)

    def on_lost(self, out: list[Effect]) -> bool:
        """It is gone; True if agent and workers went with it, which the leases have then, and the channels have not."""
        if self._state == "down":
            return False
        self._state = "down"
        self._counters["sessions_lost"] += 1
        if self._embedded:
            for lease in list(self._leases):
                self._leases.remove(lease.lease)
                self._returns.forget(lease.lease)
            self._target.drop()
        if self._leases and not self._calls.drained:  # somebody must renew them
            self._connect(out)
        return self._embedded

    def on_failed(self, event: SessionFailed, now_s: float, out: list[Effect]) -> None:
        """None could be reached or started."""
        self._target.tell_again()
        if not self._channels.any_serving():  # else what waits gets those workers, with or without a session process
            self._calls.fail_waiting(event.error, out)
        if self._leases or self._holds_out():  # somebody must renew them, or ask for more
            self._state = "pausing"
            pause_s = RECONNECT_PAUSE_S if self._leases else IDLE_RECONNECT_PAUSE_S
            self._timers.add(now_s + pause_s, self._on_reconnect, None)
        else:
            self._state = "down"
            self._target.drop()

    def _on_reconnect(self, _: None, now_s: float, out: list[Effect]) -> None:
        if self._state == "pausing":
            self._state = "down"  # the end of this step connects again if there are calls

    def tend(self, now_s: float, out: list[Effect]) -> None:
        """After a step: join one if it is needed, and tell the target if it is another than was told."""
        self._target.update(now_s)
        if self._state == "down" and self._is_needed():
            self._connect(out)
        if self._state == "up" and (want := self._target.untold()) is not None:
            out.append(want)

    def recover(self, *, is_joining: bool) -> None:
        """Put this in order after a step was broken off, whose Connect is carried out or not."""
        self._target.tell_again()
        if self._state == "joining" and not is_joining:
            self._state = "down"

    def _is_needed(self) -> bool:
        return bool(self._calls.queue or (self._leases and self._calls.outstanding) or self._holds_out())

    def _holds_out(self) -> bool:
        """True if workers are wanted whatever calls there are."""
        return bool(self._target.fixed) and not self._calls.closing

    def _connect(self, out: list[Effect]) -> None:
        self._state = "joining"
        resume = tuple((lease, self._channels.live_of(lease.lease)) for lease in self._leases)
        out.append(Connect(resume))
