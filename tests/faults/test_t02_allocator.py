"""T02: kill -9 and restart of the allocator, 100 times, while 1,000 leases come and go.

What it recovers is exactly what it had promised and agents confirm (I8); no core is leased twice; no call on a lease
fails; something new is granted within 2 s of its start. Four of the workers are real and run calls; the thousand
leases are those of agents and holders that the test plays over real streams. Scaled: three restarts in `make test`.
"""

import asyncio
import contextlib
import itertools
import time

import pytest

from rfaas.control import messages as m
from rfaas.control.address import AllocatorAddress
from rfaas.control.dial import AdminClient
from rfaas.control.links import LinkBroken
from rfaas_transport.errors import RfaasError
from support.allocator import PlayedAgent, PlayedHolder
from support.deadlines import SLACK, assert_in_time
from support.fault_ring import WORKERS, long_ttl, seeded
from support.fault_ring import ring as ring  # a fixture: pytest finds it by name
from support.soak import goal_figures, percentile, scaled, timeout_s
from support.stream import Stream

pytestmark = [pytest.mark.slow, pytest.mark.figures, pytest.mark.serial, pytest.mark.timeout(timeout_s())]

RESTARTS = scaled(3, 100)
LEASES = 1_000
AGENTS, HOLDERS = 10, 5
SPARE_CORES = 20  # of each agent, for what is leased before what was released is free
BACK_GOAL_S = 2.0
SETTLE_S = 60.0
STEP_S = 0.005


class Agent(PlayedAgent):
    """Registers again whenever its stream breaks, and remembers every lease that it ended."""

    async def live(self, state_dir):
        while True:
            with contextlib.suppress(LinkBroken, OSError, RfaasError):
                await self.connect(AllocatorAddress.load(state_dir))
                while True:
                    await self.answer()
            await asyncio.sleep(STEP_S)


class Holder(PlayedHolder):
    """Has some standing requests of one worker each, and changes them for others as long as it may."""

    def __init__(self, requests, source):
        super().__init__()
        self.numbers = itertools.count(1)
        self.standing = {next(self.numbers) for _ in range(requests)}
        self.told_ended = set()
        self.probe = self.probed_s = None
        self._source = source

    async def live(self, state_dir):
        while True:
            with contextlib.suppress(LinkBroken, OSError, RfaasError):
                await self.connect(AllocatorAddress.load(state_dir))
                for request in sorted(self.standing):
                    self.want(1, request)
                self._release()
                self._exchange(probe=True)
                while True:
                    self._note(await self.hear())
            self.link = None
            await asyncio.sleep(STEP_S)

    async def churn(self, may):
        while True:
            await may.wait()
            if self.link is not None:
                self._exchange()
            await asyncio.sleep(self._source.uniform(0.01, 0.05))

    def _exchange(self, probe=False):
        """One request less, one more."""
        gone, new = self._source.choice(sorted(self.standing)), next(self.numbers)
        self.standing ^= {gone, new}
        self.want(0, gone)
        self._release()
        self.want(1, new)
        if probe:
            self.probe, self.probed_s = new, None

    def _release(self):
        """Give back what belongs to no request any more; what was lost with a stream is said again."""
        for lease, granted in self.granted.items():
            if granted.terms.request not in self.standing:
                self.link.send(m.ReleaseLease(self.holder, lease, 6))

    def _note(self, message):
        if isinstance(message, m.Ended):
            self.told_ended.add(message.lease_id)
        if isinstance(message, m.Granted):
            if message.terms.request == self.probe and self.probed_s is None:
                self.probed_s = time.monotonic()
            self._release()

    def kept(self):
        """Leases that were acknowledged to it and that it did not give back."""
        return {lease for lease, granted in self.granted.items() if granted.terms.request in self.standing}


