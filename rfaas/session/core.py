"""What the session process decides, without I/O: `step(event, now_s) -> effects` (docs/spec/004-session.md).

This half faces clients and the allocator; `agents` faces agents. A broken allocator link stops nothing that runs:
leases and calls live on, and what is held and wanted is said again on the next link. Must not do I/O or unpickle.
"""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from typing import Final

from rfaas.control.messages import (
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
    Want,
)
from rfaas.session.agents import AgentSide
from rfaas.session.events import (
    AgentDown,
    AgentSaid,
    AgentUp,
    AllocatorDown,
    AllocatorSaid,
    AllocatorUp,
    ClientGone,
    ClientJoined,
    ClientSaid,
    DataDown,
    DataUp,
    DropClient,
    Effect,
    Event,
    Leave,
    Stop,
    Tick,
    ToAllocator,
    ToClient,
)
from rfaas.session.forms import granted_lease, lease_message, queued_message, resumed_lease
from rfaas.session.state import Client, Lease, Outbox
from rfaas_transport.errors import ReasonCode
from rfaas_transport.messages import Message

log = logging.getLogger(__name__)

VERSION: Final = 1
AGENTS_WORD_S: Final = 1.0  # how long the agent's own word may come later than the allocator's
ALLOCATORS_WORD_S: Final = 2.0  # the same the other way round; then the agent's word to it was lost
FIRST_LINK_S: Final = 1.5  # how long a client waits for the first link to the allocator, which may be restarting
REMEMBERED: Final = 4096
STOP_WITHIN_S: Final = 1.0  # for the farewells of what is given back at SIGTERM
UNREACHABLE: Final = "the allocator can't be reached; it is tried again"


