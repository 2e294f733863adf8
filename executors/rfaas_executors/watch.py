"""Looks every 50 ms at what the workers of an agent use, in its event loop, and tells who went beyond a limit.

Must not end anything: it posts LimitExceeded, and the agent's core decides. What looking costs is in docs/isolation.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from rfaas.units import size_text
from rfaas_executors import agent_events as on
from rfaas_executors import proc_usage
from rfaas_executors.limits import COST_SHARE, DEFAULT_TASKS, LEAST_BYTES, Beyond, WorkerLimits
from rfaas_transport.errors import ReasonCode

EVERY_S = 0.05  # between looks at a worker that runs a call
AT_LEAST_EVERY_S = 0.5  # whatever a look costs: what forks without end makes looking dear, and must be seen
IDLE_EVERY_S = 1.0  # and at one that runs none: what its calls left behind may still grow
LEAST_AVAILABLE = 0.02  # of the machine's memory; below, the largest worker goes


@dataclass(slots=True)
class _Watched:
    limits: WorkerLimits
    is_busy: Callable[[], bool]
    due_s: float = 0.0
    close_look: asyncio.Task[None] | None = None


class Watch:
    """All workers of one agent. Use it in the agent's loop; it looks as long as there is anybody to look at.

    Args:
        post: told LimitExceeded.
        templates: pids of the agent's templates, as they are now; kept from standing still.
        most_tasks: processes and threads of one worker.
        available_part: of the machine's memory; for tests.
    """

    def __init__(
        self,
        post: Callable[[on.Event], None],
        templates: Collection[int],
        most_tasks: int = DEFAULT_TASKS,
        available_part: Callable[[], float] = proc_usage.available_part,
    ) -> None:
        self._post = post
        self._templates = templates
        self._most_tasks = most_tasks
        self._available_part = available_part
        self._watched: dict[int, _Watched] = {}  # by worker
        self._timer: asyncio.TimerHandle | None = None
        self._oom_kills = (0, 0)  # the kernel's count a second ago or less, and one to two seconds ago
        self._slow_due_s = 0.0

    def add(self, worker: int, pid: int, limit_bytes: int, is_busy: Callable[[], bool]) -> None:
        """Watch a worker from now on; `is_busy` says whether it runs a call."""
        if not self._watched:
            self._oom_kills = (proc_usage.oom_kills(),) * 2
        limits = WorkerLimits(pid, max(LEAST_BYTES, limit_bytes), self._most_tasks)
        self._watched[worker] = _Watched(limits, is_busy)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY_S, self._look)

    def remove(self, worker: int, killed_by: int = 0) -> Beyond | None:
        """It is dead. Says whether a SIGKILL that nobody here sent was the kernel's, for want of memory."""
        watched = self._watched.pop(worker, None)
        if watched is None:
            return None
        if watched.close_look is not None:
            watched.close_look.cancel()
        if killed_by != signal.SIGKILL or proc_usage.oom_kills() <= self._oom_kills[1]:
            return None
        limits = watched.limits
        text = (
            f"the kernel's OOM killer was at work, and the worker died of SIGKILL; it was last seen with "
            f"{size_text(limits.peak_bytes)}, its own limit was {size_text(limits.limit_bytes)}"
        )
        return Beyond(ReasonCode.MEMORY_EXHAUSTED, text)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for worker in list(self._watched):
            self.remove(worker)

    def _look(self) -> None:
        """Look at those whose turn it is."""
        now_s, began_s = time.monotonic(), time.thread_time()
        any_busy = False
        for worker, watched in self._watched.items():
            busy = watched.is_busy()
            any_busy |= busy
            if now_s >= watched.due_s or (busy and watched.due_s > now_s + EVERY_S and watched.close_look is None):
                self._look_at(worker, watched, busy, now_s)
        if any_busy:
            self._guard_machine()
        if now_s >= self._slow_due_s:
            self._slow_due_s = now_s + IDLE_EVERY_S
            self._oom_kills = (proc_usage.oom_kills(), self._oom_kills[0])
            for template in self._templates:
                wake_if_stopped(template)
        self._timer = None
        if self._watched:
            pause_s = (time.thread_time() - began_s) / COST_SHARE / max(1, len(self._watched))
            self._timer = asyncio.get_running_loop().call_later(_bounded(pause_s, EVERY_S), self._look)

    def _look_at(self, worker: int, watched: _Watched, busy: bool, now_s: float) -> None:
        began_s = time.thread_time()
        found = watched.limits.look(now_s)
        cost_s = time.thread_time() - began_s
        pause_s = cost_s / COST_SHARE
        watched.due_s = now_s + (_bounded(pause_s, EVERY_S / 2) if busy else max(IDLE_EVERY_S, pause_s))
        if isinstance(found, Beyond):
            self._post(on.LimitExceeded(worker, found.reason_code, found.hint))
        elif found is not None and watched.close_look is None:
            watched.close_look = asyncio.get_running_loop().create_task(self._look_closely(worker, watched, found))

    async def _look_closely(self, worker: int, watched: _Watched, family: proc_usage.Family) -> None:
        """Read the exact figures in a thread: that may take seconds, and the agent must not stand still."""
        try:
            beyond = await asyncio.to_thread(watched.limits.look_closely, family, time.monotonic())
        finally:
            watched.close_look = None
        if beyond is not None and self._watched.get(worker) is watched:
            self._post(on.LimitExceeded(worker, beyond.reason_code, beyond.hint))

    def _guard_machine(self) -> None:
        """The largest worker goes if the machine has next to no memory left."""
        part = self._available_part()
        if part >= LEAST_AVAILABLE:
            return
        worker, watched = max(self._watched.items(), key=lambda pair: pair[1].limits.resident_bytes)
        text = (
            f"the machine had {part:.1%} of its memory left, and this worker had most, "
            f"{size_text(watched.limits.resident_bytes)}; its own limit was {size_text(watched.limits.limit_bytes)}"
        )
        self._post(on.LimitExceeded(worker, ReasonCode.MEMORY_EXHAUSTED, text))


def wake_if_stopped(pid: int) -> None:
    """A function can stop its template (they are one user's), and nobody would be forked or reaped any more."""
    with contextlib.suppress(OSError, IndexError):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            os.kill(pid, signal.SIGCONT)


def _bounded(pause_s: float, least_s: float) -> float:
    return max(least_s, min(pause_s, AT_LEAST_EVERY_S))
