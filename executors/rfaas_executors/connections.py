"""The channels of a worker: made of what its agent hands it, and dropped when they end.

Must not read their frames. Messages of the agent: `control`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import Any

import msgpack

from rfaas_executors import control
from rfaas_executors._process import HeldDescriptors, StatePage
from rfaas_executors.agent_line import AgentLine
from rfaas_executors.attending import leave
from rfaas_executors.connection import Connection
from rfaas_executors.replies import CREDITS, Replies
from rfaas_transport import shared_memory, verbs
from rfaas_transport._core import Channel, Poller
from rfaas_transport.errors import RfaasError
from rfaas_transport.frame import Kind


class Connections:
    """The channels of one worker.

    Attributes:
        open: by descriptor.
        coming: messages of those whose memory is still to come, by descriptor.

    Args:
        line, page, poller, held, replies: shared with the worker.
        identity: sent in HELLO.
    """

    def __init__(
        self,
        line: AgentLine,
        page: StatePage,
        poller: Poller,
        held: HeldDescriptors,
        replies: Replies,
        *,
        identity: dict[str, Any],
    ) -> None:
        self.open: dict[int, Connection] = {}
        self.coming: dict[int, control.Message] = {}
        self._line = line
        self._page = page
        self._poller = poller
        self._held = held
        self._replies = replies
        self._identity = identity
        self._pid = os.getpid()

    def read_control(self) -> None:
        """Take every message that waits, and the connections that came; never blocks."""
        self._line.read()
        for message, descriptor in self._line.take_handed() if self._line.handed else ():
            if self._line.draining:
                os.close(descriptor)
            elif message.get("medium") == "shm":
                self.coming[descriptor] = message
                self._poller.add(descriptor, descriptor)
            else:
                self._begin(message, descriptor)

    def _begin(self, message: control.Message, descriptor: int) -> None:
        """Make a channel of a connection; what is to be encrypted never is a plain one."""
        medium = message.get("medium")
        try:
            if medium == "verbs":
                channel = verbs.adopt(descriptor)
            else:
                channel = Channel.from_fd(descriptor, key=message["key"] if medium == "tls" else None)
        except (OSError, RfaasError, MemoryError):  # it can't be in this interpreter; the client gets a farewell
            os.close(descriptor)
            self._line.tell({"m": "closed", "channel": message["channel"]})
            return
        self._adopt(message, channel, descriptor)

    def accept(self, descriptor: int) -> None:
        """Take the memory of a connection that is to be a channel over it, once the client has sent it."""
        try:
            channel = shared_memory.accept(descriptor)
        except (OSError, RfaasError, MemoryError):  # the client left, or it is no client of ours
            self._poller.remove(descriptor)
            os.close(descriptor)
            self._line.tell({"m": "closed", "channel": self.coming.pop(descriptor)["channel"]})
            return
        if channel is not None:
            self._poller.remove(descriptor)
            self._adopt(self.coming.pop(descriptor), channel, descriptor)

    def _adopt(self, message: control.Message, channel: Channel, descriptor: int) -> None:
        connection = Connection(
            channel,
            descriptor,
            message["channel"],
            message["page_slot"],
            message["lease_seq"],
            message["epoch"],
            message["lease"],
            message["holder"],
            message.get("hot_for_s", 0.0),
        )
        self._page.open(connection.page_slot, connection.number)
        self.open[channel.fileno()] = connection
        self._poller.add(channel.fileno(), channel.fileno())
        self._held.add(descriptor)
        hello = {**self._identity, "pid": self._pid, "python": platform.python_version()}
        self._replies.send(connection, Kind.HELLO, credits=CREDITS, segments=[msgpack.packb(hello)])

    def drop(self, connection: Connection) -> None:
        """Close one that ended, and tell the agent."""
        leave(connection.attendant)
        descriptor = connection.channel.fileno()
        self._held.remove(connection.descriptor)
        self._poller.remove(descriptor)
        del self.open[descriptor]
        connection.channel.close()
        self._line.tell(control.closed(connection.number, violated=connection.channel.violated))

    def forget(self, lost: Sequence[int]) -> None:
        """Use none of these descriptors again: they are not ours any more, and may be anybody's."""
        self.open = {fd: one for fd, one in self.open.items() if one.descriptor not in lost}
