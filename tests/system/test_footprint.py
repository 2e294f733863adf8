"""What allocator and agent keep in memory: resident at most 100 MiB with 1,000 leases, and 60 MiB."""

import asyncio
import os

import pytest

import rfaas
from rfaas.control import messages as m
from support import functions as f
from support.allocator import AllocatorProcess, PlayedAgent, PlayedHolder
from support.personal import Personal

N_LEASES, N_AGENTS = 1000, 20
ALLOCATOR_LIMIT_MIB, AGENT_LIMIT_MIB = 100, 60
TIMEOUT_S = 120


def resident_mib(pid):
    with open(f"/proc/{pid}/status") as status:
        (line,) = [line for line in status if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


async def lease_all(address):
    """So many agents and one holder with so many leases of one worker each, and each of them has been charged."""
    agents, holder = [PlayedAgent(cores=N_LEASES // N_AGENTS, node=f"n{n}") for n in range(N_AGENTS)], PlayedHolder()
    for agent in agents:
        await agent.connect(address)
    await holder.connect(address)
    for request in range(1, N_LEASES + 1):
        holder.want(1, request)
    for agent in agents:
        await agent.answer(N_LEASES // N_AGENTS)
    while len(holder.granted) < N_LEASES:
        await holder.hear()
    for round_ in range(1, 4):
        for agent in agents:
            usage = m.Usage(allocated_ns=round_ * 5 * 10**9, calls=round_)
            agent.link.send(m.UsageReport(agent.epoch, tuple(m.LeaseUsage(lease_id, usage) for lease_id in agent.held)))
            await agent.link.flush(TIMEOUT_S)
    return agents, holder


@pytest.mark.figures
def test_an_allocator_with_a_thousand_leases(tmp_path):
    with AllocatorProcess(tmp_path / "state") as allocator:
        address = allocator.start()
        before_mib = resident_mib(allocator.process.pid)

        async def measure():
            async with asyncio.timeout(TIMEOUT_S):
                _links = await lease_all(address)
                return resident_mib(allocator.process.pid)

        with_mib = asyncio.run(measure())
    print(f"allocator resident: {before_mib:.1f} MiB empty, {with_mib:.1f} MiB with {N_LEASES} leases")
    assert with_mib <= ALLOCATOR_LIMIT_MIB


@pytest.mark.figures
def test_an_agent_that_serves(tmp_path):
    cluster = Personal(tmp_path)
    try:
        cluster.start_allocator()
        agent = cluster.start_agent(cores=4)
        with rfaas.Executor(4, allocator=cluster.state_dir, memory="64MiB") as ex:
            pids = set(ex.map(f.sleep_then_pid, [0.3] * 8))
            serving_mib = resident_mib(agent.pid)
        assert os.getpid() not in pids
    finally:
        cluster.stop()
    print(f"agent resident: {serving_mib:.1f} MiB with {len(pids)} workers")
    assert serving_mib <= AGENT_LIMIT_MIB
