"""What the session process decides, without I/O: `step(event, now_s) -> effects` (docs/spec/004-session.md).

This part faces clients; `agents` faces agents, `allocator_side` the allocator. A broken link to it stops nothing that
runs: leases and calls live on, and what is held and wanted is said again on the next one. Must not do I/O or unpickle.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from typing import Final

from rfaas.control.messages import (
    HolderGone,
    HolderId,
    LeaseId,
    Want,
)
from rfaas.session.agents import AgentSide
from rfaas.session.allocator_side import AllocatorSide
from rfaas.session.events import (
    AgentDown,
    AgentSaid,
    AgentThere,
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
    SiteSaid,
    Stop,
    Tick,
    ToClient,
)
from rfaas.session.forms import resumed_lease
from rfaas.session.site_side import SiteSide
from rfaas.session.state import NO_VERBS, Client, Lease, Outbox, Road
from rfaas.site.borrowing import Shortfall
from rfaas_transport.errors import ReasonCode
from rfaas_transport.handshake_machine import VERBS_UNAVAILABLE
from rfaas_transport.messages import Message

log = logging.getLogger(__name__)

VERSION: Final = 1
FIRST_LINK_S: Final = 1.5  # how long a client waits for an allocator that can't be reached, and may be restarting
FOR_AGENTS: Final = ("output_limit_bytes", "modules", "modules_strict")  # keys of `join` that `attach` passes on
STOP_WITHIN_S: Final = 1.0  # for the farewells of what is given back at SIGTERM


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
        self._pid = pid
        self._allocator_name = allocator
        self._linger_s = linger_s
        self._first_join_s = first_join_s
        self._out = Outbox()
        first = secrets.randbits(31) << 32 | 1 if first_channel is None else first_channel
        self._agents = AgentSide(self._out, self._client, self._on_over, self._deny, first)
        self._upward = AllocatorSide(self._out, self._client, self._agents, uid)
        self._site = SiteSide(self._out, self._upward, self._set_want)
        self._clients: dict[HolderId, Client] = {}
        self._by_conn: dict[int, Client] = {}
        self._waiting: list[tuple[ClientJoined, float]] = []  # before the allocator was reached at all; until when
        self._begun = False
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

    def channels(self) -> list[Message]:
        """The channels of all clients, for people (004 section 3, `show`)."""
        return [
            {
                "client": client.client,
                "lease": lease.lease_id,
                "node": lease.node,
                "slot": channel.slot,
                "medium": channel.medium,
                "why": channel.why,
            }
            for client in self._clients.values()
            for lease in client.leases.values()
            for channel in lease.channels.values()
        ]

    def shortfalls(self) -> tuple[Shortfall, ...]:
        """Workers that are wanted and not granted, by their size, in the order of the wants."""
        return () if self._stopping else self._site.shortfalls(self._clients.values())

    def slices(self) -> frozenset[bytes]:
        """Where something is held."""
        return frozenset(lease.slice_id for client in self._clients.values() for lease in client.leases.values())

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
                self._upward.on_down(event, self._clients.values())
                self._refuse_waiting()
            case AllocatorSaid(message):
                self._upward.on_said(message)
            case AgentThere(address):
                self._agents.on_there(address)
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
            case SiteSaid():
                self._site.on_said(event, list(self._clients.values()))
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
        elif self._upward.was_up or join.get("resume"):  # leases that nobody renews meanwhile would expire
            self._admit(event)
        else:
            self._waiting.append((event, self._out.now_s + FIRST_LINK_S))

    def _refuse_waiting(self) -> None:
        """A try has failed. One that is under way may still succeed, however slow the host: no clock refuses."""
        late = [event for event, until_s in self._waiting if until_s <= self._out.now_s]
        self._waiting = [waits for waits in self._waiting if waits[0] not in late]
        for event in late:
            self._reject(event.conn, self._upward.trouble.code, self._upward.trouble.why)

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
        client.options = {key: event.join[key] for key in FOR_AGENTS if key in event.join}
        self._out.emit(ToClient(event.conn, welcome | {"allocator": self._allocator_name}))
        new = [lease for lease in resumed if lease.lease_id not in client.leases]
        client.leases.update((lease.lease_id, lease) for lease in new)
        self._upward.say_hello(client)
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
        elif kind == "unusable":
            lease = client.leases.get(LeaseId(message["lease"]))
            if lease is not None:
                self._agents.channels.on_unusable(lease, str(message.get("why") or "it gave no reason"))
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
            kind=str(message.get("kind", "")),
            lease_workers=int(message.get("lease_workers", 0)),
            load=str(message.get("load", "")),
        )
        client.roads[executor] = Road(
            str(message.get("transport", "auto")),
            float(message.get("hot_for_s", 0.0)),
            encrypt=message.get("transport_security") == "encrypt",
            can_encrypt=bool(message.get("can_encrypt", False)),
            no_verbs=str(message.get("no_verbs", NO_VERBS)),
        )
        self._set_want(client, want)
        if want.workers == 0 and not message.get("keep"):
            for lease in list(client.leases.values()):
                if lease.executor == executor:
                    self._release(client, lease, ReasonCode.OWNER_RELEASE)
        elif want.workers and not self._upward.up:
            self._upward.tell_unreachable(client, executor)

    def _set_want(self, client: Client, want: Want) -> None:
        if client.wants.get(want.request) == want:
            return
        if want.workers > 0:
            client.wants[want.request] = want
        else:
            client.wants.pop(want.request, None)
        self._upward.say(want)

    def _release(self, client: Client, lease: Lease, reason_code: int) -> None:
        if not lease.released:
            self._agents.release(lease, reason_code)
            self._upward.give_back(lease, reason_code)

    def _on_client_gone(self, conn: int) -> None:
        self._waiting = [waits for waits in self._waiting if waits[0].conn != conn]
        client = self._by_conn.pop(conn, None)
        self._out.emit(DropClient(conn))
        if client is not None:
            del self._clients[client.client]
            for lease in list(client.leases.values()):
                self._agents.release(lease, ReasonCode.CLIENT_GONE)
                self._agents.forget(lease)
            self._upward.say_gone(client)
            log.info("client gone client=%s name=%s leases=%d", client.client.hex(), client.name, len(client.leases))
        self._out.after(self._linger_s, self._leave_if_idle)

    def _on_allocator_up(self) -> None:
        self._upward.on_up(self._clients.values())
        waiting, self._waiting = self._waiting, []
        for event, _ in waiting:
            self._admit(event)

    # --- what agents bring about ----------------------------------------------------------------------------

    def _on_over(self, lease: Lease, reason: str, reason_code: int, tell_allocator: bool) -> None:
        client = self._clients.get(lease.client)
        if client is None:
            return
        del client.leases[lease.lease_id]
        ended = {"m": "ended", "lease": lease.lease_id, "reason": reason, "reason_code": int(reason_code)}
        self._out.emit(ToClient(client.conn, ended))
        self._upward.is_over(client, lease, reason_code, tell=tell_allocator)
        if self._stopping and not any(client.leases for client in self._clients.values()):
            self._leave()

    def _deny(self, lease: Lease, code: str, hint: str) -> None:
        """What the executor of a lease wants can't be had there."""
        client = self._clients.get(lease.client)
        want = client.wants.get(lease.executor) if client is not None else None
        if client is not None and code == VERBS_UNAVAILABLE:  # its workers are of no use; else the agent ends it
            self._release(client, lease, ReasonCode.OWNER_RELEASE)
        if client is None or want is None:
            return  # already told for another lease of this executor
        self._set_want(client, replace(want, workers=0))
        denied = {"m": "denied", "executor": lease.executor, "code": code, "hint": hint}
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
                self._set_want(client, replace(want, workers=0))
        for client, lease in held:
            self._release(client, lease, ReasonCode.OWNER_RELEASE)
        if held:
            self._out.after(STOP_WITHIN_S, self._leave)
        else:
            self._leave()

    def _leave(self) -> None:
        self._stopping = True
        for client in self._clients.values():
            self._upward.say(HolderGone(client.client, ReasonCode.OWNER_RELEASE))
            self._out.emit(DropClient(client.conn))
        self._clients.clear()
        self._by_conn.clear()
        self._out.emit(Leave())
