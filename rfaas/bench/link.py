"""The bare link between this process and a worker: bytes over the medium that calls take, between the same processes.

Each block of round trips is one call, during which the worker serves the link; between blocks it takes calls. So calls
and bare bytes are measured by turns, on the same CPUs, and what disturbs the machine disturbs both.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import socket
import time
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Final

from rfaas.bench import served
from rfaas.executor import Executor
from rfaas_transport._rawlink import MemoryLink, StreamLink, memory_bytes
from rfaas_transport.errors import ConfigError, RfaasError

if TYPE_CHECKING:
    from rfaas_transport._rawverbs import VerbsLink

    Link = MemoryLink | StreamLink | VerbsLink

WARM_UP: Final = 16
LARGE_BYTES: Final = 1 << 20  # one round trip warms up
SLICE_S: Final = 0.25  # of a series in C; between two of them an interrupt is heard
LOOK_S: Final = 0.2  # a worker that ends before it dials is noticed so soon
WORD_S: Final = 2.0  # a worker whose link broke says why within that


def medium_of(executor: Executor) -> str:
    """What the calls of an executor travel over: shm, unix, verbs, tcp (several: joined by "+"); empty at first."""
    return "+".join(sorted(set(executor._engine.media())))


class RawLink:
    """Makes round trips to the only worker of an executor.

    Args:
        executor: with one worker, which is idle whenever `block` is called.
        medium: shm, unix, verbs or tcp, as of `medium_of`.
        largest: bytes of the largest payload.
        node: host name of the worker, if it is on another node than this process.

    Raises:
        ConfigError: no memory, no descriptor, or no address that the worker could dial.
    """

    def __init__(self, executor: Executor, medium: str, largest: int, *, node: str | None = None) -> None:
        self._executor = executor
        self._token = secrets.token_bytes(served.TOKEN_BYTES)
        self._payload = bytearray(secrets.token_bytes(min(largest, 1 << 16)) * (largest // (1 << 16) + 1))
        self._answer = bytearray(largest)
        self._payload[0] = 0
        self._memory_fd = -1
        self._memory: mmap.mmap | None = None
        self.medium = medium if medium in ("shm", "unix", "verbs") else "tcp"
        try:
            if self.medium == "shm":
                self._memory_fd = os.memfd_create("rfaas-bench", os.MFD_CLOEXEC)
                os.ftruncate(self._memory_fd, memory_bytes(largest))
                self._memory = mmap.mmap(self._memory_fd, 0)
            self._listener = self._listen(node)
        except OSError as error:
            hint = "a smaller largest size, or more memory or descriptors for this process"
            raise ConfigError(f"no bare link can be made here: {error}", hint=hint) from error

    def _listen(self, node: str | None) -> socket.socket:
        far = self.medium == "tcp" or (self.medium == "verbs" and node is not None)
        family = socket.AF_INET if far else socket.AF_UNIX
        listener = socket.socket(family, socket.SOCK_STREAM)
        # Nothing is served to who dials, and only who has the token is timed; the address is gone with this process.
        name = "\0" + f"rfaas-bench-{secrets.token_hex(8)}"
        listener.bind(name if family == socket.AF_UNIX else ("127.0.0.1" if node is None else _own_address(node), 0))
        listener.listen(1)
        listener.settimeout(LOOK_S)
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
            RfaasError: the worker was lost.
            ConfigError: the link broke, the bytes that came back were not those that were sent, or a stranger dialled.
        """
        serving = self._executor.submit(served.serve_raw, *self._address(), self._token, size_bytes, sleeps)
        warm_up = memoryview(bytearray(8 * (1 if size_bytes >= LARGE_BYTES else WARM_UP))).cast("q")
        try:
            with self._accept(serving) as sock:
                link = self._link(sock, size_bytes, sleeps)
                try:
                    link.ping(self._payload, self._answer, warm_up)
                    n = self._round_trips(link, took_ns, pause_s, budget_s)
                finally:  # an interrupt, too, must not leave the worker waiting for the next one
                    with contextlib.suppress(OSError):
                        link.ping(self._payload, self._answer, took_ns[:0], last=True)
            made = serving.result(served.DIAL_TIMEOUT_S)
        except OSError as error:
            raise self._explained(serving, error) from error
        if made != n + len(warm_up) or self._answer[:size_bytes] != self._payload[:size_bytes]:
            raise ConfigError(f"the raw link brought back something else: {made} of {n + len(warm_up)} round trips")
        return n

    def _round_trips(self, link: Link, took_ns: memoryview, pause_s: float, budget_s: float) -> int:
        n, end_s = 0, time.monotonic() + budget_s
        while n < len(took_ns) and (n == 0 or time.monotonic() < end_s):
            slice_s = max(0.0, min(SLICE_S, end_s - time.monotonic()))
            n += link.ping(self._payload, self._answer, took_ns[n:], pause_s=pause_s, budget_s=slice_s)
        return n

    def _explained(self, serving: Future[int], error: OSError) -> RfaasError:
        """Why the link broke, by the worker's own word if it has one."""
        with contextlib.suppress(TimeoutError, CancelledError):
            there = serving.exception(WORD_S)
            if isinstance(there, RfaasError):
                return there
            if isinstance(there, OSError):
                error = there
        at = self._address()[1]
        where = "" if isinstance(at, str) else f" to {at[0]}"
        hint = (
            f"can the worker dial this host{where}? A firewall, or a host name that means another address"
            if where
            else ""
        )
        return ConfigError(f"the bare link to the worker broke: {error}", hint=hint or "try again")

    def _address(self) -> tuple[int, str | tuple[str, int]]:
        address = self._listener.getsockname()
        return int(self._listener.family), address.decode() if isinstance(address, bytes) else address

    def _accept(self, serving: Future[int]) -> socket.socket:
        end_s = time.monotonic() + served.DIAL_TIMEOUT_S
        while True:
            try:
                sock, _ = self._listener.accept()
                break
            except TimeoutError:
                if serving.done() or time.monotonic() > end_s:
                    raise
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


def _own_address(node: str) -> str:
    """The address that packets to `node` leave by; if that name means nothing here, that of this host's own name."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((node, 9))  # sends nothing
        address: str = probe.getsockname()[0]
        if not address.startswith("127."):
            return address
    return socket.getaddrinfo(socket.gethostname(), 0, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]  # type: ignore[return-value]
