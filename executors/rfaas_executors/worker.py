"""A worker: serves calls on the channels that its agent hands it, until it is told to drain or its agent ends.

Must not listen, accept or dial, and never decides about leases. The template forks it (or, with threads in the
template, spawns it) in the user's own environment. Its parts, each using those before it: what goes out (`replies`),
its channels (`connections`), what is put in order after calls (`tidying`), a call (`running`), what comes (`incoming`),
polling (`hot_polling`). Spec: docs/spec/001-invocation.md; messages: `control`.
"""

from __future__ import annotations

import socket
import traceback
from typing import Any, Final

from rfaas_executors._process import HeldDescriptors, StatePage, mark_process
from rfaas_executors.agent_line import AgentLine
from rfaas_executors.attending import leave
from rfaas_executors.calls import Functions, WorkerExit, still_this_process
from rfaas_executors.connection import Connection
from rfaas_executors.connections import Connections
from rfaas_executors.hot_polling import HotPolling
from rfaas_executors.incoming import Incoming
from rfaas_executors.replies import Replies
from rfaas_executors.running import Running
from rfaas_executors.streams import Streams
from rfaas_executors.tidying import Tidying
from rfaas_transport._core import Poller
from rfaas_transport.errors import ChannelBroken, ChannelClosed

_CONTROL: Final = 0  # the poller's token of the control socket; channels use their descriptors


class Worker:
    """Owns the control socket, the state page and every channel it is given.

    Args:
        identity: `slot`, `generation`, `node` as the agent named them; sent in HELLO.
        streams: where its prints go; None: where they always went.
    """

    def __init__(
        self, agent: socket.socket, page: StatePage, identity: dict[str, Any], streams: Streams | None = None
    ) -> None:
        self._line = line = AgentLine(agent)
        self._page = page
        mark_process()
        functions = Functions(line, page)
        self._poller = poller = Poller()
        self._held = held = HeldDescriptors()
        self._replies = replies = Replies(line, poller)
        self._connections = Connections(line, page, poller, held, replies, identity=identity)
        self._tidying = tidying = Tidying(line, held, self._connections, replies)
        running = Running(
            line,
            page,
            functions,
            streams=streams or Streams(page),
            held=held,
            connections=self._connections,
            replies=replies,
            tidying=tidying,
            node=identity["node"],
        )
        self._incoming = Incoming(line, page, functions, replies=replies, tidying=tidying, running=running)
        self._hot_polling = HotPolling(line, page, poller, tidying, running)

    def run(self) -> int:
        """Serve until drained, until the agent is lost or a function took away what that needs; return the status."""
        self._poller.add(self._line.fileno(), _CONTROL)
        for descriptor in (self._line.fileno(), *self._poller.descriptors):
            self._held.add(descriptor)
        try:
            while not self._line.draining:
                if self._tidying.untidy:
                    self._tidying.tidy_up()
                    continue
                tokens = self._sleep()
                if _CONTROL in tokens:  # before any call: it may say that none is to be taken
                    self._connections.read_control()
                for token in tokens:
                    if token in self._connections.coming:
                        self._connections.accept(token)
                    elif token in self._connections.open and not self._line.draining:
                        self._serve(self._connections.open[token])
            if self._line.lost:
                self._replies.give_back(self._connections.open.values())
            self._replies.flush(self._connections.open.values())
            return 0
        except WorkerExit as request:
            still_this_process()
            self._page.say_last(request.why)
            return request.status
        except _ANYTHING:
            still_this_process()
            self._page.say_last(_BROKEN_FROM_WITHIN)  # first: what is below may fail likewise
            self._page.say_last(_BROKEN_FROM_WITHIN + traceback.format_exc().strip().rpartition("\n")[2].encode())
            raise
        finally:
            for connection in self._connections.open.values():
                leave(connection.attendant)

    def _sleep(self) -> list[int]:
        """Wait for agent and clients; who attends their channels rests meanwhile."""
        attendants = [one.attendant for one in self._connections.open.values() if one.attendant is not None]
        for attendant in attendants:
            attendant.rest()
        tokens = self._poller.wait(None)
        for attendant in attendants:
            attendant.resume()
        return tokens

    def _serve(self, connection: Connection) -> None:
        """Handle what has come on one channel."""
        try:
            while not connection.channel.closed:
                frame = connection.channel.poll() if connection.hot is None else None  # else that is the shorter way
                frame = frame or self._hot_polling.look_for_frame(connection)
                if frame is None:
                    self._poller.want_write(connection.channel.fileno(), connection.channel.wants_write)
                    return
                self._incoming.handle(connection, frame)
                if self._line.draining:  # found out after a call, before its result went
                    return
        except (ChannelClosed, ChannelBroken):
            self._connections.drop(connection)


_ANYTHING = BaseException  # by a name of ours: a function may have emptied builtins
_BROKEN_FROM_WITHIN = b"the worker's own code failed; a function may have changed what it needs, as builtins: "
