"""One call as its own function sees it: what `rfaas.current()` returns (the protocol is `rfaas.Context`).

Costs a call that never asks about a microsecond: nothing is made before it is asked for. Must not know how calls are
read and answered. Loaded in the user's own environment. Spec: docs/spec/001-invocation.md section 7.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from rfaas_executors.agent_line import AgentLine, NoticeWatch
from rfaas_transport._core import Channel, Frame
from rfaas_transport.errors import ChannelBroken, ChannelClosed, PayloadTooLarge
from rfaas_transport.frame import Kind

if TYPE_CHECKING:
    from rfaas.context import Context

LIMIT_BYTES = 8 << 20
SEND_S = 30.0  # for a client to take a checkpoint
HANDLERS_S = 1.0  # for handlers of a notice once their function is over: its result waits for them
_LOOK_S = 0.0005  # between looks whether a checkpoint has gone

H = TypeVar("H", bound=Callable[[], object])


class CallContext:
    """One attempt of one call.

    Args:
        holder: the client's id, hex.
        frame: the CALL.
        ends_boot_ns: its deadline (CLOCK_BOOTTIME); 0: it has none.
        pid: of the worker.
    """

    __slots__ = (
        "_channel",
        "_deadline_ns",
        "_event",
        "_frame",
        "_handlers",
        "_holder",
        "_late",
        "_line",
        "_lock",
        "_over",
        "_pid",
        "_watch",
    )

    def __init__(
        self, line: AgentLine, channel: Channel, holder: str, frame: Frame, ends_boot_ns: int, pid: int
    ) -> None:
        self._line = line
        self._channel = channel
        self._holder = holder
        self._frame: Frame | None = frame
        self._deadline_ns = ends_boot_ns
        self._pid = pid
        self._lock = threading.Lock()
        self._over = False
        self._event: threading.Event | None = None
        self._watch: NoticeWatch | None = None
        self._handlers: list[Callable[[], object]] = []
        self._late: list[threading.Thread] = []  # that run handlers which were registered after the notice

    @property
    def _call(self) -> Frame:
        if self._frame is None or os.getpid() != self._pid:
            where = "is over" if self._frame is None else "belongs to the worker, and this is a child that it forked"
            raise RuntimeError(f"the call {where}: only the function that runs, in its own process, may ask")
        return self._frame

    # --- who it is ------------------------------------------------------------------------------

    @property
    def invocation_id(self) -> str:
        """The client's id and the number of the first dispatch."""
        return f"{self._holder}{self._call.invocation or self._call.call_id:016x}"

    @property
    def attempt(self) -> int:
        """Dispatches before this one."""
        return self._call.attempt

    @property
    def fencing_token(self) -> int:
        """Epoch, then number of the lease."""
        return self._call.epoch << 64 | self._call.lease_seq

    @property
    def restored(self) -> bytes | None:
        """The checkpoint that came with the call."""
        segment = self._call.checkpoint
        return bytes(self._call.segments[segment]) if segment else None

    # --- its end --------------------------------------------------------------------------------

    def time_left(self) -> float | None:
        """Seconds until the kill that comes first, if one is due."""
        assert self._call
        self._line.read()
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        ends_ns = [self._deadline_ns] if self._deadline_ns else []
        if self._line.kill_at_s is not None:
            ends_ns.append(int(self._line.kill_at_s * 1e9))
        return max(0, min(ends_ns) - now_ns) / 1e9 if ends_ns else None

    @property
    def reclaim_event(self) -> threading.Event:
        """Set once the agent has told this worker to drain."""
        assert self._call
        with self._lock:
            return self._watched()

    def on_reclaim(self, handler: H) -> H:
        """Run `handler` at the notice, or now if it is there."""
        assert self._call
        if not callable(handler):
            raise TypeError(f"on_reclaim takes a function without arguments, not {handler!r}")
        with self._lock:
            if self._watched().is_set():
                late = threading.Thread(target=_run_handler, args=(handler,), name="rfaas-notice", daemon=True)
                self._late.append(late)
                late.start()
            else:
                self._handlers.append(handler)
        return handler

    def _watched(self) -> threading.Event:
        """The event, and a thread that will set it."""
        if self._event is None:
            self._event = threading.Event()
            self._line.read()
            if self._line.draining:
                self._event.set()
            else:
                self._watch = NoticeWatch(self._line, self._on_notice)
        return self._event

    def _on_notice(self) -> None:
        assert self._event is not None
        with self._lock:
            self._event.set()
            handlers, self._handlers = self._handlers, []
        for handler in handlers:
            _run_handler(handler)

    # --- what it saves --------------------------------------------------------------------------

    def checkpoint(self, data: bytes | bytearray | memoryview) -> None:
        """Send what the next attempt is to get; return when a kill can't take it back."""
        call_id = self._call.call_id
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(
                f"a checkpoint is bytes, not {type(data).__name__}: pickle it, or save it and pass its name"
            )
        saved = bytes(data)
        if len(saved) > LIMIT_BYTES:
            raise PayloadTooLarge(
                f"a checkpoint of {len(saved)} bytes is longer than {LIMIT_BYTES}",
                hint="save it where the next attempt can read it, and pass its name",
            )
        with self._lock:  # after `close` nothing goes out: the result is the call's last frame
            if self._over:
                raise RuntimeError("the call is over: only the function that runs may save a checkpoint")
            self._channel.send(Kind.CHECKPOINT, call_id=call_id, segments=[saved])
        give_up_s = time.monotonic() + SEND_S
        while not is_delivered(self._channel):
            if time.monotonic() > give_up_s:
                raise TimeoutError(f"the client has not taken the checkpoint for {SEND_S:g} s")
            time.sleep(_LOOK_S)

    def close(self) -> None:
        """The function is over: let its thread end, and keep its arguments alive no longer."""
        with self._lock:
            self._over = True
        if self._watch is not None:
            self._watch.stop(HANDLERS_S)
        for thread in self._late:
            thread.join(HANDLERS_S)
        self._frame = None


if TYPE_CHECKING:
    _keeps_its_promise: type[Context] = CallContext


def is_delivered(channel: Channel) -> bool:
    """True when nothing more can be done for what was sent on this channel."""
    try:
        return channel.flush() and (channel.medium == "unix" or channel.unacknowledged_bytes() == 0)
    except (ChannelClosed, ChannelBroken):
        return True


def _run_handler(handler: Callable[[], object]) -> None:
    try:
        handler()
    except SystemExit:  # of a thread it is nobody's
        pass
    except BaseException:
        sys.excepthook(*sys.exc_info())
