"""What several services carry, as `common.proto` does: ids, slices, leases and their cost, requests, the whole view."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Final, NewType

LeaseId = NewType("LeaseId", bytes)  # 16 bytes
SliceId = NewType("SliceId", bytes)  # 16 bytes
HolderId = NewType("HolderId", bytes)  # 16 bytes; the client
InstanceId = NewType("InstanceId", bytes)  # 16 bytes; one agent process
Epoch = NewType("Epoch", int)  # u64, 0: none yet
LeaseSeq = NewType("LeaseSeq", int)  # u64


MEMORY: Final = "memory"
"""Kind of a lease of memory alone (docs/spec/008-memory.md)."""


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
    shared_by: int | None = None  # uid of who shares a part of a job of his
    outside_jobs: bool = False  # a site's grant: Slurm gives the node to jobs without knowing of it


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
    kind: str = ""  # as of Want

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


NO_USAGE: Final = Usage()


@dataclass(frozen=True, slots=True)
class LeaseUsage:
    """What one lease has cost so far."""

    lease_id: LeaseId
    usage: Usage


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What the guard of a slice found out about the job beside it, and what it did (docs/adr/0028).

    Attributes:
        host: the program, for people and for the book of pairs; empty: none that could be watched.
        verdict: "watch", "throttle", "ease", "move", "leave", "open"; empty: nothing was said yet.
        watch: what the verdict rests on: "marks ...", "run queue" or "pressure"; empty: nothing was measured.
        slowdown: of the host's median iteration beside functions, over that without; 0.03 is 3 %.
        tail: likewise of the 99th percentile; 0.0: not known.
        share: the part of the time that each worker runs.
        closed_for_s: seconds from this message in which no lease of workers is accepted.
        words: for people.
    """

    host: str = ""
    verdict: str = ""
    watch: str = ""
    slowdown: float = 0.0
    tail: float = 0.0
    share: float = 1.0
    closed_for_s: float = 0.0
    words: str = ""


NO_NEIGHBOURS: Final = Neighbours()


@dataclass(frozen=True, slots=True)
class Want:
    """Standing target of one request of one holder; workers = 0 ends it.

    placement: "pack", "spread" or empty; a hint. kind: empty, or MEMORY: one region of memory, without a core.
    lease_workers: how many workers one lease may give at most; 0: as many as a slice has. For who gives back in parts.
    load: what its functions mostly use: "compute", "memory", "io", "network"; empty: not said.
    """

    holder: HolderId
    request: int
    workers: int
    cores_per_worker: int
    memory_bytes_per_worker: int
    placement: str = ""
    kind: str = ""
    lease_workers: int = 0
    load: str = ""


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
class Host:
    """A host that could give slices, and how much at most. `source`: who named it, "file" or "slurm"."""

    name: str
    cores: int
    memory_bytes: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class SliceView:
    """One slice as the allocator sees it, for harvester and status."""

    slice: Slice
    epoch: Epoch
    state: str  # "up", "draining", "unreachable"
    leases: tuple[HeldLease, ...] = ()
    free_cores: int = 0
    free_memory_bytes: int = 0
    neighbours: Neighbours = NO_NEIGHBOURS


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
