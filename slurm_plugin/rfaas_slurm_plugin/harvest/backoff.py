"""How long to wait before Slurm is asked again after it failed. Pure; randomness comes in.

Two troubles, two answers. A slurmctld that does not answer at all is asked by the cheapest question, soon and often
enough that everything is right again within seconds of its return. One that answers a ping but not a query has too
much to do: it is left alone for longer each time. Both with jitter: all harvesters lose the same slurmctld at once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

FIRST_PING_S: Final = 0.5
LONGEST_PING_S: Final = 3.0
LONGEST_CYCLES: Final = 8
CYCLE_JITTER: Final = 0.1


@dataclass(slots=True)
class Backoff:
    """Pauses between cycles of `cycle_s`."""

    cycle_s: float
    rng: random.Random = field(default_factory=random.Random)
    unreachable: int = 0  # pings in a row without an answer
    overloaded: int = 0  # queries in a row that failed although a ping was answered

    @property
    def must_ping(self) -> bool:
        """True if slurmctld is to be pinged before it is queried."""
        return self.unreachable > 0 or self.overloaded > 0

    def after_success(self) -> float:
        """Seconds to the next cycle, ±10 %."""
        self.unreachable = self.overloaded = 0
        return self.cycle_s * self.rng.uniform(1 - CYCLE_JITTER, 1 + CYCLE_JITTER)

    def after_no_answer(self) -> float:
        """Seconds to the next ping: doubling to LONGEST_PING_S, each between half and whole."""
        self.unreachable += 1
        pause_s = min(LONGEST_PING_S, FIRST_PING_S * 2.0 ** min(self.unreachable - 1, 10))
        return pause_s * self.rng.uniform(0.5, 1.0)

    def after_failed_query(self) -> float:
        """Seconds to the next try: cycles doubling to LONGEST_CYCLES of them, each between half and whole."""
        self.unreachable = 0
        self.overloaded += 1
        return self.cycle_s * min(LONGEST_CYCLES, 2.0**self.overloaded) * self.rng.uniform(0.5, 1.0)
