"""The half of the session core that faces agents: attaching, renewing, farewells, losses. Sans-IO.

Channels: `data_channels`. One connection serves all leases at an agent. An agent that is gone takes its leases along,
and clients hear of it within 2 s (docs/spec/004-session.md section 2). Must not know what clients want or what the
allocator thinks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from rfaas.control.messages import HolderId, LeaseId
from rfaas.session.data_channels import DataChannels
from rfaas.session.events import (
    AgentDown,
    CloseAgent,
    DialAgent,
    ToAgent,
)
from rfaas.session.state import Agent, Channel, Client, Lease, Outbox
from rfaas_transport.errors import ReasonCode
from rfaas_transport.messages import Message

log = logging.getLogger(__name__)

RETRY_FOR_S: Final = 1.5  # with the detection itself this keeps "futures resolve within 2 s"
RETRY_EVERY_S: Final = 0.1
BEATS_PER_TTL: Final = 4
_OWN_DOING: Final = (ReasonCode.WORKER_CRASHED, ReasonCode.WORKER_EXITED)
_NO_FAREWELL: Final = (ReasonCode.NODE_DOWN, ReasonCode.PARTITION, ReasonCode.AGENT_LOST)

Over = Callable[[Lease, str, int, bool], None]


class AgentSide:
    """Leases at their agents.

    Args:
        out: where effects and timers go.
        client_of: finds the client of a lease, None once it is gone.
        on_over: called when a lease is over, with reason, reason code and whether the allocator has to be told.
        deny: called when an agent can't serve a client as it is or wants, with the lease, the code of `denied` and
            the hint.
        first_channel: where the numbers of channels begin; no two session processes may share a range.
    """

    def __init__(
        self,
        out: Outbox,
        client_of: Callable[[HolderId], Client | None],
        on_over: Over,
        deny: Callable[[Lease, str, str], None],
        first_channel: int,
    ) -> None:
        self._out = out
        self._client_of = client_of
        self._on_over = on_over
        self._deny = deny
        self._agents: dict[str, Agent] = {}
        self.channels = DataChannels(out, client_of, self._is_held, deny, first_channel)

    def _is_held(self, lease: Lease) -> bool:
        agent = self._agents.get(lease.address)
        return agent is not None and agent.leases.get(lease.lease_id) is lease

    # --- what the other half asks for ---------------------------------------------------------------------

    def hold(self, lease: Lease) -> None:
        """Attach this lease, now or as soon as its agent is reached."""
        agent = self._agents.get(lease.address)
        if agent is None:
            agent = self._agents[lease.address] = Agent(lease.address)
            self._search(agent)
        agent.leases[lease.lease_id] = lease
        self.channels.adopt(lease)
        if agent.up:
            self._attach(agent, lease)

    def release(self, lease: Lease, reason_code: int) -> None:
        """Give a lease back; farewells and `ended` follow while the client lives."""
        if lease.released:
            return
        lease.released = lease.closing = True
        agent = self._agents[lease.address]
        if agent.up:
            self._out.emit(
                ToAgent(agent.address, {"m": "release", "lease": lease.lease_id, "reason_code": int(reason_code)})
            )
        # Without a connection the agent hears it from the allocator, or the lease expires there.

    def interrupt(self, client: Client, number: int, call_id: int) -> None:
        """Have a call of a client's channel ended, if it runs; nothing if the channel is gone or another client's."""
        lease = self.channels.find(number)
        if lease is None or lease.client != client.client:
            return
        channel = lease.channels[number]
        channel.interrupted = call_id
        agent = self._agents[lease.address]
        if agent.up:
            self._out.emit(ToAgent(agent.address, _interrupt(lease, channel)))

    def forget(self, lease: Lease) -> None:
        """Drop all knowledge of a lease, with its channels."""
        self._agents[lease.address].leases.pop(lease.lease_id, None)
        self.channels.drop_all(lease)

    def reachable(self, lease: Lease) -> bool:
        """True while the agent's own word about this lease may still come."""
        return self._agents[lease.address].up

    def lose(self, lease: Lease, reason: str, reason_code: int, hint: str, *, tell_allocator: bool = False) -> None:
        """End a lease whose agent says nothing more: what the client has open there is lost."""
        self.channels.say_lost(lease, lease.handed(), reason_code, hint)
        self.forget(lease)
        self._on_over(lease, reason, reason_code, tell_allocator)

    # --- connections --------------------------------------------------------------------------------------

    def _search(self, agent: Agent) -> None:
        agent.up = agent.there = False
        agent.unanswered_since_s = None
        agent.give_up_at_s = self._out.now_s + RETRY_FOR_S
        self._out.emit(DialAgent(agent.address))
        self._out.after(RETRY_FOR_S, lambda: self._give_up(agent))

    def _give_up(self, agent: Agent) -> None:
        current = self._agents.get(agent.address) is agent and not agent.up
        if current and not agent.there and self._out.now_s >= agent.give_up_at_s:
            self._out.emit(CloseAgent(agent.address))
            code = ReasonCode.NODE_DOWN if agent.silent else ReasonCode.AGENT_LOST
            self._lose_agent(agent, code, f"the agent could not be reached: {agent.trouble}")

    def on_there(self, address: str) -> None:
        """It lives, or its host would have refused: what is left is bounded by the handshake, not by the search."""
        if (agent := self._agents.get(address)) is not None:
            agent.there = True

    def on_up(self, address: str) -> None:
        """The connection is there: attach all, again or for the first time."""
        agent = self._agents.get(address)
        if agent is None:
            self._out.emit(CloseAgent(address))
            return
        agent.up, agent.was_up, agent.silent, agent.there = True, True, False, False
        for lease in list(agent.leases.values()):
            self._attach(agent, lease)
            if lease.released:  # an agent believes this only from who attached
                code = int(ReasonCode.OWNER_RELEASE)
                self._out.emit(ToAgent(address, {"m": "release", "lease": lease.lease_id, "reason_code": code}))

    def on_down(self, event: AgentDown) -> None:
        """The connection broke or could not be made: try again for a moment, if that can help."""
        agent = self._agents.get(event.address)
        if agent is None:
            return
        still_silent = agent.silent and event.silent
        agent.trouble, agent.silent, agent.there = event.why, event.silent, False
        if not agent.leases:
            del self._agents[event.address]
        elif agent.up:
            log.warning("agent connection broke address=%s why=%s", event.address, event.why)
            self._search(agent)
        elif event.refused and agent.was_up:
            self._lose_agent(agent, ReasonCode.AGENT_LOST, event.why)
        elif still_silent and agent.was_up:  # it fell silent for seconds, and a new connection met silence too
            self._lose_agent(agent, ReasonCode.NODE_DOWN, f"the node acknowledges nothing: {event.why}")
        elif event.retry:  # else `_give_up` ends it in time; at once, a new grant there would fail as fast, without end
            self._out.after(RETRY_EVERY_S, lambda: self._dial_again(agent))
        self._give_up(agent)  # the search may have been over while it was there

    def _dial_again(self, agent: Agent) -> None:
        if self._agents.get(agent.address) is agent and not agent.up:
            self._out.emit(DialAgent(agent.address))

    def _lose_agent(self, agent: Agent, reason_code: int, hint: str) -> None:
        log.warning("agent lost address=%s leases=%d why=%s", agent.address, len(agent.leases), hint)
        del self._agents[agent.address]
        for lease in list(agent.leases.values()):
            # One that died after its notice was killed before its workers were reaped: their owner took them.
            died = reason_code == ReasonCode.AGENT_LOST
            code = (lease.reclaimed_for or reason_code) if died else reason_code
            self.channels.say_lost(lease, lease.handed(), code, hint)
            self.channels.drop_all(lease)
            self._on_over(lease, "lost", reason_code, True)

    # --- attaching and renewing ---------------------------------------------------------------------------

    def _attach(self, agent: Agent, lease: Lease) -> None:
        client = self._client_of(lease.client)
        if client is None:
            return
        attach: Message = {
            "m": "attach",
            "lease": lease.lease_id,
            "lease_seq": lease.lease_seq,
            "epoch": lease.epoch,
            "holder": lease.client,
            "workers": lease.workers,
            "env": client.env,
            "ttl_s": lease.ttl_s,
            **client.options,
        }
        self._out.emit(ToAgent(agent.address, attach))
        for channel in lease.channels.values():
            if channel.interrupted:
                self._out.emit(ToAgent(agent.address, _interrupt(lease, channel)))
        self._start_beating(agent)

    def _start_beating(self, agent: Agent) -> None:
        held = [lease for lease in agent.leases.values() if not lease.released]
        if held and not agent.beating:
            agent.beating = True
            self._out.after(min(lease.ttl_s for lease in held) / BEATS_PER_TTL, lambda: self._beat(agent))

    def _beat(self, agent: Agent) -> None:
        agent.beating = False
        if self._agents.get(agent.address) is not agent or not agent.up:
            return  # begins again when it is attached again
        held = [lease for lease in agent.leases.values() if not lease.released]
        if not held:
            return
        now_s = self._out.now_s
        ttl_s = min(lease.ttl_s for lease in held)
        if agent.unanswered_since_s is not None and now_s - agent.unanswered_since_s > ttl_s:
            self._out.emit(CloseAgent(agent.address))
            self._lose_agent(agent, ReasonCode.PARTITION, f"the agent answered no heartbeat for {ttl_s:g} s")
            return
        self._out.emit(ToAgent(agent.address, {"m": "heartbeat", "leases": [lease.lease_id for lease in held]}))
        if agent.unanswered_since_s is None:
            agent.unanswered_since_s = now_s
        self._start_beating(agent)

    # --- messages of an agent -----------------------------------------------------------------------------

    def on_message(self, address: str, message: Message) -> None:
        """Act on one message of an agent.

        Raises:
            KeyError, TypeError, ValueError: it lacks what the specification says; nothing was changed.
        """
        agent = self._agents.get(address)
        if agent is None:
            return
        kind = message["m"]
        if kind == "heartbeat-ack":
            self._on_heartbeat_ack(agent, [LeaseId(lease) for lease in message["unknown"]])
            return
        if kind == "notice":
            for lease_id in message["leases"]:
                if (lease := agent.leases.get(lease_id)) is not None:
                    self._on_notice(lease, int(message["reason_code"]), float(message["grace_s"]))
            return
        handler = {
            "attached": self._on_attached,
            "refused": self._on_refused,
            "worker-up": self._on_worker_up,
            "worker-down": self._on_worker_down,
            "differs": self._on_differs,
            "output": self._on_output,
            "output-complete": self._on_output,
            "farewell": self._on_farewell,
            "ended": self._on_ended,
        }.get(kind)
        if handler is None:
            log.info("unknown message ignored address=%s m=%s", address, kind)
        elif (lease := agent.leases.get(LeaseId(message["lease"]))) is not None:
            handler(lease, message)

    def _on_heartbeat_ack(self, agent: Agent, unknown: list[LeaseId]) -> None:
        agent.unanswered_since_s = None
        for lease_id in unknown:
            lease = agent.leases.get(lease_id)
            if lease is not None:  # it ended while nobody could tell us
                self.lose(lease, "lost", ReasonCode.PARTITION, "the lease ended while its agent could not be reached")

    def _on_notice(self, lease: Lease, reason_code: int, grace_s: float) -> None:
        lease.closing = True
        lease.reclaimed_for = reason_code
        self.channels.tell(
            lease,
            {
                "m": "notice",
                "lease": lease.lease_id,
                "channels": lease.handed(),
                "node": lease.node,
                "cores": list(lease.core_ids),
                "grace_s": grace_s,
                "reason_code": reason_code,
            },
        )

    def _on_attached(self, lease: Lease, message: Message) -> None:
        lease.core_ids = tuple(int(core) for core in message["cores"])

    def _on_refused(self, lease: Lease, message: Message) -> None:
        code, hint = str(message["code"]), str(message.get("hint", ""))
        log.warning("attach refused lease=%s code=%s hint=%s", lease.lease_id.hex(), code, hint)
        if code == "environment-failed":
            self._deny(lease, code, hint)
        self.lose(lease, "lost", ReasonCode.PARTITION, f"the agent refused the lease: {code}", tell_allocator=True)

    def _on_worker_up(self, lease: Lease, message: Message) -> None:
        slot, generation = int(message["slot"]), int(message["generation"])
        lease.living[slot] = generation
        stale = [c.number for c in lease.channels.values() if c.slot == slot and c.generation < generation]
        if stale:  # their farewells went to a connection that was broken then
            handed = [number for number in stale if lease.channels[number].handed]
            self.channels.say_lost(
                lease, handed, ReasonCode.AGENT_LOST, "the worker ended while its agent could not be reached"
            )
            for number in stale:
                self.channels.drop(lease, number)
        if lease.channel_of(slot, generation) is None:
            self.channels.open(lease, slot, generation)

    def _on_worker_down(self, lease: Lease, message: Message) -> None:
        slot, generation = int(message["slot"]), int(message["generation"])
        was_up = lease.living.get(slot) == generation
        is_news = lease.ended.get(slot) != generation
        lease.ended[slot] = generation
        if was_up:
            del lease.living[slot]
        log.info("worker down lease=%s slot=%d reason_code=%s", lease.lease_id.hex(), slot, message.get("reason_code"))
        failed = message.get("signal") or message.get("exit_status")
        # What a client may read that no worker ever serves; of one whose place is taken nobody has to know.
        if is_news and slot not in lease.living and failed and message.get("reason_code") in _OWN_DOING:
            what = "did not stay" if was_up else "did not come"
            reason = f"a worker on {lease.node} {what}: {message.get('hint') or 'it said nothing'}"
            self.channels.tell(lease, {"m": "queued", "executor": lease.executor, "reason": reason, "hint": ""})

    def _on_differs(self, lease: Lease, message: Message) -> None:
        """The node has other modules than the client: said before its first worker is up."""
        words = {"m": "differs", "lease": lease.lease_id, "node": lease.node, "modules": message["modules"]}
        self.channels.tell(lease, words)

    def _on_output(self, lease: Lease, message: Message) -> None:
        """Pass on what a worker printed; before its first call it has no channel of its own to name."""
        channel = lease.channels.get(int(message["channel"]))
        if channel is None and message["m"] == "output":
            channel = lease.channel_of(int(message["slot"]), int(message["generation"]))
        if channel is None or not channel.handed:
            return
        words = {"m": message["m"], "channel": channel.number, "call_id": int(message["call_id"])}
        if message["m"] == "output":
            words |= {key: message[key] for key in ("stream", "data", "cut_bytes", "over")}
        self.channels.tell(lease, words)

    def _on_farewell(self, lease: Lease, message: Message) -> None:
        number = int(message["channel"])
        channel = lease.channels.get(number)
        if channel is None:
            return
        farewell: Message = {
            "m": "farewell",
            "channel": number,
            "last_started": int(message["last_started"]),
            "last_done": int(message["last_done"]),
            "reason_code": int(message["reason_code"]),
            "node": lease.node,
            "lease": lease.lease_id,
            "epoch": lease.epoch,
        }
        farewell |= {k: message.get(k) for k in ("exit_status", "signal", "grace_s", "hint")}
        self.channels.drop(lease, number)
        if channel.handed:
            self.channels.tell(lease, farewell)
        if farewell["reason_code"] == ReasonCode.NONE:  # the connection alone ended
            self.channels.dial_again(lease, channel)

    def _on_ended(self, lease: Lease, message: Message) -> None:
        reason_code = int(message["reason_code"])
        code = reason_code if reason_code in _NO_FAREWELL else ReasonCode.AGENT_LOST
        self.channels.say_lost(lease, lease.handed(), code, "the worker left no farewell")
        self.forget(lease)
        self._on_over(lease, str(message["reason"]), reason_code, False)


def _interrupt(lease: Lease, channel: Channel) -> Message:
    return {
        "m": "interrupt",
        "lease": lease.lease_id,
        "slot": channel.slot,
        "generation": channel.generation,
        "channel": channel.number,
        "call_id": channel.interrupted,
    }
