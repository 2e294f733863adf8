"""The life of an agent and a holder that a test plays, in which every kind of message to and from an allocator occurs.

Both say again after each break what they have said, as real ones do; what came of a life is looked at past whatever
stands between them and the allocator.
"""

import asyncio
import contextlib
from collections import Counter

from rfaas.control import messages as m
from rfaas.control.address import AllocatorAddress
from rfaas.control.dial import AdminClient, OffersClient, dial_agent
from rfaas.control.hosts import HostList
from rfaas.control.links import LinkBroken
from rfaas_transport.errors import AllocatorUnavailable, RfaasError
from support.allocator import PlayedAgent, PlayedHolder

NEIGHBOUR = "lmp"
LIFE_S = 15.0
STEP_S = 0.005
WHY_SPAWNED = "importing x left 1 thread running"
USED = m.Usage(allocated_ns=3 * 10**9, calls=7)


class Agent(PlayedAgent):
    """Says again after each break what it has said, as an agent does: all that it holds, and what that has cost."""

    def __init__(self):
        super().__init__(cores=2)
        self.refusals, self.draining, self.freed = 1, False, []

    async def live(self, directory):
        while True:
            with contextlib.suppress(LinkBroken, OSError, RfaasError):
                await self._register(AllocatorAddress.load(directory))
                while True:
                    await self._hear()
            await asyncio.sleep(STEP_S)

    async def _register(self, address):
        self.link = await dial_agent(address)
        held = tuple(self.held.values())
        self.link.send(m.Register(self.slice, self.instance, self.epoch, held, self.draining))
        self.say_usage()
        if self.draining:
            self.leave()

    async def _hear(self):
        message = await self.link.receive()
        match message:
            case m.Registered():
                assert message.epoch >= self.epoch
                self.epoch = message.epoch
            case m.Propose() if message.terms.lease_id in self.held:
                cores = self.held[message.terms.lease_id].core_ids
                self.link.send(m.Accepted(message.terms.lease_id, self.epoch, cores))
            case m.Propose() if self.refusals:
                self.refusals -= 1
                self.link.send(m.Refused(message.terms.lease_id, self.epoch, "stale-epoch", ""))
            case m.Propose() if self.draining:
                self.link.send(m.Refused(message.terms.lease_id, self.epoch, "draining", ""))
            case m.Propose():
                self._accept(message.terms)
            case m.EndLease():
                if self.held.pop(message.lease_id, None) is not None:
                    self.freed.append(message.lease_id)
                code = message.reason_code
                self.link.send(m.Freed(message.lease_id, self.epoch, "released", code, USED))
            case m.EndSlice():
                self.draining = True
                self.leave()

    def activate(self):
        for lease_id, held in self.held.items():
            self.held[lease_id] = m.HeldLease(held.terms, held.core_ids, "ACTIVE")
            self.link.send(m.StateChanged(lease_id, self.epoch, "ACTIVE"))

    def say_usage(self):
        if self.epoch:
            used = [m.LeaseUsage(lease_id, USED) for lease_id in (*self.held, *self.freed)]
            self.link.send(m.UsageReport(self.epoch, tuple(used)))

    def say_spawned(self, lease_id):
        held = self.held[lease_id]
        self.held[lease_id] = m.HeldLease(held.terms, held.core_ids, held.state, spawned=WHY_SPAWNED)
        self.link.send(m.WorkersSpawned(lease_id, self.epoch, WHY_SPAWNED))

    def say_neighbours(self):
        about = m.Neighbours(host=NEIGHBOUR, verdict="watch", words=f"{NEIGHBOUR} runs beside the slice")
        self.link.send(m.NeighbourReport(self.epoch, about, tuple(self.held)))

    def leave(self):
        self.link.send(m.Ending(self.slice.slice_id, self.epoch, 5, 0.0))
        self.link.send(m.SliceEmpty(self.slice.slice_id, self.epoch))


