"""What the agent's core is told (events) and what it asks for (effects), as plain values.

No I/O and no logic here. `now_s` is given with every step and counts on CLOCK_BOOTTIME. Spec: docs/spec/002-lease.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rfaas.control.messages import AgentMessage, AllocatorToAgent, Neighbours, Slice

Environment = Mapping[str, Any]
"""004 section 4."""


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """What one agent is responsible for, and its clocks.

    Args:
        slice: what it offers; `end_in_s` counts from the start of the core.
        instance: 16 random bytes of this process.
        drain_s: what running calls get after a reclaim began; at most the grace.
        cpus: the CPU of each core of the slice, for pinning; empty: workers run unpinned.
        abandoned_after_s: without lease and allocator for this long it leaves; None: never (embedded).
        idle_after_s: without lease for this long it leaves, allocator or not; None: never.
        template_linger_s: how long a template without leases is kept for the next one.
        clean: it is proven that nothing of an earlier agent of this slice lives (002 section 3).
        usage_every_s: how often the allocator is told what leases cost (002 section 9); None: only at their end.
        encrypted_only: data connections over a network must be encrypted.
        cannot_encrypt: why none can be here; empty: they can.
    """

    slice: Slice
    instance: bytes
    drain_s: float = 0.0
    cpus: tuple[int, ...] = ()
    abandoned_after_s: float | None = 60.0
    idle_after_s: float | None = None
    template_linger_s: float = 10.0
    clean: bool = True
    usage_every_s: float | None = 5.0
    encrypted_only: bool = False
    cannot_encrypt: str = ""


@dataclass(frozen=True, slots=True)
class WorkerUsage:
    """What one worker has cost since its start, a call under way included. Worker and kernel count; every number rises.

    `running_ns`, `hot_ns`: as the worker's page says, which the user's own code can reach: the core believes it no more
    than the worker's life. `cpu_ns`: the kernel's word, with the children that the worker waited for.
    """

    running_ns: int = 0
    hot_ns: int = 0
    cpu_ns: int = 0
    calls: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AllocatorUp:
    """A link to the allocator was made; the agent registers."""


@dataclass(frozen=True, slots=True)
class AllocatorDown:
    """The link broke."""


@dataclass(frozen=True, slots=True)
class AllocatorSaid:
    """A message came over the link."""

    message: AllocatorToAgent


@dataclass(frozen=True, slots=True)
class SessionSaid:
    """A message came on a session connection, proven and decoded; `session` is the shell's number for it."""

    session: int
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SessionGone:
    """A session connection ended."""

    session: int


@dataclass(frozen=True, slots=True)
class DataOffered:
    """A data connection is proven and waits for its worker."""

    connection: int
    lease_id: bytes
    slot: int
    generation: int
    channel: int
    medium: str = ""  # "shm": the client sends memory over it; "tls": encrypted frames; "verbs": RDMA; "": frames
    hot_for_s: float = 0.0  # how long the worker polls for the next frame before it sleeps
    over_network: bool = False  # it came to a TCP port
    obstacle: str = ""  # why this host has no such medium at the moment


@dataclass(frozen=True, slots=True)
class TemplateFailed:
    """A template never came up: the client's environment doesn't work here. None of its workers ever ran.

    `killed`: it ended by a signal that was not ours, which may have had nothing to do with the environment.
    """

    template: int
    hint: str
    killed: bool = False


@dataclass(frozen=True, slots=True)
class TemplateGone:
    """A template that was up has ended and is proven dead; each of its workers has its own WorkerDead."""

    template: int


@dataclass(frozen=True, slots=True)
class WorkerForked:
    """A worker runs; `spawned` says why it was not forked, or is empty."""

    worker: int
    pid: int
    spawned: str = ""


@dataclass(frozen=True, slots=True)
class WorkerDead:
    """Proof of death of a worker and all it left. `calls`: by channel (last started, last done) of its page.

    `usage`: what it cost in all. `reason_code`: why, if somebody knows that the core does not.
    """

    worker: int
    exit_status: int
    signal: int
    calls: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    hint: str = ""
    usage: WorkerUsage = WorkerUsage()
    reason_code: int = 0


@dataclass(frozen=True, slots=True)
class ChannelEnded:
    """A worker that lives on closed a channel that its peer closed or that broke: it reads nothing more from it.

    `calls`: what its page says of that channel (last started, last done); None: the worker never had it. `violated`:
    the peer asked for memory of the worker's that it had no key for (007 section 5).
    """

    worker: int
    channel: int
    calls: tuple[int, int] | None = None
    violated: bool = False


@dataclass(frozen=True, slots=True)
class CallOverdue:
    """The running call of a worker is past its deadline; the worker is stopped (SIGSTOP) in it."""

    worker: int


@dataclass(frozen=True, slots=True)
class CallInterrupted:
    """The call that a client took back runs on this worker, which will start no other (001 section 5)."""

    worker: int


