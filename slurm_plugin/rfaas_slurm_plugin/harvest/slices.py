"""What became of the harvester's own jobs: a pure book that is fed one view after the other.

Slurm's word that a job has ended proves that nothing of it runs, with one exception: slurmctld gives up a node that
does not answer and calls its jobs ended, while their processes may run on (measured: a step outlives its slurmd). Such
a job stays *unproven* until its machine has booted again. Spec: docs/spec/002-lease.md section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from rfaas.control.messages import JobEnded, JobEnding, JobRef
from rfaas_slurm_plugin.harvest import job
from rfaas_slurm_plugin.views.view import ClusterView, Job, Node
from rfaas_transport.errors import ReasonCode

NODE_FAIL: Final = "NODE_FAIL"
NODE_REBOOTED: Final = "NODE_REBOOTED"
FORGOTTEN: Final = "FORGOTTEN"
"""What the allocator is told beside Slurm's own job states (docs/spec/003-control.md)."""

LEAD_S: Final = 60.0
"""A slice is sent away so long before a reservation, beyond its grace: Slurm needs a moment to clear a node."""

LONGEST_WAIT_S: Final = 300.0
"""Of a job of ours in the queue: the cores that it was made for are somebody's by then, or behind a reservation."""


@dataclass(frozen=True, slots=True)
class News:
    """What one view brought."""

    over: Mapping[JobRef, JobEnded]
    over_on: tuple[str, ...]  # nodes of these
    ending: tuple[JobEnding, ...]  # running jobs that must leave their nodes


