"""What benchmarks have workers do; called on them by name, so this module must be importable there without numpy."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import rfaas

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

DIAL_TIMEOUT_S: Final = 20.0
TOKEN_BYTES: Final = 32
PATIENCE_S: Final = 20.0
"""Silence that ends a raw series: longer than a pause between blocks, short enough for a person who waits."""


def nothing() -> None:
    """The call that does nothing."""


def echo(payload: Any) -> Any:  # noqa: ANN401 - bytes or an array
    """Give back what came."""
    return payload


@rfaas.raw
def echo_bytes(given: memoryview, room: memoryview) -> int:
    """Give back what came, unpickled."""
    room[: len(given)] = given
    return len(given)


def copied(array: NDArray[uint8]) -> NDArray[uint8]:
    """A new array with the bytes of the one that came: what a function that computes something returns."""
    return array.copy()


def swallow(array: NDArray[uint8]) -> int:
    """Take an array; say how many bytes came and, so that nothing can be left out, what the last one is."""
    return array.nbytes << 8 | int(array[-1])


def produce(size_bytes: int, last: int) -> NDArray[uint8]:
    """Make an array of that many bytes, touched, with `last` as the last."""
    import numpy

    made = numpy.zeros(size_bytes, numpy.uint8)
    made[:: mmap.PAGESIZE] = 1
    made[-1] = last
    return made


def whereabouts() -> tuple[str, int, int]:
    """Host, network namespace and pid."""
    return socket.gethostname(), os.stat("/proc/self/ns/net").st_ino, os.getpid()


def kernel() -> str:
    """Names the running kernel: processes that see the same one share its CPUs, whatever namespaces they are in."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def move_to(cpus: frozenset[int] | None) -> frozenset[int]:
    """Pin every thread of this process; returns where it was allowed to run before. None changes nothing."""
    before = frozenset(os.sched_getaffinity(0))
    if cpus is not None:
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(int(thread), cpus)
    return before


def serve_raw(family: int, address: str | tuple[str, int], token: bytes, size_bytes: int, sleeps: bool) -> int:
    """Dial the benchmark, and answer round trips until it says that it was the last.

    What is served is memory if a descriptor of some comes with the answer to the token, RDMA if that is a V, else the
    socket.

    Returns:
        The number of round trips.
    """
    from rfaas_transport._rawlink import MemoryLink, StreamLink

    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(DIAL_TIMEOUT_S)
        sock.connect(address)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(token)
        said, descriptors, _, _ = socket.recv_fds(sock, 1, 1)
        if said == b"V":
            from rfaas_transport._rawverbs import VerbsLink  # where rfaas was built with it, as both sides were

            sock.settimeout(None)
            buffer = bytearray(size_bytes)
            return VerbsLink(sock.fileno(), buffer, buffer, size_bytes, sleeps=sleeps, patience_s=PATIENCE_S).serve()
        if not descriptors:
            return StreamLink(sock.fileno(), sock.fileno(), size_bytes, sleeps=sleeps, patience_s=PATIENCE_S).serve()
        memory = mmap.mmap(descriptors[0], 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        os.close(descriptors[0])
        served = MemoryLink(memory, size_bytes, sleeps=sleeps, patience_s=PATIENCE_S).serve()
        memory.close()
        return served
