"""Where session processes reach an agent: an abstract unix socket or a TCP port, and who may come in.

Everybody is proven by the handshake of docs/spec/004-session.md section 1 before a byte of his is believed. Must not
decide about leases: messages go to the agent; a data connection goes, not one byte of it read, to the worker it names.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import struct
from collections.abc import Callable
from typing import Any

from rfaas_executors import agent_events as on
from rfaas_transport import tls, verbs
from rfaas_transport.errors import AuthenticationFailed, ConfigError, NotFound, RfaasError
from rfaas_transport.handshake import Accepter, handshake_socket
from rfaas_transport.handshake_machine import MEDIUM_CODES, MediumRefused
from rfaas_transport.messages import MessageReader, pack
from rfaas_transport.socket_options import KERNELS_OPTIONS, SocketOptions

log = logging.getLogger(__name__)

HANDSHAKE_S = 2.0
BACKLOG = 1024
UNPROVEN_LIMIT = 256  # connections in their handshake at once; more wait in the kernel
OUTBOX_LIMIT_BYTES = 16 << 20  # a session that does not read so much is taken for dead
_READ_BYTES = 1 << 16


def listen_here() -> tuple[socket.socket, str]:
    """Listen on an abstract unix socket of a random name; return it and its address (`unix:@name`)."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    name = f"rfaas-agent-{secrets.token_hex(8)}"
    listener.bind(f"\0{name}")
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener, f"unix:@{name}"


