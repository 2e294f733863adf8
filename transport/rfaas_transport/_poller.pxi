# Poller over transport/core/poller.h. Part of _core.pyx.

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EBADF, EINTR, ENOENT, errno
from libc.math cimport ceil

import os
import time

cdef extern from "poller.h" nogil:
    ctypedef struct rfaas_poller:
        int epoll_fd
        int wake_fd
    const uint64_t RFAAS_POLLER_TOKEN_MAX
    int rfaas_poller_open(rfaas_poller *poller)
    int rfaas_poller_add(rfaas_poller *poller, int fd, uint64_t token)
    int rfaas_poller_want_write(rfaas_poller *poller, int fd, uint64_t token, bint on)
    int rfaas_poller_remove(rfaas_poller *poller, int fd)
    int rfaas_poller_wait(rfaas_poller *poller, uint64_t *tokens, int n_max, int64_t timeout_ns)
    void rfaas_poller_wake(rfaas_poller *poller)
    void rfaas_poller_close(rfaas_poller *poller)

cdef enum:
    TOKENS_MAX = 256


cdef object _os_error(int code=0):
    code = code or errno
    return OSError(code, os.strerror(code))


cdef int64_t _nanoseconds(timeout_s) except? -2:
    """Never less than asked for; -1 for None."""
    if timeout_s is None:
        return -1
    cdef double seconds = timeout_s
    if seconds != seconds:
        raise ValueError("a timeout that is not a number")
    if seconds <= 0.0:
        return 0
    return <int64_t>ceil(seconds * 1e9) if seconds < 9e9 else -1


@cython.final
cdef class Poller:
    """Waits for many descriptors at once; level-triggered.

    `add`, `remove`, `want_write` and `wake` from any thread, `wait` from one, without the GIL. Remove a descriptor
    before it is closed: a copy of it in a forked child would keep it registered. Unusable in a forked child.
    """

    cdef rfaas_poller poller
    cdef dict tokens     # fileno -> token: epoll wants the token again with every change
    cdef bint waiting
    cdef bint closing

    def __cinit__(self):
        self.poller.epoll_fd = self.poller.wake_fd = -1
        self.tokens = {}
        cdef int rc = rfaas_poller_open(&self.poller)
        if rc != 0:
            raise _os_error(-rc)

    def __dealloc__(self):
        rfaas_poller_close(&self.poller)

    cdef int check(self, int rc) except -1:
        if self.closing:
            raise ValueError("the poller is closed")
        if rc < 0:
            raise _os_error(-rc)
        return 0

    @property
    def descriptors(self):
        """The poller's own descriptors, for who wants to know whether somebody closed them."""
        self.check(0)
        return self.poller.epoll_fd, self.poller.wake_fd

    def add(self, int fileno, uint64_t token):
        """Watch `fileno` for something to read; `wait` then names `token` (0 <= token < 2**64 - 1).

        Raises:
            OSError: no such descriptor, or it is watched already; nothing changed.
            ValueError: the poller is closed, or the token is out of range.
        """
        if token > RFAAS_POLLER_TOKEN_MAX:
            raise ValueError("the highest token is reserved")
        self.check(0)
        self.check(rfaas_poller_add(&self.poller, fileno, token))
        self.tokens[fileno] = token

    def remove(self, int fileno):
        """Watch `fileno` no longer; harmless if it is not watched. A `wait` under way may still name it once."""
        self.check(0)
        self.tokens.pop(fileno, None)
        cdef int rc = rfaas_poller_remove(&self.poller, fileno)
        if rc != -ENOENT and rc != -EBADF:
            self.check(rc)

    def want_write(self, int fileno, bint on):
        """Watch `fileno` for room to write too, or no longer.

        Raises:
            KeyError: it is not watched.
            OSError: the descriptor was closed; it is not watched any more.
        """
        self.check(0)
        self.check(rfaas_poller_want_write(&self.poller, fileno, self.tokens[fileno], on))

    def wait(self, timeout_s=None):
        """Block, without the GIL, until something is ready, `wake`, or `timeout_s` is over; None waits for ever.

        Returns:
            Tokens of what is readable, writable where wanted, or ended; empty on time-out or wake.
        Raises:
            ValueError: the poller is closed, perhaps during this call.
            RuntimeError: another thread waits.
            What a signal handler raised, KeyboardInterrupt for one.
        """
        cdef uint64_t tokens[TOKENS_MAX]
        cdef int64_t timeout_ns = _nanoseconds(timeout_s)
        cdef int n
        deadline_ns = time.monotonic_ns() + timeout_ns
        self.check(0)
        if self.waiting:
            raise RuntimeError("another thread waits on this poller")
        self.waiting = True
        try:
            while True:
                with nogil:
                    n = rfaas_poller_wait(&self.poller, tokens, TOKENS_MAX, timeout_ns)
                if n != -EINTR:
                    break
                PyErr_CheckSignals()
                if timeout_ns >= 0:
                    timeout_ns = max(0, deadline_ns - time.monotonic_ns())
        finally:
            self.waiting = False
            if self.closing:
                rfaas_poller_close(&self.poller)
        self.check(n)
        return [tokens[i] for i in range(n)]

    def wake(self):
        """Make the `wait` under way, or the next one, return at once. Harmless after `close`."""
        if not self.closing:
            rfaas_poller_wake(&self.poller)

    def close(self):
        """Give all up; repeatable. A `wait` under way ends with ValueError."""
        if self.closing:
            return
        self.closing = True
        self.tokens.clear()
        if self.waiting:
            rfaas_poller_wake(&self.poller)  # the waiting thread closes when it is back
        else:
            rfaas_poller_close(&self.poller)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
