"""What happens to a borrowed region, and what its core asks for: plain values.

No I/O and no logic here; what a session process says are events of `rfaas.client`. Spec: docs/spec/008-memory.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from rfaas.client.events import (
    ChannelOpened,
    ChannelsCondemned,
    Denied,
    LeaseEnded,
    LeaseGranted,
    Notice,
    Queued,
    SessionFailed,
    SessionLost,
    SessionUp,
)
from rfaas.client.records import Lease

# --- events -----------------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class ChannelFailed:
    """Reading or writing found that this channel had ended."""

    channel: int


@dataclass(slots=True, frozen=True)
class Unusable:
    """RDMA to the lender could not be set up: this channel never was one. It is dialled again."""

    channel: int
    why: str


@dataclass(slots=True, frozen=True)
class OpenFailed:
    """A connection to a lender came, and this process could not make a channel of it: a limit of its own, as a rule."""

    why: str


@dataclass(slots=True, frozen=True)
class Reached:
    """A byte has come from the region: the program has it now, and content to lose."""


@dataclass(slots=True, frozen=True)
class CopyEnded:
    """The region was copied to the channel of `to`, or to the file (0); or not, because of `problem`."""

    to: int
    problem: str = ""


@dataclass(slots=True, frozen=True)
class CloseAsked:
    """The program needs it no longer."""


@dataclass(slots=True, frozen=True)
class Tick:
    """Time has passed; see `MemoryCore.wake_at_s`."""


Event = (
    SessionUp
    | SessionFailed
    | SessionLost
    | LeaseGranted
    | LeaseEnded
    | ChannelOpened
    | ChannelsCondemned
    | Notice
    | Queued
    | Denied
    | ChannelFailed
    | Unusable
    | OpenFailed
    | Reached
    | CopyEnded
    | CloseAsked
    | Tick
)

# --- effects ----------------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Join:
    """Join a session process and go on with these leases; SessionUp or SessionFailed follows."""

    resume: tuple[tuple[Lease, ChannelOpened | None], ...] = ()


@dataclass(slots=True, frozen=True)
class SayWant:
    """Tell the target: 0 or 1 regions. `keep`: leases that are there are not released by a target of 0."""

    regions: int
    keep: bool = False


@dataclass(slots=True, frozen=True)
class GiveBack:
    """Release this lease."""

    lease: bytes


@dataclass(slots=True, frozen=True)
class Use:
    """Reads and writes go to this channel from now on; 0: to the file."""

    channel: int


@dataclass(slots=True, frozen=True)
class Hold:
    """Reads and writes wait from now on, once those under way are done."""


@dataclass(slots=True, frozen=True)
class Fail:
    """Reads and writes fail from now on, those under way too."""

    error: BaseException


@dataclass(slots=True, frozen=True)
class Copy:
    """Copy what was written from one channel to another, or to the file (0); CopyEnded follows."""

    source: int
    to: int


@dataclass(slots=True, frozen=True)
class Drop:
    """Close this channel."""

    channel: int


@dataclass(slots=True, frozen=True)
class Tell:
    """The program's callbacks hear of this notice."""

    notice: Notice


@dataclass(slots=True, frozen=True)
class Leave:
    """Nothing is held any more: say goodbye to the session process and end."""


Effect = Join | SayWant | GiveBack | Use | Hold | Fail | Copy | Drop | Tell | Leave
