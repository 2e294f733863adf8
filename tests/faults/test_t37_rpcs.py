"""T37, the allocator's RPCs: every message of every one, lost, its answer lost, doubled: one effect, the same answer.

A proxy stands between the allocator, a real process, and those who speak to it. First agents and holders that the test
plays live their lives, in which each kind of message occurs, until each fault has met each kind; then real agents and
programs run calls through it. Scaled: each fault of each kind once in `make test`, twenty times in a soak.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from rfaas.control import messages as m
from rfaas.control.address import AllocatorAddress
from rfaas.control.dial import AdminClient, OffersClient
from rfaas.control.hosts import HostList
from rfaas.control.links import LinkBroken
from rfaas_transport.errors import AllocatorUnavailable, RfaasError
from support.allocator import AllocatorProcess, PlayedAgent, PlayedHolder
from support.fault_ring import TTL_S, Ring, seeded
from support.faulty_proxy import FAULTS, KINDS, RPCS, FaultyProxy
from support.personal import Personal
from support.soak import scaled, timeout_s
from support.stream import Stream
from support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.figures, pytest.mark.timeout(timeout_s())]

TIMES = scaled(1, 20)
A_LIFE = 4  # faults in one life
SHARE = 0.15  # of the messages of real processes
LIFE_S = 15.0
STEP_S = 0.005
USED = m.Usage(allocated_ns=3 * 10**9, calls=7)


def test_the_list_of_rpcs_is_that_of_the_services():
    assert len(RPCS) == 9
    assert {"Agents.register", "Leases.granted", "Offers.Report", "Admin.Stop"} < set(KINDS)


# --- played agents and holders ------------------------------------------------------------------------------------


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
        from rfaas.control.dial import dial_agent

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
        assert len(mine) == 1, "one lease, one account"
        return mine[0].usage.calls == USED.calls

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
        assert len({one.lease_id for one in mine}) == len(mine) == 2
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


class Plan:
    """Which faults are still to come, and which in this life."""

    def __init__(self, source, times):
        self._source = source
        self.left = Counter({(kind, fault): times for kind in KINDS for fault in FAULTS})
        self._armed = {}

    def arm(self):
        """Some faults of different kinds for the next life; none if there are none left."""
        left = sorted(self.left)
        self._source.shuffle(left)
        self._armed = dict(list(dict(left).items())[:A_LIFE])
        return dict(self._armed)

    def choose(self, kind):
        fault = self._armed.pop(kind, None)
        if fault is not None:
            self.left[kind, fault] -= 1
            self.left += Counter()  # drops what is done
        return fault


def test_every_message_lost_or_doubled_has_one_effect(tmp_path, event_log):
    source = seeded("messages")
    plan, lives = Plan(source, TIMES), 0

    async def campaign(state_dir):
        nonlocal lives
        proxy = FaultyProxy(state_dir, tmp_path / "proxied", plan.choose)
        await proxy.start()
        try:
            while armed := plan.arm():
                lives += 1
                try:
                    await Life(state_dir, proxy.directory).run()
                except BaseException as error:
                    error.add_note(f"in a life with {armed}")
                    raise
                assert lives <= 3 * TIMES * len(KINDS), f"never met: {sorted(plan.left)}"
        finally:
            await proxy.stop()
        return proxy.injected

    with AllocatorProcess(tmp_path / "state") as allocator:
        allocator.start()
        injected = asyncio.run(campaign(tmp_path / "state"))
        assert allocator.stop()[0] == 0
    assert {kind for kind, _ in injected} == set(KINDS)
    assert all(injected[kind, fault] >= TIMES for kind in KINDS for fault in FAULTS)
    print(
        f"{sum(injected.values())} faults: {len(RPCS)} RPCs with {len(KINDS)} kinds of messages (100 %) x {FAULTS}, "
        f"each {TIMES} times, in {lives} lives"
    )


# --- numbers used again -------------------------------------------------------------------------------------------


def test_a_request_number_used_again_is_a_new_request(tmp_path):
    async def work():
        agent, holder = PlayedAgent(), PlayedHolder()
        await agent.connect(AllocatorAddress.load(tmp_path / "state"))
        await holder.connect(AllocatorAddress.load(tmp_path / "state"))
        seen = []
        for _ in range(20):
            holder.want(1, request=5)
            holder.want(1, request=5)
            await agent.answer()
            granted = await holder.hear()
            seen.append(granted.terms.lease_id)
            holder.want(0, request=5)
            holder.link.send(m.ReleaseLease(holder.holder, granted.terms.lease_id, 6))
            holder.link.send(m.ReleaseLease(holder.holder, granted.terms.lease_id, 6))
            await agent.answer()
            ended = await holder.hear()
            assert (type(ended), ended.lease_id) == (m.Ended, granted.terms.lease_id)
        assert len(set(seen)) == 20, "a lease id came twice"
        agent.link.close()
        holder.link.close()

    with AllocatorProcess(tmp_path / "state") as allocator:
        allocator.start()
        asyncio.run(work())


# --- real agents and programs -------------------------------------------------------------------------------------


class ProxiedRing(Ring):
    """A ring whose agents and programs reach the allocator through a proxy, a process of its own."""

    def __init__(self, directory, events, seed, n_faults):
        super().__init__(directory, events, 5 * TTL_S)
        self.proxied, self._file = directory / "proxied", directory / "faults"
        self._arguments = (self._file, seed, SHARE, n_faults)

    def start(self):
        self.start_allocator()
        command = [sys.executable, "-m", "support.faulty_proxy", self.state_dir, self.proxied, *self._arguments]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        self._proxy = subprocess.Popen([*map(str, command)], env=env)
        wait_until((self.proxied / "allocator.json").exists, 20, "the proxy")
        for number in range(2):
            arguments = ("--cores", self.cores, "--memory-bytes", 1 << 40, "--slice-key", f"{self.proxied}:{number}")
            command = ("rfaas_executors.agent", "--state-dir", self.proxied, "--grace-s", 2)
            self.agents.append(self._start(f"agent-{number}", *command, *arguments))
        self.wait_registered()

    @property
    def injected(self):
        """By kind, how many faults there were."""
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        return Counter(line.partition("\t")[0] for line in lines)

    def session_pids(self):
        own, self.state_dir = self.state_dir, self.proxied
        try:
            return super().session_pids()
        finally:
            self.state_dir = own

    def stop(self):
        Personal.stop(self)
        self._proxy.terminate()
        assert self._proxy.wait(10) == 0
        super().stop()


def test_real_agents_and_programs_through_it_lose_and_double_nothing(tmp_path, event_log, monkeypatch):
    source, n_faults = seeded("real"), scaled(40, 400)
    ring = ProxiedRing(tmp_path, event_log, source.randrange(1 << 32), n_faults)
    monkeypatch.setenv("TMPDIR", str(ring.temporary))
    ring.start()
    try:
        with ring.executor(2, ring.proxied) as executor:
            stream = Stream(executor, ring.witness, source.random())
            cycles = 0
            while ring.injected.total() < n_faults:
                cycles += 1
                with ring.executor(source.randint(1, 2), ring.proxied) as other:
                    assert [other.submit(pow, 2, n).result(60) for n in range(3)] == [1, 2, 4]
            stream.wait_answers(20)
            stream.finish()
        wait_until(lambda: not ring.leases(), 30, "the end of all leases")
    finally:
        ring.stop()
    starts = stream.check()
    stream.tell(executor, f"{cycles} leases come and go, {n_faults} faults: {dict(ring.injected)}")
    assert not stream.errors, stream.errors
    assert all(len(pids) == 1 for pids in starts.values())
