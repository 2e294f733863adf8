"""Round trips of bytes over bare RDMA (transport/raw/raw_verbs.h), as `_rawlink` over other media; `_rawverbs.pyi` has the types.

Must not be loaded by anything but benchmarks. The GIL is dropped meanwhile.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t

import os


cdef extern from "raw_verbs.h" nogil:
    ctypedef struct raw_series:
        size_t size_bytes
        bint sleeps
        uint64_t pause_ns
        uint64_t budget_ns
        uint64_t patience_ns
    ctypedef struct raw_verbs:
        pass
    enum:
        RAW_VERBS_WHY_BYTES
    raw_verbs *raw_verbs_begin(int fd, uint8_t *out, uint8_t *into, size_t size_bytes, char *why)
    int64_t raw_verbs_ping(raw_verbs *link, const raw_series *series, int64_t *took_ns, size_t rounds, bint last)
    int64_t raw_verbs_serve(raw_verbs *link, const raw_series *series)
    void raw_verbs_end(raw_verbs *link)


cdef _checked(int64_t rc):
    if rc < 0:
        raise OSError(-rc, f"the raw RDMA link failed: {os.strerror(-rc)}")
    return rc


cdef class VerbsLink:
    """One side of an RDMA connection, set up over a blocking stream socket whose other end does the same.

    Args:
        fd: of the socket, which stays the caller's.
        payload, answer: what is sent from, and what the peer writes to; registered while this object lives. May be one.
        size_bytes: of each payload, at least 1.
        sleeps: who waits sleeps until a completion comes; else it polls, and yields as a channel does.
        patience_s: silence of the peer that ends a wait: OSError(ETIMEDOUT).

    Raises:
        OSError: no device, or the peer left.
    """

    cdef raw_verbs *_link
    cdef raw_series _series
    cdef uint8_t[::1] _payload
    cdef uint8_t[::1] _answer

    def __init__(self, int fd, uint8_t[::1] payload not None, uint8_t[::1] answer not None, size_t size_bytes, *,
                 bint sleeps=False, double patience_s=20.0):
        cdef char[RAW_VERBS_WHY_BYTES] why
        if self._link != NULL:
            raise ValueError("made already")
        if size_bytes < 1 or <size_t>payload.shape[0] < size_bytes or <size_t>answer.shape[0] < size_bytes:
            raise ValueError("payload or answer is shorter than the payloads of this link")
        self._payload, self._answer = payload, answer
        self._series.size_bytes, self._series.sleeps = size_bytes, sleeps
        self._series.patience_ns = <uint64_t>(patience_s * 1e9)
        with nogil:
            self._link = raw_verbs_begin(fd, &self._payload[0], &self._answer[0], size_bytes, why)
        if self._link == NULL:
            raise OSError((<bytes>why).decode("utf-8", "replace"))

    def __dealloc__(self):
        if self._link != NULL:
            raw_verbs_end(self._link)

    def ping(self, uint8_t[::1] payload not None, uint8_t[::1] answer not None, int64_t[::1] took_ns not None, *,
             double pause_s=0.0, double budget_s=1e6, bint last=False):
        """Make a round trip for each place of `took_ns`, in nanoseconds; returns how many were made in time.

        Raises:
            ValueError: payload or answer are others than this link was made with.
            OSError: the link failed.
        """
        cdef int64_t rc
        cdef size_t rounds = took_ns.shape[0]
        if &payload[0] != &self._payload[0] or &answer[0] != &self._answer[0]:
            raise ValueError("payload and answer are those that the link was made with")
        self._series.pause_ns, self._series.budget_ns = <uint64_t>(pause_s * 1e9), <uint64_t>(budget_s * 1e9)
        with nogil:
            rc = raw_verbs_ping(self._link, &self._series, &took_ns[0] if rounds else NULL, rounds, last)
        return _checked(rc)

    def serve(self):
        """Answer until the other side says that it was the last; returns the number of round trips."""
        cdef int64_t rc
        with nogil:
            rc = raw_verbs_serve(self._link, &self._series)
        return _checked(rc)
