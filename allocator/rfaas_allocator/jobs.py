"""What the harvester says of Slurm's jobs, turned into changes of the ledger.

Slurm's word frees a slice only where it proves that nothing of the job runs. Must not choose where leases go, nor whom
to serve. Spec: docs/spec/002-lease.md section 3, 003-control.md.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, TypeVar

from rfaas.control.hosts import HostList
from rfaas.control.incarnation import Incarnation
from rfaas.control.messages import UNPROVEN, JobEnded, JobEnding, JobRef, JobsReport
from rfaas_allocator.entries import SliceEntry
from rfaas_allocator.events import CloseLink, HostsAre
from rfaas_allocator.ledger import Ledger
from rfaas_transport.errors import ReasonCode

logger = logging.getLogger(__name__)

REASON_OF_JOB_STATE: Final[Mapping[str, ReasonCode]] = {
    "PREEMPTED": ReasonCode.SLURM_PREEMPT,
    "TIMEOUT": ReasonCode.JOB_TIMELIMIT,
    "DEADLINE": ReasonCode.JOB_TIMELIMIT,
    "NODE_FAIL": ReasonCode.NODE_DOWN,
    "BOOT_FAIL": ReasonCode.NODE_DOWN,
    "NODE_REBOOTED": ReasonCode.NODE_DOWN,
    "FORGOTTEN": ReasonCode.ADMIN,
    "CANCELLED": ReasonCode.ADMIN,
}
"""Why leases are lost when Slurm ends their job; anything else means that the agent went by itself."""


class JobDesk:
    """Serves the harvester."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._inventory = ledger.inventory
        self._slurm_until_s: float | None = None

    def slurm_is_stale(self, now_s: float) -> bool:
        """True if the harvester's picture of Slurm is too old to grant on; without a harvester it never is."""
        return self._slurm_until_s is not None and now_s >= self._slurm_until_s

    def reported(self, report: JobsReport, now_s: float) -> None:
        """Take Slurm's word: a slice whose job has ended is gone, and all that was leased there."""
        if report.trusted_for_s is not None:
            was_stale, self._slurm_until_s = self.slurm_is_stale(now_s), now_s + report.trusted_for_s
            self._ledger.changed |= was_stale and not self.slurm_is_stale(now_s)
        if report.hosts:
            hosts = tuple(replace(host, source="slurm") for host in report.hosts)
            self._ledger.name_hosts(HostsAre("slurm", HostList(hosts, report.hosts_complete)))
        for entry in self._inventory.slices.values():
            if entry.slice.outside_jobs and entry.slice.node in report.given_nodes and entry.link and not entry.ending:
                self._doom(entry, ReasonCode.SLURM_PREEMPT)
        ending = _by_job_id(report.ending)
        ended = _by_job_id(report.ended)
        alive = None if report.alive is None else _by_job_id(report.alive)
        read_s = now_s - report.alive_age_s
        for entry in list(self._inventory.slices.values()):
            must_leave = _job_of(entry, ending)
            if must_leave is not None and entry.link is not None and not entry.ending:
                self._doom(entry, must_leave.reason_code)
            job = _job_of(entry, ended)
            if job is not None:
                self._job_over(entry, job.why)
            elif alive is not None and entry.heard_s < read_s and _is_missing(entry, alive):
                self._job_over(entry, "not among Slurm's jobs")

    def _job_over(self, entry: SliceEntry, why: str) -> None:
        words = why.split()  # Slurm writes "CANCELLED by 1000"
        code = REASON_OF_JOB_STATE.get(words[0] if words else "", ReasonCode.AGENT_LOST)
        if words and words[0] in UNPROVEN:  # its agent may live: told to leave it proves its end itself
            logger.warning(
                "job over without proof slice=%s node=%s why=%s", entry.slice_id.hex(), entry.slice.node, why
            )
            self._doom(entry, code)
            return
        reason = "reclaimed" if code is ReasonCode.SLURM_PREEMPT else "lost"
        if entry.link is not None:
            self._ledger.emit(CloseLink(entry.link, f"its job is over: {why}"))
        self._ledger.end_slice(entry, reason, code, proof=f"job {why}")

    def _doom(self, entry: SliceEntry, reason_code: int) -> None:
        entry.doomed = True
        self._ledger.changed = True
        self._ledger.tell_to_leave(entry, reason_code)


def bury_earlier_incarnations(ledger: Ledger, node: str) -> None:
    """A node came back as another: slices that it had before are dead, and only then those of now may be leased.

    After a reboot (another boot id) that is certain. Else an agent that still seems connected is waited for: its link
    breaks within the keep-alive's time if it is dead.
    """
    here = [entry for entry in ledger.inventory.on_node(node) if entry.slice.job_id]
    lives = {entry.slice_id: Incarnation.parse(entry.slice.incarnation) for entry in here}
    for later in here:
        later.shadowed = False
        ledger.inventory.touch(later)
        for earlier in here:
            now, before = lives[later.slice_id], lives[earlier.slice_id]
            gone = earlier.slice_id not in ledger.inventory.slices
            if gone or earlier.epoch >= later.epoch or not now or not before or not now.proves_death_of(before):
                continue
            if earlier.link is not None and now.boot_id == before.boot_id:
                later.shadowed = True
                continue
            if earlier.link is not None:
                ledger.emit(CloseLink(earlier.link, "its node has booted since"))
            ledger.end_slice(earlier, "lost", ReasonCode.NODE_DOWN, proof="node-incarnation")


J = TypeVar("J", JobEnded, JobEnding, JobRef)


def _by_job_id(jobs: tuple[J, ...]) -> dict[str, list[J]]:
    index: dict[str, list[J]] = {}
    for job in jobs:
        index.setdefault(job.job_id, []).append(job)
    return index


def _job_of(entry: SliceEntry, jobs: dict[str, list[J]]) -> J | None:
    """The job that gave the slice, if it is among these.

    A slice without a job is named by its id in hex: whoever started its agent tells of its end.
    """
    about = entry.slice
    for job in jobs.get(about.job_id or entry.slice_id.hex(), ()):
        if not job.submit_time_s or not about.submit_time_s or job.submit_time_s == about.submit_time_s:
            return job
    return None


def _is_missing(entry: SliceEntry, alive: dict[str, list[JobRef]]) -> bool:
    """True if Slurm's list lacks the job of a slice that can't be asked itself."""
    return bool(entry.slice.job_id) and entry.link is None and _job_of(entry, alive) is None