class SessionCore:
    """Clients, their wants and leases.

    Args:
        mode: "embedded" or "personal".
        uid, pid: of this process.
        allocator: its address, for people.
        linger_s: how long to stay after the last client.
        first_join_s: how long to wait for the first one.
        first_channel: where channel numbers begin; drawn at random so that two session processes never share one.
    """

    def __init__(
        self,
        *,
        mode: str,
        uid: int,
        pid: int,
        allocator: str,
        linger_s: float,
        first_join_s: float = 10.0,
        first_channel: int | None = None,
    ) -> None:
        self._mode = mode
        self._uid = uid
        self._pid = pid
        self._allocator = allocator
        self._linger_s = linger_s
        self._first_join_s = first_join_s
        self._out = Outbox()
        first = secrets.randbits(31) << 32 | 1 if first_channel is None else first_channel
        self._agents = AgentSide(self._out, self._client, self._on_over, self._on_environment_failed, first)
        self._clients: dict[HolderId, Client] = {}
        self._by_conn: dict[int, Client] = {}
        self._waiting: list[ClientJoined] = []  # joined before the allocator was reached for the first time
        self._begun = False
        self._link_up = False
        self._link_was_up = False
        self._trouble = AllocatorDown("it does not answer")
        self._unconfirmed: set[LeaseId] = set()  # their agents said that they ended, the allocator not yet
        self._unsaid: list[HolderMessage] = []  # releases and deaths while the link was broken
        self._given_back: OrderedDict[LeaseId, None] = OrderedDict()  # a late word of these grants nothing
        self._stopping = False

    # --- the one door ---------------------------------------------------------------------------------------

    def step(self, event: Event, now_s: float) -> list[Effect]:
        """Take one event and return what to do about it, in order.

        Args:
            event: what happened.
            now_s: seconds on CLOCK_BOOTTIME.

        Raises:
            KeyError, TypeError, ValueError: a peer's message lacks what the specification says; nothing was changed.
        """
        self._out.now_s = now_s
        self._out.effects = []
        if not self._begun:
            self._begun = True
            self._out.after(self._first_join_s, self._leave_if_idle)
        self._dispatch(event)
        self._out.run_due()  # last: after a pause of this process, an answer that waited counts before its deadline
        return self._out.effects

    @property
    def next_s(self) -> float | None:
        """When the next Tick is due, on the clock of `step`; None: only events matter."""
        return self._out.next_s

    def _dispatch(self, event: Event) -> None:
        match event:
            case ClientJoined():
                self._on_joined(event)
            case ClientSaid(conn, message):
                self._on_client_said(conn, message)
            case ClientGone(conn):
                self._on_client_gone(conn)
            case AllocatorUp():
                self._on_allocator_up()
            case AllocatorDown():
                self._on_allocator_down(event)
            case AllocatorSaid(message):
                self._on_allocator_said(message)
            case AgentUp(address):
                self._agents.on_up(address)
            case AgentDown():
                self._agents.on_down(event)
            case AgentSaid(address, message):
                self._agents.on_message(address, message)
            case DataUp(channel):
                self._agents.channels.on_up(channel)
            case DataDown():
                self._agents.channels.on_down(event)
            case Stop(at_once):
                self._on_stop(at_once)
            case Tick():
                pass  # the timers have run

    # --- clients --------------------------------------------------------------------------------------------

    def _client(self, client: HolderId) -> Client | None:
        return self._clients.get(client)

    def _on_joined(self, event: ClientJoined) -> None:
        join = event.join
        if self._stopping:
            self._out.emit(DropClient(event.conn))
        elif abs(int(join["version"]) - VERSION) > 1:
            hint = f"the session process speaks version {VERSION}, this program {join['version']}: use one installation"
            self._reject(event.conn, "version-mismatch", hint)
        elif self._link_was_up or join.get("resume"):  # leases that nobody renews meanwhile would expire
            self._admit(event)
        else:
            self._waiting.append(event)
            self._out.after(FIRST_LINK_S, lambda: self._refuse_waiting(event))

    def _refuse_waiting(self, event: ClientJoined) -> None:
        if event in self._waiting:
            self._waiting.remove(event)
            self._reject(event.conn, self._trouble.code, self._trouble.why)

    def _reject(self, conn: int, code: str, hint: str) -> None:
        self._out.emit(ToClient(conn, {"m": "reject", "code": code, "hint": hint}))
        self._out.emit(DropClient(conn))
        self._out.after(self._linger_s, self._leave_if_idle)

    def _admit(self, event: ClientJoined) -> None:
        client_id = HolderId(bytes(event.join["client"]))
        env = dict(event.join["env"])
        resumed = [resumed_lease(client_id, entry) for entry in event.join.get("resume", [])]
        client = self._clients.get(client_id)
        if client is None:
            client = self._clients[client_id] = Client(client_id, event.conn, event.name, env)
        else:  # the same client over a new connection; the old one says nothing any more
            self._by_conn.pop(client.conn, None)
            self._out.emit(DropClient(client.conn))
            client.conn, client.env = event.conn, env
        self._by_conn[event.conn] = client
        welcome = {"m": "welcome", "version": VERSION, "pid": self._pid, "mode": self._mode}
        self._out.emit(ToClient(event.conn, welcome | {"allocator": self._allocator}))
        new = [lease for lease in resumed if lease.lease_id not in client.leases]
        client.leases.update((lease.lease_id, lease) for lease in new)
        self._to_allocator(self._hello(client))
        for lease in new:
            self._agents.hold(lease)
        log.info("client joined client=%s name=%s resumed=%d", client_id.hex(), event.name, len(new))

    def _on_client_said(self, conn: int, message: Message) -> None:
        client = self._by_conn.get(conn)
        if client is None:
            return
        kind = message["m"]
        if kind == "want":
            self._on_want(client, message)
        elif kind == "cancel-lease":
            lease = client.leases.get(LeaseId(message["lease"]))
            if lease is not None:
                self._release(client, lease, ReasonCode.OWNER_RELEASE)
        elif kind == "interrupt":
            self._agents.interrupt(client, int(message["channel"]), int(message["call_id"]))
        elif kind == "leave":
            self._on_client_gone(conn)
        else:
            log.info("unknown message ignored client=%s m=%s", client.client.hex(), kind)

    def _on_want(self, client: Client, message: Message) -> None:
        executor = int(message["executor"])
        want = Want(
            holder=client.client,
            request=executor,
            workers=int(message["workers"]),
            cores_per_worker=int(message["cores"]),
            memory_bytes_per_worker=int(message["memory_bytes"]),
            placement=str(message.get("placement", "")),
        )
        self._set_want(client, want)
        if want.workers == 0:
            for lease in list(client.leases.values()):
                if lease.executor == executor:
                    self._release(client, lease, ReasonCode.OWNER_RELEASE)
        elif not self._link_up:
            self._tell_unreachable(client, executor)

    def _set_want(self, client: Client, want: Want) -> None:
        if client.wants.get(want.request) == want:
            return
        if want.workers > 0:
            client.wants[want.request] = want
        else:
            client.wants.pop(want.request, None)
        self._to_allocator(want)

    def _release(self, client: Client, lease: Lease, reason_code: int) -> None:
        if not lease.released:
            self._agents.release(lease, reason_code)
            self._remember(lease)
            self._to_allocator(ReleaseLease(client.client, lease.lease_id, reason_code))

    def _on_client_gone(self, conn: int) -> None:
        self._waiting = [event for event in self._waiting if event.conn != conn]
        client = self._by_conn.pop(conn, None)
        self._out.emit(DropClient(conn))
        if client is not None:
            del self._clients[client.client]
            for lease in list(client.leases.values()):
                self._agents.release(lease, ReasonCode.CLIENT_GONE)
                self._agents.forget(lease)
            self._say_gone(client)
            log.info("client gone client=%s name=%s leases=%d", client.client.hex(), client.name, len(client.leases))
        self._out.after(self._linger_s, self._leave_if_idle)

    def _remember(self, lease: Lease) -> None:
        self._given_back[lease.lease_id] = None
        if len(self._given_back) > REMEMBERED:
            self._given_back.popitem(last=False)

    # --- the allocator --------------------------------------------------------------------------------------

    def _say_gone(self, client: Client) -> None:
        if not self._link_up:  # the next link knows only who says hello on it
            self._unsaid.append(HolderHello(client.client, self._uid, client.name))
        self._to_allocator(HolderGone(client.client, ReasonCode.CLIENT_GONE))

    def _to_allocator(self, message: HolderMessage) -> None:
        if self._link_up:
            self._out.emit(ToAllocator(message))
        elif isinstance(message, ReleaseLease | HolderGone):
            self._unsaid.append(message)  # the rest is said again from what we hold then

    def _hello(self, client: Client) -> HolderHello:
        held = tuple(lease.lease_id for lease in client.leases.values() if not lease.released)
        return HolderHello(client.client, self._uid, client.name, held)

    def _on_allocator_up(self) -> None:
        self._link_up = self._link_was_up = True
        for client in self._clients.values():
            self._out.emit(ToAllocator(self._hello(client)))
            for want in client.wants.values():
                self._out.emit(ToAllocator(want))
        unsaid, self._unsaid = self._unsaid, []
        for message in unsaid:
            self._out.emit(ToAllocator(message))
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            self._admit(event)

    def _on_allocator_down(self, event: AllocatorDown) -> None:
        was_up, self._link_up = self._link_up, False
        self._trouble = event
        if was_up:
            log.warning("allocator link broke why=%s", event.why)
            for client in self._clients.values():
                for executor in client.wants:
                    self._tell_unreachable(client, executor)

    def _tell_unreachable(self, client: Client, executor: int) -> None:
        queued = {"m": "queued", "executor": executor, "reason": UNREACHABLE, "hint": self._trouble.why}
        self._out.emit(ToClient(client.conn, queued))

    def _on_allocator_said(self, message: Granted | Waiting | Denied | Ended) -> None:
        match message:
            case Granted():
                self._on_granted(message)
            case Waiting(holder, executor):
                if (client := self._clients.get(holder)) is not None and executor in client.wants:
                    self._out.emit(ToClient(client.conn, queued_message(message)))
            case Denied(holder, executor, code, hint):
                if (client := self._clients.get(holder)) is not None:
                    client.wants.pop(executor, None)
                    denied = {"m": "denied", "executor": executor, "code": code, "hint": hint}
                    self._out.emit(ToClient(client.conn, denied))
            case Ended():
                self._on_allocator_ended(message)

    def _on_granted(self, granted: Granted) -> None:
        terms = granted.terms
        client = self._clients.get(terms.holder)
        if client is not None and terms.lease_id in client.leases:
            return  # said twice
        unwanted = client is None or terms.request not in client.wants or terms.lease_id in self._given_back
        if client is None or unwanted:  # it left, lowered its target, or lost this lease meanwhile
            reason = ReasonCode.CLIENT_GONE if client is None else ReasonCode.OWNER_RELEASE
            self._to_allocator(ReleaseLease(terms.holder, terms.lease_id, reason))
            return
        lease = granted_lease(granted)
        client.leases[lease.lease_id] = lease
        self._out.emit(ToClient(client.conn, lease_message(lease)))
        self._agents.hold(lease)

    def _on_allocator_ended(self, ended: Ended) -> None:
        self._unconfirmed.discard(ended.lease_id)
        client = self._clients.get(ended.holder)
        lease = client.leases.get(ended.lease_id) if client is not None else None
        if client is None or lease is None:
            return
        if self._agents.reachable(lease):  # its farewells are worth more than this, and may be on the way
            self._out.after(AGENTS_WORD_S, lambda: self._believe(client, lease, ended))
        else:
            self._believe(client, lease, ended)

    def _believe(self, client: Client, lease: Lease, ended: Ended) -> None:
        if self._clients.get(client.client) is client and client.leases.get(lease.lease_id) is lease:
            lost = ended.reason_code in (ReasonCode.NODE_DOWN, ReasonCode.PARTITION)
            code = ended.reason_code if lost else ReasonCode.AGENT_LOST
            self._agents.lose(lease, ended.reason, code, "the allocator has proof that the lease ended")

    # --- what agents bring about ----------------------------------------------------------------------------

    def _on_over(self, lease: Lease, reason: str, reason_code: int, tell_allocator: bool) -> None:
        client = self._clients.get(lease.client)
        if client is None:
            return
        del client.leases[lease.lease_id]
        self._remember(lease)
        ended = {"m": "ended", "lease": lease.lease_id, "reason": reason, "reason_code": int(reason_code)}
        self._out.emit(ToClient(client.conn, ended))
        if tell_allocator and not lease.released:
            # Else it would count the lease as serving us and give no other one for it.
            self._to_allocator(ReleaseLease(client.client, lease.lease_id, reason_code))
        elif not lease.released:
            self._unconfirmed.add(lease.lease_id)
            self._out.after(ALLOCATORS_WORD_S, lambda: self._confirm(client, lease, reason_code))
        if self._stopping and not any(client.leases for client in self._clients.values()):
            self._leave()

    def _confirm(self, client: Client, lease: Lease, reason_code: int) -> None:
        """Give back a lease that has ended already: an agent that left may not have been heard by a slow allocator."""
        if lease.lease_id in self._unconfirmed:
            self._unconfirmed.discard(lease.lease_id)
            if self._clients.get(client.client) is client:
                self._to_allocator(ReleaseLease(client.client, lease.lease_id, reason_code))

    def _on_environment_failed(self, lease: Lease, hint: str) -> None:
        client = self._clients.get(lease.client)
        want = client.wants.get(lease.executor) if client is not None else None
        if client is None or want is None:
            return  # already told for another lease of this executor
        nothing = Want(want.holder, want.request, 0, want.cores_per_worker, want.memory_bytes_per_worker)
        self._set_want(client, nothing)
        denied = {"m": "denied", "executor": lease.executor, "code": "environment-failed", "hint": hint}
        self._out.emit(ToClient(client.conn, denied))

    # --- the end --------------------------------------------------------------------------------------------

    def _leave_if_idle(self) -> None:
        if not self._clients and not self._waiting and not self._stopping:
            self._leave()

    def _on_stop(self, at_once: bool) -> None:
        if self._stopping:
            if at_once:
                self._leave()
            return
        self._stopping = True
        held = [(client, lease) for client in self._clients.values() for lease in client.leases.values()]
        for client in self._clients.values():
            for want in list(client.wants.values()):
                self._set_want(client, Want(want.holder, want.request, 0, 1, 1))
        for client, lease in held:
            self._release(client, lease, ReasonCode.OWNER_RELEASE)
        if held:
            self._out.after(STOP_WITHIN_S, self._leave)
        else:
            self._leave()

    def _leave(self) -> None:
        self._stopping = True
        for client in self._clients.values():
            self._to_allocator(HolderGone(client.client, ReasonCode.OWNER_RELEASE))
            self._out.emit(DropClient(client.conn))
        self._clients.clear()
        self._by_conn.clear()
        self._out.emit(Leave())
