"""The site's allocator towards its users, the nodes it lends, and who watches Slurm for it.

Decides nothing (`site_book`) and keeps nothing itself (`site_ledger`). Who speaks is what munged says (004 section
1.1). Spec: docs/spec/010-node-agent.md sections 7, 9.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rfaas.site.query import LIST, NOTICE, ask_node
from rfaas_allocator.journal import JournalFailed, JournalFull
from rfaas_allocator.site_book import Closed, Opened, Refusal, SiteBook, SiteNode, SiteWant
from rfaas_allocator.site_ledger import SiteLedger
from rfaas_transport.errors import NotFound, RfaasError
from rfaas_transport.handshake import handshake_streams
from rfaas_transport.handshake_machine import NotAllowed
from rfaas_transport.messages import LENGTH_BYTES, Message, decode, pack
from rfaas_transport.munge import Munge
from rfaas_transport.munge_handshake import MungeAccepter

LIMIT_BYTES = 4096
SILENCE_S = 60.0  # between two messages of a user
MOST_CONNECTIONS = 1024
MOST_OF_USER = 32
ASKED_AT_ONCE = 16  # nodes
ASKED_A_ROUND = 256
ACCOUNTS_LOOKED_AT, ACCOUNTS_TOLD = 200, 12  # at a time: an answer has 4 KiB
ACCOUNT_FIELDS = (
    *("lease_id", "lease_seq", "uid", "node", "cores", "memory_bytes", "start_unix_s", "end_unix_s"),
    *("reason", "cost", "currency"),
)

log = logging.getLogger(__name__)


class SiteService:
    """Answers users over their connections, asks nodes what they lend, and keeps what it grants.

    Args:
        book: what is granted.
        ledger: makes that durable, and counts it.
        key: signs it.
        munge: of this host.
        min_uid: nobody below is granted anything.
    """

    def __init__(
        self, book: SiteBook, ledger: SiteLedger, key: Ed25519PrivateKey, munge: Munge, *, min_uid: int = 1000
    ) -> None:
        self._book, self._ledger, self._key, self._munge, self._min_uid = book, ledger, key, munge, min_uid
        self._connections: Counter[int] = Counter()  # by uid
        self._room = asyncio.Semaphore(MOST_CONNECTIONS)
        self._asking = asyncio.Semaphore(ASKED_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends with JournalFailed when this process must end."""

    # --- users ---------------------------------------------------------------------------------------

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        if self._room.locked():  # whoever waits holds a descriptor, too
            writer.close()
            return
        async with self._room:
            try:
                machine = MungeAccepter(self._admit, munge=self._munge)
                await handshake_streams(reader, writer, machine)
                with self._one_more_of(machine.peer_uid):
                    await self._serve(machine.peer_uid, reader, writer)
            except JournalFailed as error:
                if not self.failed.done():
                    self.failed.set_exception(error)
            except (RfaasError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                log.info("connection ended error=%s", error)
            finally:
                writer.close()

    @contextlib.contextmanager
    def _one_more_of(self, uid: int) -> Iterator[None]:
        """Count a user's connections: one alone must not hold all that there are.

        Raises:
            NotAllowed: he has as many as he may.
        """
        self._connections[uid] += 1
        try:
            if self._connections[uid] > MOST_OF_USER:
                raise NotAllowed(f"uid {uid} has {MOST_OF_USER} connections already", hint="close some")
            yield
        finally:
            self._connections[uid] -= 1
            if not self._connections[uid]:
                del self._connections[uid]

    def _admit(self, uid: int, role: str, params: Mapping[str, Any]) -> None:
        if params.get("service") != "grants":
            raise NotFound("no such service here")

    async def _serve(self, uid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(SILENCE_S):
                head = await reader.read(1)
                if not head:
                    return
                length = int.from_bytes(head + await reader.readexactly(LENGTH_BYTES - 1), "little")
                if not 1 <= length <= LIMIT_BYTES:
                    return
                message = decode(await reader.readexactly(length), LIMIT_BYTES)
            writer.write(pack(self._answer(uid, message), LIMIT_BYTES))
            await writer.drain()

    def _answer(self, uid: int, message: Message) -> dict[str, Any]:
        try:
            match message["m"]:
                case "want":
                    return self._granted(uid, message)
                case "unused":
                    slice_id = message.get("slice")
                    known = isinstance(slice_id, bytes) and self._book.give_back(uid, slice_id, int(time.time()))
                    self._keep()
                    return {"m": "noted", "known": known}
                case "accounts":
                    return self._accounts(uid, message)
                case "leave" | "warn":
                    return self._told_by_watcher(uid, message)
        except JournalFull as error:
            return _refused(Refusal("no-room", f"the site's allocator has no room on its disk: {error.hint}"))
        except ValueError as error:
            return _refused(Refusal("bad-want", str(error)))
        return _refused(Refusal("bad-want", "no such message"))

    def _granted(self, uid: int, message: Message) -> dict[str, Any]:
        if uid < self._min_uid:
            return _refused(Refusal("uid-too-low", f"uid {uid} is a user of the system"))
        if problem := self._ledger.storage_problem():
            log.warning("nothing is granted why=%s", problem)
            return _refused(Refusal("no-room", f"the site's allocator grants nothing: {problem}"))
        cores, memory_bytes, lasts_s = (_whole(message, key) for key in ("cores", "memory_bytes", "lasts_s"))
        want = SiteWant(uid, cores, memory_bytes, lasts_s, str(message.get("node", "")))
        chosen = self._book.choose(want, int(time.time()), secrets.token_bytes(32))
        if isinstance(chosen, Refusal):
            log.info("refused uid=%d code=%s", uid, chosen.code)
            return _refused(chosen)
        grant, node = chosen
        try:
            self._keep()
        except JournalFull:
            self._book.take_back(grant)
            raise
        log.info("granted uid=%d node=%s cores=%d slice=%s", uid, node.name, grant.cores, grant.slice_id.hex())
        return {"m": "granted", "grant": grant.sign(self._key), "address": node.address}

    def sign_with(self, key: Ed25519PrivateKey) -> None:
        """Sign with another key from now on; what an older one has signed is as good as nodes say."""
        self._key = key

    def _keep(self) -> None:
        """Make what has changed durable; what found no room is kept for the next time, but for a grant of now."""
        changes = self._book.taken_changes()
        try:
            self._ledger.keep(changes)
        except JournalFull:
            ends: list[Opened | Closed] = [one for one in changes if isinstance(one, Closed)]
            self._book.changes = ends + self._book.changes
            raise

    def _accounts(self, uid: int, message: Message) -> dict[str, Any]:
        after = message.get("after") or [0, b""]
        if not isinstance(after, list) or len(after) != 2 or type(after[0]) is not int or type(after[1]) is not bytes:
            raise ValueError("after is no place in the list")
        everybody = message.get("all") is True and self._is_operator(uid)
        rows, last = [], None
        for account in self._ledger.accounts(time.time(), (after[0], after[1]), ACCOUNTS_LOOKED_AT):
            last = [account.lease_seq, account.lease_id]
            if everybody or account.uid == uid:
                rows.append(
                    {name: getattr(account, name) for name in ACCOUNT_FIELDS}
                    | {"allocated_ns": account.usage.allocated_ns}
                )
            if len(rows) == ACCOUNTS_TOLD:
                break
        return {"m": "accounts", "rows": rows, "next": last}

    # --- who watches Slurm ---------------------------------------------------------------------------

    @staticmethod
    def _is_operator(uid: int) -> bool:
        return uid in (0, os.geteuid())

    def _told_by_watcher(self, uid: int, message: Message) -> dict[str, Any]:
        if not self._is_operator(uid):
            return _refused(Refusal("not-allowed", "only root and the user of this allocator say what Slurm does"))
        rules = message.get("nodes")
        if not isinstance(rules, dict) or not all(isinstance(one, str) for pair in rules.items() for one in pair):
            raise ValueError("nodes are no texts by name")
        now_s = int(time.time())
        self._book.leave_alone(rules, _whole(message, "for_s"), now_s)
        job = 0
        if message["m"] == "leave":
            self._book.watched(now_s)
            rules = {name: why for name, why in rules.items() if self._book.lends(name)}
        else:
            job = _whole(message, "job")
        for name in rules:  # what is there gets its notice
            if name in self._book.nodes:
                self._begin(self._ask(self._book.nodes[name], verb=NOTICE, job=job))
        return {"m": "noted", "known": True}

    # --- nodes ---------------------------------------------------------------------------------------

    async def look_for_ever(self, every_s: float) -> None:
        """Ask the nodes that lend, or might, what they lend."""
        while True:
            now_s = int(time.time())
            self._book.expire(now_s)
            async with asyncio.TaskGroup() as looks:
                for node in self._book.to_ask(now_s, ASKED_A_ROUND):
                    looks.create_task(self._ask(node))
            with contextlib.suppress(JournalFull):
                self._keep()
            await asyncio.sleep(every_s)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, node: SiteNode, *, verb: int = LIST, job: int = 0) -> None:
        async with self._asking:
            asked_s = int(time.time())
            try:
                says = await asyncio.to_thread(
                    ask_node, node.address, self._key, node.name, self._munge, verb=verb, job=job
                )
            except RfaasError as error:
                log.info("node does not say what it lends node=%s why=%s", node.name, error.message)
                return
        self._book.hear(node.name, says, asked_s, int(time.time()))


def _refused(refusal: Refusal) -> dict[str, Any]:
    return {"m": "refused", "code": refusal.code, "hint": refusal.hint}


def _whole(message: Message, key: str) -> int:
    value = message.get(key)
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"{key} is no whole number")
    return value
