"""Which call goes to which worker now. Sans-IO, a part of `rfaas.client.core`.

Whatever is sent, a call or a chore, gets its number here. Spec: docs/spec/001-invocation.md section 3.
"""

from __future__ import annotations

from rfaas.client.behind import Behind
from rfaas.client.call_book import CallBook
from rfaas.client.channel_table import Channel, ChannelTable
from rfaas.client.chores import Chores
from rfaas.client.effects import Dispatch, Effect
from rfaas.client.records import Call
from rfaas_transport.errors import RfaasError


class Dispatching:
    """Hands the calls of one client to its workers.

    Attributes:
        last_call_id: the highest number that a dispatch has, or that was given away with a loan.
        broken_by: what calls fail with, since no worker can be initialized.

    Args:
        calls, channels, behind, chores, counters: shared with the core.
    """

    def __init__(
        self, calls: CallBook, channels: ChannelTable, behind: Behind, chores: Chores, counters: dict[str, int]
    ) -> None:
        self.last_call_id = 0
        self.broken_by: RfaasError | None = None
        self._calls = calls
        self._channels = channels
        self._behind = behind
        self._chores = chores
        self._counters = counters

    def feed_workers(self, now_s: float, out: list[Effect]) -> None:
        """Hand waiting calls to idle workers, oldest first; the worker that was busy last comes first."""
        if self.broken_by is not None:
            self._calls.fail_waiting(self.broken_by, out)
        queue = self._calls.queue
        while queue and not self._chores.broke:
            channel = self._channels.take_idle()
            if channel is None and not self._chores.counts_calls:
                channel = self._behind.place(queue.first(), now_s)
            if channel is None:
                return
            self._dispatch(channel, queue.take(), now_s, out)

    def _dispatch(self, channel: Channel, call: Call, now_s: float, out: list[Effect]) -> None:
        self.last_call_id += 1
        call.call_id = self.last_call_id
        call.first_call_id = call.first_call_id or call.call_id
        call.channel = channel.info.number
        call.dispatches += 1
        self._behind.sent(channel, call, now_s)
        channel.running[call.call_id] = call
        if call is not channel.chore:
            self._counters["dispatched"] += 1
            self._chores.count(channel)
        remaining_s = None if call.deadline_s is None else max(0.0, call.deadline_s - now_s)
        out.append(Dispatch(channel.info.number, call, call.call_id, remaining_s))

    def do_chore(self, channel: Channel, now_s: float, out: list[Effect]) -> None:
        """Have a worker that idles do what it owes before its first call or after its last."""
        chore = self._chores.due(channel)
        if chore is not None:
            self._channels.spend(channel)
            self._dispatch(channel, chore, now_s, out)
