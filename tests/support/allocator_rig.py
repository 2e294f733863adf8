"""An allocator process for the tests of one module: fixtures, and what they ask it with."""

import asyncio
import dataclasses

import pytest

from rfaas.control import messages as m
from support.allocator import AllocatorProcess, PlayedAgent, PlayedHolder

TIMEOUT_S = 30.0


@pytest.fixture
def state_dir(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def allocator(state_dir):
    with AllocatorProcess(state_dir) as process:
        yield process


@pytest.fixture
def with_tls(state_dir):
    with AllocatorProcess(state_dir, "--listen", "127.0.0.1") as process:
        yield process


def within(coroutine):
    async def limited():
        async with asyncio.timeout(TIMEOUT_S):
            return await coroutine

    return asyncio.run(limited())


def elsewhere(address):
    """The same allocator as a process on another host sees it."""
    return dataclasses.replace(address, host="another-host")


async def grant(address, workers=2):
    """An agent and a holder with one lease."""
    agent, holder = PlayedAgent(), PlayedHolder()
    await agent.connect(address)
    await holder.connect(address)
    holder.want(workers)
    await agent.answer()
    assert isinstance(await holder.hear(), m.Granted)
    return agent, holder
