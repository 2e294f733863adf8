"""A worker's control connection: what its agent says, read by whichever thread looks first.

While a function runs the main thread does not read; the function may look (`rfaas.current().time_left()`), or a thread
that it asked for. So reading is locked, and connections that come meanwhile are kept for the main thread.
Messages: `control`.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable

from rfaas_executors import control

_PEEK = socket.MSG_PEEK | socket.MSG_DONTWAIT
LAST_S = 0.2  # an orphaned worker's, until its template kills it (template.ORPHAN_S)


class AgentLine:
    """The worker's end.

    Attributes:
        draining: no further call is to be taken.
        lost: the agent is gone.
        kill_at_s: when what still runs is killed, on CLOCK_BOOTTIME; None: nobody has said so.
        handed: connections that came; see `take_handed`.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._lock = threading.Lock()
        self.handed: list[tuple[control.Message, int]] = []
        self.draining = self.lost = False
        self.kill_at_s: float | None = None

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._end.fileno()

    def read(self) -> None:
        """Take every message that waits; never blocks. Cheap when there is none, as after nearly every call."""
        try:
            self._end.recv(1, _PEEK)  # receiving makes room for a whole packet first, which costs more than a call
        except BlockingIOError:
            return
        except OSError:
            pass  # the end of the connection is found out below
        with self._lock:
            while not self.lost and self._read_one():
                pass

    def _read_one(self) -> bool:
        try:
            received = control.receive(self._end, block=False)
        except BlockingIOError:
            return False
        except OSError:
            received = None
        if received is None:  # nobody could say farewell for what would start now
            self.lost = self.draining = True
            self.kill_at_s = time.clock_gettime(time.CLOCK_BOOTTIME) + LAST_S
            return False
        message, descriptors = received
        if message["m"] == "channel" and not descriptors:  # this process has no descriptor left for it
            self.tell({"m": "closed", "channel": message["channel"]})
        elif message["m"] == "channel" and not self.draining:
            self.handed.append((message, descriptors.pop(0)))
        elif message["m"] == "drain":
            self.draining = True
            self.kill_at_s = message.get("kill_at_s")
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def take_handed(self) -> list[tuple[control.Message, int]]:
        """The connections that came since the last time, each message with its descriptor, the caller's now."""
        with self._lock:
            handed, self.handed = self.handed, []
        return handed

    def tell(self, message: control.Message) -> None:
        """Say something to the agent."""
        with contextlib.suppress(OSError):  # gone; reading tells
            control.send(self._end, message)


class NoticeWatch:
    """A thread that waits for the agent's notice while a function runs, and then calls `on_notice`."""

    def __init__(self, line: AgentLine, on_notice: Callable[[], None]) -> None:
        self._line = line
        self._on_notice = on_notice
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="rfaas-notice", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        waiter = select.poll()
        waiter.register(self._stop_fd, select.POLLIN)
        waiter.register(self._line.fileno(), select.POLLIN)
        while not self._line.draining:
            if any(descriptor == self._stop_fd for descriptor, _ in waiter.poll()):
                return
            self._line.read()
        self._on_notice()

    def stop(self, wait_s: float) -> None:
        """End the thread; one that is in `on_notice` gets `wait_s`, and is left alone then."""
        with contextlib.suppress(OSError):  # a function that closes all descriptors closes this one too
            os.eventfd_write(self._stop_fd, 1)
            self._thread.join(wait_s)
            if not self._thread.is_alive():
                os.close(self._stop_fd)
