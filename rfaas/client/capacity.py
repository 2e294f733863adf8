"""What an executor has now: `Executor.capacity`. Plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capacity:
    """A snapshot of one executor's workers and calls. Where a cluster is full, `have` stays below `wanted`.

    Attributes:
        wanted: workers that it asks for: what `resize` said, else what its calls need.
        have: workers that it holds, without those that go away. Some may still be starting.
        ready: of those, which a call can be sent to now or after the call that runs there.
        idle: of those, without a call.
        in_notice: workers that go back to their owner.
        returning: workers that `resize` gives back: some end their calls before.
        queued: calls that wait for a worker.
        running: calls at workers, those in notice or returning included.
        why: why there are not as many as wanted, for people; empty if there are, or if nobody said so.
    """

    wanted: int = 0
    have: int = 0
    ready: int = 0
    idle: int = 0
    in_notice: int = 0
    returning: int = 0
    queued: int = 0
    running: int = 0
    why: str = ""
