"""T37, the allocator's RPCs: every message of every one, lost, its answer lost, doubled: one effect, the same answer.

A proxy stands between the allocator, a real process, and those who speak to it. First agents and holders that the test
plays live their lives, in which each kind of message occurs, until each fault has met each kind; then real agents and
programs run calls through it. Scaled: each fault of each kind once in `make test`, twenty times in a soak.
"""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from rfaas.control import messages as m
from rfaas.control.address import AllocatorAddress
from support.allocator import AllocatorProcess, PlayedAgent, PlayedHolder
from support.fault_ring import TTL_S, Ring, seeded
from support.faulty_proxy import FAULTS, KINDS, RPCS, FaultyProxy
from support.lives import Life
from support.personal import Personal
from support.soak import scaled, timeout_s
from support.stream import Stream
from support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.figures, pytest.mark.timeout(timeout_s())]

TIMES = scaled(1, 20)
A_LIFE = 4  # faults in one life
SHARE = 0.15  # of the messages of real processes


def test_the_list_of_rpcs_is_that_of_the_services():
    assert len(RPCS) == 9
    assert {"Agents.register", "Leases.granted", "Offers.Report", "Admin.Stop"} < set(KINDS)


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


@pytest.mark.serial  # its lease is shorter than a busy machine may take
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
            command = ("rfaas_executors", "--state-dir", self.proxied, "--grace-s", 2)
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
