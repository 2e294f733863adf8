# Serving over transport/core/serving.h. Part of _core.pyx.

from cpython.pycapsule cimport PyCapsule_GetPointer as _capsule_pointer

cdef extern from "serving.h" nogil:
    ctypedef struct rfaas_server:
        pass
    ctypedef struct rfaas_plain_request:
        uint8_t kind, answer_kind
        uint16_t function
        uint64_t lease_seq, epoch, in_bytes_max
    enum rfaas_serving_end:
        RFAAS_SERVING_IDLE
        RFAAS_SERVING_FRAME
        RFAAS_SERVING_LEFT
        RFAAS_SERVING_FULL
        RFAAS_SERVING_ENDED
    ctypedef struct rfaas_serving:
        rfaas_frame frame
        rfaas_header request
        uint64_t n_served
        rfaas_rc rc
    rfaas_serving_end rfaas_serve(rfaas_channel *channel, pthread_mutex_t *lock, const rfaas_plain_request *plain,
                                  const rfaas_server *server, int64_t spin_ns, int64_t for_ns, void *cookie,
                                  rfaas_serving *serving)


@cython.final
cdef class Serving:
    """Plain requests for one function on one channel, answered by C code of another module's without the GIL.

    For the thread that polls. Args:
        channel: theirs.
        kind, answer_kind: of the frames that come, and of those that go.
        function, lease_seq, epoch: what they are for.
        in_bytes_max: of a plain request's payload.
    """

    cdef Channel channel
    cdef rfaas_plain_request plain
    cdef rfaas_serving serving

    def __init__(self, Channel channel not None, uint8_t kind, uint8_t answer_kind, uint16_t function,
                 uint64_t lease_seq, uint64_t epoch, uint64_t in_bytes_max):
        self.channel = channel
        self.plain.kind = kind
        self.plain.answer_kind = answer_kind
        self.plain.function = function
        self.plain.lease_seq = lease_seq
        self.plain.epoch = epoch
        self.plain.in_bytes_max = in_bytes_max

    @property
    def n_served(self):
        """Requests that the last `run` gave to the server."""
        return self.serving.n_served

    def run(self, server, keeper, double spin_s, int64_t for_ns):
        """Serve what comes until nothing came for `spin_s` or `for_ns` are over.

        Args:
            server: a capsule of a `struct rfaas_server` (transport/core/serving.h).
            keeper: kept for as long as an answer is borrowed.
        Returns:
            None; or a frame that is no plain request, untouched; or, of a request that was served and whose end is not
            plain, its header as a frame, in a tuple of one.
        Raises:
            ChannelClosed, ChannelBroken: as `Channel.poll`; a request that was served then has no answer.
            RuntimeError: another thread polls this channel at this moment; nothing was done.
        """
        cdef Channel channel = self.channel
        cdef const rfaas_server *serve = <const rfaas_server *>_capsule_pointer(server, "rfaas_transport.server")
        cdef int64_t spin_ns = <int64_t>(spin_s * 1e9)
        cdef void *cookie = <PyObject *>keeper
        cdef rfaas_serving_end end
        cdef rfaas_frame empty
        if channel.polling:
            raise RuntimeError("another thread polls this channel")
        channel.polling = True
        Py_INCREF(keeper)  # the queue's reference, if an answer is queued
        with nogil:
            end = rfaas_serve(channel.channel, &channel.lock, &self.plain, serve, spin_ns, for_ns, cookie, &self.serving)
        channel.polling = False
        if end != RFAAS_SERVING_FULL:
            Py_DECREF(keeper)
        channel.let_go()
        if end == RFAAS_SERVING_FRAME:
            return _frame(&self.serving.frame)
        if end == RFAAS_SERVING_LEFT:
            memset(&empty, 0, sizeof(empty))
            empty.header = self.serving.request
            return (_frame(&empty),)
        if end == RFAAS_SERVING_ENDED:
            channel.refuse(self.serving.rc)
        return None
