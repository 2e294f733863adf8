"""The shell around the core: links in, links out, and the journal between. The same for gRPC and embedded.

Events that wait are taken together and made durable by one commit (group commit); only then is anything sent.
Must not decide anything, nor import grpc. One event loop. Spec: docs/spec/003-control.md.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

from rfaas.control.eventlog import EventLog
from rfaas.control.hosts import HostList
from rfaas.control.links import Link, LinkBroken
from rfaas.control.messages import (
    Account,
    AgentMessage,
    AllocatorToAgent,
    AllocatorToHolder,
    Event,
    HolderMessage,
    JobsReport,
    Snapshot,
)
from rfaas_allocator.core import AllocatorCore
from rfaas_allocator.events import (
    AgentLinkBroke,
    AgentSaid,
    CloseLink,
    CoreEvent,
    Effect,
    Happened,
    HolderLinkBroke,
    HolderSaid,
    HostsNamed,
    LinkId,
    Persist,
    Record,
    SlicesMustEnd,
    StorageIs,
    ToAgent,
    ToHolder,
)
from rfaas_allocator.journal import Journal, JournalFailed, JournalFull

logger = logging.getLogger(__name__)

ACCOUNTS_A_READ: Final = 1000  # rows; bounds how long a commit waits for somebody who reads accounts
COLLECT_AFTER: Final = 20_000  # objects made; what is made for a lease is kept: after 700 the collector found nothing
BATCH_LIMIT: Final = 1000  # events a commit; bounds how long the first of them waits
EVENTS_KEPT: Final = 10_000  # for those who resume a watch
STORAGE_CHECK_S: Final = 0.5  # how soon a full disk is noticed, and that it has room again
FULL_RETRY_S: Final = 0.2  # between tries of a commit that found no room
EVENTS_A_LIFE: Final = 2**40  # event numbers of one life of the allocator, so that they rise across restarts


def now_s() -> float:
    """The clock of the core: CLOCK_BOOTTIME, which also counts while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True)
class _Job:
    """An event that waits for its turn, and whoever waits for its effects."""

    event: CoreEvent
    done: asyncio.Future[None] | None = None


