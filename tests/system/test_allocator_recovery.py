"""What a real allocator process knows again after a kill, and what it does about a journal that is spoilt."""

import asyncio
import os
import random
import sqlite3
import subprocess
import sys

import pytest

from rfaas.control import messages as m
from rfaas.control.address import AllocatorAddress
from rfaas.control.dial import AdminClient, OffersClient
from rfaas.control.links import LinkBroken
from support.allocator import AllocatorProcess, PlayedAgent, PlayedHolder
from support.allocator_rig import allocator as allocator  # fixtures: pytest finds them by name
from support.allocator_rig import grant, within
from support.allocator_rig import state_dir as state_dir
from support.waiting import wait_until


def test_after_kill_and_restart_the_same_leases_hold(allocator):
    address = allocator.start()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)

    async def life(number, agents, holders):
        """Everybody reconnects in some order, wants a little more, and the allocator is killed in the middle."""
        address = AllocatorAddress.load(allocator.state_dir)
        everybody = [*agents, *holders]
        rng.shuffle(everybody)
        before = {holder.holder: set(holder.granted) for holder in holders}
        for one in everybody:
            await one.connect(address)
        assert {agent.alloc_epoch for agent in agents} == {number}
        async with AdminClient(address) as admin:
            snapshot = await admin.snapshot()
        recovered = {lease.terms.lease_id for view in snapshot.slices for lease in view.leases}
        assert set().union(*before.values()) <= recovered
        assert recovered <= set().union(*(agent.held for agent in agents))
        tasks = [asyncio.create_task(agent.answer(1000)) for agent in agents]
        hearing = [asyncio.create_task(listen(holder)) for holder in holders]
        for holder in holders:
            holder.want(number)
        # None of them ends by itself: the kill is to come at a random moment of the work.
        done, _ = await asyncio.wait([*tasks, *hearing], timeout=rng.random() * 0.05)
        assert not done
        allocator.process.kill()
        for task in [*tasks, *hearing]:
            with pytest.raises(LinkBroken):
                await task

    async def listen(holder):
        while True:
            await holder.hear()

    async def lives():
        agents = [PlayedAgent(cores=16, node=f"n{number}") for number in range(3)]
        holders = [PlayedHolder() for _ in range(4)]
        for number in range(1, 11):
            await life(number, agents, holders)
            allocator.process.communicate()
            await asyncio.to_thread(allocator.start)
        seqs = sorted(lease.terms.lease_seq for agent in agents for lease in agent.held.values())
        assert len(seqs) == len(set(seqs)) > 4

    assert address.alive
    within(lives())


def test_functions_stay_apart_from_a_job_that_they_slowed_after_a_kill(allocator):
    address = allocator.start()
    moved = m.Neighbours("lmp", "move", "marks 7", 0.4, 0.5, 0.1, 30.0, "lmp is slowed by 40.0%: its leases move")
    beside = m.Neighbours(host="lmp", verdict="watch", words="lmp runs beside the slice")

    async def learn():
        agent, holder = PlayedAgent(), PlayedHolder()
        await agent.connect(address)
        await holder.connect(address)
        holder.want(1, load="memory")
        await agent.answer()
        assert isinstance(await holder.hear(), m.Granted)
        agent.link.send(m.NeighbourReport(agent.epoch, moved, tuple(agent.held)))
        other = PlayedHolder()
        await other.connect(address)
        other.want(1, load="memory")
        waiting = await other.hear()  # the verdict is durable before anything that follows from it is said
        assert (type(waiting), waiting.code) == (m.Waiting, "neighbours")

    within(learn())
    allocator.process.kill()
    allocator.process.communicate()
    address = allocator.start()

    async def ask():
        agent, kept_apart, welcome = PlayedAgent(node="n2"), PlayedHolder(), PlayedHolder()
        await agent.connect(address)
        agent.link.send(m.NeighbourReport(agent.epoch, beside, ()))
        async with AdminClient(address) as admin:
            while not any(view.neighbours.host for view in (await admin.snapshot()).slices):
                await asyncio.sleep(0.005)
        await kept_apart.connect(address)
        kept_apart.want(1, load="memory")
        waiting = await kept_apart.hear()
        assert (type(waiting), waiting.code) == (m.Waiting, "neighbours")
        assert "memory have slowed lmp by 40.0%: apart for" in waiting.reason
        await welcome.connect(address)
        welcome.want(1, load="compute")
        await agent.answer()
        assert isinstance(await welcome.hear(), m.Granted)

    within(ask())


