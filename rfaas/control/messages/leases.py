"""What holders (through their session processes) and allocator say to each other, as `leases.proto` does."""

from __future__ import annotations

from dataclasses import dataclass

from rfaas.control.messages.common import HolderId, LeaseId, LeaseTerms, Waiting, Want


@dataclass(frozen=True, slots=True)
class HolderHello:
    """First message of a session process for each client it serves, and again after each reconnect."""

    holder: HolderId
    uid: int
    name: str  # for people: program and pid
    held: tuple[LeaseId, ...] = ()


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


@dataclass(frozen=True, slots=True)
class Granted:
    """Durable. `address` is where the session process attaches (004 section 2)."""

    terms: LeaseTerms
    core_ids: tuple[int, ...]
    node: str
    address: str


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
