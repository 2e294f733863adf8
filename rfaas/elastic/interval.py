"""How often to write a checkpoint that may turn out to be needed.

Only what ends a run without a notice counts here: after a notice a checkpoint is written in any case.
Sources: J. W. Young, A first order approximation to the optimum checkpoint interval, Communications of the ACM 17
(1974) 530-531; J. T. Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, Future
Generation Computer Systems 22 (2006) 303-312, equation 37.
"""

from __future__ import annotations

from math import sqrt

from rfaas_transport.errors import ConfigError


def young_s(checkpoint_s: float, mtbf_s: float) -> float:
    """Seconds of work between two checkpoints, to first order: sqrt(2 C M)."""
    return sqrt(2.0 * checkpoint_s * mtbf_s)


def daly_s(checkpoint_s: float, mtbf_s: float) -> float:
    """Seconds of work between two checkpoints that cost least in all.

    Args:
        checkpoint_s: what one takes, C >= 0.
        mtbf_s: mean time between two losses without notice, M > 0.

    Raises:
        ConfigError: one of them is out of its range.
    """
    if not (checkpoint_s >= 0.0 and mtbf_s > 0.0):
        raise ConfigError(
            f"no interval for checkpoints of {checkpoint_s} s and a loss each {mtbf_s} s",
            hint="mtbf_s is above 0, a checkpoint takes 0 s or more",
        )
    if checkpoint_s >= 2.0 * mtbf_s:  # hardly anything would ever be done
        return mtbf_s
    ratio = checkpoint_s / (2.0 * mtbf_s)
    return young_s(checkpoint_s, mtbf_s) * (1.0 + sqrt(ratio) / 3.0 + ratio / 9.0) - checkpoint_s
