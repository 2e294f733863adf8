"""The clients' side of the session process's I/O: accept, prove who they are, watch that they live, read and write.

A client is watched by a pidfd, never by its socket alone: a forked child keeps sockets open and so keeps nothing alive.
Must not decide anything: it reports events and does what it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rfaas.control.messages import Snapshot
from rfaas.session import packets
from rfaas.session.events import ClientGone, ClientJoined, ClientSaid, Event
from rfaas.session.names import process_start
from rfaas.session.showing import shown, shown_channels
from rfaas_transport.errors import ProtocolError
from rfaas_transport.messages import Message

log = logging.getLogger(__name__)

JOIN_WITHIN_S: Final = 5.0
ACCEPT_PAUSE_S: Final = 0.1
MAX_UNSENT: Final = 100_000  # messages to a client that does not read (stopped in a debugger); beyond, it is given up


@dataclass(slots=True)
class _Connection:
    number: int
    sock: socket.socket
    pid: int
    pidfd: int
    joined: bool = False
    resume: list[Message] = field(default_factory=list)  # said before `join`
    closing: bool = False
    unsent: deque[tuple[bytes, socket.socket | None]] = field(default_factory=deque)


class ClientSockets:
    """All connections of clients.

    Args:
        listener: bound and listening, non-blocking; owned from here on.
        post: takes an event; called from the loop's callbacks.
        channels: what to show who asks for channels.
        snapshot: what to show who asks for it; None: whoever asks is sent away.
    """

    def __init__(
        self,
        listener: socket.socket,
        post: Callable[[Event], None],
        channels: Callable[[], list[Message]] = list,
        snapshot: Callable[[], Snapshot] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._post = post
        self._channels = channels
        self._snapshot = snapshot
        self._connections: dict[int, _Connection] = {}
        self._made = 0
        self._loop.add_reader(listener, self._on_acceptable)

    # --- what it is told to do --------------------------------------------------------------------------------

    def send(self, conn: int, message: Message, carried: socket.socket | None = None) -> None:
        """Send a message, and with it a descriptor of `carried`, which is owned and closed here in any case."""
        connection = self._connections.get(conn)
        if connection is None or connection.closing:
            if carried is not None:
                carried.close()
            return
        connection.unsent.append((packets.pack(message), carried))
        if len(connection.unsent) > MAX_UNSENT:
            log.error("client does not read, given up pid=%d", connection.pid)
            self._lost(connection)
        elif len(connection.unsent) == 1:
            self._flush(connection)

    def give_up(self, conn: int) -> None:
        """Close the connection now, because the client breaks the specification; reported as a client that is gone."""
        connection = self._connections.get(conn)
        if connection is not None:
            self._lost(connection)

    def drop(self, conn: int) -> None:
        """Close the connection as soon as what was sent has gone; not reported."""
        connection = self._connections.get(conn)
        if connection is None or connection.closing:
            return
        connection.closing = True
        self._loop.remove_reader(connection.sock)
        if not connection.unsent:
            self._close(connection)

    def close(self) -> None:
        """Close the listener and every connection."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for connection in list(self._connections.values()):
            self._close(connection)

    # --- arriving ---------------------------------------------------------------------------------------------

    def _on_acceptable(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # out of descriptors: who waits in the backlog waits a little longer
            log.error("no client can be accepted why=%s", error)
            self._loop.remove_reader(self._listener)
            self._loop.call_later(ACCEPT_PAUSE_S, self._accept_again)
            return
        sock.setblocking(False)
        pid, uid = packets.peer(sock)
        if uid == os.getuid() and pid != 0:
            self._watch(sock, pid)
            return
        log.warning("connection refused uid=%d pid=%d", uid, pid)
        hint = "another user's, or a container's that hides its processes: start rfaas inside it"
        with contextlib.suppress(OSError):
            packets.send(sock, packets.pack({"m": "reject", "code": "authentication-failed", "hint": hint}))
        sock.close()

    def _accept_again(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._on_acceptable)

    def _watch(self, sock: socket.socket, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            sock.close()
            return
        self._made += 1
        connection = self._connections[self._made] = _Connection(self._made, sock, pid, pidfd)
        self._loop.add_reader(sock, self._on_readable, connection)
        self._loop.add_reader(pidfd, self._lost, connection)
        self._loop.call_later(JOIN_WITHIN_S, self._on_join_overdue, connection)

    def _on_join_overdue(self, connection: _Connection) -> None:
        if not connection.joined:
            self._close(connection)

    # --- reading ----------------------------------------------------------------------------------------------

    def _on_readable(self, connection: _Connection) -> None:
        try:
            received = packets.receive(connection.sock)
        except BlockingIOError:
            return
        except (OSError, ProtocolError) as error:
            log.warning("client connection failed pid=%d why=%s", connection.pid, error)
            received = None
        if received is None:
            self._lost(connection)
            return
        message, descriptors = received
        packets.close_all(descriptors)  # clients send none that mean anything
        if connection.joined:
            self._post(ClientSaid(connection.number, message))
        elif message["m"] == "resume" and isinstance(message.get("resume"), list):
            connection.resume += message["resume"]
        elif message["m"] == "join" and _is_process(connection.pid, message.get("start")):
            connection.joined = True
            message["resume"] = connection.resume + list(message.get("resume") or ())
            self._post(ClientJoined(connection.number, connection.pid, _name(connection.pid), message))
        elif message["m"] == "show" and (answer := self._shown(message.get("what", "allocator"))) is not None:
            for part in answer:
                self.send(connection.number, part)
            self.drop(connection.number)
        else:  # the pid is another process's by now, or this is no client
            self._lost(connection)

    def _shown(self, what: object) -> Iterator[Message] | None:
        """The answer to who asks; None: there is none here."""
        if what == "channels":
            return shown_channels(self._channels())
        return shown(self._snapshot()) if what == "allocator" and self._snapshot is not None else None

    def _lost(self, connection: _Connection) -> None:
        if connection.number in self._connections:
            self._close(connection)
            self._post(ClientGone(connection.number))

    # --- writing ----------------------------------------------------------------------------------------------

    def _flush(self, connection: _Connection) -> None:
        while connection.unsent:
            data, carried = connection.unsent[0]
            try:
                packets.send(connection.sock, data, [carried.fileno()] if carried is not None else ())
            except BlockingIOError:
                self._loop.add_writer(connection.sock, self._flush, connection)
                return
            except OSError:  # its end is reported by reading, once what it said before has been read
                self._forget_unsent(connection)
                break
            connection.unsent.popleft()
            if carried is not None:
                carried.close()
        self._loop.remove_writer(connection.sock)
        if connection.closing:
            self._close(connection)

    def _forget_unsent(self, connection: _Connection) -> None:
        for _, carried in connection.unsent:
            if carried is not None:
                carried.close()
        connection.unsent.clear()

    def _close(self, connection: _Connection) -> None:
        if self._connections.pop(connection.number, None) is None:
            return
        self._loop.remove_reader(connection.pidfd)
        self._loop.remove_reader(connection.sock)
        self._loop.remove_writer(connection.sock)
        self._forget_unsent(connection)
        os.close(connection.pidfd)
        connection.sock.close()


def _is_process(pid: int, start: object) -> bool:
    try:
        return process_start(pid) == start
    except OSError:
        return False


def _name(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        words = []
    program = " ".join(os.path.basename(word.decode(errors="replace")) for word in words[:2] if word)
    return f"{program or '?'} (pid {pid})"
