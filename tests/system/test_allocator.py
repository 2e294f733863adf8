"""A real allocator process over real sockets: links, harvester, commands; embedded (docs/spec/003-control.md)."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from rfaas.control import messages as m
from rfaas.control.dial import AdminClient, OffersClient, dial_holder
from rfaas.control.links import LinkBroken
from support.allocator import PlayedAgent, PlayedHolder
from support.allocator_rig import allocator as allocator  # fixtures: pytest finds them by name
from support.allocator_rig import grant, within
from support.allocator_rig import state_dir as state_dir

# --- links ---------------------------------------------------------------------------------------


def test_flush_returns_when_the_allocator_has_read_everything(allocator):
    address = allocator.start()

    async def work():
        agent, holder = await grant(address)
        lease_id = next(iter(agent.held))
        agent.link.send(m.Ending(agent.slice.slice_id, agent.epoch, 1, 0.0))
        agent.link.send(m.Freed(lease_id, agent.epoch, "reclaimed", 1))
        agent.link.send(m.SliceEmpty(agent.slice.slice_id, agent.epoch))
        await agent.link.flush(5.0)
        agent.link.close()
        assert await holder.hear() == m.Ended(holder.holder, lease_id, "reclaimed", 1)
        async with AdminClient(address) as admin:
            assert (await admin.snapshot()).slices == ()

    within(work())


def test_flush_gives_up_when_its_time_is_over(allocator):
    address = allocator.start()

    async def work():
        agent = PlayedAgent()
        await agent.connect(address)
        os.kill(allocator.process.pid, signal.SIGSTOP)
        try:
            agent.link.send(m.Ending(agent.slice.slice_id, agent.epoch, 1, 0.0))
            begin = asyncio.get_running_loop().time()
            await agent.link.flush(0.2)
            assert 0.2 <= asyncio.get_running_loop().time() - begin < 5
        finally:
            os.kill(allocator.process.pid, signal.SIGCONT)

    within(work())


def test_a_link_breaks_for_both_when_one_closes(allocator):
    address = allocator.start()

    async def work():
        agent, holder = await grant(address)
        agent.link.close()
        agent.link.close()
        with pytest.raises(LinkBroken):
            await agent.link.receive()
        async with AdminClient(address) as admin:
            while (await admin.snapshot()).slices[0].state == "up":
                await asyncio.sleep(0.005)
        holder.link.close()

    within(work())


def test_a_killed_allocator_breaks_its_links_at_once(allocator):
    address = allocator.start()

    async def work():
        agent, holder = await grant(address)
        allocator.process.kill()
        for link in (agent.link, holder.link):
            with pytest.raises(LinkBroken):
                async with asyncio.timeout(2):
                    await link.receive()

    within(work())


def test_one_stream_serves_several_holders(allocator):
    address = allocator.start()

    async def work():
        agent, first = await grant(address, workers=1)
        second = PlayedHolder()
        second.link = first.link
        second.link.send(m.HolderHello(second.holder, 0, "second"))
        second.want(1)
        await agent.answer()
        granted = await second.hear()
        assert granted.terms.holder == second.holder

    within(work())


# --- harvester and commands ----------------------------------------------------------------------


def test_the_end_of_a_job_reaches_the_holder(allocator):
    address = allocator.start()

    async def work():
        agent, holder = PlayedAgent(job_id="42"), PlayedHolder()
        await agent.connect(address)
        await holder.connect(address)
        holder.want(1)
        await agent.answer()
        await holder.hear()
        async with OffersClient(address) as offers:
            assert await offers.report(alive=[m.JobRef("42")], alive_age_s=0.1) == 0
            assert await offers.report([m.JobEnded("42", 0, "PREEMPTED")], []) == 1
            assert await offers.report([m.JobEnded("42", 0, "PREEMPTED")], []) == 0
            assert (await offers.snapshot()).slices == ()
        ended = await holder.hear()
        assert (ended.reason, ended.reason_code) == ("reclaimed", 1)
        with pytest.raises(LinkBroken):
            await agent.link.receive()

    within(work())


def test_a_watch_tells_what_happens_and_resumes_where_it_was(allocator):
    address = allocator.start()

    async def work():
        async with AdminClient(address) as admin:
            first = [event async for event in _take(admin.watch(1), 1)]
            assert first[0].kind == "gap"
            agent, holder = await grant(address)
            begin = first[0].seq + 1
            kinds = ["restart", "epoch", "request", "grant_proposed", "grant_accepted", "grant_acked"]
            events = [event async for event in _take(admin.watch(begin), len(kinds))]
            assert [event.kind for event in events] == kinds
            assert [event.seq for event in events] == list(range(begin, begin + len(kinds)))
            again = [event async for event in _take(admin.watch(events[2].seq), 3)]
            assert again == events[2:5]
            assert events[-1].lease_id in agent.held
            assert events[-1].holder == holder.holder

    within(work())


async def _take(events, count):
    async for event in events:
        yield event
        count -= 1
        if count == 0:
            break
    await events.aclose()


def test_stop_ends_the_slices_and_then_the_allocator(allocator):
    address = allocator.start()

    async def work():
        agent, _ = await grant(address)
        async with AdminClient(address) as admin:
            assert await admin.stop(timeout_s=20.0) == 1
        assert await agent.link.receive() == m.EndSlice(5)
        assert allocator.process.poll() is None
        agent.link.send(m.SliceEmpty(agent.slice.slice_id, agent.epoch))
        await agent.link.flush(5.0)
        with pytest.raises(LinkBroken):
            await agent.link.receive()

    within(work())
    assert allocator.process.wait(5) == 0


def test_stop_does_not_wait_for_an_agent_longer_than_it_was_told(allocator):
    address = allocator.start()

    async def work():
        agent, _ = await grant(address)
        async with AdminClient(address) as admin:
            await admin.stop(timeout_s=0.3)
        await agent.link.receive()
        with pytest.raises(LinkBroken):
            await agent.link.receive()

    within(work())
    assert allocator.process.wait(5) == 0


# --- embedded ------------------------------------------------------------------------------------

EMBEDDED = """
import asyncio, sys
from importlib.metadata import entry_points
from rfaas.control import messages as m

