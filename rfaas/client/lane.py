"""A worker's channel on loan to whoever invokes: one thread sends a call and looks for its answer; nobody else wakes.

The core lends an idle channel while nothing waits. The thread in `invoke` then neither steps the core nor makes a
future: only what is not a plain result in a moment becomes a call like any other, which the core adopts with the
channel. The core wants the channel back as soon as something waits, and before anything is said about it.

Locks: the lane's own before that of the books. Who holds the lane runs no user code and keeps it for SPIN_S at most, so
the I/O thread may wait for it; who holds the books only tries.
"""

from __future__ import annotations

import threading
from typing import Final

from rfaas.client.port import Port
from rfaas.client.serial import Definition, Segments
from rfaas_transport._core import Frame
from rfaas_transport.errors import ChannelBroken, ChannelClosed, NoCredit, PayloadTooLarge
from rfaas_transport.frame import Kind, Status

SPIN_S: Final = 0.0002
"""A hot worker answers a short call within microseconds. What takes longer is waited for asleep."""

IDS: Final = 1 << 20
"""Calls that one loan is good for: their numbers are set aside when it is made."""

_CALL: Final = int(Kind.CALL)  # plain integers: comparing with an IntEnum costs a call
_RESULT: Final = int(Kind.RESULT)
_OK: Final = int(Status.OK)


class Lane:
    """At most one channel on loan.

    Attributes:
        mutex: held by whoever uses the channel.
        port: the channel; None while there is none.
        recalled: the core wants it back; whoever holds the mutex sees to that.
        call_id: of the last call that was sent here.
        n_calls: how many were answered since the loan.
        in_flight: the last one was sent, and its answer has not been taken.
        frame: what came instead of a plain result.
    """

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.port: Port | None = None
        self.recalled = False
        self.call_id = self.n_calls = 0
        self.last_id = 0
        self.in_flight = False
        self.frame: Frame | None = None

    def begin(self, port: Port, last_id_before: int) -> None:
        """Take a channel on loan; calls are numbered from the one after `last_id_before`."""
        self.call_id, self.last_id = last_id_before, last_id_before + IDS
        self.n_calls, self.recalled, self.in_flight, self.frame = 0, False, False, None
        port.channel.stay_awake(True)
        self.port = port

    def exchange(self, definition: Definition, segments: Segments) -> Frame | None:
        """Send a call and look for its answer, with the mutex held.

        Returns:
            A plain result; or None: nothing was sent, or, if `in_flight`, what comes next is the core's affair.
        """
        port = self.port
        if port is None or self.recalled or self.call_id >= self.last_id:
            self.recalled = port is not None
            return None
        channel, info = port.channel, port.info
        try:
            function = port.announce(definition)
            self.call_id = call_id = self.call_id + 1
            self.in_flight = True
            channel.send(
                _CALL,
                call_id=call_id,
                function=function,
                lease_seq=info.lease_seq,
                epoch=info.epoch,
                segments=segments,
            )
        except (NoCredit, PayloadTooLarge, ChannelClosed, ChannelBroken, ValueError, TypeError, BufferError):
            self.in_flight, self.recalled = False, True  # the ordinary way tells what is wrong
            return None
        try:
            frame = channel.spin(SPIN_S)
        except (ChannelClosed, ChannelBroken):  # for good: the next to poll finds out too
            return None
        if frame is None:
            return None
        if frame.kind == _RESULT and frame.status == _OK and frame.call_id == call_id and frame.credits == 1:
            self.in_flight = False
            self.n_calls += 1
            return frame
        self.frame = frame
        return None
