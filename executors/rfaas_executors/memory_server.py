"""The server of one lease of memory: a region of this process, read and written through channels from its agent.

Runs no code of anybody's, unpickles nothing, and never listens, accepts or dials. The region ends with the process, so
its death is the proof that the memory is free. Spec: docs/spec/008-memory.md; messages: `control`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass

import msgpack

from rfaas_executors import control
from rfaas_executors._process import StatePage, die_with_parent
from rfaas_executors.family import name_process
from rfaas_transport import shared_memory, verbs
from rfaas_transport._core import REGION_CREDITS, Channel, Poller, Region, RegionServer
from rfaas_transport.errors import ChannelBroken, ChannelClosed, RfaasError
from rfaas_transport.frame import Kind

_CONTROL = 0  # the poller's token of the control socket; channels use their descriptors


@dataclass(slots=True)
class _Connection:
    channel: Channel
    number: int
    server: RegionServer
    descriptor: int
    counted: tuple[int, int, int] = (0, 0, 0)  # what of `server.served` is in the account


class MemoryServer:
    """Serves the region until its agent kills it, or is gone.

    Args:
        agent: the control connection.
        page: where what is served is counted.
        region: what is served.
        identity: `slot`, `generation`, `node`; said in HELLO.
    """

    def __init__(self, agent: socket.socket, page: StatePage, region: Region, identity: dict[str, object]) -> None:
        self._agent = agent
        self._page = page
        self._region = region
        self._identity = {**identity, "pid": os.getpid(), "region_bytes": region.size_bytes}
        self._poller = Poller()
        self._coming: dict[int, control.Message] = {}  # by descriptor: channels whose memory is still to come
        self._connections: dict[int, _Connection] = {}  # by descriptor

    def run(self) -> None:
        """Serve until the agent's end of the control connection is gone."""
        self._poller.add(self._agent.fileno(), _CONTROL)
        more: set[int] = set()
        while True:
            tokens = {*self._poller.wait(0.0 if more else None), *more}
            more = set()
            if _CONTROL in tokens and not self._read_control():
                return
            for token in tokens:
                if token in self._coming:
                    self._accept(token)
                elif token in self._connections and self._serve(self._connections[token]):
                    more.add(token)

    def _read_control(self) -> bool:
        """Take every message that waits; False: the agent is gone."""
        while True:
            try:
                received = control.receive(self._agent, block=False)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if received is None:
                return False
            message, descriptors = received
            if message["m"] != "channel":
                continue
            if not descriptors:  # this process has none left for it
                self._tell_closed(message["channel"])
            elif message.get("medium") == "shm":
                self._coming[descriptors[0]] = message
                self._poller.add(descriptors[0], descriptors[0])
            else:
                self._begin(message, descriptors[0])

    def _begin(self, message: control.Message, descriptor: int) -> None:
        medium = message.get("medium")
        try:
            if medium == "verbs":
                channel = verbs.adopt(descriptor)
            else:
                channel = Channel.from_fd(descriptor, key=message["key"] if medium == "tls" else None)
        except (OSError, RfaasError, MemoryError):  # nothing encrypts in this interpreter, or has RDMA
            os.close(descriptor)
            self._tell_closed(message["channel"])
            return
        self._adopt(message, channel)

    def _accept(self, descriptor: int) -> None:
        """Take the memory of a connection that is to be a channel over it, once the borrower has sent it."""
        try:
            channel = shared_memory.accept(descriptor)
        except (OSError, RfaasError, MemoryError):
            self._poller.remove(descriptor)
            os.close(descriptor)
            self._tell_closed(self._coming.pop(descriptor)["channel"])
            return
        if channel is not None:
            self._poller.remove(descriptor)
            self._adopt(self._coming.pop(descriptor), channel)

    def _adopt(self, message: control.Message, channel: Channel) -> None:
        server = RegionServer(self._region, channel, message["lease_seq"], message["epoch"])
        descriptor = channel.fileno()
        self._page.open(message["page_slot"], message["channel"])
        self._connections[descriptor] = _Connection(channel, message["channel"], server, descriptor)
        self._poller.add(descriptor, descriptor)
        with contextlib.suppress(ChannelClosed, ChannelBroken):  # its next look finds out
            channel.send(Kind.HELLO, credits=REGION_CREDITS, segments=[msgpack.packb(self._identity)])

    def _serve(self, connection: _Connection) -> bool:
        """Serve what has come on one channel; True: there is more."""
        began_ns = time.monotonic_ns()
        try:
            more = connection.server.serve()
        except (ChannelClosed, ChannelBroken):
            self._account(connection, time.monotonic_ns() - began_ns)
            self._drop(connection)
            return False
        self._account(connection, time.monotonic_ns() - began_ns)
        self._poller.want_write(connection.descriptor, connection.channel.wants_write)
        return more

    def _account(self, connection: _Connection, took_ns: int) -> None:
        served = connection.server.served
        n_requests, bytes_in, bytes_out = (now - then for now, then in zip(served, connection.counted, strict=True))
        connection.counted = served
        self._page.account_served(took_ns, n_requests, bytes_in, bytes_out)

    def _drop(self, connection: _Connection) -> None:
        self._poller.remove(connection.descriptor)
        del self._connections[connection.descriptor]
        violated = connection.channel.violated
        connection.channel.close()
        self._tell_closed(connection.number, violated=violated)

    def _tell_closed(self, channel: int, *, violated: bool = False) -> None:
        with contextlib.suppress(OSError):  # gone; reading tells
            control.send(self._agent, {"m": "closed", "channel": channel, **({"violated": True} if violated else {})})


def main(arguments: list[str]) -> int:
    """Be the memory server. Arguments: descriptors of control connection and state page, then those of MemoryHost."""
    control_fd, page_fd, parent_pid, slot, generation, region_bytes = map(int, arguments[:6])
    node = arguments[6]
    name_process("rfaas-memory")
    for signo in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # Slurm's reach every process; the agent alone acts
        signal.signal(signo, signal.SIG_IGN)
    if not die_with_parent(signal.SIGKILL, parent_pid):
        return os.EX_UNAVAILABLE
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as adjustment:
        adjustment.write("1000")  # memory pressure takes the guests first
    page = StatePage.from_fd(page_fd)
    try:
        region = Region(region_bytes)
    except (OSError, MemoryError) as error:
        page.say_last(f"no region of {region_bytes} bytes can be made: {error}".encode())
        return os.EX_OSERR
    identity = {"slot": slot, "generation": generation, "node": node}
    MemoryServer(socket.socket(fileno=control_fd), page, region, identity).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
