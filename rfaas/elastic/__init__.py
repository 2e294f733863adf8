"""Rigid MPI programs on nodes that may be taken back at any time: notice, checkpoint, exit, and on at any rank count.

For programs that *are* the preemptible job, where `rfaas.Executor` is for those that call functions. Needs numpy, and
mpi4py only in who hands its communicator over. See docs/elastic.md; what is written: docs/spec/011-checkpoint.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rfaas.elastic.arrays import BlockArray
    from rfaas.elastic.blocks import Decomposition, decompose
    from rfaas.elastic.ending import AGAIN, Preempted
    from rfaas.elastic.errors import (
        CheckpointDamaged,
        CheckpointError,
        CheckpointFailed,
        CheckpointMismatch,
        CheckpointSuperseded,
    )
    from rfaas.elastic.interval import daly_s, young_s
    from rfaas.elastic.run import Run, Statistics

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

_HOMES = {
    "arrays": ("BlockArray",),
    "blocks": ("Decomposition", "decompose"),
    "ending": ("AGAIN", "Preempted"),
    "errors": (
        "CheckpointDamaged",
        "CheckpointError",
        "CheckpointFailed",
        "CheckpointMismatch",
        "CheckpointSuperseded",
    ),
    "interval": ("daly_s", "young_s"),
    "run": ("Run", "Statistics"),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    """Load a name's module when it is first named: a batch script's `again` holds nodes as long as it imports."""
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f"rfaas.elastic.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
