"""What the session core remembers: clients, leases, channels, agents. Plain values without behaviour of their own.

Must not do I/O or read a clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from rfaas.control.messages import MEMORY, HolderId, LeaseId, Want
from rfaas.session.events import Effect
from rfaas_transport.messages import Message

NO_VERBS: Final = "the program has none (its rfaas is in C, or of another version)"
"""Why there is no RDMA to who says nothing of it."""


@dataclass(slots=True)
class Channel:
    """A data connection to one worker."""

    number: int
    slot: int
    generation: int
    medium: str = ""  # "shm", "unix", "tcp", "tls", "verbs"
    why: str = ""  # this medium, for people
    handed: bool = False  # the client has it, or is about to
    interrupted: int = 0  # call_id that the client took back; said again when its agent is reached again


@dataclass(slots=True)
class Lease:
    """A lease that one of our clients holds."""

    lease_id: LeaseId
    client: HolderId
    executor: int
    lease_seq: int
    epoch: int
    slice_id: bytes
    address: str
    node: str
    workers: int
    ttl_s: float
    core_ids: tuple[int, ...] = ()
    closing: bool = False  # draining or given back: no new channel, no renewal once given back
    released: bool = False
    reclaimed_for: int = 0  # reason of the notice that it goes back to its owner
    living: dict[int, int] = field(default_factory=dict)  # slot -> generation of its worker
    ended: dict[int, int] = field(default_factory=dict)  # slot -> generation of the last that went, or never came
    channels: dict[int, Channel] = field(default_factory=dict)
    encrypted_only: bool = False  # its agent takes no others
    no_verbs: str = ""  # why RDMA was tried in vain
    n_over_verbs: int = 0  # channels over RDMA that its client got
    kind: str = ""  # of the want: "memory" for a region

    @property
    def takes_channels(self) -> bool:
        """Whether a channel may still be opened: to a region as long as it is there, to workers until they drain."""
        return not (self.released if self.kind == MEMORY else self.closing)

    def channel_of(self, slot: int, generation: int) -> Channel | None:
        """The channel to this worker, if there is one."""
        return next((c for c in self.channels.values() if (c.slot, c.generation) == (slot, generation)), None)

    def handed(self) -> list[int]:
        """Numbers of the channels that the client has."""
        return [c.number for c in self.channels.values() if c.handed]


@dataclass(slots=True, frozen=True)
class Road:
    """How an executor wants to reach its workers.

    Attributes:
        transport: "auto", "shm", "verbs" or "tcp".
        hot_for_s: how long its workers poll before they sleep.
        encrypt: nothing may go over a network in plain.
        can_encrypt: its program has what that takes.
        no_verbs: why its program can't use RDMA; empty: it can.
    """

    transport: str = "auto"
    hot_for_s: float = 0.0
    encrypt: bool = False
    can_encrypt: bool = False
    no_verbs: str = NO_VERBS


@dataclass(slots=True)
class Client:
    """A client that has joined."""

    client: HolderId
    conn: int
    name: str
    env: Message
    options: Message = field(default_factory=dict)  # keys of `join` that are for agents
    wants: dict[int, Want] = field(default_factory=dict)  # by executor; a target of 0 is not kept
    roads: dict[int, Road] = field(default_factory=dict)  # by executor
    leases: dict[LeaseId, Lease] = field(default_factory=dict)


@dataclass(slots=True)
class Agent:
    """An agent where our clients hold leases, or did."""

    address: str
    leases: dict[LeaseId, Lease] = field(default_factory=dict)
    up: bool = False
    was_up: bool = False
    trouble: str = "no answer"  # why it is not up, for people
    silent: bool = False  # while not up: its host acknowledges nothing
    give_up_at_s: float = 0.0  # while not up
    there: bool = False  # while not up: it has the connection, and is to prove itself
    beating: bool = False  # a heartbeat timer runs
    unanswered_since_s: float | None = None  # the oldest heartbeat that was not acknowledged


@dataclass(slots=True)
class Outbox:
    """Effects of the step in progress, the timers, and the time."""

    now_s: float = 0.0
    effects: list[Effect] = field(default_factory=list)
    _timers: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _made: int = 0  # keeps timers of one moment in order, and tuples comparable

    def emit(self, effect: Effect) -> None:
        """Have the shell do this after the step, in order."""
        self.effects.append(effect)

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Run `action` in a step at least `delay_s` later; it asks itself whether it still applies."""
        self._made += 1
        heapq.heappush(self._timers, (self.now_s + delay_s, self._made, action))

    def run_due(self) -> None:
        """Run the timers whose moment has come."""
        while self._timers and self._timers[0][0] <= self.now_s:
            heapq.heappop(self._timers)[2]()

    @property
    def next_s(self) -> float | None:
        """When the next timer is due."""
        return self._timers[0][0] if self._timers else None
