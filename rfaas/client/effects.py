"""What a client's core (`rfaas.client.core`) asks for; the I/O thread does it, in order: plain values, no behaviour.

Not frozen, for the reason of `rfaas.client.events`.
"""

from __future__ import annotations

from dataclasses import dataclass

from rfaas.client.events import Notice
from rfaas.client.records import Call, ChannelInfo, FrameLike, Lease
from rfaas_transport.errors import RfaasError


@dataclass(slots=True, eq=False)
class Dispatch:
    """Send this call on this channel now; `remaining_s` is what its deadline leaves, None without one."""

    channel: int
    call: Call
    call_id: int
    remaining_s: float | None


@dataclass(slots=True, eq=False)
class Lent:
    """This channel is on loan; calls on it are numbered from the one after `last_id_before`."""

    channel: int
    last_id_before: int


@dataclass(slots=True, eq=False)
class Recall:
    """Bring the channels on loan back."""


@dataclass(slots=True, eq=False)
class Deliver:
    """The answer came: decode it and resolve the future."""

    call: Call
    frame: FrameLike
    info: ChannelInfo


@dataclass(slots=True, eq=False)
class Examine:
    """The function raised: say by Examined whether this exception is one that the call is to be run again for."""

    call: Call
    frame: FrameLike
    info: ChannelInfo


@dataclass(slots=True, eq=False)
class Fail:
    """Resolve the future with this error."""

    call: Call
    error: RfaasError


@dataclass(slots=True, eq=False)
class Withdrawn:
    """The call left the queue unsent; resolve its future as cancelled."""

    call: Call


@dataclass(slots=True, eq=False)
class Broke:
    """Workers can't be initialized: find out why, from the answer or the error, and say Break. Nothing is sent now."""

    call: Call
    info: ChannelInfo
    frame: FrameLike | None = None
    error: RfaasError | None = None


@dataclass(slots=True, eq=False)
class Requeued:
    """The call is proven not started and in the queue again; it may be cancelled again."""

    call: Call


@dataclass(slots=True, eq=False)
class Started:
    """A call that lay behind another at its worker runs: it can't be cancelled any more."""

    call: Call


@dataclass(slots=True, eq=False)
class TakeBack:
    """Ask a worker to give this call back if it has not started; 0: whether it answers while it runs a function."""

    channel: int
    call_id: int


@dataclass(slots=True, eq=False)
class SendWant:
    """Tell the session process our target, and how many workers one lease may have at most (0: any number)."""

    workers: int
    lease_workers: int = 0


@dataclass(slots=True, eq=False)
class GiveBack:
    """Tell the session process that this lease is given back: nothing runs there, and nothing will."""

    lease: bytes


@dataclass(slots=True, eq=False)
class TellGain:
    """Tell whoever wants to know that the first worker of this lease can be called; once a lease."""

    lease: Lease


@dataclass(slots=True, eq=False)
class Starving:
    """Calls have waited for long while there is no worker at all: say so to whoever sits before the program."""

    n_calls: int
    why: str


@dataclass(slots=True, eq=False)
class SendInterrupt:
    """Ask the session process to have the agent end this call, if it runs."""

    channel: int
    call_id: int


@dataclass(slots=True, eq=False)
class TellReclaim:
    """Tell whoever wants to know that cores go back; once a lease."""

    notice: Notice


@dataclass(slots=True, eq=False)
class CloseChannel:
    """Nothing is expected of this channel any more."""

    channel: int


@dataclass(slots=True, eq=False)
class Connect:
    """Join a session process, resuming these leases with their live channels."""

    resume: tuple[tuple[Lease, tuple[ChannelInfo, ...]], ...] = ()


@dataclass(slots=True, eq=False)
class Drained:
    """Shut down, and every call is resolved."""


Effect = (
    Dispatch
    | Deliver
    | Examine
    | Fail
    | Withdrawn
    | Broke
    | Requeued
    | Started
    | TakeBack
    | SendWant
    | GiveBack
    | TellGain
    | Starving
    | SendInterrupt
    | TellReclaim
    | CloseChannel
    | Connect
    | Drained
    | Lent
    | Recall
)
