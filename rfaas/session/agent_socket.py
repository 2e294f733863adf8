"""A session connection to an agent, of which everything that came is read, also when nothing can be sent any more.

An agent that leaves says why, and closes. asyncio's own transports give up both directions at the first EPIPE, and with
that what had arrived: its last words were lost if a heartbeat was sent before they were read.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

_LOOK_S: Final = 0.005


class AgentSocket:
    """Takes over a connected socket that doesn't block; make it in the running loop."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._unsent = bytearray()
        self._failure: OSError | None = None

    def send(self, data: bytes) -> None:
        """Send, or keep what the kernel does not take now; dropped once it has failed, which `receive` tells."""
        if self._failure is not None:
            return
        waits = bool(self._unsent)
        self._unsent += data
        if not waits:
            self._write()
            if self._unsent:
                self._loop.add_writer(self._sock.fileno(), self._write)

    async def receive(self, most_bytes: int) -> bytes:
        """What came next; nothing at its end.

        Raises:
            OSError: it failed, and there is nothing left to read.
        """
        data = await self._loop.sock_recv(self._sock, most_bytes)
        if not data and self._failure is not None:
            raise self._failure
        return data

    async def flush(self) -> None:
        """Wait until the kernel has taken everything, or will take nothing any more."""
        while self._unsent:
            await asyncio.sleep(_LOOK_S)

    def close(self) -> None:
        """Close it; what the kernel has not taken is dropped. Whoever receives must have stopped."""
        self._unsent.clear()
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()

    def _write(self) -> None:
        try:
            del self._unsent[: self._sock.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError as error:
            self._failure = error
            self._unsent.clear()
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RD)  # the end comes behind what is there, also if the peer lives on
        if not self._unsent:
            self._loop.remove_writer(self._sock.fileno())
