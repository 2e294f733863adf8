"""What a worker knows of one channel that its agent has handed it: plain values."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rfaas_executors._hot_calls import HotCalls
from rfaas_executors.calls import Defined
from rfaas_transport._core import Attendant, Channel, Frame

if TYPE_CHECKING:
    from rfaas_executors.native_calls import NativeCalls


@dataclass(slots=True)
class Connection:
    """One channel with what was defined on it.

    Attributes:
        descriptor: of the connection that it was made of.
        parked: a call that waits for the function's blobs.
        behind: calls, and functions, that came after it.
        attendant: reads the channel while a function runs, once the client has asked for that.
    """

    channel: Channel
    descriptor: int
    number: int
    page_slot: int
    lease_seq: int
    epoch: int
    lease: str
    holder: str
    hot_for_s: float
    awake: bool = False  # polled without pause: its descriptor tells nothing
    n_hot: int = 0  # calls that were served since it is awake
    is_left_out: bool = False  # of the poller, while awake: what comes would be told to it first
    functions: dict[int, Defined] = field(default_factory=dict)
    parked: Frame | None = None
    awaited: int = 0  # blobs that it still waits for
    parked_at_ns: int = 0
    behind: deque[Frame] = field(default_factory=deque)
    attendant: Attendant | None = None
    hot: HotCalls | NativeCalls | None = None  # of the function that ran here last
    hot_identity: bytes = b""  # of that function

    def watched(self) -> int:
        """The descriptor that answers go through; -1: through none that a function's own files could take the place of.

        That is so over shared memory, but to wake who sleeps, and over RDMA, whose device has a number high up
        (verbs_device.c).
        """
        return -1 if self.channel.medium in ("shm", "verbs") else self.descriptor