class Holder(PlayedHolder):
    """Says again after each break what it wants and gives back."""

    def __init__(self):
        super().__init__()
        self.wants, self.kinds, self.ever, self.gone = {}, {}, [], False
        self.heard, self.releasing = Counter(), set()

    async def live(self, directory):
        while not self.gone:
            with contextlib.suppress(LinkBroken, OSError, RfaasError):
                await self.connect(AllocatorAddress.load(directory))
                for request, workers in list(self.wants.items()):
                    self.wish(request, workers)
                self.release()
                while True:
                    message = await self.hear()
                    self.heard[type(message).__name__] += 1
                    if isinstance(message, m.Granted) and message.terms.lease_id not in self.ever:
                        self.ever.append(message.terms.lease_id)
            await asyncio.sleep(STEP_S)

    def wish(self, request, workers, kind=""):
        self.wants[request] = workers
        kind = self.kinds.setdefault(request, kind)
        self.link.send(m.Want(self.holder, request, workers, 1, 1 << 20, kind=kind))

    def release(self):
        for lease_id in self.releasing & set(self.granted):
            self.link.send(m.ReleaseLease(self.holder, lease_id, 6))

    def leave(self):
        self.gone = True
        self.link.send(m.HolderGone(self.holder, 12))


async def until(condition, what):
    """Ask a coroutine function or a plain one until it is true."""
    try:
        async with asyncio.timeout(LIFE_S):
            while True:
                answer = condition()
                if await answer if asyncio.iscoroutine(answer) else answer:
                    return
                await asyncio.sleep(STEP_S)
    except TimeoutError:
        raise AssertionError(f"still waiting for {what}") from None