@dataclass(frozen=True, slots=True)
class Printed:
    """A worker printed this; `channel` and `call_id` are of the call that it had started last, 0 before the first.

    `stream`: 1 standard output, 2 standard error. `cut_bytes`: what of this call and stream was dropped so far.
    `over`: the last word about that.
    """

    worker: int
    channel: int
    call_id: int
    stream: int
    data: bytes
    cut_bytes: int = 0
    over: bool = False


@dataclass(frozen=True, slots=True)
class PrintedAll:
    """All that this call printed has been told."""

    worker: int
    channel: int
    call_id: int


@dataclass(frozen=True, slots=True)
class ModulesDiffer:
    """The answer to CheckModules, if the template lacks some or has other versions; before any worker of that lease."""

    lease_id: bytes
    modules: tuple[tuple[str, str, str | None], ...]


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """A worker, or what its calls started, uses more than it may (002 section 10); `hint`: the figures."""

    worker: int
    reason_code: int
    hint: str


@dataclass(frozen=True, slots=True)
class UsageRead:
    """What workers that live have cost, by their number; the answer to ReadUsage."""

    usages: Mapping[int, WorkerUsage]


@dataclass(frozen=True, slots=True)
class ReclaimAsked:
    """The owner wants the slice back: Slurm's SIGTERM, the end of the slice, the allocator or the host program.

    `at_once`: running calls get no time (any more), also if they were promised some.
    """

    reason_code: int
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Neighboured:
    """The neighbour guard's verdict; "move" and "leave" are to be carried out, the others to be told."""

    about: Neighbours


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; due at the latest at `AgentCore.wake_at_s`."""


Event = (
    AllocatorUp
    | AllocatorDown
    | AllocatorSaid
    | SessionSaid
    | SessionGone
    | DataOffered
    | TemplateFailed
    | TemplateGone
    | WorkerForked
    | WorkerDead
    | ChannelEnded
    | CallOverdue
    | CallInterrupted
    | Printed
    | PrintedAll
    | ModulesDiffer
    | LimitExceeded
    | UsageRead
    | ReclaimAsked
    | Neighboured
    | Tick
)

# --- effects ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToAllocator:
    """Send; dropped while there is no link (registering again makes up for it)."""

    message: AgentMessage


@dataclass(frozen=True, slots=True)
class ToSession:
    """Send on a session connection; dropped if it has ended."""

    session: int
    message: dict[str, Any]


@dataclass(frozen=True, slots=True)
class HangUp:
    """End a session connection whose peer broke the protocol."""

    session: int
    hint: str


@dataclass(frozen=True, slots=True)
class StartTemplate:
    """Start a template in a client's environment."""

    template: int
    environment: Environment


@dataclass(frozen=True, slots=True)
class StopTemplate:
    """End a template that has no workers; answered by TemplateGone or TemplateFailed."""

    template: int


@dataclass(frozen=True, slots=True)
class CheckModules:
    """Have a template look for modules that a client has imported; ModulesDiffer is the answer if it has others."""

    template: int
    lease_id: bytes
    modules: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Have a template make a worker, as soon as it is up; answered by WorkerForked or WorkerDead.

    `output_limit_bytes`: of what each call prints; 0: it goes nowhere; None: where the agent's own output goes.
    `memory_bytes`: what it may use, with all that its calls start.
    """

    worker: int
    template: int
    slot: int
    generation: int
    cpus: tuple[int, ...]
    output_limit_bytes: int | None = None
    memory_bytes: int = 1 << 62


@dataclass(frozen=True, slots=True)
class StartMemory:
    """Start the server of a lease of memory, a worker like others; answered by WorkerForked or WorkerDead."""

    worker: int
    slot: int
    generation: int
    region_bytes: int


@dataclass(frozen=True, slots=True)
class DrainWorker:
    """Tell a worker to finish its call and exit; `kill_at_s`: by when."""

    worker: int
    kill_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class InterruptCall:
    """Kill a worker if it runs this call of this page slot; answered by CallInterrupted if it does."""

    worker: int
    page_slot: int
    call_id: int


@dataclass(frozen=True, slots=True)
class KillWorker:
    """SIGKILL a worker; answered by WorkerDead. Repeatable."""

    worker: int


@dataclass(frozen=True, slots=True)
class ReadUsage:
    """Look what every worker has cost so far; answered by UsageRead."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """Welcome a data connection and pass its descriptor to a worker."""

    connection: int
    worker: int
    channel: int
    page_slot: int
    lease_seq: int
    epoch: int
    lease: str
    holder: str
    medium: str = ""  # as in DataOffered
    hot_for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TurnAway:
    """Reject a data connection (004 section 1) and close it."""

    connection: int
    code: str
    hint: str


@dataclass(frozen=True, slots=True)
class Record:
    """Write to the event log."""

    event: str
    fields: dict[str, object]


@dataclass(frozen=True, slots=True)
class Leave:
    """Nothing of the slice lives any more and SliceEmpty is sent: flush and exit."""


Effect = (
    ToAllocator
    | ToSession
    | HangUp
    | StartTemplate
    | StopTemplate
    | CheckModules
    | StartWorker
    | StartMemory
    | DrainWorker
    | InterruptCall
    | KillWorker
    | ReadUsage
    | HandOver
    | TurnAway
    | Record
    | Leave
)
