"""The harvester: a process that keeps preemptible slices on what the cluster leaves idle.

Each cycle: read the cluster once, tell the allocator which of its jobs are alive, which ended (proof of death) and
which must leave their nodes, submit what `policy.plan` says. It decides nothing itself, serves nobody, and losing it
loses no call: slices live on, and the next one finds its jobs again by their comment. Run by `rfaas up --slurm`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rfaas.control.hosts import HostList
from rfaas.control.messages import Host, JobEnded, JobEnding, JobRef
from rfaas.control.rests import RestFile
from rfaas_slurm_plugin.harvest import job
from rfaas_slurm_plugin.harvest.backoff import Backoff
from rfaas_slurm_plugin.harvest.drains import DrainFile
from rfaas_slurm_plugin.harvest.hook_listener import HookPacket
from rfaas_slurm_plugin.harvest.slices import News, SliceBook
from rfaas_slurm_plugin.harvest.verdict_file import VERDICTS, VerdictFile
from rfaas_slurm_plugin.policy.core import Decision, HarvestPolicy, History, Submit, overdue, plan
from rfaas_slurm_plugin.views.view import ClusterUnavailable, ClusterView, ViewSource
from rfaas_transport.errors import AllocatorUnavailable

log = logging.getLogger(__name__)

EAGER_LOOKS, EAGER_S = 3, 1.0
"""After a hook spoke Slurm is looked at so often, so soon after each other: its nodes are still COMPLETING at first."""

STALE_AFTER_S = 10.0
"""A view that is overdue for so long is not trusted any more: the allocator grants nothing new on it (T07)."""


class Offers(Protocol):
    """What the harvester says to the allocator (docs/spec/003-control.md, service Offers)."""

    async def report(
        self,
        ended: Sequence[JobEnded] = (),
        alive: Sequence[JobRef] | None = None,
        *,
        alive_age_s: float = 0.0,
        ending: Sequence[JobEnding] = (),
        trusted_for_s: float | None = None,
        hosts: HostList | None = None,
        given_nodes: Sequence[str] = (),
    ) -> int:
        """Tell which jobs ended, which are alive, which hosts there are, and which nodes a job is about to start on.

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
    _unreported: dict[JobRef, JobEnded] = field(default_factory=dict)
    _read_boot_s: float | None = None  # when the last view was read
    _hosts: HostList | None = None  # as the last view named them
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _asked: asyncio.Event = field(default_factory=asyncio.Event)  # to look at Slurm now
    _eager_looks: int = 0
    _warnings: set[asyncio.Future[None]] = field(default_factory=set)
    _book: SliceBook = field(init=False)
    _backoff: Backoff = field(init=False)
    _verdicts: VerdictFile = field(init=False)
    _drains: DrainFile = field(init=False)
    _rests: RestFile = field(init=False)

    def __post_init__(self) -> None:
        self._book = SliceBook(self.template.alloc_id, self.template.grace_s, self.policy.user)
        self._backoff = Backoff(self.cycle_s)
        self._verdicts = VerdictFile(self.template.state_dir / VERDICTS)
        self._drains = DrainFile(self.template.state_dir)
        self._rests = RestFile(self.template.state_dir)

    async def run(self) -> None:
        """Cycle until `stop`, or SIGTERM; at a second one a step under way is broken off: the next view shows its job.

        Errors of Slurm or the allocator are logged and the cycle goes on.
        """
        loop, cycling = asyncio.get_running_loop(), asyncio.ensure_future(self._cycle_until_stopped())

        def asked() -> None:
            if self._stopping.is_set():
                cycling.cancel()
            self.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, asked)
        await asyncio.wait([cycling])
        if not cycling.cancelled():
            cycling.result()

    async def _cycle_until_stopped(self) -> None:
        while not self._stopping.is_set():
            await self._pause(await self._try_cycle())

    async def _try_cycle(self) -> float:
        """One cycle, begun by a ping if the last one failed; returns the seconds until the next."""
        answered = False
        began_s = _boot_s()
        try:
            if self._backoff.must_ping:
                await self.source.ping()
                answered = True
            await self.cycle()
            pause_s = self._backoff.after_success()
            return max(pause_s / 2, pause_s - (_boot_s() - began_s))
        except ClusterUnavailable as error:
            pause_s = self._backoff.after_failed_query() if answered else self._backoff.after_no_answer()
            log.warning("slurm unavailable answered=%s again_in_s=%.1f error=%s", answered, pause_s, error)
        await self._say(None, trusted_for_s=self._trusted_for_s())
        return pause_s

    def stop(self) -> None:
        """End `run` after the step it is in; slices stay (`rfaas down` cancels them)."""
        self._stopping.set()
        self._asked.set()

    def hear(self, packet: HookPacket) -> None:
        """One of slurmctld's hooks spoke: begin a cycle at once, and pass on which nodes a job is about to start on."""
        self._eager_looks = EAGER_LOOKS
        self._asked.set()
        if packet.verb == "warn" and packet.nodes:
            warning = asyncio.ensure_future(self._warn(packet.nodes))
            self._warnings.add(warning)
            warning.add_done_callback(self._warnings.discard)

    async def _warn(self, nodes: Sequence[str]) -> None:
        try:
            await self.offers.report(given_nodes=nodes)
        except AllocatorUnavailable as error:  # the nodes' own Prologs evict all the same
            log.warning("allocator unavailable, not told of nodes=%d error=%s", len(nodes), error)

    async def _pause(self, seconds: float) -> None:
        """Until the next cycle is due, or somebody asks for it."""
        if self._eager_looks:
            self._eager_looks -= 1
            await self._sleep(min(seconds, EAGER_S))
            return
        self._asked.clear()
        if not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._asked.wait()

    async def cycle(self) -> None:
        """Read, report, submit.

        Raises:
            ClusterUnavailable: Slurm did not answer; nothing was submitted on what is not known.
        """
        view = self._drains.applied_to(await self.source.read())
        self._read_boot_s, self._hosts = view.taken_boot_s, hosts_of(view)
        await self._report(view, self._book.read(view, time.time()))
        doomed = overdue(view, self.policy, self.overdue_s, time.time())
        useless = self._book.useless(self.overdue_s, _boot_s(), time.time())
        if doomed or useless:
            log.warning("cancelling victims that Slurm forgot=%s jobs that stay or wait too long=%s", doomed, useless)
            await job.cancel({*doomed, *useless}, self.environment)
        self.history.see(view, self.policy)
        self.history.rests = {node: rest.words for node, rest in self._rests.all(time.time()).items()}
        decision = plan(view, self.policy, self.history, _boot_s(), time.time())
        self._tell_why(decision)
        until_s = view.taken_boot_s + max(1.0, self.cycle_s)  # then the next view is due
        for action in decision.submit:
            if self._stopping.is_set() or _boot_s() > until_s:
                return
            await self._submit(action)

    def _tell_why(self, decision: Decision) -> None:
        """Keep the verdicts where `rfaas explain NODE` finds them; harvesting goes on without."""
        try:
            self._verdicts.write(decision.verdicts, time.time())
        except OSError as error:
            log.warning("verdicts on nodes can't be written: %s", error)

    async def _submit(self, action: Submit) -> None:
        stamp = int(time.time())
        self.history.submit(action, _boot_s())  # before: if sbatch does not answer, the job may exist all the same
        job_id = await job.submit(self.template, self.policy, action, stamp, self.environment)
        log.info("submitted job=%d node=%s cores=%d mem_mib=%d", job_id, action.node, action.cores, action.memory_mib)
        await self._sleep(1.0 / self.policy.max_submissions_per_s)

    async def _report(self, view: ClusterView, news: News) -> None:
        for ref, ended in news.over.items():
            log.info("job over job=%s state=%s", ref.job_id, ended.why)
            self._unreported[ref] = ended
        for name in news.over_on:
            self.history.taken_back_boot_s[name] = view.taken_boot_s
        for one in news.ending:
            log.info("slice must leave its node job=%s", one.job_id)
        await self._say(self._book.not_dead, news.ending, trusted_for_s=self._trusted_for_s())

    async def _say(
        self, alive: Sequence[JobRef] | None, ending: Sequence[JobEnding] = (), *, trusted_for_s: float
    ) -> None:
        """Report what is known; nothing is lost if nobody hears it now."""
        age_s = _boot_s() - self._read_boot_s if self._read_boot_s is not None else 0.0
        ended = list(self._unreported.values())
        try:
            await self.offers.report(
                ended, alive, alive_age_s=age_s, ending=ending, trusted_for_s=trusted_for_s, hosts=self._hosts
            )
            self._unreported.clear()
        except AllocatorUnavailable as error:
            log.warning("allocator unavailable unreported=%d error=%s", len(ended), error)

    def _trusted_for_s(self) -> float:
        """Seconds from now until the last view is too old to grant on: STALE_AFTER_S after the next one was due."""
        if self._read_boot_s is None:
            return 0.0
        return max(0.0, self._read_boot_s + 1.1 * self.cycle_s + STALE_AFTER_S - _boot_s())

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
