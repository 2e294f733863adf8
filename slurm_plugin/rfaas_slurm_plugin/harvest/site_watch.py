"""Tells the site's allocator what Slurm says of its nodes: which to leave alone and why, and where a job is starting.

The rules are the harvester's (`policy.rules`): a node that it would not harvest because of its state, features, users,
reservations or a drain is granted to nobody outside of jobs either. What it says ends by itself when this process does,
and an allocator with --trust-s grants nothing then. Runs as the allocator's user, or as root.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from rfaas.site.asking import SiteAllocator
from rfaas.site.borrower import SiteSettings
from rfaas_slurm_plugin.harvest.drains import DrainFile
from rfaas_slurm_plugin.harvest.hook_listener import HookPacket
from rfaas_slurm_plugin.policy.rules import rule_outside_jobs, unwelcome_company
from rfaas_slurm_plugin.policy.settings import HarvestPolicy
from rfaas_slurm_plugin.views.view import ClusterUnavailable, ClusterView, ViewSource
from rfaas_transport.errors import RfaasError
from rfaas_transport.munge import Munge

NODES_TOLD: Final = 16  # in one message of 4 KiB, with a reason each
REASON_LETTERS: Final = 120
CYCLES_BELIEVED: Final = 3  # as long as the harvester believes a view
LEAST_BELIEVED_S: Final = 10  # a look at Slurm may take longer than the pause before it
WARNED_S: Final = 30  # a job that was to start on a node has by then, or never

log = logging.getLogger(__name__)


def rules_of(view: ClusterView, policy: HarvestPolicy, now_wall_s: float) -> dict[str, str]:
    """Nodes on which nothing is to be lent outside of jobs, and why, for people. Pure."""
    company = unwelcome_company(view, policy)
    rules = {
        node.name: verdict.text
        for node in view.nodes
        if (verdict := rule_outside_jobs(node, policy, company)) is not None
    }
    soon_s = now_wall_s + policy.reservation_margin_s
    for reservation in view.reservations:
        if reservation.start_time_s <= soon_s and now_wall_s < reservation.end_time_s:
            rules.update(dict.fromkeys(reservation.nodes, "a reservation begins there or has begun"))
    return rules


def parts(rules: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Rules in messages short enough; one that is empty, if there are none: it says that somebody watches."""
    items = [(name, why[:REASON_LETTERS]) for name, why in rules.items()]
    for at in range(0, max(1, len(items)), NODES_TOLD):
        yield dict(items[at : at + NODES_TOLD])


@dataclass(slots=True)
class SiteWatch:
    """Reads Slurm and speaks to the site's allocator until stopped.

    Args:
        source: of views.
        site: which allocator, and how to reach it.
        policy: the rules; its partition and caps mean nothing here.
        every_s: between two views.
        drains: what `rfaas slurm drain` said, where that is kept.
    """

    source: ViewSource
    site: SiteSettings
    policy: HarvestPolicy
    every_s: float = 10.0
    drains: DrainFile | None = None
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _warnings: set[asyncio.Future[None]] = field(default_factory=set)

    async def run(self) -> None:
        """Until SIGTERM; what can't be read or told is logged and tried again."""
        for number in signal.SIGTERM, signal.SIGINT:
            asyncio.get_running_loop().add_signal_handler(number, self._stopping.set)
        while not self._stopping.is_set():
            await self.cycle()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.every_s):
                    await self._stopping.wait()

    async def cycle(self) -> None:
        """One view, one word."""
        try:
            view = await self.source.read()
            if self.drains is not None:
                view = self.drains.applied_to(view)
            rules = rules_of(view, self.policy, time.time())
            await asyncio.to_thread(self._tell, rules, max(LEAST_BELIEVED_S, int(CYCLES_BELIEVED * self.every_s)))
            log.info("told nodes=%d left_alone=%d", len(view.nodes), len(rules))
        except ClusterUnavailable as error:
            log.warning("slurm unavailable error=%s", error)
        except RfaasError as error:
            log.warning("the site's allocator was not told why=%s", error)

    def hear(self, packet: HookPacket) -> None:
        """PrologSlurmctld says that a job is about to start: slices there get their notice before the Prolog."""
        if packet.verb != "warn" or not packet.nodes:
            return
        job = packet.fields.get("job", "")
        told = asyncio.ensure_future(self._warn(packet.nodes, int(job) if job.isdigit() else 0))
        self._warnings.add(told)
        told.add_done_callback(self._warnings.discard)

    async def _warn(self, nodes: tuple[str, ...], job: int) -> None:
        try:
            await asyncio.to_thread(self._tell, dict.fromkeys(nodes, f"job {job} is about to start"), WARNED_S, job)
        except RfaasError as error:  # the nodes' own Prologs evict all the same
            log.warning("the site's allocator was not told of a job job=%d why=%s", job, error)

    def _tell(self, rules: Mapping[str, str], for_s: int, job: int | None = None) -> None:
        site = self.site
        with SiteAllocator(site.allocator, Munge(site.munge_socket), allocator_uid=site.allocator_uid) as told:
            for part in parts(rules):
                told.tell(part, for_s, job=job)
