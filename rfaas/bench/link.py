"""The bare link between this process and a worker: bytes over the medium that calls take, between the same processes.

Each block of round trips is one call, during which the worker serves the link; between blocks it takes calls. So calls
and bare bytes are measured by turns, on the same CPUs, and what disturbs the machine disturbs both.
"""

from __future__ import annotations

import mmap
import os
import secrets
import socket
from typing import TYPE_CHECKING, Final

from rfaas.bench import served
from rfaas.executor import Executor
from rfaas_transport._rawlink import MemoryLink, StreamLink, memory_bytes
from rfaas_transport.errors import ConfigError

if TYPE_CHECKING:
    from rfaas_transport._rawverbs import VerbsLink

    Link = MemoryLink | StreamLink | VerbsLink

WARM_UP: Final = 16
LARGE_BYTES: Final = 1 << 20  # one round trip warms up


def medium_of(executor: Executor) -> str:
    """What the calls of an executor travel over: shm, unix, verbs, tcp (several: joined by "+"); empty at first."""
    return "+".join(sorted(set(executor._engine.media())))


class RawLink:
    """Makes round trips to the only worker of an executor.

    Args:
        executor: with one worker, which is idle whenever `block` is called.
        medium: shm, unix, verbs or tcp, as of `medium_of`.
        largest: bytes of the largest payload.
        here: the worker is on this node.

    Raises:
        OSError: no memory, or this host's name does not resolve.
    """

    def __init__(self, executor: Executor, medium: str, largest: int, *, here: bool) -> None:
        self._executor = executor
        self._token = secrets.token_bytes(served.TOKEN_BYTES)
        self._payload = bytearray(secrets.token_bytes(min(largest, 1 << 16)) * (largest // (1 << 16) + 1))
        self._answer = bytearray(largest)
        self._payload[0] = 0
        self._memory_fd = -1
        self._memory: mmap.mmap | None = None
        self.medium = medium if medium in ("shm", "unix", "verbs") else "tcp"
        if self.medium == "shm":
            self._memory_fd = os.memfd_create("rfaas-bench", os.MFD_CLOEXEC)
            os.ftruncate(self._memory_fd, memory_bytes(largest))
            self._memory = mmap.mmap(self._memory_fd, 0)
        self._listener = self._listen(here)

    def _listen(self, here: bool) -> socket.socket:
        far = self.medium == "tcp" or (self.medium == "verbs" and not here)
        family = socket.AF_INET if far else socket.AF_UNIX
        listener = socket.socket(family, socket.SOCK_STREAM)
        # Nothing is served to who dials, and only who has the token is timed; the address is gone with this process.
        name = "\0" + f"rfaas-bench-{secrets.token_hex(8)}"
        listener.bind(name if family == socket.AF_UNIX else ("127.0.0.1" if here else _own_address(), 0))
        listener.listen(1)
        listener.settimeout(served.DIAL_TIMEOUT_S)
        return listener

    def block(
        self, size_bytes: int, took_ns: memoryview, *, sleeps: bool = False, pause_s: float = 0.0, budget_s: float = 1e6
    ) -> int:
        """Make a round trip for each place of `took_ns`, or as many as the budget allows; returns how many.

        Args:
            size_bytes: there, and as many back.
            took_ns: int64; filled with nanoseconds.
            sleeps: both sides sleep while they wait, instead of polling.
            pause_s: before each round trip.
            budget_s: seconds for all of them.

        Raises:
            OSError: the link failed.
            ConfigError: the bytes that came back were not those that were sent, or a stranger dialled.
        """
        serving = self._executor.submit(served.serve_raw, *self._address(), self._token, size_bytes, sleeps)
        with self._accept() as sock:
            link = self._link(sock, size_bytes, sleeps)
            warm_up = memoryview(bytearray(8 * (1 if size_bytes >= LARGE_BYTES else WARM_UP))).cast("q")
            link.ping(self._payload, self._answer, warm_up)
            n = link.ping(self._payload, self._answer, took_ns, pause_s=pause_s, budget_s=budget_s, last=True)
        made = serving.result(served.DIAL_TIMEOUT_S)
        if made != n + len(warm_up) or self._answer[:size_bytes] != self._payload[:size_bytes]:
            raise ConfigError(f"the raw link brought back something else: {made} of {n + len(warm_up)} round trips")
        return n

    def _address(self) -> tuple[int, str | tuple[str, int]]:
        address = self._listener.getsockname()
        return int(self._listener.family), address.decode() if isinstance(address, bytes) else address

    def _accept(self) -> socket.socket:
        sock, _ = self._listener.accept()
        try:
            sock.settimeout(served.DIAL_TIMEOUT_S)
            if sock.recv(served.TOKEN_BYTES, socket.MSG_WAITALL) != self._token:
                raise ConfigError("somebody else dialled the benchmark", hint="try again")
        except BaseException:
            sock.close()
            raise
        return sock

    def _link(self, sock: socket.socket, size_bytes: int, sleeps: bool) -> Link:
        if self.medium == "verbs":
            from rfaas_transport._rawverbs import VerbsLink  # the calls go over it: so it is there

            sock.sendall(b"V")
            sock.settimeout(None)
            ends = self._payload, self._answer
            return VerbsLink(sock.fileno(), *ends, size_bytes, sleeps=sleeps, patience_s=served.PATIENCE_S)
        if self._memory is not None:
            view = memoryview(self._memory)[: memory_bytes(size_bytes)]
            memory = MemoryLink(view, size_bytes, sleeps=sleeps, patience_s=served.PATIENCE_S)
            memory.prepare()
            socket.send_fds(sock, [b"M"], [self._memory_fd])
            return memory
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(b"S")
        return StreamLink(sock.fileno(), sock.fileno(), size_bytes, sleeps=sleeps, patience_s=served.PATIENCE_S)

    def close(self) -> None:
        """Give everything back; repeatable."""
        self._listener.close()
        if self._memory is not None:
            self._memory.close()
            os.close(self._memory_fd)
            self._memory = None

    def __enter__(self) -> RawLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _own_address() -> str:
    """This host's address as other hosts of the cluster resolve it."""
    return socket.getaddrinfo(socket.gethostname(), 0, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]  # type: ignore[return-value]
