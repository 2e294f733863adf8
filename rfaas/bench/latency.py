"""Round trips of calls beside round trips of bytes on a raw socket between the same two processes.

The worker dials us for the raw part: same process, same CPU, same medium (a unix socket on one node, TCP between two).
Clock: time.perf_counter_ns (CLOCK_MONOTONIC) of the calling process, both ends of each interval on it.
Sizes and blocks are interleaved: what disturbs the machine disturbs both.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from rfaas.executor import Executor
from rfaas_transport.errors import ConfigError

CLOCK: Final = "time.perf_counter_ns (CLOCK_MONOTONIC)"
WARM_UP: Final = 20
BLOCKS: Final = 5
TOKEN_BYTES: Final = 32
DIAL_TIMEOUT_S: Final = 20.0
_LENGTH = struct.Struct("=q")


class Distribution(NamedTuple):
    """Round trips of one kind; times in microseconds. A percentile is None where there are too few samples for it."""

    n: int
    min_us: float
    p50_us: float
    p99_us: float | None
    p999_us: float | None
    max_us: float


class Row(NamedTuple):
    """One payload size: bytes sent, and as many back."""

    size_bytes: int
    call: Distribution
    raw: Distribution


class Report(NamedTuple):
    """A whole run.

    Attributes:
        medium: of calls and of the raw link: unix or tcp.
        node: of the worker.
        client_cpu, worker_cpu: where each was pinned; None: not pinned.
        no_op: a call without arguments and result.
        rows: by size.
    """

    medium: str
    node: str
    client_cpu: int | None
    worker_cpu: int | None
    no_op: Distribution
    rows: list[Row]


def measure(executor: Executor, sizes: Sequence[int], *, iterations: int, seconds: float, pin: bool) -> Report:
    """Measure one worker.

    Args:
        executor: with one worker; its media and allocator are what is measured.
        sizes: of payloads, in bytes, at least 1.
        iterations: round trips a size, at most.
        seconds: a size, at most, for calls and raw link each.
        pin: pin threads of this process to one CPU and the worker to another, if there are two.

    Raises:
        RfaasError: no worker, or it was lost; OSError: the raw link broke. Affinities are restored.
    """
    node, namespace = executor.invoke(_whereabouts)
    is_here = (node, namespace) == _whereabouts()
    with _pinned(executor, pin) as (client_cpu, worker_cpu), _RawLink(executor, is_here, max(sizes)) as raw:
        budget = (iterations, seconds)
        no_op = _distribution(list(_calls(executor, b"", *budget)))
        rows = [_row(executor, raw, size, iterations, seconds) for size in sizes]
    return Report("unix" if is_here else "tcp", node, client_cpu, worker_cpu, no_op, rows)


def _row(executor: Executor, raw: _RawLink, size: int, iterations: int, seconds: float) -> Row:
    payload = os.urandom(min(size, 1 << 16)) * math.ceil(size / (1 << 16))
    payload = payload[:size]
    calls: list[int] = []
    raws: list[int] = []
    # In blocks by turns, but not single trips by turns: the worker either serves calls or echoes.
    for _ in range(BLOCKS):
        calls += _calls(executor, payload, max(1, iterations // BLOCKS), seconds / BLOCKS)
        raws += raw.trips(payload, max(1, iterations // BLOCKS), seconds / BLOCKS)
    return Row(size, _distribution(calls), _distribution(raws))


def _calls(executor: Executor, payload: bytes, iterations: int, seconds: float) -> Iterator[int]:
    arguments = (payload,) if payload else ()
    function = _echo if payload else _nothing
    for _ in range(WARM_UP if len(payload) < 1 << 20 else 1):
        executor.invoke(function, *arguments)
    clock, invoke, end_ns = time.perf_counter_ns, executor.invoke, time.perf_counter_ns() + int(seconds * 1e9)
    for _ in range(iterations):
        begun = clock()
        invoke(function, *arguments)
        ended = clock()
        yield ended - begun
        if ended > end_ns:
            return


def _distribution(samples_ns: list[int]) -> Distribution:
    ordered = sorted(samples_ns)
    n = len(ordered)

    def at(share: float) -> float | None:  # nearest rank; None if fewer than one sample lies beyond it
        return ordered[min(n - 1, math.ceil(share * n) - 1)] / 1e3 if n * (1 - share) >= 0.999 else None

    p50 = at(0.5)
    return Distribution(n, ordered[0] / 1e3, p50 or ordered[0] / 1e3, at(0.99), at(0.999), ordered[-1] / 1e3)


# --- on the worker ------------------------------------------------------------------------------------------------


def _nothing() -> None:
    pass


def _echo(payload: bytes) -> bytes:
    return payload


def _whereabouts() -> tuple[str, int]:
    return socket.gethostname(), os.stat("/proc/self/ns/net").st_ino


def _move_to(cpus: frozenset[int] | None) -> frozenset[int]:
    """Pin the worker; returns where it was allowed to run before. None changes nothing."""
    before = os.sched_getaffinity(0)
    if cpus is not None:
        os.sched_setaffinity(0, cpus)
    return frozenset(before)


def _serve_raw(family: int, address: str | tuple[str, int], token: bytes) -> None:
    """Echo messages, a length before each, until the length is negative. Large ones are read into one buffer."""
    with socket.socket(family, socket.SOCK_STREAM) as link:
        link.settimeout(DIAL_TIMEOUT_S)
        link.connect(address)
        _tune(link)
        link.sendall(token)
        buffer = bytearray()
        while True:
            (length,) = _LENGTH.unpack(_exactly(link, bytearray(_LENGTH.size), _LENGTH.size))
            if length < 0:
                return
            if len(buffer) < length:
                buffer = bytearray(length)
            link.sendall(_exactly(link, buffer, length))


def _exactly(link: socket.socket, buffer: bytearray, length: int) -> memoryview:
    view = memoryview(buffer)[:length]
    done = 0
    while done < length:
        n = link.recv_into(view[done:])
        if not n:
            raise ConnectionError("the raw link was closed")
        done += n
    return view


def _tune(link: socket.socket) -> None:
    if link.family != socket.AF_UNIX:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


# --- here -----------------------------------------------------------------------------------------------------------


class _RawLink:
    """A socket to the worker. Each series is a call that serves it, so that between series the worker takes calls."""

    def __init__(self, executor: Executor, is_here: bool, largest: int) -> None:
        self._executor = executor
        self._buffer = bytearray(largest)
        self._token = secrets.token_bytes(TOKEN_BYTES)
        self._listener = self._listen(is_here)

    def _listen(self, is_here: bool) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX if is_here else socket.AF_INET, socket.SOCK_STREAM)
        # Nothing is served to who dials, and only who has the token is timed; the address is gone with this process.
        listener.bind("\0" + f"rfaas-bench-{self._token[:8].hex()}" if is_here else (_own_address(), 0))
        listener.listen(1)
        listener.settimeout(DIAL_TIMEOUT_S)
        return listener

    def trips(self, payload: bytes, iterations: int, seconds: float) -> list[int]:
        """Round trips of a payload, in nanoseconds."""
        address = self._listener.getsockname()
        where = address.decode() if isinstance(address, bytes) else address
        serving = self._executor.submit(_serve_raw, int(self._listener.family), where, self._token)
        link, _ = self._listener.accept()
        with link:
            link.settimeout(DIAL_TIMEOUT_S)
            _tune(link)
            if bytes(_exactly(link, bytearray(TOKEN_BYTES), TOKEN_BYTES)) != self._token:
                raise ConfigError("somebody else dialled the benchmark", hint="try again")
            found = list(self._timed(link, _LENGTH.pack(len(payload)) + payload, len(payload), iterations, seconds))
            link.sendall(_LENGTH.pack(-1))
            serving.result(DIAL_TIMEOUT_S)
        return found

    def _timed(
        self, link: socket.socket, message: bytes, length: int, iterations: int, seconds: float
    ) -> Iterator[int]:
        # Large messages: the worker reads all before it answers, so sending never waits for us to read.
        clock, buffer, end_ns = time.perf_counter_ns, self._buffer, time.perf_counter_ns() + int(seconds * 1e9)
        for number in range(iterations + 2):
            begun = clock()
            link.sendall(message)
            _exactly(link, buffer, length)
            ended = clock()
            if number >= 2:  # the first ones are cold
                yield ended - begun
                if ended > end_ns:
                    return

    def __enter__(self) -> _RawLink:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()


def _own_address() -> str:
    """This host's address as other hosts of the cluster resolve it."""
    return socket.getaddrinfo(socket.gethostname(), 0, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]  # type: ignore[return-value]


@contextlib.contextmanager
def _pinned(executor: Executor, wanted: bool) -> Iterator[tuple[int | None, int | None]]:
    """Pin every thread of this process to one CPU and the worker to another; restore both."""
    cpus = sorted(os.sched_getaffinity(0))
    there = sorted(executor.invoke(_move_to, None))
    if not wanted or (len(cpus) == 1 and cpus == there):
        yield None, None
        return
    ours = cpus[0]
    theirs = next((cpu for cpu in there if cpu != ours), there[0])
    executor.invoke(_move_to, frozenset({theirs}))
    threads = [int(name) for name in os.listdir("/proc/self/task")]
    for thread in threads:
        os.sched_setaffinity(thread, {ours})
    try:
        yield ours, theirs
    finally:
        for thread in threads:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cpus)
        with contextlib.suppress(Exception):  # a worker that was lost needs no restoring
            executor.invoke(_move_to, frozenset(there))
