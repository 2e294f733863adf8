"""What the agent's core keeps: leases with their seats and workers, templates, and which core is whose.

Data and small questions about it; what changes when is `agent_core`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rfaas.control.lease import Lease, LeaseState
from rfaas.control.messages import MEMORY, HeldLease, LeaseTerms, Usage
from rfaas_executors.agent_events import Environment, WorkerUsage

QUICK_DEATH_S = 1.0  # a worker that lived shorter counts towards the back-off
FREE_DEATHS = 3  # so many quick deaths in a row are replaced at once
FIRST_BACK_OFF_S = 0.25
LONGEST_BACK_OFF_S = 5.0


@dataclass(slots=True)
class Worker:
    """A worker from the wish for it to the proof of its death. `channels`: by number, the slot in its state page."""

    number: int
    lease_id: bytes
    slot: int
    generation: int
    template: int
    wanted_s: float
    pid: int = 0
    channels: dict[int, int] = field(default_factory=dict)
    killed_for: int = 0  # the reason code with which the agent killed it; 0: it did not
    killed_because: str = ""  # more about that, for people
    spawned: str = ""
    forked_s: float | None = None
    usage: WorkerUsage = field(default_factory=WorkerUsage)

    def free_page_slot(self, n_slots: int) -> int | None:
        """The lowest slot of its state page that no channel has."""
        taken = set(self.channels.values())
        return next((slot for slot in range(n_slots) if slot not in taken), None)


@dataclass(slots=True)
class Seat:
    """A place for one worker in a lease: its cores (the first names the slot) and who sits there.

    `memory_slot`: in a lease of memory alone, whose server sits on no core, what names the slot.
    """

    cores: tuple[int, ...]
    worker: Worker | None = None
    quick_deaths: int = 0
    refill_at_s: float | None = None  # when the next worker is due; None: not waiting
    memory_slot: int = 0

    @property
    def slot(self) -> int:
        """Number of the seat in its slice."""
        return self.cores[0] if self.cores else self.memory_slot

    def back_off_s(self, lived_s: float, served: bool) -> float:
        """Count a death and say how long to wait before the next worker; one that served a call was no failure."""
        self.quick_deaths = self.quick_deaths + 1 if lived_s < QUICK_DEATH_S and not served else 0
        if self.quick_deaths <= FREE_DEATHS:
            return 0.0
        return min(LONGEST_BACK_OFF_S, FIRST_BACK_OFF_S * 2.0 ** (self.quick_deaths - FREE_DEATHS - 1))


@dataclass(slots=True)
class Held:
    """A lease that this agent holds. `session` is the connection that attached it last, None while there is none."""

    terms: LeaseTerms
    lease: Lease
    core_ids: tuple[int, ...]
    seats: list[Seat]
    expires_at_s: float
    ttl_s: float
    template: int | None = None
    environment: Environment = field(default_factory=dict)
    key: bytes = b""  # hash of the environment
    modules: tuple[tuple[str, str], ...] = ()  # that the client has imported, with their versions
    modules_strict: bool = False  # no call is to run where they differ
    output_limit_bytes: int | None = None  # of each call; 0: prints go nowhere, None: where the agent's own go
    session: int | None = None
    kill_at_s: float | None = None  # what still lives then is killed
    unsaid: list[dict[str, Any]] = field(default_factory=list)  # for the session that comes back
    granted_s: float = 0.0
    spent: Usage = field(default_factory=Usage)  # by workers that are dead
    spawned: str = ""  # why its workers are spawned and not forked

    @property
    def workers(self) -> list[Worker]:
        """Those not proven dead."""
        return [seat.worker for seat in self.seats if seat.worker is not None]

    @property
    def is_memory(self) -> bool:
        """True for a lease of memory alone, whose one worker is a memory server."""
        return self.terms.kind == MEMORY

    @property
    def ending(self) -> bool:
        """True once it leads to its end: no worker is replaced any more."""
        return self.lease.state in (LeaseState.DRAINING, LeaseState.FENCED, LeaseState.FREE)

    @property
    def fenced(self) -> bool:
        """True once nothing may start or be read any more."""
        return self.lease.state in (LeaseState.FENCED, LeaseState.FREE)

    def seat(self, slot: int) -> Seat | None:
        """The seat of a slot."""
        return next((seat for seat in self.seats if seat.slot == slot), None)

    def report(self) -> HeldLease:
        """What the allocator is told when the agent registers."""
        return HeldLease(self.terms, self.core_ids, self.lease.state.value, self.spawned)


@dataclass(slots=True)
class Template:
    """A template process, from the wish for it to its end. `idle_since_s`: when its last lease ended."""

    number: int
    key: bytes
    environment: Environment
    idle_since_s: float | None = None
    stopping: bool = False


class CoreMap:
    """Which core of the slice is whose: a core is held by one lease at most, and freed only by that lease's end."""

    def __init__(self, n_cores: int) -> None:
        self._owner: list[bytes | None] = [None] * n_cores

    @property
    def n_free(self) -> int:
        """Cores that nobody holds."""
        return self._owner.count(None)

    def take(self, lease_id: bytes, n_cores: int) -> tuple[int, ...] | None:
        """Give the lowest free cores to a lease; None, and nothing taken, if there are too few."""
        free = [core for core, owner in enumerate(self._owner) if owner is None]
        if len(free) < n_cores:
            return None
        chosen = tuple(free[:n_cores])
        for core in chosen:
            self._owner[core] = lease_id
        return chosen

    def give_back(self, lease_id: bytes) -> None:
        """Free every core of a lease."""
        self._owner = [None if owner == lease_id else owner for owner in self._owner]

    def owner(self, core: int) -> bytes | None:
        """The lease that holds a core."""
        return self._owner[core]
