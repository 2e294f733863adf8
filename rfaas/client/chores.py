"""What workers are asked to do beside the user's calls: run the initializer before the first, leave after the last.

On the wire a chore is a call like any (docs/spec/001-invocation.md section 8). Sans-IO: says what is due and what its
outcome means; `rfaas.client.dispatching` sends it. Must not touch the queue.
"""

from __future__ import annotations

from typing import Any, Final

from rfaas.client.channel_table import Channel
from rfaas.client.effects import Broke, Effect
from rfaas.client.losses import POISON_KILLS, error_class, make_error
from rfaas.client.records import Call, ChannelInfo, FrameLike, Verdict
from rfaas.config import CallSettings
from rfaas_transport.errors import ProtocolError, RfaasError, WorkerLost
from rfaas_transport.frame import Kind, Status

_GIVEN_BACK: Final = frozenset({Status.STALE, Status.NOT_STARTED})
_SETTINGS: Final = CallSettings()


class Chores:
    """The chores of one client.

    Attributes:
        broke: the initializer failed: no worker can be made, and nothing is sent any more.

    Args:
        initializer: the I/O side's work that initializes a worker; None: there is none.
        leave: the work that ends a worker in order.
        max_calls: calls that a worker takes before it leaves; None: any number.
    """

    def __init__(self, initializer: Any = None, leave: Any = None, max_calls: int | None = None) -> None:  # noqa: ANN401
        self.broke = False
        self._initializer = initializer
        self._leave = leave
        self._max_calls = max_calls
        self.counts_calls = max_calls is not None
        self._initialized: dict[tuple[bytes, int], int] = {}  # newest generation by lease and slot
        self._deaths = 0  # of workers in the initializer, since one came through it

    def is_ready(self, info: ChannelInfo) -> bool:
        """True if the worker may have calls at once: a second channel to one that is initialized, or no initializer."""
        return self._initializer is None or self._initialized.get((info.lease, info.slot)) == info.generation

    def count(self, channel: Channel) -> None:
        """Count a call of the user's that goes to this channel."""
        channel.n_calls += 1
        channel.spent = channel.n_calls == self._max_calls or channel.spent

    def due(self, channel: Channel) -> Call | None:
        """The chore that is to be sent on this channel now, noted there; None: none, or there is no credit for it."""
        if self.broke or channel.chore is not None or channel.credits == 0:
            return None
        if not channel.ready:
            work = self._initializer if channel.usable else None
        else:
            work = self._leave if channel.spent and not channel.running else None
        if work is not None:
            channel.chore = Call(0, work, _SETTINGS)
        return channel.chore

    def answered(self, channel: Channel, call: Call, frame: FrameLike, out: list[Effect]) -> None:
        """Take the answer to a chore; Broke if the initializer failed. A worker asked to leave gives none."""
        channel.chore = None
        if channel.ready:
            channel.usable = False
        elif frame.kind == Kind.ERROR:
            refusal = ProtocolError(f"the worker refused the call of the initializer: {frame.text}")
            self._break(Broke(call, channel.info, error=refusal), out)
        elif frame.status == Status.OK:
            self._deaths = 0
            self._initialized[channel.info.lease, channel.info.slot] = channel.info.generation
            channel.ready = True
        elif frame.status in _GIVEN_BACK:
            channel.usable = False
        else:
            self._break(Broke(call, channel.info, frame=frame), out)

    def not_sent(self, channel: Channel, call: Call, error: RfaasError, out: list[Effect], *, broken: bool) -> None:
        """A chore could not be sent: a broken channel is the channel's matter, all else the initializer's."""
        channel.chore = None
        channel.usable = False
        if not broken and not channel.ready:
            self._break(Broke(call, channel.info, error=error), out)

    def lost(self, channel: Channel, call: Call, verdict: Verdict, out: list[Effect]) -> None:
        """A worker went away with a chore; Broke if the initializer killed as many as make a function poison.

        Workers that are taken back or lost with their node are no fault of the initializer's.
        """
        started = verdict.last_started is not None and call.call_id <= verdict.last_started
        if channel.ready or not started or error_class(verdict) is not WorkerLost:
            return
        self._deaths += 1
        if self._deaths >= POISON_KILLS:
            call.kills = self._deaths
            self._break(Broke(call, channel.info, error=make_error(call, verdict, channel.info)), out)

    def _break(self, broke: Broke, out: list[Effect]) -> None:
        """Let nothing be sent any more until it is known what the initializer raised."""
        if not self.broke:
            self.broke = True
            out.append(broke)
