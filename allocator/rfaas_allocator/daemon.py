"""The allocator as a process: its state directory, where it listens, how it begins and ends.

Must not daemonise itself: whoever starts it sees it live and die. SIGTERM lets go and leaves; leases live on, since
agents keep them. Spec: docs/spec/003-control.md, "State directory".
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import hashlib
import ipaddress
import logging
import os
import secrets
import signal
import socket
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rfaas.control.address import AllocatorAddress, boot_time_ns, check_private, network_namespace, write_private
from rfaas.control.eventlog import EventLog
from rfaas.control.hosts import read_hosts
from rfaas.control.messages import Snapshot
from rfaas.control.tls import ensure_key_pair
from rfaas_allocator.core import DEFAULT_TTL_S, MINIMUM_TTL_S, AllocatorCore
from rfaas_allocator.engine import COLLECT_AFTER, Engine
from rfaas_allocator.events import HostsNamed
from rfaas_allocator.journal_sqlite import SqliteJournal
from rfaas_allocator.policy import Policy
from rfaas_allocator.service import Server
from rfaas_transport.errors import ConfigError, ReasonCode

logger = logging.getLogger(__name__)

JOURNAL_NAME: Final = "journal.sqlite"
SOCKET_NAME: Final = "allocator.sock"
SECRET_NAME: Final = "secret"
UNIX_PATH_LIMIT: Final = 107  # bytes that the kernel takes
STOP_GRACE_S: Final = 0.2
ALONE_LOOK_S: Final = 1.0
SLICES_LOOK_S: Final = 0.02
SLICES_LEAVE_S: Final = 10.0  # for agents that are told to end when it leaves by itself


@dataclass(frozen=True, slots=True)
class AllocatorConfig:
    """How one allocator is run.

    Attributes:
        state_dir: its directory; made 0700 if it is not there.
        listen: "HOST" or "HOST:PORT" of one interface beyond this host, or empty: the unix socket only.
        ttl_s: of the leases it makes, seconds, at least 0.5; default 10: three heartbeats may be lost.
        policy: quotas, prices, the file of known hosts.
        leave_after_s: it leaves, and its slices end, so long after the last session process; 0: it stays.
    """

    state_dir: Path
    listen: str = ""
    ttl_s: float = DEFAULT_TTL_S
    policy: Policy = field(default_factory=Policy)
    leave_after_s: float = 0.0


class AllocatorDaemon:
    """One allocator: `open`, `serve`, `close`, in this order.

    Args:
        config: how to run it.
    """

    def __init__(self, config: AllocatorConfig) -> None:
        self._config = config
        self._leave, self._at_once = asyncio.Event(), asyncio.Event()
        self._stop_timeout_s = 0.0
        self._socket_dir: Path | None = None
        self._engine: Engine | None = None
        self._server: Server | None = None
        self._address: AllocatorAddress | None = None

    async def open(self) -> AllocatorAddress:
        """Take the state directory, recover what it remembers, listen, and say so in `allocator.json`.

        Raises:
            ConfigError: something about directory, journal or address is wrong; nothing serves.
        """
        config = self._config
        if config.ttl_s < MINIMUM_TTL_S:
            raise ConfigError(f"a ttl of {config.ttl_s} s is too short", hint=f"give at least {MINIMUM_TTL_S} s")
        host, port = parse_listen(config.listen)
        hosts = None if config.policy.inventory is None else read_hosts(config.policy.inventory)
        prepare_state_dir(config.state_dir)
        journal = SqliteJournal(config.state_dir / JOURNAL_NAME)
        # The journal's lock is ours: what another allocator left in this directory is from one that is dead.
        alloc_id = ensure_secret(config.state_dir)
        self._engine = Engine(
            functools.partial(AllocatorCore, ttl_s=config.ttl_s, policy=config.policy),
            journal,
            EventLog.from_environment("allocator"),
            alloc_id=alloc_id,
            commits_in_thread=True,
        )
        await self._engine.start()
        if hosts is not None:
            self._engine.begin_with(HostsNamed("file", hosts))
        self._server = Server(self._engine, self.stop, config.policy.prices)
        unix = self._listen_unix(alloc_id)
        tls = self._listen_tls(host, port) if host else ""
        await self._server.start()
        self._address = AllocatorAddress(
            state_dir=config.state_dir,
            unix=unix,
            tls=tls,
            host=socket.gethostname(),
            netns=network_namespace(),
            pid=os.getpid(),
            started_boot_ns=boot_time_ns(),
            alloc_id=alloc_id,
        )
        self._address.write()
        logger.info("serving unix=%s tls=%s state_dir=%s", unix, tls or "-", config.state_dir)
        return self._address

    async def serve(self) -> None:
        """Serve until somebody says stop.

        Raises:
            JournalFailed: the disk failed; the process must end, leases live on.
        """
        assert self._engine is not None
        running = asyncio.create_task(self._engine.run())
        leaving = asyncio.create_task(self._wait_to_leave(self._engine))
        watching = asyncio.create_task(self._leave_when_alone(self._engine))
        await asyncio.wait({running, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in leaving, watching:
            task.cancel()
        self._engine.stop()
        await running

    async def _leave_when_alone(self, engine: Engine) -> None:
        """Nobody started this allocator by hand, so nobody stops it: it goes after its last session process."""
        if self._config.leave_after_s <= 0:
            return
        while True:
            await self._until_alone(engine)
            logger.info("leaving: no session process for %.1f s", self._config.leave_after_s)
            await engine.end_slices(ReasonCode.OWNER_RELEASE, for_good=False)
            if await self._slices_left(engine):
                await engine.end_slices(ReasonCode.OWNER_RELEASE, for_good=True)  # one that came meanwhile
                self.stop()
                return
            logger.info("not leaving: a session process came")

    async def _until_alone(self, engine: Engine) -> None:
        after_s = self._config.leave_after_s
        while (alone_s := engine.alone_s or 0.0) < after_s:
            await asyncio.sleep(min(ALONE_LOOK_S, after_s - alone_s))

    async def _slices_left(self, engine: Engine) -> bool:
        """Wait for agents that were told to end; False as soon as a session process is there, which needs it."""
        deadline_s = boot_time_ns() / 1e9 + SLICES_LEAVE_S
        while engine.alone_s is not None:
            if _nobody_reachable(engine.snapshot()) or boot_time_ns() / 1e9 > deadline_s:
                return True
            await asyncio.sleep(SLICES_LOOK_S)
        return False

    async def _wait_to_leave(self, engine: Engine) -> None:
        await self._leave.wait()
        if self._stop_timeout_s > 0 and not self._at_once.is_set():
            waiting = [asyncio.create_task(wait) for wait in (engine.until(_nobody_reachable), self._at_once.wait())]
            await asyncio.wait(waiting, timeout=self._stop_timeout_s, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()

    def stop(self, slices_timeout_s: float = 0.0) -> None:
        """Leave; first wait so long for the agents to go, if they were told to. The second time: leave at once."""
        if self._leave.is_set():
            self._at_once.set()
        else:
            self._stop_timeout_s = slices_timeout_s
        self._leave.set()

    async def close(self) -> None:
        """Stop listening, take back `allocator.json`, let go of the journal; repeatable."""
        if self._address is not None:
            self._address.remove()
        if self._engine is not None:
            await self._engine.close()  # ends the streams in good order
        if self._server is not None:
            await self._server.stop(STOP_GRACE_S)
        if self._address is not None:
            Path(self._address.unix).unlink(missing_ok=True)
        if self._socket_dir is not None:
            with contextlib.suppress(OSError):
                self._socket_dir.rmdir()

    def _listen_unix(self, alloc_id: str) -> str:
        assert self._server is not None
        path = self._config.state_dir / SOCKET_NAME
        if len(os.fsencode(path)) > UNIX_PATH_LIMIT:
            path = self._make_short_path(alloc_id)
        path.unlink(missing_ok=True)
        self._server.listen_unix(str(path))
        return str(path)

    def _make_short_path(self, alloc_id: str) -> Path:
        """A socket in a private directory elsewhere, named by the id: a restart finds what a killed allocator left."""
        bases = (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp")
        paths = [Path(base) / f"rfaas-{alloc_id[:16]}" / SOCKET_NAME for base in bases if base]
        path = next(path for path in paths if len(os.fsencode(path)) <= UNIX_PATH_LIMIT)
        self._socket_dir = path.parent
        self._socket_dir.mkdir(mode=0o700, exist_ok=True)
        check_private(self._socket_dir, directory=True)
        return path

    def _listen_tls(self, host: str, port: int) -> str:
        assert self._server is not None
        state_dir = self._config.state_dir
        pair = ensure_key_pair(state_dir / "tls.key", state_dir / "tls.crt")
        port = self._server.listen_tls(host, port, pair)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _nobody_reachable(snapshot: Snapshot) -> bool:
    return all(view.state == "unreachable" for view in snapshot.slices)


async def serve(config: AllocatorConfig) -> None:
    """Run an allocator until SIGTERM, SIGINT or `Admin.Stop`.

    Raises:
        ConfigError: it could not begin; nothing is left behind.
        JournalFailed: it had to end.
    """
    gc.set_threshold(COLLECT_AFTER)
    daemon = AllocatorDaemon(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop)
    try:
        address = await daemon.open()
        print(f"rfaas allocator: serving {address.unix}{' and ' + address.tls if address.tls else ''}", flush=True)
        await daemon.serve()
    finally:
        await daemon.close()


# --- state directory -----------------------------------------------------------------------------


def prepare_state_dir(state_dir: Path) -> None:
    """Make the state directory, or see that an existing one is private.

    Raises:
        ConfigError: it can't be made, or others can get at it.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the state directory {state_dir} can't be made: {error}", hint="name another with RFAAS_STATE_DIR"
        ) from error
    check_private(state_dir, directory=True)


def ensure_secret(state_dir: Path) -> str:
    """Make the shared secret if it is not there, and return the allocator's id, which is a fingerprint of it."""
    path = state_dir / SECRET_NAME
    if not path.exists():
        write_private(path, secrets.token_bytes(32))
    check_private(path)
    return hashlib.sha256(b"rfaas alloc_id" + path.read_bytes()).hexdigest()[:32]


def parse_listen(listen: str) -> tuple[str, int]:
    """Read "HOST[:PORT]" and return an address of this host and a port (0: any); ("", 0) for nothing.

    Raises:
        ConfigError: it can't be read or resolved, or means every interface.
    """
    if not listen:
        return "", 0
    host, _, port_text = listen.rpartition(":") if listen.count(":") == 1 or "]:" in listen else (listen, "", "0")
    host = host.strip("[]")
    try:
        port = int(port_text)
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"--listen {listen} can't be used: {error}", hint="write HOST or HOST:PORT of one interface of this host"
        ) from error
    if ipaddress.ip_address(address).is_unspecified:
        raise ConfigError(
            f"--listen {listen} means every interface", hint="name the one interface that the nodes reach"
        )
    return str(address), port
