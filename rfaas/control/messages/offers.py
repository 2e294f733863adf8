"""What the harvester tells the allocator, as `offers.proto` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rfaas.control.messages.common import Host


@dataclass(frozen=True, slots=True)
class JobEnded:
    """Slurm says this job is over: proof of death for every slice that came of it, unless `why` is of UNPROVEN.

    `submit_time_s` is compared only if both sides know it (0: unknown).
    """

    job_id: str
    submit_time_s: int
    why: str  # Slurm's job state, e.g. PREEMPTED; or NODE_REBOOTED, FORGOTTEN


UNPROVEN: Final = frozenset(["NODE_FAIL", "FORGOTTEN"])
"""Ends of jobs that prove nothing: slurmctld gave up a silent node, or lost its own last seconds."""


@dataclass(frozen=True, slots=True)
class JobEnding:
    """This job's slice must leave its node: its agent is told to drain and leave for this ReasonCode."""

    job_id: str
    submit_time_s: int
    reason_code: int


@dataclass(frozen=True, slots=True)
class JobRef:
    """One job of Slurm's list of those alive."""

    job_id: str
    submit_time_s: int = 0


@dataclass(frozen=True, slots=True)
class JobsReport:
    """What the harvester learned of its jobs.

    `alive` is Slurm's whole list, or None if it was not read. It was read `alive_age_s` ago: a slice whose agent spoke
    since then is not ended by its absence from the list, nor one whose agent is connected. For `trusted_for_s` from now
    on the harvester's picture of Slurm is good enough to grant on; None: it says nothing of that. `hosts`: every host
    that Slurm could give, empty if it does not say; `hosts_complete`: no other can ever give anything here.
    `given_nodes`: Slurm has just given these to a job: slices outside of jobs must leave them.
    """

    ended: tuple[JobEnded, ...] = ()
    alive: tuple[JobRef, ...] | None = None
    alive_age_s: float = 0.0
    ending: tuple[JobEnding, ...] = ()
    trusted_for_s: float | None = None
    hosts: tuple[Host, ...] = ()
    hosts_complete: bool = False
    given_nodes: tuple[str, ...] = ()
