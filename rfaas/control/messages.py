"""Messages between allocator, agents and holders, as plain values.

The sans-IO cores speak only these; gRPC (`rfaas.control.wire`) and the embedded link carry them.
No I/O, no clock, no protobuf here. Source: docs/spec/002-lease.md, docs/spec/003-control.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Final, NewType

LeaseId = NewType("LeaseId", bytes)  # 16 bytes
SliceId = NewType("SliceId", bytes)  # 16 bytes
HolderId = NewType("HolderId", bytes)  # 16 bytes; the client
InstanceId = NewType("InstanceId", bytes)  # 16 bytes; one agent process
Epoch = NewType("Epoch", int)  # u64, 0: none yet
LeaseSeq = NewType("LeaseSeq", int)  # u64


@dataclass(frozen=True, slots=True)
class Slice:
    """What one agent offers.

    `key` names the source for people ("job 17 on n2, submitted 1732345"); `job_id` is empty without Slurm, and with
    `submit_time_s` (seconds since 1970, 0: unknown) it names one job, since Slurm uses job ids again.
    `end_in_s` counts from the moment of the message; None: no end known.
    """

    slice_id: SliceId
    node: str
    cores: int
    memory_bytes: int
    session_address: str  # "unix:@name" (abstract) or "tcp:host:port"
    key: str = ""
    job_id: str = ""
    end_in_s: float | None = None
    grace_s: float = 0.0
    submit_time_s: int = 0
    incarnation: str = ""  # of the node (rfaas.control.incarnation); empty: not known


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """What is leased to whom; the part of a lease that never changes."""

    lease_id: LeaseId
    lease_seq: LeaseSeq
    slice_id: SliceId
    epoch: Epoch
    holder: HolderId
    request: int  # the holder's number of the standing request
    workers: int
    cores_per_worker: int
    memory_bytes_per_worker: int
    ttl_s: float
    uid: int = 0  # user of the holder, whose quota it counts against

    @property
    def cores(self) -> int:
        """Cores of the slice that this lease holds."""
        return self.workers * self.cores_per_worker

    @property
    def memory_bytes(self) -> int:
        """Memory of the slice that this lease holds, in bytes."""
        return self.workers * self.memory_bytes_per_worker


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease as its agent reports it, with the core numbers the agent chose."""

    terms: LeaseTerms
    core_ids: tuple[int, ...]
    state: str  # name of rfaas.control.lease.LeaseState
    spawned: str = ""  # why its workers are spawned and not forked, for people; empty: they are not


@dataclass(frozen=True, slots=True)
class Usage:
    """What a lease has cost since it was granted, as its agent measured it. Every number only rises.

    `allocated_ns` times the lease's cores are its core-seconds, times its memory its byte-seconds. `alive_ns`,
    `running_ns`, `hot_ns` and `cpu_ns` are sums over its workers, of which running and hot are parts of alive.
    Source: docs/spec/002-lease.md section 9.
    """

    allocated_ns: int = 0
    alive_ns: int = 0
    running_ns: int = 0
    hot_ns: int = 0
    cpu_ns: int = 0
    calls: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    @property
    def warm_ns(self) -> int:
        """Time in which its workers waited blocked for a call."""
        return max(0, self.alive_ns - self.running_ns - self.hot_ns)

    def highest(self, other: Usage) -> Usage:
        """What is true if both were: numbers only rise, so a repeated or late report counts nothing twice."""
        return Usage(*(max(getattr(self, one.name), getattr(other, one.name)) for one in fields(self)))


@dataclass(frozen=True, slots=True)
class LeaseUsage:
    """What one lease has cost so far."""

    lease_id: LeaseId
    usage: Usage