class Engine:
    """Runs one core.

    Args:
        make_core: makes the core of what the journal remembers.
        journal: open; closed by `close`.
        log: the event log.
        alloc_id: names this allocator across its lives in that log.
        commits_in_thread: commit in a thread, so that the loop lives while the disk works.
    """

    def __init__(
        self,
        make_core: Callable[..., AllocatorCore],
        journal: Journal,
        log: EventLog,
        *,
        alloc_id: str,
        commits_in_thread: bool,
    ) -> None:
        self._journal = journal
        self._log = log
        self._alloc_id = alloc_id
        self._in_thread = commits_in_thread
        self._journal_lock = asyncio.Lock()  # one thread at a time
        self._core = make_core(journal.load(), now_s=now_s(), unix_offset_s=time.time() - now_s())
        self._links: dict[LinkId, Link[Any, Any]] = {}
        self._n_holder_links = 0
        self._alone_since_s = now_s()
        self._link_ids = (LinkId(number) for number in itertools.count(1))
        self._queue: asyncio.Queue[_Job | None] = asyncio.Queue()
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._next_seq = 0
        self._news = asyncio.Condition()
        self._closed = False
        self._stopping = False

    # --- running ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin this life of the allocator: its number is durable when this returns.

        Raises:
            JournalFailed: nothing was begun; also if there is no room.
        """
        self._stopping = True  # nobody waits for room at a start: it fails with a reason
        effects = self._core.start()
        self._next_seq = self._core.counter("alloc_epoch") * EVENTS_A_LIFE + 1
        await self._carry_out(effects)
        self._stopping = False

    def begin_with(self, event: CoreEvent) -> None:
        """Let the core hear this before anything that links say."""
        self._queue.put_nowait(_Job(event))

    async def run(self) -> None:
        """Serve until `close`; cancel it only together with the process.

        Raises:
            JournalFailed: the process must end now; nothing that depends on the failed commit was sent.
        """
        watching = asyncio.create_task(self._watch_storage()) if self._in_thread else None
        try:
            await self._run()
        finally:
            if watching is not None:
                watching.cancel()

    async def _run(self) -> None:
        while True:
            jobs = [await self._queue.get()]
            while len(jobs) < BATCH_LIMIT and not self._queue.empty():
                jobs.append(self._queue.get_nowait())
            batch = [job for job in jobs if job is not None]
            effects = self._core.steps([job.event for job in batch], now_s())
            await self._carry_out(effects)
            for job in batch:
                if job.done is not None and not job.done.done():
                    job.done.set_result(None)
            async with self._news:
                self._news.notify_all()
            if len(batch) < len(jobs):
                return

    async def _carry_out(self, effects: list[Effect]) -> None:
        records = [effect.record for effect in effects if isinstance(effect, Persist)]
        lsn = await self._commit(records) if records else 0
        happened = []
        for effect in effects:
            match effect:
                case ToAgent() | ToHolder():
                    link = self._links.get(effect.link)
                    if link is not None:
                        link.send(effect.message)
                case CloseLink():
                    self._close_link(effect)
                case Happened():
                    happened.append(effect)
        if happened:
            self._publish(happened, lsn)

    async def _commit(self, records: list[Record]) -> int:
        """Make records durable; where there is no room, wait for it: leases live on, and nothing is said before.

        Raises:
            JournalFailed: also if the allocator is to end while it waits.
        """
        while True:
            try:
                if self._in_thread:
                    async with self._journal_lock:  # not while it waits: accounts can be read on a full disk
                        return await asyncio.to_thread(self._journal.commit, records)
                return self._journal.commit(records)
            except JournalFull as error:
                logger.error("no room for a commit, trying again: %s", error.message)
                if self._stopping:
                    raise JournalFailed(error.message, hint=error.hint) from error
            await asyncio.sleep(FULL_RETRY_S)

    async def _watch_storage(self) -> None:
        """Tell the core when the disk is full, and when it has room again."""
        known = ""
        while True:
            problem = await asyncio.to_thread(self._journal.storage_problem)
            if bool(problem) != bool(known):
                logger.warning("storage: %s", problem or "there is room again")
                self._queue.put_nowait(_Job(StorageIs(problem)))
                known = problem
            await asyncio.sleep(STORAGE_CHECK_S)

    def _close_link(self, effect: CloseLink) -> None:
        link = self._links.get(effect.link)
        if link is not None:
            logger.warning("link closed link=%d why=%s", effect.link, effect.why)
            link.close()

    def _publish(self, happened: list[Happened], lsn: int) -> None:
        for one in happened:
            self._write_log(one, lsn)
            text = " ".join(f"{name}={value}" for name, value in one.fields.items())
            self._events.append(Event(self._next_seq, one.kind, one.slice_id, one.lease_id, one.holder, one.node, text))
            self._next_seq += 1

    def _write_log(self, one: Happened, lsn: int) -> None:
        if not self._log.enabled:
            return
        ids = {
            "alloc": self._alloc_id,
            "slice": one.slice_id,
            "lease": one.lease_id,
            "client": one.holder,
            "node": one.node or None,
        }
        fields: dict[str, object] = {name: value for name, value in ids.items() if value is not None} | one.fields
        if one.kind == "grant_acked":
            fields["lsn"] = lsn  # the commit that this grant, or an earlier one, was durable by
        self._log.write(one.kind, **fields)

    async def close(self) -> None:
        """Stop after what is queued, break all links, let go of the journal; leases live on. Repeatable."""
        if self._closed:
            return
        self._closed = True
        for link in self._links.values():
            link.close()
        self._journal.close()
        async with self._news:
            self._news.notify_all()

    def stop(self) -> None:
        """Make `run` return after what is queued."""
        self._stopping = True
        self._queue.put_nowait(None)

    # --- links -----------------------------------------------------------------------------------

    async def attend_agent(self, link: Link[AllocatorToAgent, AgentMessage]) -> None:
        """Serve an agent's link until it breaks."""
        link_id = self._add(link)
        try:
            while True:
                self._queue.put_nowait(_Job(AgentSaid(link_id, await link.receive())))
        except LinkBroken as error:
            logger.info("agent's link broke link=%d why=%s", link_id, error)
        finally:
            self._remove(link_id, AgentLinkBroke(link_id))

    async def attend_holder(self, link: Link[AllocatorToHolder, HolderMessage]) -> None:
        """Serve a session process's link until it breaks."""
        link_id = self._add(link)
        self._n_holder_links += 1
        try:
            while True:
                self._queue.put_nowait(_Job(HolderSaid(link_id, await link.receive())))
        except LinkBroken as error:
            logger.info("holder's link broke link=%d why=%s", link_id, error)
        finally:
            self._n_holder_links -= 1
            self._alone_since_s = now_s()
            self._remove(link_id, HolderLinkBroke(link_id))

    def _add(self, link: Link[Any, Any]) -> LinkId:
        link_id = next(self._link_ids)
        self._links[link_id] = link
        return link_id

    def _remove(self, link_id: LinkId, event: CoreEvent) -> None:
        del self._links[link_id]
        self._queue.put_nowait(_Job(event))

    # --- questions -------------------------------------------------------------------------------

    @property
    def alone_s(self) -> float | None:
        """How long no session process has been connected; None while one is."""
        return None if self._n_holder_links else now_s() - self._alone_since_s

    @property
    def alloc_epoch(self) -> int:
        """The number of this life of the allocator."""
        return self._core.counter("alloc_epoch")

    def snapshot(self) -> Snapshot:
        """Everything at this moment; may run ahead of what is durable by one commit."""
        return self._core.snapshot(now_s())

    async def report(self, report: JobsReport) -> int:
        """Take the harvester's report; its effects are durable when this returns how many slices it ended."""
        before = self._core.counter("slices_ended")
        await self._ask(report)
        return self._core.counter("slices_ended") - before

    async def end_slices(self, reason_code: int, *, for_good: bool) -> int:
        """Tell every agent to drain and leave; return how many could be told."""
        reachable = self._core.n_reachable()
        await self._ask(SlicesMustEnd(reason_code, for_good))
        return reachable

    async def name_hosts(self, source: str, hosts: HostList) -> int:
        """Take the hosts that a source names; durable when this returns how many are known from all sources."""
        await self._ask(HostsNamed(source, hosts))
        return self._core.n_hosts()

    async def accounts(self, since_unix_s: float = 0.0) -> AsyncIterator[Account]:
        """What leases that lived at or after a time cost, by lease_seq; as durable, not ahead of it."""
        after = (-1, b"")
        while True:
            async with self._journal_lock:
                rows = await asyncio.to_thread(self._journal.accounts, after, ACCOUNTS_A_READ)
            for account in rows:
                if account.end_unix_s is None or account.end_unix_s >= since_unix_s:
                    yield account
            if len(rows) < ACCOUNTS_A_READ:
                return
            after = (rows[-1].lease_seq, rows[-1].lease_id)

    async def _ask(self, event: CoreEvent) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Job(event, done))
        await done

    async def watch(self, from_seq: int = 0) -> AsyncIterator[Event]:
        """Events from a number on, or from now on (0); ends when the engine closes."""
        position = from_seq or self._next_seq
        if (self._events and position < self._events[0].seq) or (not self._events and position < self._next_seq):
            position = self._events[0].seq if self._events else self._next_seq
            yield Event(position - 1, "gap", text="earlier events are not kept any more")
        while not self._closed:
            for event in self._events_from(position):
                position = event.seq + 1
                yield event
            async with self._news:
                while self._next_seq <= position and not self._closed:
                    await self._news.wait()

    def _events_from(self, first: int) -> list[Event]:
        newest_first = itertools.takewhile(lambda event: event.seq >= first, reversed(self._events))
        return list(newest_first)[::-1]

    async def until(self, condition: Callable[[Snapshot], bool]) -> None:
        """Wait until the view satisfies a condition, asked after every batch of events, or until the engine closed."""
        while not condition(self.snapshot()) and not self._closed:
            async with self._news:
                await self._news.wait()


async def run_or_fail(engine: Engine) -> None:
    """Run an engine and close it, whatever happens."""
    try:
        await engine.run()
    except JournalFailed as error:
        logger.error("journal failed: %s", error)
        raise
    finally:
        await engine.close()
