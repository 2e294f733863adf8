"""The data connections of a session process's leases: dialled, handed to clients, dialled again, ended. Sans-IO.

A part of the session core (`rfaas.session.agents`). Must not know what agents say or which leases are renewed.
Spec: docs/spec/004-session.md sections 2 and 3.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from rfaas.control.messages import MEMORY, HolderId, LeaseId
from rfaas.session.events import CloseData, DataDown, DialData, ToClient
from rfaas.session.state import Channel, Client, Lease, Outbox, Road
from rfaas_transport import tls
from rfaas_transport.handshake_machine import ENCRYPTION_REQUIRED, VERBS_UNAVAILABLE
from rfaas_transport.messages import Message

log = logging.getLogger(__name__)

REDIAL_DATA_S: Final = 0.1
SLOW_REDIAL_DATA_S: Final = 1.0
REDIALS_BEFORE_SLOW: Final = 20


class DataChannels:
    """Channels by number.

    Args:
        out: where effects and timers go.
        client_of: finds the client of a lease, None once it is gone.
        is_held: whether this lease is still held at its agent.
        deny: called where a client's wish can't be had, with the lease, the code of `denied` and the hint.
        first_channel: where the numbers begin; no two session processes may share a range.
    """

    def __init__(
        self,
        out: Outbox,
        client_of: Callable[[HolderId], Client | None],
        is_held: Callable[[Lease], bool],
        deny: Callable[[Lease, str, str], None],
        first_channel: int,
    ) -> None:
        self._out = out
        self._client_of = client_of
        self._is_held = is_held
        self._deny = deny
        self._next_number = first_channel
        self._lease_of: dict[int, Lease] = {}
        self._redials: dict[LeaseId, int] = {}

    def adopt(self, lease: Lease) -> None:
        """Know the channels that a lease brings along from another session process."""
        self._lease_of.update(dict.fromkeys(lease.channels, lease))

    def find(self, number: int) -> Lease | None:
        """The lease of a channel, if there is such a channel."""
        return self._lease_of.get(number)

    def open(self, lease: Lease, slot: int, generation: int) -> None:
        """Dial a worker, unless its lease takes no calls any more."""
        if not lease.takes_channels:
            return
        client = self._client_of(lease.client)
        road = client.roads.get(lease.executor, Road()) if client is not None else Road()
        medium, why = choose(lease, road)
        if not medium:
            self._on_no_medium(lease, road, why)
            return
        number = self._next_number
        self._next_number += 1
        lease.channels[number] = Channel(number, slot, generation, medium, why)
        self._lease_of[number] = lease
        params: Message = {"lease": lease.lease_id, "slot": slot, "generation": generation, "channel": number}
        if medium in ("shm", "tls", "verbs"):
            params["medium"] = medium
        if road.hot_for_s > 0:
            params["hot_for_s"] = road.hot_for_s
        log.info("worker dialled lease=%s node=%s medium=%s why=%s", lease.lease_id.hex(), lease.node, medium, why)
        self._out.emit(DialData(lease.address, number, params))

    def _on_no_medium(self, lease: Lease, road: Road, why: str) -> None:
        """The client accepts nothing that reaches these workers."""
        if road.transport == "verbs":
            self._deny(lease, VERBS_UNAVAILABLE, why)
            return
        hint = 'leave transport at "auto", or run the program on that node'
        self.tell(lease, {"m": "queued", "executor": lease.executor, "reason": why, "hint": hint})

    def on_unusable(self, lease: Lease, why: str, *, n_tried: int = 1) -> None:
        """RDMA could not be set up with a worker of this lease: it is not tried again with any of them.

        Except with a lender whom nothing else may reach and RDMA has reached before: it has the content, and a port may
        be up again soon. The client gives it up when it has waited long enough.
        The channel itself ends by the farewell of its worker, and is dialled again then.

        Args:
            n_tried: of the channels that the client got, how many are the one that is told of.
        """
        log.warning("no RDMA lease=%s node=%s why=%s", lease.lease_id.hex(), lease.node, why)
        client = self._client_of(lease.client)
        road = client.roads.get(lease.executor, Road()) if client is not None else Road()
        if road.transport == "verbs" and lease.kind == MEMORY and lease.n_over_verbs > n_tried:
            self.tell(lease, {"m": "queued", "executor": lease.executor, "reason": f"no RDMA now: {why}", "hint": ""})
            return
        lease.no_verbs = why
        if road.transport == "verbs":
            self._deny(lease, VERBS_UNAVAILABLE, choose(lease, road)[1])

    def on_up(self, number: int) -> None:
        """A data connection is there: hand it to the client, unless nobody wants it any more."""
        lease = self._lease_of.get(number)
        client = self._client_of(lease.client) if lease else None
        if lease is None or client is None or not lease.takes_channels:
            # A farewell for it may still come; without `handed` it goes to nobody.
            self._out.emit(CloseData(number))
            return
        self._redials.pop(lease.lease_id, None)
        channel = lease.channels[number]
        channel.handed = True
        lease.n_over_verbs += channel.medium == "verbs"
        message: Message = {
            "m": "channel",
            "executor": lease.executor,
            "channel": number,
            "lease": lease.lease_id,
            "lease_seq": lease.lease_seq,
            "epoch": lease.epoch,
            "slot": channel.slot,
            "generation": channel.generation,
            "node": lease.node,
            "medium": channel.medium,
        }
        self._out.emit(ToClient(client.conn, message, channel=number))

    def on_down(self, event: DataDown) -> None:
        """A data connection could not be made: try again while its worker lives."""
        lease = self._lease_of.get(event.channel)
        if lease is None:
            return
        channel = lease.channels.pop(event.channel)
        del self._lease_of[event.channel]
        if event.gone:
            return  # worker-down or `ended` is on its way
        if event.refusal == VERBS_UNAVAILABLE:
            self.on_unusable(lease, f"{lease.node} says: {event.why}", n_tried=0)
            self.dial_again(lease, channel, REDIAL_DATA_S if lease.no_verbs else SLOW_REDIAL_DATA_S)
            return
        if event.refusal:
            self._on_security(lease, channel, event)
            return
        tries = self._redials[lease.lease_id] = self._redials.get(lease.lease_id, 0) + 1
        slow = tries > REDIALS_BEFORE_SLOW
        log.warning("data connection failed lease=%s node=%s why=%s", lease.lease_id.hex(), lease.node, event.why)
        if slow:
            reason = f"workers on {lease.node} are there, but no data connection can be made: {event.why}"
            self.tell(lease, {"m": "queued", "executor": lease.executor, "reason": reason, "hint": ""})
        self.dial_again(lease, channel, SLOW_REDIAL_DATA_S if slow else REDIAL_DATA_S)

    def _on_security(self, lease: Lease, channel: Channel, event: DataDown) -> None:
        """The agent wants encryption: so from now on. Or one side can't encrypt: tell, and try now and then."""
        client = self._client_of(lease.client)
        road = client.roads.get(lease.executor, Road()) if client is not None else Road()
        required = event.refusal == ENCRYPTION_REQUIRED
        if required and road.can_encrypt and not lease.encrypted_only:
            lease.encrypted_only = True
            self.dial_again(lease, channel)
            return
        if required:
            reason = f"the agent on {lease.node} takes encrypted connections only, and this program can't encrypt"
            hint = f"from C and Fortran it can't be had, call from Python; else {tls.REMEDY}"
        else:
            reason = f"connections to {lease.node} must be encrypted, and its agent can't: {event.why}"
            hint = f"there: {tls.REMEDY}"
        log.warning("data connection refused lease=%s node=%s why=%s", lease.lease_id.hex(), lease.node, reason)
        self.tell(lease, {"m": "queued", "executor": lease.executor, "reason": reason, "hint": hint})
        self.dial_again(lease, channel, SLOW_REDIAL_DATA_S)

    def dial_again(self, lease: Lease, channel: Channel, delay_s: float = REDIAL_DATA_S) -> None:
        """Dial the worker of a channel that is gone, a little later, if it lives then and has none."""
        self._out.after(delay_s, lambda: self._redial(lease, channel))

    def _redial(self, lease: Lease, channel: Channel) -> None:
        current = lease.living.get(channel.slot) == channel.generation
        if self._is_held(lease) and current and lease.channel_of(channel.slot, channel.generation) is None:
            self.open(lease, channel.slot, channel.generation)

    # --- ends -----------------------------------------------------------------------------------------------

    def drop(self, lease: Lease, number: int) -> Channel:
        """Forget a channel; one that the client does not have is closed."""
        channel = lease.channels.pop(number)
        self._lease_of.pop(number, None)
        if not channel.handed:
            self._out.emit(CloseData(number))
        return channel

    def drop_all(self, lease: Lease) -> None:
        """Forget the channels of a lease."""
        self._redials.pop(lease.lease_id, None)
        for number in list(lease.channels):
            self.drop(lease, number)

    def say_lost(self, lease: Lease, channels: list[int], reason_code: int, hint: str) -> None:
        """Tell the client that no farewell will come for these."""
        if not channels:
            return
        lost = {"m": "lost", "channels": channels, "reason_code": int(reason_code), "node": lease.node}
        self.tell(lease, lost | {"lease": lease.lease_id, "hint": hint})

    def tell(self, lease: Lease, message: Message) -> None:
        """Say something to the client of a lease, if it is there."""
        client = self._client_of(lease.client)
        if client is not None:
            self._out.emit(ToClient(client.conn, message))


def choose(lease: Lease, road: Road) -> tuple[str, str]:
    """What frames to the workers of a lease go over, and why; no medium if its client accepts none that reaches them.

    An agent that listens on an abstract unix socket is on this node, and its workers share memory with us: nothing of
    that leaves the kernel, so it is never encrypted. RDMA never is.
    """
    way = lease.address.partition(":")[0]
    here = way == "unix"
    encrypt = road.encrypt or lease.encrypted_only
    wish = road.transport
    if wish == "verbs" or (wish == "auto" and not here):
        problem = road.no_verbs or lease.no_verbs
        if not problem and encrypt and not here:
            problem = "connections to it must be encrypted, and RDMA is not"
        if not problem:
            return "verbs", "both ends have RDMA" if wish == "auto" else 'transport="verbs"'
        if wish == "verbs":
            return "", f"RDMA to the workers on {lease.node} can't be had: {problem}"
        return ("tls" if encrypt else way), f"no RDMA: {problem}"
    if here:
        return (way, 'transport="tcp"') if wish == "tcp" else ("shm", "the workers are on this node")
    if wish == "shm":
        return "", f'the workers are on {lease.node}, which transport="shm" does not reach'
    return ("tls" if encrypt else way), f'transport="{wish}"'