# --- agent -> allocator -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Register:
    """First message of an agent, and again after each reconnect.

    `clean`: this process has proven that nothing of an earlier agent of this slice lives (002 section 3); only then are
    the leases of that agent free and something granted here.
    """

    slice: Slice
    instance: InstanceId
    epoch: Epoch  # 0 at the first registration of this process
    held: tuple[HeldLease, ...] = ()
    draining: bool = False
    clean: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """The agent holds the cores for this lease now."""

    lease_id: LeaseId
    epoch: Epoch
    core_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """code: stale-epoch, draining, no-room, unknown-slice."""

    lease_id: LeaseId
    epoch: Epoch
    code: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The agent moved a lease to ACTIVE, DRAINING or FENCED."""

    lease_id: LeaseId
    epoch: Epoch
    state: str


@dataclass(frozen=True, slots=True)
class Freed:
    """FREE with proof of death. reason: released, expired, reclaimed, lost. `usage`: what it cost in all."""

    lease_id: LeaseId
    epoch: Epoch
    reason: str
    reason_code: int
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Ending:
    """The slice goes back to its owner; grant nothing there any more."""

    slice_id: SliceId
    epoch: Epoch
    reason_code: int
    grace_s: float


@dataclass(frozen=True, slots=True)
class SliceEmpty:
    """Last word of an agent: every lease freed, every descendant proven dead, it exits."""

    slice_id: SliceId
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What leases of this agent have cost so far; sent every few seconds and after each registration."""

    epoch: Epoch
    leases: tuple[LeaseUsage, ...]


@dataclass(frozen=True, slots=True)
class WorkersSpawned:
    """The template of this lease's environment can't fork, and why, for people; empty: it can again."""

    lease_id: LeaseId
    epoch: Epoch
    why: str


AgentMessage = Register | Accepted | Refused | StateChanged | Freed | Ending | SliceEmpty | UsageReport | WorkersSpawned


# --- allocator -> agent -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Registered:
    """The agent's epoch, durable before it was sent."""

    epoch: Epoch
    alloc_epoch: int


@dataclass(frozen=True, slots=True)
class Propose:
    """Accept by compare-and-set on `terms.epoch`, or refuse."""

    terms: LeaseTerms


@dataclass(frozen=True, slots=True)
class EndLease:
    """End it now (the holder released it, or the allocator does not know it any more)."""

    lease_id: LeaseId
    reason_code: int


@dataclass(frozen=True, slots=True)
class EndSlice:
    """Drain and leave, as for a reclaim (`rfaas down`, harvester shrinking)."""

    reason_code: int


AllocatorToAgent = Registered | Propose | EndLease | EndSlice


# --- holder (session process) -> allocator ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HolderHello:
    """First message of a session process for each client it serves, and again after each reconnect."""

    holder: HolderId
    uid: int
    name: str  # for people: program and pid
    held: tuple[LeaseId, ...] = ()


@dataclass(frozen=True, slots=True)
class Want:
    """Standing target of one request of one holder; workers = 0 ends it.

    placement: "pack", "spread" or empty; a hint. kind: empty; "memory" is reserved for leases of memory alone.
    """

    holder: HolderId
    request: int
    workers: int
    cores_per_worker: int
    memory_bytes_per_worker: int
    placement: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class ReleaseLease:
    """The holder gives it back."""

    holder: HolderId
    lease_id: LeaseId
    reason_code: int


@dataclass(frozen=True, slots=True)
class HolderGone:
    """The client ended: release all that it holds and forget what it wants."""

    holder: HolderId
    reason_code: int


HolderMessage = HolderHello | Want | ReleaseLease | HolderGone


# --- allocator -> holder ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Granted:
    """Durable. `address` is where the session process attaches (004 section 2)."""

    terms: LeaseTerms
    core_ids: tuple[int, ...]
    node: str
    address: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing more can be given now; the request stands. `missing` workers, reason for people, code for programs.

    `estimate_in_s`: seconds from this message until something may come, and what that was made of; None: nobody knows.
    """

    holder: HolderId
    request: int
    missing: int
    reason: str
    code: str = ""
    estimate_in_s: float | None = None
    basis: str = ""


@dataclass(frozen=True, slots=True)
class Denied:
    """Can never be served; the request is gone. code: lease-denied, quota, not-supported."""

    holder: HolderId
    request: int
    code: str
    hint: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A lease of this holder is FREE. Sent also when the agent can't tell the session itself (node lost)."""

    holder: HolderId
    lease_id: LeaseId
    reason: str
    reason_code: int


