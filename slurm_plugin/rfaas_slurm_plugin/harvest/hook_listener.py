"""Hears what PrologSlurmctld and EpilogSlurmctld say: that Slurm has just given nodes to a job, or got them back.

What is heard is a hint to look at Slurm now rather than at the next cycle, and no more: packets may be lost, come
twice, or be wrong. Whoever is neither root nor SlurmUser is not heard at all. Spec: docs/spec/009-hooks.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import socket
import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from rfaas_slurm_plugin.views import hostlist
from rfaas_transport.errors import ConfigError

PROTOCOL: Final = "rfaas-hook/1"
MOST_BYTES: Final = 4096
MOST_CONNECTIONS: Final = 64
PATIENCE_S: Final = 2.0  # with who connects and says nothing
VERBS: Final = ("warn", "free")

_FIELD: Final = re.compile(r"([a-z_]+)=([A-Za-z0-9_.,:+\[\]-]+)")
_CREDENTIALS: Final = struct.Struct("3i")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HookPacket:
    """One packet: its verb and its fields."""

    verb: str
    fields: Mapping[str, str]

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that it names; empty if it names none, or not as Slurm does."""
        try:
            return hostlist.expand(self.fields.get("nodes", ""))
        except ValueError:
            return ()


def parse(packet: bytes) -> HookPacket:
    """Read a packet.

    Raises:
        ValueError: it is none of this protocol.
    """
    if len(packet) > MOST_BYTES or not packet.isascii():
        raise ValueError("bad-packet")
    words = packet.decode("ascii").split(" ")
    matches = [_FIELD.fullmatch(word) for word in words[2:]]
    if words[0] != PROTOCOL or len(words) < 2 or None in matches:
        raise ValueError("bad-packet")
    return HookPacket(words[1], {match[1]: match[2] for match in matches if match is not None})


class HookListener:
    """The socket, served by the running event loop.

    Args:
        name: a path, or "@name" for an abstract one.
        uids: who is heard: root and SlurmUser.
        heard: called with each packet of VERBS.
    """

    def __init__(self, name: str, uids: Collection[int], heard: Callable[[HookPacket], None]) -> None:
        self._name = name
        self._uids = frozenset(uids)
        self._heard = heard
        self._server: socket.socket | None = None
        self._connections: dict[socket.socket, asyncio.TimerHandle] = {}

    def open(self) -> None:
        """Listen from now on.

        Raises:
            ConfigError: the name is taken, or can't be made; nothing is left of it.
        """
        server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            self._bind(server)
            server.listen(MOST_CONNECTIONS)
        except OSError as error:
            server.close()
            raise ConfigError(
                f"hooks_socket {self._name}: {error}", hint="name a socket that nobody else has, e.g. @rfaas-hooks"
            ) from error
        self._server = server
        asyncio.get_running_loop().add_reader(server, self._accept, server)

    def _bind(self, server: socket.socket) -> None:
        if self._name.startswith("@"):
            server.bind("\0" + self._name[1:])
            return
        try:
            server.bind(self._name)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not self._is_left_over():
                raise
            os.unlink(self._name)
            server.bind(self._name)
        os.chmod(self._name, 0o666)  # SlurmUser connects; who is heard is decided by credentials

    def _is_left_over(self) -> bool:
        """Whether the socket there is a dead listener's."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as probe:
            return probe.connect_ex(self._name) == errno.ECONNREFUSED

    def close(self) -> None:
        """Listen no more; nothing is left of the socket."""
        for connection in list(self._connections):
            self._end(connection)
        if self._server is None:
            return
        asyncio.get_running_loop().remove_reader(self._server)
        self._server.close()
        self._server = None
        if not self._name.startswith("@"):
            with contextlib.suppress(OSError):
                os.unlink(self._name)

    def _accept(self, server: socket.socket) -> None:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid not in self._uids or len(self._connections) >= MOST_CONNECTIONS:
            log.warning("hook not heard uid=%d connections=%d", uid, len(self._connections))
            connection.close()
            return
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        self._connections[connection] = loop.call_later(PATIENCE_S, self._end, connection)
        loop.add_reader(connection, self._read, connection)

    def _read(self, connection: socket.socket) -> None:
        try:
            packet = connection.recv(MOST_BYTES + 1)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if packet:
            answer = self._take(packet)
            with contextlib.suppress(OSError):  # hooks don't wait for it
                connection.send(f"{PROTOCOL} {answer}".encode(), socket.MSG_NOSIGNAL)
        self._end(connection)

    def _take(self, packet: bytes) -> str:
        try:
            said = parse(packet)
        except ValueError as error:
            return f"error reason={error}"
        if said.verb not in VERBS:
            return "error reason=unknown-verb"
        self._heard(said)
        return "done"

    def _end(self, connection: socket.socket) -> None:
        self._connections.pop(connection).cancel()
        asyncio.get_running_loop().remove_reader(connection)
        connection.close()