@dataclass(slots=True)
class SliceBook:
    """The jobs of one allocator, recognised by their comments.

    Args:
        alloc_id: whose jobs these are.
        grace_s: what a slice may use of the time when it is told to leave.
        user: whose other jobs may share their nodes (`rfaas share`): their lives and ends are told too, and no more is
            done about them. Empty: nobody's.
    """

    alloc_id: str
    grace_s: float
    user: str = ""
    known: dict[JobRef, Job] = field(default_factory=dict)  # alive at the last look
    unproven: dict[JobRef, tuple[tuple[str, ...], float]] = field(default_factory=dict)  # nodes; wall clock of the end
    told_boot_s: dict[JobRef, float] = field(default_factory=dict)  # told to leave, for the first time then
    sharing: dict[JobRef, Job] = field(default_factory=dict)  # the user's own jobs that ran at the last look

    @property
    def not_dead(self) -> list[JobRef]:
        """Jobs of which something may still run."""
        return [*self.known, *self.sharing, *(ref for ref in self.unproven if ref not in self.known)]

    def read(self, view: ClusterView, now_wall_s: float) -> News:
        """Compare our jobs with what was known; those that ended or vanished are over."""
        nodes = {node.name: node for node in view.nodes}
        ours = {ref: entry for entry in view.jobs if (ref := self._ref(entry)) is not None}
        over: dict[JobRef, JobEnded] = {}
        for ref, entry in self.known.items():
            if ref not in ours:
                over[ref] = JobEnded(ref.job_id, ref.submit_time_s, FORGOTTEN)
            elif ours[ref].ended:
                over[ref] = self._ended(ref, ours[ref], entry.nodes, nodes, now_wall_s)
        for ref, entry in ours.items():  # of an earlier harvester: what it proved nobody knows
            if ref not in self.known and entry.state == NODE_FAIL and ref not in self.unproven:
                self._ended(ref, entry, (), nodes, now_wall_s)
        over_on = tuple(name for ref in over for name in _nodes_of(self.known[ref]))
        over |= self._read_sharing(view, nodes, now_wall_s)
        over |= self._proven_by_boot(nodes)
        self.known = {ref: entry for ref, entry in ours.items() if not entry.ended}
        ending = tuple(self._ending(view, nodes, now_wall_s))
        self.told_boot_s = {ref: since for ref, since in self.told_boot_s.items() if ref in self.known}
        return News(over, over_on, ending)

    def _read_sharing(self, view: ClusterView, nodes: Mapping[str, Node], now_wall_s: float) -> dict[JobRef, JobEnded]:
        """The user's jobs that ended since the last look; what runs is kept for the next."""
        theirs = {
            JobRef(str(entry.job_id), 0): entry
            for entry in view.jobs
            if self.user and entry.user == self.user and self._ref(entry) is None
        }
        over = {}
        for ref, entry in self.sharing.items():
            if ref not in theirs:
                over[ref] = JobEnded(ref.job_id, ref.submit_time_s, FORGOTTEN)
            elif theirs[ref].ended:
                over[ref] = self._ended(ref, theirs[ref], entry.nodes, nodes, now_wall_s)
        self.sharing = {ref: entry for ref, entry in theirs.items() if entry.nodes and not entry.ended}
        return over

    def useless(self, limit_s: float, now_boot_s: float, now_wall_s: float) -> list[int]:
        """Jobs to cancel: told to leave longer than `limit_s` ago and still there, or waiting for LONGEST_WAIT_S.

        The grace of running calls hangs on the former, so a wall clock that is set forward doesn't shorten it.
        """
        deaf = [ref for ref, since_s in self.told_boot_s.items() if now_boot_s - since_s > limit_s]
        waiting = [
            ref
            for ref, entry in self.known.items()
            if entry.state == "PENDING" and now_wall_s - entry.submit_time_s > LONGEST_WAIT_S
        ]
        return [int(ref.job_id) for ref in (*deaf, *waiting)]

    def _ref(self, entry: Job) -> JobRef | None:
        stamp = job.stamp_of(entry.comment, self.alloc_id)
        return None if stamp is None else JobRef(str(entry.job_id), stamp)

    def _ended(
        self, ref: JobRef, entry: Job, were_on: tuple[str, ...], nodes: Mapping[str, Node], now_wall_s: float
    ) -> JobEnded:
        on = entry.nodes or were_on
        if entry.state == NODE_FAIL or any(nodes[name].silent for name in on if name in nodes):
            self.unproven[ref] = (on, min(now_wall_s, entry.end_time_s or now_wall_s))
            return JobEnded(ref.job_id, ref.submit_time_s, NODE_FAIL)
        return JobEnded(ref.job_id, ref.submit_time_s, entry.state)

    def _proven_by_boot(self, nodes: Mapping[str, Node]) -> dict[JobRef, JobEnded]:
        """Unproven jobs all of whose machines have booted since: nothing of them can live."""
        proven = {}
        for ref, (on, end_s) in list(self.unproven.items()):
            if on and all(name in nodes and nodes[name].boot_time_s > end_s for name in on):
                proven[ref] = JobEnded(ref.job_id, ref.submit_time_s, NODE_REBOOTED)
                del self.unproven[ref]
        return proven

    def _ending(self, view: ClusterView, nodes: Mapping[str, Node], now_wall_s: float) -> list[JobEnding]:
        ending = []
        for ref, entry in self.known.items():
            if entry.state != "RUNNING":
                continue
            here = [nodes[name] for name in entry.nodes if name in nodes]
            if any(node.leaving for node in here) or self._runs_into_reservation(entry, view, now_wall_s):
                self.told_boot_s.setdefault(ref, view.taken_boot_s)
                ending.append(JobEnding(ref.job_id, ref.submit_time_s, ReasonCode.NODE_DRAIN))
        return ending

    def _runs_into_reservation(self, entry: Job, view: ClusterView, now_wall_s: float) -> bool:
        """True if a reservation over its node, made after it began, starts soon and before it ends."""
        soon_s = now_wall_s + self.grace_s + LEAD_S
        return any(
            now_wall_s < reservation.end_time_s
            and reservation.start_time_s <= soon_s
            and (entry.end_time_s == 0 or entry.end_time_s > reservation.start_time_s)
            and set(entry.nodes) & set(reservation.nodes)
            for reservation in view.reservations
        )


def _nodes_of(entry: Job) -> tuple[str, ...]:
    return entry.nodes or entry.required_nodes
