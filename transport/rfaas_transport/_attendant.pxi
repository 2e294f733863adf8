# Attendant over transport/core/attendant.h. Part of _core.pyx.

from libc.stdint cimport uintptr_t

import os

cdef extern from "attendant.h" nogil:
    ctypedef struct rfaas_attendant:
        int owner
    int rfaas_attendant_start(rfaas_attendant *attendant, rfaas_channel *channel, pthread_mutex_t *channel_lock,
                              const uint64_t *started, const uint64_t *done)
    void rfaas_attendant_rest(rfaas_attendant *attendant)
    void rfaas_attendant_resume(rfaas_attendant *attendant)
    void rfaas_attendant_stop(rfaas_attendant *attendant)


@cython.final
cdef class Attendant:
    """Reads a channel while its owner works on one frame for more than a millisecond, and gives back what is taken back.

    It never needs the interpreter. The owner calls these methods from the thread that polls; `stop` is also safe from a
    handler of forks. What was read ahead is what `Channel.poll` returns next.

    Args:
        channel: not polled, nor any frame of it looked at before it was made a Python object, while the words differ.
        started, done: addresses of the owner's two words (`StatePage.progress_places`); they outlive the attendant.
        keeps: what these words are in.
    Raises:
        OSError: no thread could be made, or the channel is closed; there is no attendant.
    """

    cdef rfaas_attendant attendant
    cdef Channel channel
    cdef uintptr_t started, done
    cdef object keeps, __weakref__

    def __init__(self, Channel channel not None, uintptr_t started, uintptr_t done, keeps=None):
        if self.channel is not None:
            raise RuntimeError("an attendant has one channel")
        self.channel = channel
        self.started = started
        self.done = done
        self.keeps = keeps
        self.start()

    def start(self):
        """Begin again after `stop`; nothing if it attends.

        Raises:
            OSError: as the constructor.
        """
        cdef int error
        if self.attendant.owner != 0:
            return
        error = rfaas_attendant_start(&self.attendant, self.channel.channel, &self.channel.lock,
                                      <const uint64_t *>self.started, <const uint64_t *>self.done)
        if error != 0:
            raise OSError(error, f"attend a channel: {os.strerror(error)}")

    def rest(self):
        """The owner sleeps until `resume`: it takes no CPU."""
        rfaas_attendant_rest(&self.attendant)

    def resume(self):
        """The owner is awake."""
        rfaas_attendant_resume(&self.attendant)

    def stop(self):
        """Wait until nobody attends. Repeatable; nothing in a forked child."""
        with nogil:
            rfaas_attendant_stop(&self.attendant)

    def __dealloc__(self):
        rfaas_attendant_stop(&self.attendant)
