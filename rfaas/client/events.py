"""What can happen to a client's core, and what it then asks for: plain values, no behaviour.

The core (`rfaas.client.core`) takes one event and a time and answers with effects; the I/O thread does them. Events and
effects are made and read once: freezing them would double their cost and add a fifth to the time of `import rfaas`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from rfaas.config import CallSettings
from rfaas_transport.errors import RfaasError


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


# --- events -------------------------------------------------------------------------------------


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


# --- effects ------------------------------------------------------------------------------------


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
