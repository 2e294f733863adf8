"""What the engine knows besides its core: how long no session process has been there."""

import asyncio
import functools

from rfaas.control.eventlog import EventLog
from rfaas.control.links import local_pair
from rfaas_allocator.core import AllocatorCore
from rfaas_allocator.engine import Engine
from rfaas_allocator.journal import MemoryJournal
from rfaas_allocator.policy import Policy

PAUSE_S = 0.1


def test_it_is_alone_from_the_last_session_process_s_end_on():
    async def said():
        make_core = functools.partial(AllocatorCore, ttl_s=10.0, policy=Policy())
        engine = Engine(
            make_core, MemoryJournal(), EventLog.from_environment("test"), alloc_id="0" * 32, commits_in_thread=False
        )
        await engine.start()
        await asyncio.sleep(PAUSE_S)
        told = [engine.alone_s]
        links, attended = [], []
        for _ in range(2):
            here, there = local_pair()
            links.append(here)
            attended.append(asyncio.create_task(engine.attend_holder(there)))
        await asyncio.sleep(PAUSE_S)
        told.append(engine.alone_s)
        links[0].close()
        await attended[0]
        told.append(engine.alone_s)
        links[1].close()
        await attended[1]
        told.append(engine.alone_s)
        await engine.close()
        return told

    before, with_two, with_one, after_s = asyncio.run(said())
    assert before >= PAUSE_S
    assert with_two is None
    assert with_one is None
    assert 0 <= after_s < before