def listen_at(host: str, ports: range | None) -> tuple[socket.socket, str]:
    """Listen on one interface, on a free port, of `ports` if given; return socket and address (`tcp:host:port`).

    Raises:
        ConfigError: the host is none of this machine's, or no port is free; nothing listens.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"--listen {host}: {error}", hint="give an address of this machine") from error
    problem: OSError | None = None
    for port in ports or range(1):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address[0], port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            problem = error
            continue
        listener.setblocking(False)
        bound_host, bound_port = listener.getsockname()[:2]
        shown = f"[{bound_host}]" if family == socket.AF_INET6 else bound_host
        return listener, f"tcp:{shown}:{bound_port}"
    raise ConfigError(f"can't listen on {host}: {problem}", hint="give an address of this machine or other ports")


class Doors:
    """Accepts connections and keeps those of sessions.

    Args:
        secret: of 004 section 1, shared with every session process that may come in.
        post: takes an event and returns when it is dealt with; its effects have been carried out then.
        options: of the sockets of data connections.
    """

    def __init__(
        self,
        listener: socket.socket,
        secret: bytes,
        post: Callable[[on.Event], None],
        options: SocketOptions = KERNELS_OPTIONS,
    ) -> None:
        self._options = options
        self._listener = listener
        self._secret = secret
        self._post = post
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._verdicts: dict[int, on.HandOver | on.TurnAway] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_number = 0
        self._room = asyncio.Semaphore(UNPROVEN_LIMIT)
        self.hand_over: Callable[[on.HandOver, int, bytes], None] = lambda order, descriptor, key: None

    async def serve(self) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                sock, _ = await loop.sock_accept(self._listener)
            except OSError as error:  # out of descriptors, or the peer has left again
                log.warning("accept failed error=%s", error)
                self._room.release()
                await asyncio.sleep(0.05)
                continue
            except BaseException:
                self._room.release()
                raise
            task = loop.create_task(self._meet(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # --- the handshake --------------------------------------------------------------------------

    async def _meet(self, sock: socket.socket) -> None:
        """Prove one peer, then serve its session or hand its data connection over."""
        self._last_number += 1
        number = self._last_number
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a host that lost power sends no end

        def authorise(role: str, params: dict[str, Any]) -> None:
            if role == "data":
                self._ask_for_worker(number, params, over_network=sock.family != socket.AF_UNIX)

        try:
            if not _same_user(sock):
                raise AuthenticationFailed("a process of another user is at the door")
            machine = await handshake_socket(sock, Accepter(self._secret, authorise), HANDSHAKE_S)
        except (RfaasError, OSError) as error:
            log.info("connection refused error=%s", error)
            self._verdict_void(number)
            sock.close()
            return
        finally:
            self._room.release()
        if machine.role == "data":
            self._finish_data(number, sock, machine.session_key)
        else:
            await self._serve_session(number, sock, machine.leftover)

    def _ask_for_worker(self, connection: int, params: dict[str, Any], *, over_network: bool) -> None:
        """Let the core decide at once; raises NotFound or MediumRefused when it turns the connection away."""
        medium = str(params.get("medium", ""))
        try:
            offer = on.DataOffered(
                connection,
                memoryview(params["lease"]).tobytes(),  # not `bytes`: of a number that makes as many bytes
                int(params["slot"]),
                int(params["generation"]),
                int(params["channel"]),
                medium,
                float(params.get("hot_for_s", 0.0)),
                over_network,
                verbs.why_no_port() if medium == "verbs" else "",
            )
        except (KeyError, TypeError, ValueError) as error:
            raise NotFound(f"params of a data connection: {error!r}") from error
        self._post(offer)
        verdict = self._verdicts[connection]
        if isinstance(verdict, on.TurnAway):
            raise (
                MediumRefused.of(verdict.code, verdict.hint) if verdict.code in MEDIUM_CODES else NotFound(verdict.hint)
            )

    def decide(self, verdict: on.HandOver | on.TurnAway) -> None:
        """The core's answer about a data connection."""
        self._verdicts[verdict.connection] = verdict

    def _verdict_void(self, connection: int) -> None:
        """The peer left in its handshake: the channel never was."""
        verdict = self._verdicts.pop(connection, None)
        if isinstance(verdict, on.HandOver):
            self._post(on.ChannelEnded(verdict.worker, verdict.channel))

    def _finish_data(self, connection: int, sock: socket.socket, session_key: bytes) -> None:
        verdict = self._verdicts.pop(connection)
        assert isinstance(verdict, on.HandOver)
        key = tls.channel_key(session_key, verdict.channel) if verdict.medium == "tls" else b""
        self._options.apply(sock)
        with sock:
            self.hand_over(verdict, sock.fileno(), key)

    # --- sessions -------------------------------------------------------------------------------

    async def _serve_session(self, number: int, sock: socket.socket, early: bytes) -> None:
        reader, writer = await asyncio.open_connection(sock=sock)
        self._writers[number] = writer
        messages = MessageReader()
        try:
            data = early or await reader.read(_READ_BYTES)
            while data:
                for message in messages.feed(data):
                    self._post(on.SessionSaid(number, message))
                data = await reader.read(_READ_BYTES)
        except (RfaasError, OSError) as error:
            log.warning("session ended session=%d error=%s", number, error)
        finally:
            self._writers.pop(number, None)
            writer.close()
            self._post(on.SessionGone(number))

    def send(self, session: int, message: dict[str, Any]) -> None:
        """Send on a session connection; dropped if it has ended."""
        writer = self._writers.get(session)
        if writer is None or writer.is_closing():
            return
        writer.write(pack(message))
        if writer.transport.get_write_buffer_size() > OUTBOX_LIMIT_BYTES:
            log.warning("session reads nothing, hanging up session=%d", session)
            writer.transport.abort()

    def backlog_bytes(self) -> int:
        """What waits to be sent to the session that has most."""
        sizes = (writer.transport.get_write_buffer_size() for writer in self._writers.values())
        return max(sizes, default=0)

    def hang_up(self, session: int) -> None:
        """End a session connection."""
        writer = self._writers.get(session)
        if writer is not None:
            writer.close()

    async def close(self, flush_s: float) -> None:
        """Stop accepting, let what was sent leave within `flush_s`, close everything."""
        self._listener.close()
        writers = list(self._writers.values())
        for writer in writers:
            writer.close()
        with contextlib.suppress(TimeoutError, OSError):
            await asyncio.wait_for(asyncio.gather(*(w.wait_closed() for w in writers), return_exceptions=True), flush_s)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _same_user(sock: socket.socket) -> bool:
    """True on TCP, where the handshake alone decides."""
    if sock.family != socket.AF_UNIX:
        return True
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid) == os.getuid()
