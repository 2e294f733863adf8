"""The session core's half that faces the allocator: what it was told, what it could not be told, and what it grants.

A broken link stops nothing that runs. Sans-IO like `core`, of which it is a part. Spec: docs/spec/003-control.md.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from rfaas.control.messages import (
    AllocatorToHolder,
    Denied,
    Ended,
    Granted,
    HolderGone,
    HolderHello,
    HolderId,
    HolderMessage,
    LeaseId,
    ReleaseLease,
    Waiting,
)
from rfaas.session.agents import AgentSide
from rfaas.session.events import AllocatorDown, ToAllocator, ToClient
from rfaas.session.forms import granted_lease, lease_message, queued_message, site_message
from rfaas.session.state import Client, Lease, Outbox
from rfaas_transport.errors import ReasonCode

log = logging.getLogger(__name__)

AGENTS_WORD_S: Final = 1.0  # how long the agent's own word may come later than the allocator's
ALLOCATORS_WORD_S: Final = 2.0  # the same the other way round; then the agent's word to it was lost
REMEMBERED: Final = 4096
UNREACHABLE: Final = "the allocator can't be reached; it is tried again, and `rfaas up` starts one that has ended"


class AllocatorSide:
    """The link to the allocator, as far as the core knows it.

    Args:
        out: takes effects and timers.
        client: the client of an id, while it is here.
        agents: hears of leases that begin and end.
        uid: of this process.

    Attributes:
        up, was_up: whether there is a link, and ever was one.
        trouble: why there is none.
        site_trouble: code and hint of why the site lends nothing, where one is asked.
    """

    def __init__(self, out: Outbox, client: Callable[[HolderId], Client | None], agents: AgentSide, uid: int) -> None:
        self._out = out
        self._client = client
        self._agents = agents
        self._uid = uid
        self.up = False
        self.was_up = False
        self.trouble = AllocatorDown("it does not answer")
        self.site_trouble: tuple[str, str] | None = None
        self._unconfirmed: set[LeaseId] = set()  # their agents said that they ended, the allocator not yet
        self._unsaid: list[HolderMessage] = []  # releases and deaths while the link was broken
        self._given_back: OrderedDict[LeaseId, None] = OrderedDict()  # a late word of these grants nothing

    def say_gone(self, client: Client) -> None:
        """A client has ended."""
        if not self.up:  # the next link knows only who says hello on it
            self._unsaid.append(HolderHello(client.client, self._uid, client.name))
        self.say(HolderGone(client.client, ReasonCode.CLIENT_GONE))

    def say(self, message: HolderMessage) -> None:
        """Send a message, or keep it for the next link if what is said then would not contain it."""
        if self.up:
            self._out.emit(ToAllocator(message))
        elif isinstance(message, ReleaseLease | HolderGone):
            self._unsaid.append(message)  # the rest is said again from what we hold then

    def say_hello(self, client: Client) -> None:
        """A client is here, with what it holds."""
        self.say(self._hello(client))

    def _hello(self, client: Client) -> HolderHello:
        held = tuple(lease.lease_id for lease in client.leases.values() if not lease.released)
        return HolderHello(client.client, self._uid, client.name, held)

    def on_up(self, clients: Iterable[Client]) -> None:
        """There is a link: say who is here, what is wanted, and what could not be said before."""
        self.up = self.was_up = True
        for client in clients:
            self._out.emit(ToAllocator(self._hello(client)))
            for want in client.wants.values():
                self._out.emit(ToAllocator(want))
        unsaid, self._unsaid = self._unsaid, []
        for message in unsaid:
            self._out.emit(ToAllocator(message))

    def on_down(self, event: AllocatorDown, clients: Iterable[Client]) -> None:
        """The link broke, or could not be made."""
        was_up, self.up = self.up, False
        self.trouble = event
        if was_up:
            log.warning("allocator link broke why=%s", event.why)
            for client in clients:
                for executor in client.wants:
                    self.tell_unreachable(client, executor)

    def tell_unreachable(self, client: Client, executor: int) -> None:
        """Tell a client why nothing new comes."""
        queued = {"m": "queued", "executor": executor, "reason": UNREACHABLE, "hint": self.trouble.why}
        self._out.emit(ToClient(client.conn, queued))

    def on_said(self, message: AllocatorToHolder) -> None:
        """Take the allocator's word."""
        match message:
            case Granted():
                self._on_granted(message)
            case Waiting(holder, executor):
                if (client := self._client(holder)) is not None and executor in client.wants:
                    if self.site_trouble is not None:  # the allocator knows only that nobody has come to it
                        self._out.emit(ToClient(client.conn, site_message(executor, *self.site_trouble)))
                    else:
                        self._out.emit(ToClient(client.conn, queued_message(message)))
            case Denied(holder, executor, code, hint):
                if (client := self._client(holder)) is not None:
                    client.wants.pop(executor, None)
                    denied = {"m": "denied", "executor": executor, "code": code, "hint": hint}
                    self._out.emit(ToClient(client.conn, denied))
            case Ended():
                self._on_ended(message)

    def _on_granted(self, granted: Granted) -> None:
        terms = granted.terms
        client = self._client(terms.holder)
        if client is not None and terms.lease_id in client.leases:
            return  # said twice
        unwanted = client is None or terms.request not in client.wants or terms.lease_id in self._given_back
        if client is None or unwanted:  # it left, lowered its target, or lost this lease meanwhile
            reason = ReasonCode.CLIENT_GONE if client is None else ReasonCode.OWNER_RELEASE
            self.say(ReleaseLease(terms.holder, terms.lease_id, reason))
            return
        lease = granted_lease(granted)
        client.leases[lease.lease_id] = lease
        self._out.emit(ToClient(client.conn, lease_message(lease)))
        self._agents.hold(lease)

    def _on_ended(self, ended: Ended) -> None:
        self._unconfirmed.discard(ended.lease_id)
        client = self._client(ended.holder)
        lease = client.leases.get(ended.lease_id) if client is not None else None
        if client is None or lease is None:
            return
        if self._agents.reachable(lease):  # its farewells are worth more than this, and may be on the way
            self._out.after(AGENTS_WORD_S, lambda: self._believe(client, lease, ended))
        else:
            self._believe(client, lease, ended)

    def _believe(self, client: Client, lease: Lease, ended: Ended) -> None:
        if self._client(client.client) is client and client.leases.get(lease.lease_id) is lease:
            lost = ended.reason_code in (ReasonCode.NODE_DOWN, ReasonCode.PARTITION)
            code = ended.reason_code if lost else ReasonCode.AGENT_LOST
            self._agents.lose(lease, ended.reason, code, "the allocator has proof that the lease ended")

    # --- leases that end ------------------------------------------------------------------------------------

    def give_back(self, lease: Lease, reason_code: int) -> None:
        """Release a lease; a late word of it grants nothing."""
        self._remember(lease)
        self.say(ReleaseLease(lease.client, lease.lease_id, reason_code))

    def is_over(self, client: Client, lease: Lease, reason_code: int, *, tell: bool) -> None:
        """Its agent's word, or nobody's: it holds nothing any more. `tell`: the allocator can't know."""
        self._remember(lease)
        if tell and not lease.released:
            # Else it would count the lease as serving us and give no other one for it.
            self.say(ReleaseLease(client.client, lease.lease_id, reason_code))
        elif not lease.released:
            self._unconfirmed.add(lease.lease_id)
            self._out.after(ALLOCATORS_WORD_S, lambda: self._confirm(client, lease, reason_code))

    def _confirm(self, client: Client, lease: Lease, reason_code: int) -> None:
        """Give back a lease that has ended already: an agent that left may not have been heard by a slow allocator."""
        if lease.lease_id in self._unconfirmed:
            self._unconfirmed.discard(lease.lease_id)
            if self._client(client.client) is client:
                self.say(ReleaseLease(client.client, lease.lease_id, reason_code))

    def _remember(self, lease: Lease) -> None:
        self._given_back[lease.lease_id] = None
        if len(self._given_back) > REMEMBERED:
            self._given_back.popitem(last=False)
