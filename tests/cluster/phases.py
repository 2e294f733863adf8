"""When a batch job is submitted: slurmctld looks at those in turns, so how long one waits depends on when it came.

By default it looks `batch_sched_delay` seconds after it looked last (3), tuned at the next turn of its loop (each
second). A job that always comes as soon as the harvest is up would meet the moment that this harvest's own start
leads to. So the moments are spread over a turn, the same ones for each load, counted from what both have: the start of
the last harvest job, which is when slurmctld looked last.
"""

import time
from collections.abc import Sequence

from cluster.rig import Cluster

PERIODS_S = {"tuned": 1.0, "default": 3.0}  # of the turns, by SCHEDULERS
SETTLED_S = 2.0  # after that job's start any harvest is up
GOLDEN = 0.6180339887498949  # multiples of it, without their whole parts, fill a turn evenly however many there are


def share_of_turn(number: int, kind: int) -> float:
    """Which moment of a turn, 0 to 1, for the `number`-th job of that kind."""
    return (0.5 + number * GOLDEN + kind * GOLDEN / 2) % 1.0


def moment_s(anchor_s: float, period_s: float, share: float, now_s: float) -> float:
    """When to submit: that share of a turn after the harvest settled; once that is over, whole seconds later."""
    wanted_s = anchor_s + SETTLED_S + share * period_s
    return wanted_s if wanted_s >= now_s else wanted_s + -(-(now_s - wanted_s) // 1.0)


def last_start_s(cluster: Cluster) -> float | None:
    """When the last harvest job that runs was started, since 1970; None if none runs."""
    asked: Sequence[str] = ("env", "SLURM_TIME_FORMAT=%s", "squeue", "-h", "-p", "harvest", "-t", "R", "-o", "%S")
    starts = [float(line) for line in cluster.head.run_as_root(*asked).split()]
    return max(starts, default=None)


def wait_for_phase(cluster: Cluster, period_s: float, share: float) -> float:
    """Sleep until the moment; return how long after the last harvest job's start that is, 0 if none runs."""
    anchor_s = last_start_s(cluster)
    if anchor_s is None:
        time.sleep(share * period_s)
        return 0.0
    at_s = moment_s(anchor_s, period_s, share, time.time())
    time.sleep(max(0.0, at_s - time.time()))
    return at_s - anchor_s
