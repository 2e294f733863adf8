"""How many workers an executor should have: observations, policies, and what turns one into the other. Sans-IO.

`Steering.step` takes a snapshot and a time and answers with a number. No clock, thread, executor or log in here: those
are `rfaas.adaptivity`'s, which runs nothing else. docs/malleable.md says how to write a policy.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rfaas.client.capacity import Capacity

DRAIN_S: Final = 1.0  # in which `follow_calls` wants what waits to be running
PATIENCE_S: Final = 5.0  # a pause between bursts that costs no worker


@dataclass(frozen=True, slots=True)
class Observation:
    """What a policy decides from.

    Attributes:
        queued: calls that wait for a worker.
        running: calls at workers.
        idle_s: seconds since a call waited or every worker had a call; 0 while that is so.
        capacity: workers wanted and there.
        throughput_per_s: calls that ended, per second, over the last PATIENCE_S.
        busiest: the most calls that were there at once, waiting ones included, over the last PATIENCE_S.
    """

    queued: int
    running: int
    idle_s: float
    capacity: Capacity
    throughput_per_s: float
    busiest: int


Policy = Callable[[Observation], int]
"""Workers to want now, from what was observed; what lies beyond the bounds of `adaptive` counts as the bound."""


def follow_calls(observation: Observation) -> int:
    """Want as many workers as have the queue running within a second; give back what nothing needed for five.

    While calls wait it never asks for less. How long a call takes follows from what runs and what ends (Little's law),
    so short calls that drain by themselves bring no new worker, and before the first has ended each counts as long.
    """
    wanted = observation.capacity.wanted
    if observation.queued:
        if observation.throughput_per_s <= 0.0 or observation.running == 0:
            return max(wanted, observation.running + observation.queued)
        call_s = observation.running / observation.throughput_per_s
        more = math.ceil(observation.queued * min(call_s / DRAIN_S, 1.0))
        # What lies behind the calls that run is done by their workers, if they are quick enough.
        return max(wanted, more if call_s < DRAIN_S else observation.running + more)
    if observation.idle_s >= PATIENCE_S:
        return min(wanted, observation.busiest)
    return wanted


class Steering:
    """What was seen of one executor, and the number that follows.

    Args:
        minimum, maximum: bounds of the number, whatever the policy says.
        policy: says the number.

    Attributes:
        target: what was answered last; at first the minimum.
    """

    def __init__(self, minimum: int, maximum: int, policy: Policy = follow_calls) -> None:
        self.target = minimum
        self._minimum = minimum
        self._maximum = maximum
        self._policy = policy
        self._seen: deque[tuple[float, int, int]] = deque()  # when, calls that had ended, calls there
        self._busy_s: float | None = None  # when a call waited, or every worker had one

    def step(self, capacity: Capacity, n_ended: int, now_s: float) -> int:
        """Take a snapshot and say how many workers to want now.

        Args:
            capacity: the snapshot.
            n_ended: calls that have ended since the executor began; never falls.
            now_s: seconds on a clock that never goes back.

        Raises:
            TypeError: the policy answers with no integer; the target is as it was.
            Exception: what the policy raises; the target is as it was.
        """
        asked = self._policy(self._observe(capacity, n_ended, now_s))
        if isinstance(asked, bool) or not isinstance(asked, int):
            raise TypeError(f"a policy must answer with an integer, the number of workers, not {asked!r}")
        self.target = min(max(asked, self._minimum), self._maximum)
        return self.target

    def _observe(self, capacity: Capacity, n_ended: int, now_s: float) -> Observation:
        seen = self._seen
        seen.append((now_s, n_ended, capacity.queued + capacity.running))
        while len(seen) > 1 and seen[1][0] <= now_s - PATIENCE_S:
            seen.popleft()
        began_s, ended_before, _ = seen[0]
        length_s = now_s - began_s
        if self._busy_s is None or capacity.queued or (capacity.running and not capacity.idle):
            self._busy_s = now_s
        return Observation(
            queued=capacity.queued,
            running=capacity.running,
            idle_s=now_s - self._busy_s,
            capacity=capacity,
            throughput_per_s=(n_ended - ended_before) / length_s if length_s > 0 else 0.0,
            busiest=max(calls for _, _, calls in seen),
        )