def test_a_lease_released_before_a_kill_is_ended_after_it(allocator):
    address = allocator.start()

    async def first():
        agent, holder = await grant(address)
        agent.link.close()
        with pytest.raises(LinkBroken):
            await agent.link.receive()
        (lease_id,) = holder.granted
        holder.link.send(m.ReleaseLease(holder.holder, lease_id, 6))
        await holder.link.flush(5)
        async with AdminClient(address) as admin:
            while (await admin.snapshot()).slices[0].leases[0].state != "FENCED":
                await asyncio.sleep(0.005)
            await OffersClient(address).report()  # whatever was asked before is durable when this is answered
        return agent

    agent = within(first())
    allocator.kill()
    address = allocator.start()

    async def second():
        await agent.connect(address)
        message = await agent.link.receive()
        assert message == m.EndLease(next(iter(agent.held)), 6)

    within(second())


def _empty(journal):
    journal.write_bytes(b"")


def _garbage(journal):
    journal.write_bytes(os.urandom(8192))


def _cut(journal):
    journal.write_bytes(journal.read_bytes()[: journal.stat().st_size // 2])


def _foreign(journal):
    journal.unlink()
    with sqlite3.connect(journal) as db:
        db.execute("CREATE TABLE recipes (name TEXT)")
    db.close()


def _from_the_future(journal):
    db = sqlite3.connect(journal)
    db.execute("PRAGMA user_version = 99")
    db.close()


@pytest.mark.parametrize("damage", [_empty, _garbage, _cut, _foreign, _from_the_future])
def test_a_journal_that_can_not_be_read_is_refused_with_a_remedy_and_left_alone(allocator, state_dir, damage):
    address = allocator.start()
    within(grant(address))
    allocator.stop()
    journal = state_dir / "journal.sqlite"
    damage(journal)
    before = journal.read_bytes()
    code, said = allocator.run_to_end()
    assert code == 78
    assert "remedy:" in said
    assert str(journal) in said
    assert journal.read_bytes() == before


def test_a_disk_that_fails_ends_the_allocator_with_a_reason_and_nothing_is_promised(tmp_path):
    """RLIMIT_FSIZE stands for the disk: the write fails in the kernel, as with EIO. A full one: tests/faults."""
    state_dir = tmp_path / "state"
    with AllocatorProcess(state_dir) as allocator:
        allocator.start()
        allocator.stop()
        limited = [
            sys.executable,
            "-c",
            "import resource, signal, runpy, sys;"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000));"
            "sys.argv = ['rfaas_allocator', *sys.argv[1:]];"
            "runpy.run_module('rfaas_allocator', run_name='__main__')",
        ]
        allocator.process = subprocess.Popen(
            [*limited, "--state-dir", str(state_dir)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        address = wait_until(allocator.served, 20)

        async def want_more_and_more(agent, holder):
            for number in range(1, 200):
                holder.want(number)
                await agent.answer()
                await holder.hear()

        async def fill():
            agent, holder = PlayedAgent(cores=1000), PlayedHolder()
            await agent.connect(address)
            await holder.connect(address)
            with pytest.raises(LinkBroken):
                await want_more_and_more(agent, holder)
            return agent, holder

        agent, holder = within(fill())
        _, said = allocator.process.communicate(timeout=10)
        assert allocator.process.returncode == 74
        assert "can't be written" in said
        assert len(holder.granted) > 3
        assert set(holder.granted) <= set(agent.held)

        address = allocator.start()  # the disk has room again

        async def recover():
            promised = set(holder.granted)
            await holder.connect(address)
            await agent.connect(address)
            async with AdminClient(address) as admin:
                (view,) = (await admin.snapshot()).slices
            assert promised <= {lease.terms.lease_id for lease in view.leases}

        within(recover())
