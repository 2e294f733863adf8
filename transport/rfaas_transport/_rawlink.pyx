"""Round trips of bytes over bare media (transport/raw/), for measuring what channels and calls add; `_rawlink.pyi` has the types.

Must not be loaded by anything but benchmarks. The GIL is dropped meanwhile.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

import os


cdef extern from "raw_link.h" nogil:
    ctypedef struct raw_series:
        size_t size_bytes
        bint sleeps
        uint64_t pause_ns
        uint64_t budget_ns
        uint64_t patience_ns

    size_t raw_memory_bytes(size_t size_bytes)
    void raw_memory_prepare(void *memory, size_t memory_bytes)
    int64_t raw_memory_ping(void *memory, size_t memory_bytes, const raw_series *series, const uint8_t *payload,
                            uint8_t *answer, int64_t *took_ns, size_t rounds, uint32_t *turn, bint last)
    int64_t raw_memory_serve(void *memory, size_t memory_bytes, const raw_series *series)
    int64_t raw_stream_ping(int fd_in, int fd_out, const raw_series *series, uint8_t *payload, uint8_t *answer,
                            int64_t *took_ns, size_t rounds, bint last)
    int64_t raw_stream_serve(int fd_in, int fd_out, const raw_series *series, uint8_t *buffer)
    int64_t raw_clock_cost_ns()


cdef raw_series _series(size_bytes, sleeps, pause_s, budget_s, patience_s):
    cdef raw_series series
    series.size_bytes = size_bytes
    series.sleeps = sleeps
    series.pause_ns = int(pause_s * 1e9)
    series.budget_ns = int(budget_s * 1e9)
    series.patience_ns = int(patience_s * 1e9)
    return series


cdef _checked(int64_t rc):
    if rc < 0:
        raise OSError(-rc, f"the raw link failed: {os.strerror(-rc)}")
    return rc


cdef class MemoryLink:
    """One side of memory that two processes map.

    Args:
        memory: writable, at least `memory_bytes(size_bytes)`; borrowed while this object lives.
        size_bytes: of each payload, at least 1.
        sleeps: who waits sleeps on a futex; else it polls.
        patience_s: silence of the peer that ends a wait: OSError(ETIMEDOUT).
    """

    cdef uint8_t[::1] _memory
    cdef size_t _size_bytes
    cdef bint _sleeps
    cdef double _patience_s
    cdef uint32_t _turn

    def __init__(self, uint8_t[::1] memory not None, size_t size_bytes, *, bint sleeps=False, double patience_s=20.0):
        if size_bytes < 1 or <size_t>memory.shape[0] < raw_memory_bytes(size_bytes):
            raise ValueError(f"{memory.shape[0]} bytes of memory are too few for payloads of {size_bytes}")
        self._memory, self._size_bytes, self._sleeps, self._patience_s = memory, size_bytes, sleeps, patience_s

    def prepare(self):
        """Touch and clear the memory, before the other side begins."""
        self._turn = 0
        raw_memory_prepare(&self._memory[0], self._memory.shape[0])

    def ping(self, const uint8_t[::1] payload not None, uint8_t[::1] answer not None, int64_t[::1] took_ns not None, *,
             double pause_s=0.0, double budget_s=1e6, bint last=False):
        """Make a round trip for each place of `took_ns`, in nanoseconds; returns how many were made in time."""
        cdef int64_t rc
        cdef size_t rounds = took_ns.shape[0]
        cdef raw_series series = _series(self._size_bytes, self._sleeps, pause_s, budget_s, self._patience_s)
        if <size_t>payload.shape[0] < self._size_bytes or <size_t>answer.shape[0] < self._size_bytes:
            raise ValueError("payload or answer is shorter than the payloads of this link")
        with nogil:
            rc = raw_memory_ping(&self._memory[0], self._memory.shape[0], &series, &payload[0], &answer[0],
                                 &took_ns[0] if rounds else NULL, rounds, &self._turn, last)
        return _checked(rc)

    def serve(self):
        """Answer until the other side says that it was the last; returns the number of round trips."""
        cdef int64_t rc
        cdef raw_series series = _series(self._size_bytes, self._sleeps, 0.0, 0.0, self._patience_s)
        with nogil:
            rc = raw_memory_serve(&self._memory[0], self._memory.shape[0], &series)
        return _checked(rc)


cdef class StreamLink:
    """One side of a stream socket, or of two pipes. Descriptors stay the caller's; they become (non-)blocking.

    Args:
        fd_in, fd_out: to read and to write; the same one for a socket.
        size_bytes, sleeps, patience_s: as of MemoryLink; who sleeps does so in read().
    """

    cdef int _in, _out
    cdef size_t _size_bytes
    cdef bint _sleeps
    cdef double _patience_s

    def __init__(self, int fd_in, int fd_out, size_t size_bytes, *, bint sleeps=False, double patience_s=20.0):
        if size_bytes < 1:
            raise ValueError("payloads have at least one byte")
        self._in, self._out, self._size_bytes = fd_in, fd_out, size_bytes
        self._sleeps, self._patience_s = sleeps, patience_s
        os.set_blocking(fd_in, sleeps)
        os.set_blocking(fd_out, sleeps)

    def ping(self, uint8_t[::1] payload not None, uint8_t[::1] answer not None, int64_t[::1] took_ns not None, *,
             double pause_s=0.0, double budget_s=1e6, bint last=False):
        """Make round trips as MemoryLink.ping does; the first byte of `payload` is the link's own."""
        cdef int64_t rc
        cdef size_t rounds = took_ns.shape[0]
        cdef raw_series series = _series(self._size_bytes, self._sleeps, pause_s, budget_s, self._patience_s)
        if <size_t>payload.shape[0] < self._size_bytes or <size_t>answer.shape[0] < self._size_bytes:
            raise ValueError("payload or answer is shorter than the payloads of this link")
        with nogil:
            rc = raw_stream_ping(self._in, self._out, &series, &payload[0], &answer[0],
                                 &took_ns[0] if rounds else NULL, rounds, last)
        return _checked(rc)

    def serve(self):
        """Answer until the other side says that it was the last; returns the number of round trips."""
        cdef int64_t rc
        cdef raw_series series = _series(self._size_bytes, self._sleeps, 0.0, 0.0, self._patience_s)
        cdef uint8_t[::1] buffer = bytearray(self._size_bytes)
        with nogil:
            rc = raw_stream_serve(self._in, self._out, &series, &buffer[0])
        return _checked(rc)


def memory_bytes(size_t size_bytes):
    """Bytes of memory that payloads of up to `size_bytes` need."""
    return raw_memory_bytes(size_bytes)


def clock_cost_ns():
    """What one reading of the clock costs in C, the least of many."""
    return raw_clock_cost_ns()