@long_ttl
def test_what_was_promised_is_recovered_whatever_comes_and_goes(ring):
    source = seeded("allocator")
    back_s, sizes = [], []
    with ring.executor(WORKERS) as executor:
        stream = Stream(executor, ring.witness, source.random())
        ring.wait_workers(executor, WORKERS)
        real = ring.leases()
        asyncio.run(campaign(ring, source, set(real), back_s, sizes))
        assert ring.leases().items() >= real.items()
        stream.finish()
    stream.tell(
        executor,
        f"{RESTARTS} restarts, {min(sizes)} to {max(sizes)} leases recovered exactly, 0 cores leased twice",
        goal_figures("allocator started, every holder got something new", back_s, BACK_GOAL_S),
    )
    starts = stream.check()
    assert not stream.errors, stream.errors
    assert all(len(pids) == 1 for pids in starts.values())
    assert_in_time(percentile(back_s, 99), SLACK * BACK_GOAL_S)


async def campaign(ring, source, real, back_s, sizes):
    agents = [Agent(LEASES // AGENTS + SPARE_CORES, f"n{number}") for number in range(AGENTS)]
    holders = [Holder(LEASES // HOLDERS, source) for _ in range(HOLDERS)]
    may = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        lives = [tasks.create_task(one.live(ring.state_dir)) for one in (*agents, *holders)]
        lives += [tasks.create_task(holder.churn(may)) for holder in holders]
        await settled(ring, agents, holders, real)
        for _ in range(RESTARTS):
            sizes.append(await one_restart(ring, source, agents, holders, may, real, back_s))
        for life in lives:
            life.cancel()
    for one in (*agents, *holders):
        if one.link is not None:
            one.link.close()
    await asyncio.sleep(0.1)  # streams end in good order


async def one_restart(ring, source, agents, holders, may, real, back_s):
    """Kill it in the middle of the coming and going, start it again; returns how many leases it knows then."""
    may.set()
    await asyncio.sleep(source.uniform(0.2, 0.6))
    ring.kill(ring.allocator.pid)
    await asyncio.to_thread(ring.allocator.wait, 10)
    may.clear()
    while any(one.link is not None for one in holders):  # they have read all that it had said
        await asyncio.sleep(STEP_S)
    promised = set().union(*(holder.kept() for holder in holders))
    ended = set().union(*(holder.told_ended for holder in holders))
    for holder in holders:
        holder.probed_s = None
    started_s = time.monotonic()
    await asyncio.to_thread(ring.start_allocator)
    async with asyncio.timeout(SETTLE_S):
        while not all(holder.probed_s for holder in holders):
            await asyncio.sleep(STEP_S)
    back_s.append(max(holder.probed_s for holder in holders) - started_s)
    recovered = await settled(ring, agents, holders, real)
    exchanged = {lease for holder in holders for lease in holder.told_ended - ended}  # after the restart, as they asked
    assert promised - exchanged <= recovered, f"forgotten: {promised - exchanged - recovered}"
    assert not recovered & ended, f"alive again: {recovered & ended}"
    return len(recovered)


async def settled(ring, agents, holders, real):
    """Wait until allocator, agents and holders agree on every lease, look at the cores; returns the played leases."""
    views = ()
    try:
        async with asyncio.timeout(SETTLE_S):
            while True:
                async with AdminClient(AllocatorAddress.load(ring.state_dir)) as admin:
                    views = (await admin.snapshot()).slices
                known = {lease.terms.lease_id for view in views for lease in view.leases} - real
                held = {lease for agent in agents for lease in agent.held}
                acked = {lease for holder in holders for lease in holder.granted}
                if known == held == acked and len(acked) == LEASES:
                    break
                await asyncio.sleep(0.05)
    except TimeoutError:
        message = f"{len(known)} known, {len(held)} held, {len(acked)} acknowledged, {len(known & held & acked)} common"
        raise AssertionError(message) from None
    for view in views:
        cores = [core for lease in view.leases for core in lease.core_ids]
        assert len(cores) == len(set(cores)), f"a core of {view.slice.node} is leased twice"
    return known
