"""What can happen to a client's core (`rfaas.client.core`), which takes one event and a time: plain values only.

Each is made and read once: freezing them would double their cost and add a fifth to the time of `import rfaas`. What
the core answers with: `rfaas.client.effects`; what both speak of: `rfaas.client.records`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rfaas.client.records import Call, ChannelInfo, FrameLike, Lease, Verdict
from rfaas_transport.errors import RfaasError


@dataclass(slots=True, eq=False)
class Submit:
    """The user handed over a call."""

    call: Call


@dataclass(slots=True, eq=False)
class Cancel:
    """The user wants a call back; Withdrawn is the answer if it is queued and can't have run.

    `interrupt`: also if it runs, at the cost of its worker.
    """

    call: Call
    interrupt: bool = False


@dataclass(slots=True, eq=False)
class CancelOverdue:
    """Who cancelled a call that lies behind another waits no longer: it is not cancelled."""

    call: Call


@dataclass(slots=True, eq=False)
class Shutdown:
    """No call comes any more; the queued ones are withdrawn if `cancel_queued`."""

    cancel_queued: bool = False


@dataclass(slots=True, eq=False)
class Terminate:
    """Shut down at once: what was not sent is withdrawn, what was sent fails, the workers are given back."""


@dataclass(slots=True, eq=False)
class Resize:
    """Want so many workers from now on, whatever calls there are; None: as many as the calls need.

    `lease_workers`: of one lease at most; 0: any number.
    """

    workers: int | None
    lease_workers: int = 0


@dataclass(slots=True, eq=False)
class Break:
    """What Broke means to calls: those that wait fail with this error, no other is sent."""

    error: RfaasError


@dataclass(slots=True, eq=False)
class Lend:
    """Somebody calls again and again: lend the idle workers' channels, if nobody waits; a Lent for each then."""


@dataclass(slots=True, eq=False)
class Borrowed:
    """So many calls are under way or wait on the channels on loan: workers are asked for as if they were the core's."""

    n_calls: int


@dataclass(slots=True, eq=False)
class Returned:
    """A channel on loan comes back after `n_calls` plain results.

    `calls`: sent there, in this order, each as its number `call_id`; their answers are awaited from now on.
    `credits`: that the worker gave beside those results.
    """

    channel: int
    n_calls: int
    calls: tuple[Call, ...] = ()
    credits: int = 0


@dataclass(slots=True, eq=False)
class Tick:
    """Time has passed."""


@dataclass(slots=True, eq=False)
class SessionUp:
    """A session process welcomed us."""

    embedded: bool


@dataclass(slots=True, eq=False)
class SessionLost:
    """The session process is gone."""


@dataclass(slots=True, eq=False)
class SessionFailed:
    """No session process could be reached or started."""

    error: RfaasError


@dataclass(slots=True, eq=False)
class LeaseGranted:
    """The session process was granted a lease for us."""

    lease: Lease


@dataclass(slots=True, eq=False)
class LeaseEnded:
    """A lease is FREE; `reason_code`: why, 0 if nothing more is to be said than its reason (002)."""

    lease: bytes
    reason_code: int = 0


@dataclass(slots=True, eq=False)
class ChannelOpened:
    """A channel to a worker was handed over; it is usable once the worker's HELLO gave a credit.

    `key`: of medium "tls", for who opens it; the core needs none.
    """

    info: ChannelInfo
    key: bytes = field(default=b"", repr=False)


@dataclass(slots=True, eq=False)
class FrameArrived:
    """A whole frame was read from a channel."""

    channel: int
    frame: FrameLike


@dataclass(slots=True, eq=False)
class ChannelEnded:
    """A channel was read to its end; nothing more comes from it. `why`: how it broke; empty if it closed."""

    channel: int
    why: str = ""


@dataclass(slots=True, eq=False)
class SendFailed:
    """A dispatch could not be handed over; nothing was sent. `broken`: the channel can't be used any more."""

    channel: int
    call_id: int
    error: RfaasError
    broken: bool


@dataclass(slots=True, eq=False)
class ChannelsCondemned:
    """A farewell (last_started known) or the loss of an agent or node (not known)."""

    channels: tuple[int, ...]
    verdict: Verdict


@dataclass(slots=True, eq=False)
class Notice:
    """These channels' workers go back to their owner: send nothing more there."""

    lease: bytes
    channels: tuple[int, ...]
    reason_code: int
    grace_s: float
    node: str = ""
    cores: tuple[int, ...] = ()


@dataclass(slots=True, eq=False)
class Examined:
    """The answer to Examine."""

    call: Call
    frame: FrameLike
    info: ChannelInfo
    again: bool


@dataclass(slots=True, eq=False)
class Queued:
    """Nothing free now; the reason is for people."""

    reason: str
    hint: str


@dataclass(slots=True, eq=False)
class Denied:
    """What we want can never be served."""

    code: str
    hint: str


Event = (
    Submit
    | Cancel
    | CancelOverdue
    | Shutdown
    | Terminate
    | Resize
    | Break
    | Lend
    | Borrowed
    | Returned
    | Tick
    | SessionUp
    | SessionLost
    | SessionFailed
    | LeaseGranted
    | LeaseEnded
    | ChannelOpened
    | FrameArrived
    | ChannelEnded
    | SendFailed
    | ChannelsCondemned
    | Notice
    | Examined
    | Queued
    | Denied
)