class Life:
    """One life of an agent and a holder, in which every kind of message occurs, through the proxy.

    What came of it is looked at past the proxy.
    """

    def __init__(self, state_dir, proxied):
        self._state_dir, self._proxied = state_dir, proxied
        self.agent, self.holder = Agent(), Holder()

    async def run(self):
        tasks = [asyncio.create_task(one.live(self._proxied)) for one in (self.agent, self.holder)]
        try:
            await self._live()
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            for link in (self.agent.link, self.holder.link):
                if link is not None:
                    link.close()
        failed = [end for end in ends if end is not None and not isinstance(end, asyncio.CancelledError)]
        assert not failed, failed

    async def _live(self):
        agent, holder = self.agent, self.holder
        await until(lambda: agent.epoch and holder.link is not None, "registration")
        await until(lambda: self._say(holder, lambda: holder.wish(1, 1)) and holder.granted, "a grant")
        [lease_id] = holder.granted
        assert set(agent.held) == {lease_id}, "granted is what the agent holds"
        await until(lambda: self._active(lease_id), "an active lease")
        await until(self._charged, "its account")
        await until(lambda: self._spawned(lease_id), "word that its workers are spawned")
        await until(self._beside, "word of the job beside it")
        await until(lambda: self._say(holder, lambda: holder.wish(7, 9)) and holder.heard["Waiting"], "word to wait")
        await until(lambda: len(agent.held) == 2 and len(holder.granted) == 2, "what there is for the second request")
        await until(lambda: self._say(holder, lambda: holder.wish(9, 1, "memory")) and holder.heard["Denied"], "denial")
        del holder.wants[9]
        await self._ask_everything()
        holder.releasing = set(holder.granted)
        holder.wants = {1: 0, 7: 0}
        await until(lambda: self._say(holder, self._give_back) and not holder.granted and not agent.held, "the end")
        leases = list(holder.ever)
        assert len(leases) == len(set(leases)) == 2, f"two requests had {len(leases)} leases"
        await until(lambda: self._say(holder, lambda: holder.wish(8, 5)) and self._wanted(8), "a last request")
        await until(lambda: self._say(holder, holder.leave) or holder.gone, "a farewell")
        await until(self._nobody_wants, "the end of what it wanted")
        await until(self._slice_gone, "the end of the slice")

    def _say(self, end, say):
        """Say it while there is somebody to hear; again and again, as after a break."""
        if end.link is not None and not getattr(end, "gone", False):
            say()
            return True
        return False

    def _give_back(self):
        for request in (1, 7):
            self.holder.wish(request, 0)
        self.holder.release()

    async def _snapshot(self):
        async with AdminClient(AllocatorAddress.load(self._state_dir)) as admin:
            return await admin.snapshot()

    async def _active(self, lease_id):
        self._say(self.agent, self.agent.activate)
        leases = [lease for view in (await self._snapshot()).slices for lease in view.leases]
        return [lease.state for lease in leases if lease.terms.lease_id == lease_id] == ["ACTIVE"]

    async def _charged(self):
        self._say(self.agent, self.agent.say_usage)
        async with AdminClient(AllocatorAddress.load(self._state_dir)) as admin:
            mine = [a async for a in admin.accounts() if a.holder == self.holder.holder]
        [charged] = self._heard_of(mine)
        return charged.usage.calls == USED.calls

    def _heard_of(self, accounts):
        """Those of leases that the holder was told of; one that it was not, as its link broke, was given back."""
        unheard = [one for one in accounts if one.lease_id not in self.holder.ever]
        assert [one.reason for one in unheard] == ["released"] * len(unheard), unheard
        return [one for one in accounts if one.lease_id in self.holder.ever]

    async def _spawned(self, lease_id):
        self._say(self.agent, lambda: self.agent.say_spawned(lease_id))
        leases = [lease for view in (await self._snapshot()).slices for lease in view.leases]
        return [lease.spawned for lease in leases if lease.terms.lease_id == lease_id] == [WHY_SPAWNED]

    async def _beside(self):
        self._say(self.agent, self.agent.say_neighbours)
        mine = [v for v in (await self._snapshot()).slices if v.slice.slice_id == self.agent.slice.slice_id]
        return [view.neighbours.host for view in mine] == [NEIGHBOUR]

    async def _wanted(self, request):
        return request in [w.request for w in (await self._snapshot()).wants if w.holder == self.holder.holder]

    async def _nobody_wants(self):
        return not [w for w in (await self._snapshot()).wants if w.holder == self.holder.holder]

    async def _slice_gone(self):
        slices = {view.slice.slice_id for view in (await self._snapshot()).slices}
        if self.agent.slice.slice_id not in slices:
            return True
        await self._asked(AdminClient, lambda admin: admin.stop(end_slices=True, end_allocator=False))
        return False

    # --- questions --------------------------------------------------------------------------------

    async def _ask_everything(self):
        """Each question until it is answered; the answer must be right whatever became of earlier ones."""
        me = self.agent.slice.slice_id
        views = await self._asked(AdminClient, lambda admin: admin.snapshot())
        assert me in {view.slice.slice_id for view in views.slices}
        views = await self._asked(OffersClient, lambda offers: offers.snapshot())
        assert me in {view.slice.slice_id for view in views.slices}
        hosts = HostList((m.Host("h1", 4, 1 << 30), m.Host("h2", 4, 1 << 30)), False)
        assert await self._asked(AdminClient, lambda admin: admin.set_inventory(hosts)) == 2
        accounts = await self._asked(AdminClient, self._accounts)
        mine = [one for one in accounts if one.holder == self.holder.holder]
        assert len({one.lease_id for one in mine}) == len(mine), "a lease has one account"
        assert len(self._heard_of(mine)) == 2, "two requests, two leases"
        first = (await self._asked(AdminClient, lambda admin: self._events(admin, 1, 1)))[0].seq
        events = await self._asked(AdminClient, lambda admin: self._events(admin, first, 2))
        assert [event.seq for event in events] == [first, first + 1]
        await self._report_once()

    async def _report_once(self):
        """A job ends once, however often the harvester says so."""
        agent = PlayedAgent(job_id=self.agent.instance.hex())
        await agent.connect(AllocatorAddress.load(self._state_dir))
        ended = m.JobEnded(agent.slice.job_id, 0, "PREEMPTED")
        await self._asked(OffersClient, lambda offers: offers.report([ended], []))
        assert agent.slice.slice_id not in {view.slice.slice_id for view in (await self._snapshot()).slices}
        async with OffersClient(AllocatorAddress.load(self._state_dir)) as offers:
            assert await offers.report([ended], []) == 0
        agent.link.close()

    async def _asked(self, client, question):
        async with asyncio.timeout(LIFE_S):
            while True:
                with contextlib.suppress(AllocatorUnavailable):
                    async with client(AllocatorAddress.load(self._proxied)) as one:
                        return await question(one)
                await asyncio.sleep(STEP_S)

    @staticmethod
    async def _accounts(admin):
        return [account async for account in admin.accounts()]

    @staticmethod
    async def _events(admin, first, count):
        found, watch = [], admin.watch(first)
        async for event in watch:
            found.append(event)
            if len(found) == count:
                break
        await watch.aclose()
        return found