AllocatorToHolder = Granted | Waiting | Denied | Ended


# --- harvester -> allocator (Offers) ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobEnded:
    """Slurm says this job is over: proof of death for every slice that came of it, unless `why` is of UNPROVEN.

    `submit_time_s` is compared only if both sides know it (0: unknown).
    """

    job_id: str
    submit_time_s: int
    why: str  # Slurm's job state, e.g. PREEMPTED; or NODE_REBOOTED, FORGOTTEN


UNPROVEN: Final = frozenset(["NODE_FAIL", "FORGOTTEN"])
"""Ends of jobs that prove nothing: slurmctld gave up a silent node, or lost its own last seconds."""


@dataclass(frozen=True, slots=True)
class JobEnding:
    """This job's slice must leave its node: its agent is told to drain and leave for this ReasonCode."""

    job_id: str
    submit_time_s: int
    reason_code: int


@dataclass(frozen=True, slots=True)
class JobRef:
    """One job of Slurm's list of those alive."""

    job_id: str
    submit_time_s: int = 0


@dataclass(frozen=True, slots=True)
class Host:
    """A host that could give slices, and how much at most. `source`: who named it, "file" or "slurm"."""

    name: str
    cores: int
    memory_bytes: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class JobsReport:
    """What the harvester learned of its jobs.

    `alive` is Slurm's whole list, or None if it was not read. It was read `alive_age_s` ago: a slice whose agent spoke
    since then is not ended by its absence from the list, nor one whose agent is connected. For `trusted_for_s` from now
    on the harvester's picture of Slurm is good enough to grant on; None: it says nothing of that. `hosts`: every host
    that Slurm could give, empty if it does not say; `hosts_complete`: no other can ever give anything here.
    """

    ended: tuple[JobEnded, ...] = ()
    alive: tuple[JobRef, ...] | None = None
    alive_age_s: float = 0.0
    ending: tuple[JobEnding, ...] = ()
    trusted_for_s: float | None = None
    hosts: tuple[Host, ...] = ()
    hosts_complete: bool = False


@dataclass(frozen=True, slots=True)
class SliceView:
    """One slice as the allocator sees it, for harvester and status."""

    slice: Slice
    epoch: Epoch
    state: str  # "up", "draining", "unreachable"
    leases: tuple[HeldLease, ...] = ()
    free_cores: int = 0
    free_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The allocator's whole view at one moment."""

    alloc_epoch: int
    slices: tuple[SliceView, ...] = ()
    wants: tuple[Want, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    counters: dict[str, int] = field(default_factory=dict)
    hosts: tuple[Host, ...] = ()
    hosts_complete: bool = False


@dataclass(frozen=True, slots=True)
class Account:
    """One lease and what it cost. Times are seconds since 1970, for people; durations come from the agent's clock.

    `end_unix_s`: None while it lives. `cost` is by the prices that the allocator has now, in `currency`.
    """

    lease_id: LeaseId
    lease_seq: LeaseSeq
    holder: HolderId
    holder_name: str
    uid: int
    slice_id: SliceId
    node: str
    job_id: str
    workers: int
    cores: int
    memory_bytes: int
    start_unix_s: float
    end_unix_s: float | None = None
    reason: str = ""
    reason_code: int = 0
    usage: Usage = Usage()
    cost: float = 0.0
    currency: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, as `Admin.Watch` tells it. `seq` rises, also across restarts of the allocator.

    kind: a word of `rfaas.control.eventlog.EVENTS`, or `gap`: events before this one are not kept any more.
    """

    seq: int
    kind: str
    slice_id: SliceId | None = None
    lease_id: LeaseId | None = None
    holder: HolderId | None = None
    node: str = ""
    text: str = ""
