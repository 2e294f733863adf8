"""Options of the TCP sockets that calls go over, set by whoever makes a connection, before it is handed over.

They stay with the socket, so the client's and the worker's channels find them there. Must not open or close anything.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from typing import Final

_SO_BUSY_POLL: Final = 46  # <asm-generic/socket.h>; the socket module does not know these
_SO_ZEROCOPY: Final = 60


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """What one side wants of its data connections; all at 0 is the kernel's own.

    Attributes:
        priority: SO_PRIORITY, 0 … 6: the queue of the network card.
        busy_poll_us: SO_BUSY_POLL: how long a read asks the network card itself. Needs a driver that can, and
            CAP_NET_ADMIN beyond net.core.busy_read.
        zerocopy: SO_ZEROCOPY: payloads of 64 KiB and more are sent without a copy by the kernel.
        user_timeout_s: TCP_USER_TIMEOUT. Also ends connections to a peer that lives and reads nothing for so long.
    """

    priority: int = 0
    busy_poll_us: int = 0
    zerocopy: bool = False
    user_timeout_s: float = 0.0

    def apply(self, sock: socket.socket) -> None:
        """Set them on a TCP socket; others are left alone. One that this host refuses is done without."""
        if sock.family == socket.AF_UNIX:
            return
        wanted = (
            (socket.SOL_SOCKET, socket.SO_PRIORITY, self.priority),
            (socket.SOL_SOCKET, _SO_BUSY_POLL, self.busy_poll_us),
            (socket.SOL_SOCKET, _SO_ZEROCOPY, int(self.zerocopy)),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.user_timeout_s * 1000)),
        )
        for level, option, value in wanted:
            if value:
                with contextlib.suppress(OSError):
                    sock.setsockopt(level, option, value)


KERNELS_OPTIONS: Final = SocketOptions()
