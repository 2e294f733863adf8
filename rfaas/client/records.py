"""What a client knows of calls, leases and channels: plain values, no behaviour.

Events (`rfaas.client.events`) and effects (`rfaas.client.effects`) of its core speak of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from rfaas.config import CallSettings


class FrameLike(Protocol):
    """What is read of a received frame (rfaas_transport._core.Frame)."""

    @property
    def kind(self) -> int:
        """Spec 001 section 2."""

    @property
    def status(self) -> int:
        """Spec 001 section 4."""

    @property
    def credits(self) -> int:
        """Calls that the worker takes in addition."""

    @property
    def call_id(self) -> int:
        """Which dispatch it answers."""

    @property
    def out_size(self) -> int:
        """Bytes that a result which was too large would have taken."""

    @property
    def text(self) -> str:
        """For people; ERROR only."""

    @property
    def segments(self) -> tuple[memoryview, ...]:
        """The payload; not the core's business."""


@dataclass(slots=True, eq=False)
class Call:
    """One invocation from submit to its end.

    Attributes:
        inv: number of the invocation.
        work: the I/O side's own (future, function, arguments); the core never looks inside.
        attempt: dispatches so far, less one; 0 before and during the first.
        call_id: number of the current dispatch; 0 while none.
        may_have_run: an earlier dispatch started, or nobody knows that it did not.
        kills: how many workers it ended.
        channel: where the current dispatch went.
        first_call_id: number of the first dispatch, which names the invocation for good.
        checkpoint: what its function saved last, in any attempt.
        interrupted: its client wants it ended.
        examining: the answer about which an Examine is under way.
        follows: identity of its function, if it may lie behind calls of the same at a worker; empty: it may not.
        behind: it lies behind another call at its worker; if that ends it runs.
        taking_back: the worker was asked to give it back.
        withdrawing: its client waits for that, to cancel it.
    """

    inv: int
    work: Any
    settings: CallSettings
    submitted_at_s: float = 0.0
    deadline_s: float | None = None
    queued: bool = False
    resolved: bool = False
    may_have_run: bool = False
    dispatches: int = 0
    call_id: int = 0
    retries_used: int = 0
    reclaims_used: int = 0
    kills: int = 0
    channel: int = 0
    first_call_id: int = 0
    checkpoint: bytes | None = None
    interrupted: bool = False
    examining: FrameLike | None = None
    follows: bytes = b""
    behind: bool = False
    taking_back: bool = False
    withdrawing: bool = False

    @property
    def attempt(self) -> int:
        """How often it had been dispatched before the current dispatch."""
        return max(0, self.dispatches - 1)


@dataclass(slots=True, frozen=True)
class Lease:
    """A lease as the session process told it; what `resume` needs (docs/spec/004-session.md section 3)."""

    lease: bytes
    lease_seq: int
    epoch: int
    slice: bytes
    address: str
    node: str
    workers: int
    ttl_s: float


@dataclass(slots=True, frozen=True)
class ChannelInfo:
    """A channel as the session process told it."""

    number: int
    lease: bytes
    lease_seq: int
    epoch: int
    slot: int
    generation: int
    node: str
    medium: str = ""  # "shm": this side sends the memory


@dataclass(slots=True, frozen=True)
class Verdict:
    """Why a channel will never answer again.

    `last_started` None: nobody knows what the worker had started, so everything on the channel may have run.
    """

    reason_code: int
    last_started: int | None = None
    last_done: int = 0
    exit_status: int | None = None
    signal: int | None = None
    grace_s: float | None = None
    hint: str = ""
    silent: bool = False  # no word came at all: connection-lost
