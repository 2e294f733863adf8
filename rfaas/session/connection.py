"""A client's connection to its session process, once joined. Standard library and msgpack only; never blocks.

Not thread-safe: one thread sends and receives, or the caller locks. A forked child must `close` its copy and use none.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque

from rfaas.session import packets
from rfaas_transport.messages import Message


class SessionEnded(ConnectionError):
    """The session process has gone, or the connection to it. What it held lives on until its leases expire."""


class SessionConnection:
    """Messages to and from a session process (docs/spec/004-session.md section 3).

    Args:
        sock: a connected SEQPACKET socket on which `join` has been answered by `welcome`; owned from here on.
        welcome: that answer.

    Attributes:
        pid: of the session process.
        mode: "embedded" or "personal".
        allocator: its address, for people.
    """

    def __init__(self, sock: socket.socket, welcome: Message) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._unsent: deque[bytes] = deque()
        self.pid = int(welcome["pid"])
        self.mode = str(welcome["mode"])
        self.allocator = str(welcome["allocator"])

    def fileno(self) -> int:
        """Readable when `receive` has something; -1 after `close`."""
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        """True while something waits to be sent: call `flush` when the descriptor is writable."""
        return bool(self._unsent)

    def send(self, message: Message) -> None:
        """Send a message, or keep it until `flush` can.

        Raises:
            SessionEnded: nothing was sent, and nothing will be.
            PayloadTooLarge: the message is longer than a packet may be; nothing was sent.
        """
        self._unsent.append(packets.pack(message))
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the peer takes it.

        Raises:
            SessionEnded: what waited is lost.
        """
        while self._unsent:
            try:
                packets.send(self._sock, self._unsent[0])
            except BlockingIOError:
                return
            except OSError as error:
                self._unsent.clear()
                raise SessionEnded(f"the session process (pid {self.pid}) has gone: {error}") from error
            self._unsent.popleft()

    def receive(self) -> tuple[Message, list[int]] | None:
        """Return the next message and its descriptors, which are the caller's to close; None if there is none yet.

        Raises:
            SessionEnded: nothing will come any more; `close` is still the caller's to do.
            ProtocolError: the peer sent what is no message; the connection can go on, but should not.
        """
        try:
            received = packets.receive(self._sock)
        except BlockingIOError:
            return None
        except OSError as error:
            raise SessionEnded(f"the session process (pid {self.pid}) has gone: {error}") from error
        if received is None:
            raise SessionEnded(f"the session process (pid {self.pid}) closed the connection")
        return received

    def close(self) -> None:
        """Close; repeatable. To the session process the client has left, unless a forked child holds a copy."""
        self._unsent.clear()
        with contextlib.suppress(OSError):
            self._sock.close()
