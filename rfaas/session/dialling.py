"""The agents' side of the session process's I/O: session connections and data connections, dialled and authenticated.

A data connection is dialled and proven here, and handed to the client as a bare descriptor from which not one byte
beyond the handshake was read. Must not decide anything: it reports events and does what it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final

from rfaas.control.route import own_address
from rfaas.session.agent_socket import AgentSocket
from rfaas.session.events import AgentDown, AgentSaid, AgentThere, AgentUp, DataDown, DataUp, DialData, Event
from rfaas_transport import tls
from rfaas_transport.errors import AuthenticationFailed, NotFound, ProtocolError, RfaasError, VersionMismatch
from rfaas_transport.handshake import Dialer, handshake_socket
from rfaas_transport.handshake_machine import MediumRefused
from rfaas_transport.messages import Message, MessageReader, pack
from rfaas_transport.socket_options import KERNELS_OPTIONS, SocketOptions

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 0.5  # for another host's kernel alone: a second try fits into the core's search of 1.5 s
ANSWER_S: Final = 10.0
"""For an agent whose kernel has taken the connection: it lives, and may be slow. If it dies the connection ends at
once, and a host that dies is silent for SILENCE_MS. Also for this host's kernel, which refuses at once.
"""
_READ_BYTES: Final = 1 << 16
SILENCE_MS: Final = 2000
"""A host that acknowledges nothing for so long has lost its power or its network: its kernel answers whatever the agent
does. Together with the core's one more try the loss of a node is known within 5 s (docs/spec/004-session.md section 2).
"""
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_SILENCE: Final = frozenset([errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN])


class AgentConnections:
    """Connections to agents.

    Args:
        secret: proves to agents who we are, and to us who they are.
        post: takes an event; called from the loop.
        interface: address, interface or network that data connections leave by; empty: as the kernel routes.
        options: of their sockets.
    """

    def __init__(
        self,
        secret: bytes,
        post: Callable[[Event], None],
        interface: str = "",
        options: SocketOptions = KERNELS_OPTIONS,
    ) -> None:
        self._options = options
        self._secret = secret
        self._interface = interface
        self._post = post
        self._tasks: dict[str | int, asyncio.Task[None]] = {}  # by address, or by channel
        self._sockets: dict[str, AgentSocket] = {}
        self._data: dict[int, tuple[socket.socket, bytes]] = {}  # open, not taken yet; with the key of those to encrypt

    def dial(self, address: str) -> None:
        """Open the session connection; AgentUp or AgentDown follows, unless it is closed before."""
        self._spawn(address, self._serve(address))

    def send(self, address: str, message: Message) -> None:
        """Send on a session connection; dropped if it has just broken, which is reported."""
        connection = self._sockets.get(address)
        if connection is not None:
            connection.send(pack(message))

    def hang_up(self, address: str) -> None:
        """Close the session connection or stop dialling; not reported."""
        self._cancel(address)

    def break_off(self, address: str, why: str) -> None:
        """Close the session connection because the agent breaks the specification; reported as AgentDown."""
        self._cancel(address)
        self._post(AgentDown(address, why))

    def dial_data(self, wish: DialData) -> None:
        """Open a data connection; DataUp or DataDown follows, unless it is closed before."""
        self._spawn(wish.channel, self._open_data(wish))

    def take_data(self, channel: int) -> tuple[socket.socket | None, bytes]:
        """Return an open data connection, the caller's from now on, and its key if it is to be encrypted."""
        return self._data.pop(channel, (None, b""))

    def close_data(self, channel: int) -> None:
        """Close a data connection that nobody took, or stop dialling; not reported."""
        self._cancel(channel)
        sock, _ = self._data.pop(channel, (None, b""))
        if sock is not None:
            sock.close()

    async def close(self) -> None:
        """Close everything, after what was sent has left this process."""
        for connection in list(self._sockets.values()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(connection.flush(), 0.1)
        for key in list(self._tasks):
            self._cancel(key)
        for channel in list(self._data):
            self.close_data(channel)
        await asyncio.sleep(0)  # lets the cancelled tasks close their sockets

    # --- session connections ----------------------------------------------------------------------------------

    async def _serve(self, address: str) -> None:
        refused, retry, silent, why = False, True, False, "the agent closed the connection"
        try:
            sock, _ = await self._open(address, "session", {})
            connection = self._sockets[address] = AgentSocket(sock)
            try:
                self._post(AgentUp(address))
                await self._read(address, connection)
            finally:
                del self._sockets[address]
                connection.close()
        except ConnectionRefusedError as error:
            refused, why = _is_here(address), str(error)
        except (TimeoutError, OSError) as error:
            silent = _is_silence(error)
            why = str(error) or "no answer"
        except RfaasError as error:
            retry, why = not isinstance(error, AuthenticationFailed | VersionMismatch), str(error)
        self._tasks.pop(address, None)
        self._post(AgentDown(address, why, refused, retry, silent))

    async def _read(self, address: str, connection: AgentSocket) -> None:
        messages = MessageReader()
        while data := await connection.receive(_READ_BYTES):
            for message in messages.feed(data):
                self._post(AgentSaid(address, message))

    # --- data connections -------------------------------------------------------------------------------------

    async def _open_data(self, wish: DialData) -> None:
        try:
            sock, session_key = await self._open(wish.address, "data", wish.params)
            self._options.apply(sock)
            key = tls.channel_key(session_key, wish.channel) if wish.params.get("medium") == "tls" else b""
            self._data[wish.channel] = sock, key
        except MediumRefused as error:
            event: Event = DataDown(wish.channel, error.hint or error.message, refusal=error.refusal)
        except (TimeoutError, OSError, RfaasError) as error:
            event = DataDown(wish.channel, str(error) or "no answer", gone=isinstance(error, NotFound))
        else:
            event = DataUp(wish.channel)
        self._tasks.pop(wish.channel, None)
        self._post(event)

    async def _open(self, address: str, role: str, params: Message) -> tuple[socket.socket, bytes]:
        """The connection, proven, and its session key."""
        leave_by = self._interface if role == "data" else ""
        timeout_s = ANSWER_S if _is_here(address) else CONNECT_TIMEOUT_S
        sock = await asyncio.wait_for(_connect(address, leave_by), timeout_s)
        try:
            if role == "session":
                if sock.family != socket.AF_UNIX:
                    _notice_silence(sock)
                self._post(AgentThere(address))
            machine = await handshake_socket(sock, Dialer(self._secret, role, params), timeout_s=ANSWER_S)
        except BaseException:
            sock.close()
            raise
        return sock, machine.session_key

    # --- tasks ------------------------------------------------------------------------------------------------

    def _spawn(self, key: str | int, work: Coroutine[Any, Any, None]) -> None:
        self._cancel(key)
        self._tasks[key] = asyncio.get_running_loop().create_task(work)

    def _cancel(self, key: str | int) -> None:
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()


async def _connect(address: str, interface: str = "") -> socket.socket:
    family, target = _parse(address)
    loop = asyncio.get_running_loop()
    if family == socket.AF_INET:
        found = await loop.getaddrinfo(target[0], target[1], type=socket.SOCK_STREAM)
        family, target = found[0][0], found[0][4]
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        if interface and family == socket.AF_INET:
            sock.setsockopt(
                socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1
            )  # or every port would be taken for all peers
            sock.bind((own_address(interface, name="session.interface"), 0))
        await loop.sock_connect(sock, target)
    except BaseException:
        sock.close()
        raise
    return sock


def _notice_silence(sock: socket.socket) -> None:
    """Let a connection fail with ETIMEDOUT once the other host has acknowledged nothing for SILENCE_MS."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MS)


def _is_silence(error: OSError) -> bool:
    """True if nobody answered at all. asyncio's own time-outs have no number."""
    return error.errno in _SILENCE or (isinstance(error, TimeoutError) and error.errno is None)


def _parse(address: str) -> tuple[int, Any]:
    """Split "unix:@name" or "tcp:host:port"."""
    medium, _, rest = address.partition(":")
    if medium == "unix" and rest.startswith("@"):
        return socket.AF_UNIX, "\0" + rest[1:]
    if medium == "tcp":
        host, _, port = rest.rpartition(":")
        return socket.AF_INET, (host.strip("[]"), int(port))
    raise ProtocolError(f"{address!r} is no address of an agent")


def _is_here(address: str) -> bool:
    """Tell whether an address belongs to this node, so that a refusal there proves that nobody listens."""
    family, target = _parse(address)
    if family == socket.AF_UNIX:
        return True
    try:
        found = socket.getaddrinfo(target[0], 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        with socket.socket(found[0][0], socket.SOCK_DGRAM) as probe:
            probe.bind(found[0][4])  # only an address of ours can be bound
    except OSError:
        return False
    return True
