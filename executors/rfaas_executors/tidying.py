"""What a worker puts in order after calls, so that no function meets what another one left behind.

While calls of one function come one upon the other it is put off, so that none of them waits for it. Uses none of what
a function may have taken away to find out that it has.
"""

from __future__ import annotations

import builtins
import os
import sys
import time
from typing import Final

from rfaas_executors._process import HeldDescriptors, install_quiet_signals, put_back_surroundings
from rfaas_executors.agent_line import AgentLine
from rfaas_executors.calls import WorkerExit
from rfaas_executors.connection import Connection
from rfaas_executors.connections import Connections
from rfaas_executors.family import reap_adopted
from rfaas_executors.replies import Replies
from rfaas_transport._core import Frame

SOON_S: Final = 0.0001  # who calls again and again calls within it, over a network too
TIDY_EVERY_NS: Final = 1_000_000  # it does no longer wait for what is to be done after each call,
TIDY_SHARE: Final = 20  # unless that took more than this part of the time, on a slow machine: then it does for so much
TIDY_AT_LAST_NS: Final = 20_000_000  # longer, but never longer than this, since the agent is heard then too
REAP_EVERY_CALLS: Final = 32  # what detached itself and ended is reaped


class Tidying:
    """What is to be done after calls, and when.

    Attributes:
        untidy: it is still to be done.
        tidied_at_ns: when it was done last, having been put off.
        last: identity of the function that ran last.
        n_calls: since what detached itself was reaped.

    Args:
        line, held, connections, replies: shared with the worker.
    """

    def __init__(self, line: AgentLine, held: HeldDescriptors, connections: Connections, replies: Replies) -> None:
        self.untidy = False
        self.tidied_at_ns = 0
        self.last = b""
        self.n_calls = 0
        self._tidying_ns = 0  # of the CPU that it took the last time
        self._line = line
        self._held = held
        self._connections = connections
        self._replies = replies

    def tidy_up(self) -> None:
        """What was put off while calls of one function came one upon the other, so that none of them waited for it.

        Raises:
            WorkerExit: as `tidy`.
        """
        self.untidy, self.tidied_at_ns = False, time.monotonic_ns()
        begun_ns = time.thread_time_ns()
        if lost := self._held.lost():
            self._connections.forget(lost)
        else:
            self._connections.read_control()
        self.tidy(lost)
        self._tidying_ns = time.thread_time_ns() - begun_ns

    def every_ns(self) -> int:
        """How long it may be put off."""
        return min(max(TIDY_EVERY_NS, TIDY_SHARE * self._tidying_ns), TIDY_AT_LAST_NS)

    def may_tidy_up(self, frame: Frame | None, idle_ns: int, untidy_ns: int) -> bool:
        """Whether nobody calls again and again, or it has waited long enough.

        A look may end early, since another process had the CPU: the next call is then as near as before.
        """
        return untidy_ns > self.every_ns() or (frame is None and idle_ns >= self.soon_s() * 1e9)

    def soon_s(self) -> float:
        """How long to wait for the next call rather than tidy up: twice as long as that would take."""
        return max(SOON_S, min(2 * self._tidying_ns, TIDY_EVERY_NS) * 1e-9)

    def tidy(self, lost: list[int]) -> None:
        """Once the result is on its way: undo what would harm the next call, or leave if that can't be done.

        Raises:
            WorkerExit: descriptors of ours are lost.
        """
        if lost:
            self._replies.flush(self._connections.open.values())
            raise WorkerExit(os.EX_IOERR, _lost_text(lost))
        self.n_calls += 1
        if self.n_calls >= REAP_EVERY_CALLS:
            self.n_calls = 0
            reap_adopted()
        install_quiet_signals()  # the function may have put its own in place
        if not (put_back_surroundings() and _is_sound()):
            self._line.draining = True  # what was sent meanwhile has not started: it goes elsewhere

    def leave_without(self, lost: list[int], connection: Connection) -> None:
        """A function closed or replaced descriptors of ours: use no such one again, it may be anybody's now.

        Raises:
            WorkerExit: the channel of this very call is among them: its result can't be sent.
        """
        if connection.descriptor in lost:
            raise WorkerExit(os.EX_IOERR, _lost_text(lost))
        self._line.draining = True
        self._connections.forget(lost)


_BUILTINS = builtins.__dict__
_NEEDED = {name: _BUILTINS[name] for name in ("Exception", "bytes", "isinstance", "len", "list")}


def _is_sound() -> bool:
    """False if a function took away what every code needs; uses none of it itself."""
    for name, value in _NEEDED.items():
        if _BUILTINS.get(name) is not value:
            return False
    return "pickle" in sys.modules and sys.path != []


def _lost_text(lost: list[int]) -> str:
    numbers = ", ".join(map(str, lost[:8]))
    return f"a function closed or replaced descriptors that it had not opened ({numbers}): the worker's own connections"
