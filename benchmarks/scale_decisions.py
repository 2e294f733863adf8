"""How many decisions a second an allocator makes: the core with its journal on disk, and a whole one through gRPC.

A decision is a grant or a release. The core is asked as the allocator's engine asks it: events in the order in which
they came, up to 1000 a commit, and nothing is delivered before its commit. Its clock runs while the core decides and
while the journal commits; the agents and holders, played by the same process, are the tests' own and not on it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import statistics
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BATCH = 1000
"""Events a commit, as in the allocator's engine."""
HOLDERS = 50
HINTS = ("pack", "pack", "pack", "spread")


class Play:
    """One allocator core, its journal, and the queue of what everybody said.

    Args:
        journal: open and loaded.
    """

    def __init__(self, journal: Any) -> None:  # noqa: ANN401 - a SqliteJournal
        from rfaas_allocator.core import AllocatorCore
        from rfaas_allocator.engine import COLLECT_AFTER

        gc.set_threshold(COLLECT_AFTER)  # as the allocator's process does
        self._journal = journal
        self._core = AllocatorCore(journal.load(), now_s=1000.0)
        self._said: deque[Any] = deque()
        self._ends: dict[int, Any] = {}
        self.busy_s = 0.0
        self.longest_batch_s = 0.0
        self.commits: list[float] = []
        self._carry_out(self._core.start())

    def snapshot(self) -> Any:  # noqa: ANN401 - a Snapshot
        """The core's picture of everything."""
        return self._core.snapshot(1000.0 + time.perf_counter())

    def decided(self) -> int:
        """Grants and releases so far."""
        return self._core.counter("granted") + self._core.counter("freed")

    def connect(self, end: Any, event: type[Any]) -> None:  # noqa: ANN401 - an Agent or a Holder of the tests
        """Somebody's link: what it says is queued as events of this class."""
        number = len(self._ends) + 1
        self._ends[number] = end
        end.link = self
        end.say = lambda message: self._said.append(event(number, message))

    def settle(self) -> None:
        """Let the core take what was said until nobody has anything to say."""
        while self._said:
            events = [self._said.popleft() for _ in range(min(BATCH, len(self._said)))]
            began_s = time.perf_counter()
            effects = self._core.steps(events, 1000.0 + began_s)
            self._carry_out(effects, time.perf_counter() - began_s)

    def _carry_out(self, effects: list[Any], decided_s: float = 0.0) -> None:
        from rfaas_allocator.events import Persist, ToAgent, ToHolder

        began_s = time.perf_counter()
        records = [effect.record for effect in effects if isinstance(effect, Persist)]
        if records:
            self._journal.commit(records)
            self.commits.append(time.perf_counter() - began_s)
        batch_s = decided_s + time.perf_counter() - began_s
        self.busy_s += batch_s
        self.longest_batch_s = max(self.longest_batch_s, batch_s)
        for effect in effects:
            if isinstance(effect, ToAgent | ToHolder):
                self._ends[effect.link].hear(effect.message)