async def main():
    (entry,) = entry_points(group="rfaas.components", name="allocator")
    allocator = entry.load()()
    agent, holder = await allocator.connect_agent(), await allocator.connect_holder()
    about = m.Slice(b"s" * 16, "here", 4, 2**30, "unix:@agent")
    agent.send(m.Register(about, b"i" * 16, 0))
    registered = await agent.receive()
    holder.send(m.HolderHello(b"h" * 16, 0, "me"))
    holder.send(m.Want(b"h" * 16, 1, 2, 1, 2**20))
    proposed = await agent.receive()
    agent.send(m.Accepted(proposed.terms.lease_id, registered.epoch, (0, 1)))
    granted = await holder.receive()
    assert granted.terms == proposed.terms
    assert allocator.snapshot().slices[0].free_cores == 2
    await allocator.close()
    await allocator.close()
    try:
        await holder.receive()
    except Exception as error:
        print(type(error).__name__)

asyncio.run(main())
print(sorted({"grpc", "google.protobuf", "sqlite3", "cryptography"} & sys.modules.keys()))
"""


def test_the_embedded_allocator_grants_without_grpc_protobuf_or_files(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EMBEDDED], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert (done.stdout.split("\n"), done.stderr) == (["LinkBroken", "[]", ""], "")
    assert list(tmp_path.iterdir()) == []


def test_a_holder_link_that_breaks_while_a_grant_is_under_way_loses_nothing(allocator):
    address = allocator.start()

    async def work():
        agent, holder = PlayedAgent(), PlayedHolder()
        await agent.connect(address)
        await holder.connect(address)
        holder.want(2)
        await agent.answer()
        await agent.link.flush(5)
        again = await dial_holder(address)
        again.send(m.HolderHello(holder.holder, 0, "again"))
        granted = await again.receive()
        assert granted.terms.lease_id in agent.held

    within(work())
