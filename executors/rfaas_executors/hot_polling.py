"""How long a worker polls the channel that it has just served, in the hope of its next call, before it sleeps.

Calls of the function that ran last are served meanwhile without a frame of Python's between them. Time spent awake is
billed (docs/spec/002-lease.md).
"""

from __future__ import annotations

import time
from typing import Final

from rfaas_executors._process import StatePage
from rfaas_executors.agent_line import AgentLine
from rfaas_executors.connection import Connection
from rfaas_executors.running import Running
from rfaas_executors.tidying import Tidying
from rfaas_transport._core import Frame, Poller

LOOK_S: Final = 0.0002  # how long one channel is polled before the agent and the others are looked at
HOT_PART_NS: Final = 10_000_000  # polling is billed in parts: who is killed at it has paid for all but the last
MANY_CALLS: Final = 8  # served since it woke: more will come, and the poller need not hear of each


class HotPolling:
    """Polls for one worker.

    Args:
        line, page, poller, tidying, running: shared with the worker.
    """

    def __init__(self, line: AgentLine, page: StatePage, poller: Poller, tidying: Tidying, running: Running) -> None:
        self._line = line
        self._page = page
        self._poller = poller
        self._tidying = tidying
        self._running = running

    def look_for_frame(self, connection: Connection) -> Frame | None:
        """Poll for a while what was just served, in the hope of its next call; None: sleep."""
        channel, hot_for_s, tidying = connection.channel, connection.hot_for_s, self._tidying
        if hot_for_s <= 0:
            return None
        if not connection.awake:
            connection.awake = True
            connection.n_hot = 0
            channel.stay_awake(True)
        start_ns = busy_ns = now_ns = time.monotonic_ns()
        before_ns = self._page.usage()[0]
        frame = None
        while frame is None and now_ns - busy_ns < hot_for_s * 1e9:
            frame = self._next_frame(connection, tidying.soon_s() if tidying.untidy else LOOK_S)
            now_ns = time.monotonic_ns()
            if now_ns - start_ns >= HOT_PART_NS:
                start_ns, before_ns = now_ns, self._account_hot(now_ns - start_ns, before_ns)
            if connection.hot is not None and connection.hot.n_calls:
                busy_ns = now_ns
                connection.n_hot += connection.hot.n_calls
                if connection.n_hot >= MANY_CALLS and not connection.is_left_out:
                    self._leave_out(connection)
            if tidying.untidy and tidying.may_tidy_up(frame, now_ns - busy_ns, now_ns - tidying.tidied_at_ns):
                tidying.tidy_up()
            if frame is None and (self._line.draining or self._poller.wait(0.0)):
                break
        self._account_hot(now_ns - start_ns, before_ns)
        if frame is None:
            connection.awake = False
            if connection.is_left_out:
                connection.is_left_out = False
                self._poller.add(channel.fileno(), channel.fileno())
            if channel.stay_awake(False):
                return channel.poll()
        return frame

    def _account_hot(self, awake_ns: int, before_ns: int) -> int:
        """Bill time spent awake, less what calls ran in it, `before_ns` at its start; return what they have run now."""
        running_ns: int = self._page.usage()[0]
        self._page.account_hot(max(0, awake_ns - (running_ns - before_ns)))
        return running_ns

    def _leave_out(self, connection: Connection) -> None:
        """Have the poller hear no more of a channel that is polled: the kernel tells it in the sender's time."""
        if connection.channel.medium != "shm":  # nobody rings there
            self._poller.remove(connection.channel.fileno())
            connection.is_left_out = True

    def _next_frame(self, connection: Connection, soon_s: float) -> Frame | None:
        """A frame that comes within `soon_s`, once the calls of the function that ran last are served."""
        hot, tidying = connection.hot, self._tidying
        if hot is None or connection.parked is not None:  # calls run in the order in which they came
            return connection.channel.spin(soon_s)
        if tidying.untidy and connection.hot_identity != tidying.last:  # no function meets what another one left
            tidying.tidy_up()
        came = hot.run(soon_s, tidying.every_ns())
        if hot.n_calls:
            tidying.untidy, tidying.last = True, connection.hot_identity
            tidying.n_calls += hot.n_calls - 1  # the tidying up counts one
        if not isinstance(came, tuple):
            return came
        frame, outcome, printed = came
        if outcome is None:
            self._running.give_up_interrupted(connection, frame)
        else:
            self._running.end_call(connection, frame, outcome, printed)
        return None