def decisions(nodes: int, quick: bool) -> dict[str, Any]:
    """Grants and releases a second, of holders that ask for and give back leases on all nodes at once.

    Beside it the raw limit: an allocator that did nothing but append as many bytes in as many commits to a file, each
    on the disk before the next. `of_raw_limit` is how near it comes to that.
    """
    from rfaas_allocator.journal_sqlite import SqliteJournal

    with tempfile.TemporaryDirectory(dir=HERE.parent) as directory:
        journal = SqliteJournal(Path(directory) / "journal.sqlite")
        play = Play(journal)
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        holders = _everybody(play, nodes)
        rounds = 3 if quick else min(200, max(5, 20_000 // nodes))
        play.commits.clear()
        play.longest_batch_s = 0.0
        before_bytes = _written_bytes()
        measured = [_round(play, holders, 4 * nodes // len(holders), request) for request in range(1, rounds + 1)]
        commit_bytes = (_written_bytes() - before_bytes) // len(play.commits)
        journal.close()
        append_s = _append_s(Path(directory) / "raw", commit_bytes)
    granted = measured[0][0]
    rates = [2 * granted / busy_s for _, busy_s, _ in measured]
    whole = [2 * granted / took_s for _, _, took_s in measured]
    return {
        **_rates(rates),
        "with_players_per_s": round(statistics.median(whole)),
        "rounds": rounds,
        "leases_a_round": granted,
        "commits": len(play.commits),
        "commit_ms": round(1e3 * statistics.median(play.commits), 2),
        "longest_commit_ms": round(1e3 * max(play.commits), 1),
        "longest_batch_ms": round(1e3 * play.longest_batch_s, 1),
        "commit_bytes": commit_bytes,
        "append_ms": round(1e3 * append_s, 2),
        "of_raw_limit": round(append_s * len(play.commits) / sum(busy_s for _, busy_s, _ in measured), 3),
        "imports_peak_rss_mib": before_kib >> 10,
    }


def churn(nodes: int, quick: bool) -> dict[str, Any]:
    """The same where nothing is alike: nodes and workers of all sizes, more wanted than there is.

    In each round every holder gives back some leases, and what is free goes to those that wait longest.
    """
    from unit.allocator.world import Holder  # type: ignore[import-not-found]

    from rfaas_allocator.events import HolderSaid
    from rfaas_allocator.journal_sqlite import SqliteJournal

    rng = random.Random(1)
    with tempfile.TemporaryDirectory(dir=HERE.parent) as directory:
        journal = SqliteJournal(Path(directory) / "journal.sqlite")
        play = Play(journal)
        cores = [rng.randint(1, 64) for _ in range(nodes)]
        _agents(play, [(count, rng.randint(1, 4 * count) << 30) for count in cores])
        holders = [Holder(uid=1000 + i) for i in range(min(1000, 2 * nodes))]
        for holder in holders:
            play.connect(holder, HolderSaid)
            holder.hello()
            share = 2 * sum(cores) // len(holders) + 1
            size = rng.randint(1, 8)
            holder.want(share // size + 1, cores=size, memory=rng.randint(1, 8) << 28, placement=rng.choice(HINTS))
        play.settle()
        rates = [_give_some_back(play, holders, rng) for _ in range(3 if quick else 10)]
        waiting = len(play.snapshot().waiting)
        journal.close()
    return {
        **_rates(rates),
        "rounds": len(rates),
        "leases": sum(len(one.granted) for one in holders),
        "waiting": waiting,
    }


def _give_some_back(play: Play, holders: list[Any], rng: random.Random) -> float:
    """Decisions a second of one round."""
    busy_s, before = play.busy_s, play.decided()
    for holder in holders:
        for lease_id in rng.sample(list(holder.granted), min(3, len(holder.granted))):
            holder.release(lease_id)
    play.settle()
    for holder in holders:
        holder.heard.clear()
    assert play.decided() > before, "nothing was decided"
    return (play.decided() - before) / (play.busy_s - busy_s)


def _rates(rates: list[float]) -> dict[str, int]:
    return {
        "decisions_per_s": round(statistics.median(rates)),
        "least_per_s": round(min(rates)),
        "most_per_s": round(max(rates)),
    }


def _written_bytes() -> int:
    """What this process has written in all."""
    with Path("/proc/self/io").open() as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def _append_s(path: Path, size_bytes: int) -> float:
    """The raw limit: seconds to append as much as a commit wrote and to have it on the disk; the median of 50."""
    content, times = bytes(size_bytes), []
    with path.open("wb", buffering=0) as file:
        for _ in range(50):
            began_s = time.perf_counter()
            file.write(content)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began_s)
    return statistics.median(times)


def _everybody(play: Play, nodes: int) -> list[Any]:
    """An agent of four cores on each node, and the holders."""
    from unit.allocator.world import Holder

    from rfaas_allocator.events import HolderSaid

    _agents(play, [(4, 1 << 30)] * nodes)
    holders = [Holder(uid=1000 + i) for i in range(min(HOLDERS, nodes))]
    for holder in holders:
        play.connect(holder, HolderSaid)
        holder.hello()
    play.settle()
    return holders


def _agents(play: Play, sizes: list[tuple[int, int]]) -> None:
    """An agent on each node, registered, with so many cores and bytes."""
    from unit.allocator.world import Agent, some_id

    from rfaas.control import messages as m
    from rfaas_allocator.events import AgentSaid

    for i, (cores, memory_bytes) in enumerate(sizes):
        agent = Agent(m.Slice(some_id(b"slice"), f"n{i}", cores, memory_bytes, "unix:@agent"))
        play.connect(agent, AgentSaid)
        agent.register()
    play.settle()


def _round(play: Play, holders: list[Any], workers: int, request: int) -> tuple[int, float, float]:
    """All is asked for and given back: leases, seconds of core and journal, seconds in all."""
    began_s, busy_s = time.perf_counter(), play.busy_s
    for holder in holders:
        holder.want(workers, request=request)
    play.settle()
    leases = [(holder, lease_id) for holder in holders for lease_id in holder.granted]
    for holder in holders:
        holder.want(0, request=request)
    for holder, lease_id in leases:
        holder.release(lease_id)
    play.settle()
    assert leases, "nothing was granted"
    assert not any(holder.granted for holder in holders), "something was not given back"
    for holder in holders:
        holder.heard.clear()
    return len(leases), play.busy_s - busy_s, time.perf_counter() - began_s


# --- through gRPC -------------------------------------------------------------------------------------------------


def grpc(nodes: int, quick: bool) -> dict[str, Any]:
    """Grants and releases a second of an allocator process, over its unix socket."""
    from support.allocator import AllocatorProcess  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory(dir=HERE.parent) as directory, AllocatorProcess(Path(directory)) as process:
        rates = asyncio.run(_over_grpc(process.start(), nodes, 2 if quick else 10))
        with Path(f"/proc/{process.process.pid}/status").open() as status:
            peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return {**_rates(rates), "allocator_peak_rss_mib": peak_kib >> 10}


async def _over_grpc(address: Any, nodes: int, rounds: int) -> list[float]:  # noqa: ANN401 - an AllocatorAddress
    from support.allocator import PlayedAgent, PlayedHolder

    agents, holder = [PlayedAgent(node=f"n{i}") for i in range(nodes)], PlayedHolder()
    for one in (*agents, holder):
        await one.connect(address)
    answering = [asyncio.create_task(agent.answer(1 << 30)) for agent in agents]
    try:
        return [await _round_over_grpc(holder, nodes, request) for request in range(1, rounds + 1)]
    finally:
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)
        for one in (*agents, holder):
            one.link.close()


async def _round_over_grpc(holder: Any, nodes: int, request: int) -> float:  # noqa: ANN401 - a PlayedHolder
    from rfaas.control import messages as m

    began_s = time.perf_counter()
    holder.want(4 * nodes, request)
    while len(holder.granted) < nodes:
        await holder.hear()
    holder.want(0, request)
    for lease_id in list(holder.granted):
        holder.link.send(m.ReleaseLease(holder.holder, lease_id, 6))
    while holder.granted:
        await holder.hear()
    return 2 * nodes / (time.perf_counter() - began_s)
