"""The shell of the neighbour guard: looks by the agent's clock, paces its workers, posts verdicts to its core.

Must not decide (`guard_core` does). Looking costs at most a hundredth of a core: whatever makes a look dear makes the
next one later. Stops at the first sign of a reclaim, before anything else is done about that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from rfaas_executors import agent_events as on
from rfaas_executors.guard_core import GuardConfig, GuardCore, Judged, Pace
from rfaas_executors.guard_watch import MARKS_DIR, GuardWatch
from rfaas_executors.pacing import Pacer
from rfaas_executors.worker_handle import WorkerHandle

LOOK_S: Final = 0.1  # while functions run
IDLE_LOOK_S: Final = 0.5  # else: how fast the host is alone, and who it is
COST_SHARE: Final = 0.01


@dataclass(frozen=True, slots=True)
class GuardSetup:
    """How one agent guards its neighbours.

    Args:
        config: the site's bounds.
        marks_dir: where jobs keep their marks; "none": nowhere.
        shared: the slice is a part of the job that it lies beside.
    """

    config: GuardConfig = field(default_factory=GuardConfig)
    marks_dir: str = MARKS_DIR
    shared: bool = False


class Guard:
    """One agent's. Use it in the agent's loop.

    Args:
        workers: handles of the workers that live, by number; memory servers are none.
        post: told Neighboured.
    """

    def __init__(
        self,
        setup: GuardSetup,
        node: str,
        job_id: str,
        workers: Callable[[], Mapping[int, WorkerHandle]],
        post: Callable[[on.Event], None],
    ) -> None:
        self._workers = workers
        self._post = post
        self._watch = GuardWatch(node, job_id, setup.marks_dir, shared=setup.shared)
        self._pacer = Pacer(workers)
        self._last_s = _now_s()
        self._core = GuardCore(setup.config, self._last_s)
        self._running_ns: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def start(self) -> None:
        """Look from now on."""
        if self._core.config.act != "off":
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def let_go(self, worker: int) -> None:
        """Something is wanted of this worker."""
        self._pacer.let_go(worker)

    def stop(self) -> None:
        """The slice goes back: let everybody go and look no more; repeatable."""
        if self._stopped:
            return
        self._stopped = True
        self._core.stop()
        self._pacer.close()
        self._watch.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now_s, began_s = _now_s(), time.thread_time()
        functions = self._functions(now_s)
        look = self._watch.look(now_s, functions)
        self._last_s = now_s
        for effect in self._core.step(look, now_s):
            match effect:
                case Pace(share):
                    self._pacer.pace(share)
                case Judged(about):
                    self._post(on.Neighboured(about))
        pause_s = (time.thread_time() - began_s) / COST_SHARE
        usual_s = LOOK_S if functions or self._core.probing else IDLE_LOOK_S
        self._timer = asyncio.get_running_loop().call_later(max(usual_s, min(pause_s, 2.0)), self._look)

    def _functions(self, now_s: float) -> float:
        """The part of the time since the last look in which a worker had a call, of the one that had most."""
        elapsed_ns = max(1.0, (now_s - self._last_s) * 1e9)
        before, self._running_ns, most_ns = self._running_ns, {}, 0
        for number, handle in self._workers().items():
            running_ns = handle.running_ns()
            self._running_ns[number] = running_ns
            most_ns = max(most_ns, running_ns - before.get(number, running_ns))
        return min(1.0, most_ns / elapsed_ns)


def _now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
