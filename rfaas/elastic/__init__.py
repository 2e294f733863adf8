"""Rigid MPI programs on nodes that may be taken back at any time: notice, checkpoint, exit, and on at any rank count.

For programs that *are* the preemptible job, where `rfaas.Executor` is for those that call functions. Needs numpy, and
mpi4py only in who hands its communicator over. See docs/elastic.md; what is written: docs/spec/011-checkpoint.md.
"""

from rfaas.elastic.arrays import BlockArray
from rfaas.elastic.blocks import Decomposition, decompose
from rfaas.elastic.errors import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointFailed,
    CheckpointMismatch,
    CheckpointSuperseded,
)
from rfaas.elastic.interval import daly_s, young_s
from rfaas.elastic.run import AGAIN, Preempted, Run, Statistics

__all__ = [
    "AGAIN",
    "BlockArray",
    "CheckpointDamaged",
    "CheckpointError",
    "CheckpointFailed",
    "CheckpointMismatch",
    "CheckpointSuperseded",
    "Decomposition",
    "Preempted",
    "Run",
    "Statistics",
    "daly_s",
    "decompose",
    "young_s",
]
