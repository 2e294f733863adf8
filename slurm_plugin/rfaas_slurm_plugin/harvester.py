"""The harvester: a process that keeps preemptible slices on what the cluster leaves idle.

Each cycle: read the cluster, tell the allocator which of its jobs are alive and which ended (proof of death), submit
what `policy.plan` says. It decides nothing itself, serves nobody, and losing it loses no call: slices live on, and the
next one finds its jobs again by their comment. Run by `rfaas up --slurm`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rfaas.control.eventlog import EventLog
from rfaas.control.hosts import HostList
from rfaas.control.messages import Host, JobEnded, JobRef
from rfaas_slurm_plugin import job
from rfaas_slurm_plugin.policy import HarvestPolicy, History, Submit, overdue, plan
from rfaas_slurm_plugin.view import ClusterUnavailable, ClusterView, Job, ViewSource
from rfaas_transport.errors import AllocatorUnavailable

log = logging.getLogger(__name__)


class Offers(Protocol):
    """What the harvester says to the allocator (docs/spec/003-control.md, service Offers)."""

    async def report(
        self,
        ended: Sequence[JobEnded] = (),
        alive: Sequence[JobRef] | None = None,
        *,
        alive_age_s: float = 0.0,
        hosts: HostList | None = None,
    ) -> int:
        """Tell which jobs ended, which are alive and which hosts there are.

        Raises:
            AllocatorUnavailable: nobody answers: say it again later.
        """


def hosts_of(view: ClusterView) -> HostList:
    """The hosts of the cluster with all that each has: more than that no slice can ever be.

    Complete, so that what none can hold is denied, unless slurm.conf leaves a node's RealMemory at its default of 1.
    """
    hosts = tuple(Host(node.name, node.cores, node.memory_mib << 20, "slurm") for node in view.nodes if node.cores > 0)
    return HostList(hosts, bool(hosts) and all(node.memory_mib > 1 for node in view.nodes))


@dataclass(slots=True)
class Harvester:
    """Runs the cycle until stopped. `cycle_s` is the pause between two readings; ±10 % of jitter is added."""

    source: ViewSource
    offers: Offers
    policy: HarvestPolicy
    template: job.JobTemplate
    environment: Mapping[str, str]
    overdue_s: float  # grace + KillWait + 2 s
    cycle_s: float = 10.0
    history: History = field(default_factory=History)
    _known: dict[JobRef, Job] = field(default_factory=dict)  # our jobs that were alive at the last look
    _unreported: dict[JobRef, JobEnded] = field(default_factory=dict)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _events: EventLog = field(default_factory=lambda: EventLog.from_environment("harvester"))

    async def run(self) -> None:
        """Cycle until `stop`; errors of Slurm or the allocator are logged and the cycle goes on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        failures = 0
        while not self._stopping.is_set():
            try:
                await self.cycle()
                failures = 0
            except ClusterUnavailable as error:
                failures += 1
                log.warning("slurm unavailable failures=%d error=%s", failures, error)
            pause_s = self.cycle_s * min(2**failures, 8) * random.uniform(0.9, 1.1)
            await self._sleep(pause_s)

    def stop(self) -> None:
        """End `run` after the step it is in; slices stay (`rfaas down` cancels them)."""
        self._stopping.set()

    async def cycle(self) -> None:
        """Read, report, submit.

        Raises:
            ClusterUnavailable: Slurm did not answer; nothing was submitted on what is not known.
        """
        view = await self.source.read()
        self._notice_ends(view)
        await self._report(view)
        for job_id in overdue(view, self.policy, self.overdue_s, time.time()):
            log.warning("cancelling a victim that Slurm forgot job=%d", job_id)
            await job.cancel([job_id], self.environment)
        for action in plan(view, self.policy, self.history, _boot_s(), time.time()):
            if self._stopping.is_set():
                return
            await self._submit(action)

    async def _submit(self, action: Submit) -> None:
        stamp = int(time.time())
        job_id = await job.submit(self.template, self.policy, action, stamp, self.environment)
        self.history.last_submission_boot_s = _boot_s()
        log.info("submitted job=%d node=%s cores=%d mem_mib=%d", job_id, action.node, action.cores, action.memory_mib)
        await self._sleep(1.0 / self.policy.max_submissions_per_s)

    def _notice_ends(self, view: ClusterView) -> None:
        """Compare our jobs with what was known; those that ended or vanished are over."""
        ours: dict[JobRef, Job] = {}
        for entry in view.jobs:
            stamp = job.stamp_of(entry.comment, self.template.alloc_id)
            if stamp is not None:
                ours[JobRef(str(entry.job_id), stamp)] = entry
        over = {ref: ours[ref].state for ref in self._known if ref in ours and ours[ref].ended}
        over |= {ref: "FORGOTTEN" for ref in self._known if ref not in ours}
        for ref, state in over.items():
            entry = self._known[ref]
            log.info("slice over job=%s state=%s", ref.job_id, state)
            for node in entry.nodes or entry.required_nodes:
                self.history.taken_back_boot_s[node] = view.taken_boot_s
            self._unreported[ref] = JobEnded(ref.job_id, ref.submit_time_s, state)
        self._known = {ref: entry for ref, entry in ours.items() if not entry.ended}

    async def _report(self, view: ClusterView) -> None:
        try:
            age_s = _boot_s() - view.taken_boot_s
            ended, alive = list(self._unreported.values()), list(self._known)
            await self.offers.report(ended, alive, alive_age_s=age_s, hosts=hosts_of(view))
            self._unreported.clear()
        except AllocatorUnavailable as error:
            log.warning("allocator unavailable unreported=%d error=%s", len(self._unreported), error)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


def _boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def job_environment() -> dict[str, str]:
    """The small environment that harvest jobs start with; nothing of the user's shell leaks into agents."""
    keep = ("HOME", "USER", "LOGNAME", "PATH", "LANG", "LC_ALL", "TZ", "SLURM_CONF", "XDG_STATE_HOME")
    return {name: value for name, value in os.environ.items() if name in keep or name.startswith("RFAAS_")}
