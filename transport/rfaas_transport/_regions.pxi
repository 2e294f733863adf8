# Region, RegionServer and RegionClient over transport/core/regions/region.h. Part of _core.pyx.

from cpython.buffer cimport PyBUF_WRITABLE

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *at, size_t size_bytes, int protection, int flags, int fd, int64_t offset)
    int munmap(void *at, size_t size_bytes)
    int madvise(void *at, size_t size_bytes, int advice)
    enum:
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_ANONYMOUS
        MAP_NORESERVE
        MADV_HUGEPAGE
        MADV_DONTDUMP
        MADV_DONTFORK
    void *MAP_FAILED

cdef extern from "region.h" nogil:
    ctypedef struct rfaas_region:
        uint8_t *bytes
        uint64_t size_bytes
    ctypedef struct rfaas_region_server:
        const rfaas_region *region
        rfaas_channel *channel
        uint64_t lease_seq, epoch, n_requests, bytes_in, bytes_out
    void rfaas_region_server_begin(rfaas_region_server *server)
    void rfaas_region_server_end(rfaas_region_server *server)
    rfaas_rc rfaas_region_serve(rfaas_region_server *server, int64_t spin_ns)
    ctypedef struct rfaas_region_op:
        uint64_t offset
        uint8_t *bytes
        uint64_t size_bytes
        bint is_write
    ctypedef struct rfaas_region_client:
        rfaas_channel *channel
        uint64_t lease_seq, epoch, next_id
        uint32_t n_pending, n_spans
        uint16_t status
    ctypedef struct rfaas_region_progress:
        size_t op
        uint64_t sent_bytes, done_bytes
    void rfaas_region_client_begin(rfaas_region_client *client)
    void rfaas_region_client_end(rfaas_region_client *client)
    rfaas_rc rfaas_region_transfer(rfaas_region_client *client, const rfaas_region_op *ops, size_t n_ops,
                                   rfaas_region_progress *progress, int64_t for_ns, bint stop)
    enum:
        RFAAS_REGION_CREDITS

cdef enum:
    TURN_NS = 20000000        # of a transfer, until signals and `abort` are looked for
    END_TURNS = 100           # so many for a peer to answer what is under way, once nothing more is wanted

REGION_CREDITS = RFAAS_REGION_CREDITS


@cython.final
cdef class Region:
    """Memory of this process that is read and written by others through channels: zeros until it is written.

    Private and without a name, so that nobody can map it; in huge pages where the machine has them, since it is the number
    of pages that giving them back takes time for (ADR 19). Left out of core dumps and forked children: it is the borrower's.

    Args:
        size_bytes: at least 1. Pages take memory once they are written.
    Raises:
        OSError: no such memory can be made.
    """

    cdef rfaas_region region

    def __cinit__(self, uint64_t size_bytes):
        cdef void *at = mmap(NULL, <size_t>size_bytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if at == MAP_FAILED:
            raise _os_error()
        for advice in (MADV_HUGEPAGE, MADV_DONTDUMP, MADV_DONTFORK):
            madvise(at, <size_t>size_bytes, advice)  # a kernel without huge pages says no, and that is all
        self.region.bytes = <uint8_t *>at
        self.region.size_bytes = size_bytes

    def __dealloc__(self):
        if self.region.bytes != NULL:
            munmap(self.region.bytes, <size_t>self.region.size_bytes)

    @property
    def size_bytes(self):
        """As it was made."""
        return self.region.size_bytes


@cython.final
@cython.no_gc
cdef class RegionServer:
    """Answers the reads and writes of one channel.

    For one thread. Args:
        region: what is read and written.
        channel: nobody else polls it.
        lease_seq, epoch: what requests must say.
    """

    cdef rfaas_region_server server
    cdef Channel channel
    cdef Region region

    def __init__(self, Region region not None, Channel channel not None, uint64_t lease_seq, uint64_t epoch):
        if self.channel is not None:
            raise RuntimeError("it serves a channel already")
        self.region = region
        self.channel = channel
        self.server.region = &region.region
        self.server.channel = channel.channel
        self.server.lease_seq = lease_seq
        self.server.epoch = epoch
        rfaas_region_server_begin(&self.server)

    def __dealloc__(self):
        if self.channel is not None:
            self.channel.close()
            rfaas_region_server_end(&self.server)

    def serve(self, double spin_s=0.0):
        """Serve what has come, and what comes within `spin_s` of the last; without the GIL.

        Returns:
            True if there is more to do now: a turn is over.
        Raises:
            ChannelClosed, ChannelBroken: as `Channel.poll`.
        """
        cdef rfaas_rc rc
        with nogil:
            rc = rfaas_region_serve(&self.server, <int64_t>(spin_s * 1e9))
        if rc == RFAAS_MORE or rc == RFAAS_AGAIN:
            return rc == RFAAS_MORE
        self.channel.refuse(rc)

    @property
    def served(self):
        """Requests served, bytes written, bytes read, so far."""
        return self.server.n_requests, self.server.bytes_in, self.server.bytes_out


@cython.final
@cython.no_gc
cdef class RegionClient:
    """Reads and writes a region at the other end of a channel.

    One thread at a time, but for `abort`. Args:
        channel: nobody else uses it from now on; closed with this.
        lease_seq, epoch: of the lease.
    """

    cdef rfaas_region_client client
    cdef Channel channel
    cdef bint aborted

    def __init__(self, Channel channel not None, uint64_t lease_seq, uint64_t epoch):
        if self.channel is not None:
            raise RuntimeError("it has a channel already")
        self.channel = channel
        self.client.channel = channel.channel
        self.client.lease_seq = lease_seq
        self.client.epoch = epoch
        self.client.next_id = 1
        rfaas_region_client_begin(&self.client)

    def __dealloc__(self):
        if self.channel is not None:
            self.end()

    cdef void end(self):
        self.channel.close()
        rfaas_region_client_end(&self.client)

    @property
    def medium(self):
        """Of the channel."""
        return self.channel.medium

    @property
    def n_spans(self):
        """How many parts of 64 MiB of the region are read and written by RDMA, without its server."""
        return self.client.n_spans

    @property
    def why(self):
        """What ended the channel, for people; empty: nothing has."""
        return rfaas_channel_why(self.channel.channel).decode("utf-8", "replace")

    @property
    def is_up(self):
        """Whether anything has come from the other side: a medium that is tried has been set up then."""
        return self.channel.channel.statistics.frames_received > 0

    @property
    def closed(self):
        """True after `close`, and once a transfer found that the channel had ended."""
        return self.channel.closed

    def close(self):
        """End the channel; repeatable. Not while another thread is in `transfer`: `abort` that first."""
        self.end()

    def abort(self):
        """Have a transfer that is under way in another thread, and every later one, end with ChannelClosed soon."""
        self.aborted = True

    def transfer(self, operations):
        """Read and write, all operations at once, without the GIL; returns when all are done.

        Reads see the writes before them in the list. Args:
            operations: (is_write, offset, buffer) each; buffers are contiguous, those of reads writable.
        Returns:
            0, or the status with which the region's owner refused one (frame.Status); the others may be done or not.
        Raises:
            ChannelClosed, ChannelBroken: the channel has ended; what was under way may be done or not.
            KeyboardInterrupt, or what else a signal handler raises: what was under way is done, the rest is not. If the
                peer stays silent for 2 s the channel is closed.
            TypeError, ValueError, BufferError: an operation is none; nothing was done.
            MemoryError: nothing was done.
        """
        cdef Py_ssize_t n = len(operations), i, n_views = 0
        cdef Py_buffer *views = <Py_buffer *>malloc(max(n, 1) * sizeof(Py_buffer))
        cdef rfaas_region_op *ops = <rfaas_region_op *>malloc(max(n, 1) * sizeof(rfaas_region_op))
        try:
            if views == NULL or ops == NULL:
                raise MemoryError
            for i in range(n):
                is_write, offset, data = operations[i]
                PyObject_GetBuffer(data, &views[i], PyBUF_SIMPLE if is_write else PyBUF_WRITABLE)
                n_views += 1
                ops[i].is_write = is_write
                ops[i].offset = offset
                ops[i].bytes = <uint8_t *>views[i].buf
                ops[i].size_bytes = <uint64_t>views[i].len
            return self.run(ops, <size_t>n)
        finally:
            for i in range(n_views):
                PyBuffer_Release(&views[i])
            free(views)
            free(ops)

    cdef object run(self, const rfaas_region_op *ops, size_t n):
        """Transfers; whatever is raised, no op is borrowed any more."""
        cdef rfaas_region_progress progress
        cdef rfaas_rc rc = RFAAS_AGAIN
        cdef int turns_left = -1  # once it is not 0 or more, nothing more is sent
        interruption = None
        memset(&progress, 0, sizeof(progress))
        self.client.status = 0
        while rc == RFAAS_AGAIN and not self.aborted:
            with nogil:
                rc = rfaas_region_transfer(&self.client, ops, n, &progress, TURN_NS, turns_left >= 0)
            if rc == RFAAS_AGAIN and interruption is None:
                try:
                    PyErr_CheckSignals()
                except BaseException as raised:
                    interruption = raised
                    turns_left = END_TURNS
            elif rc == RFAAS_AGAIN:
                turns_left -= 1
                if turns_left == 0:
                    break
        self.channel.let_go()
        if rc != RFAAS_OK:
            self.end()
        if interruption is not None:
            raise interruption
        if rc == RFAAS_AGAIN:
            raise ChannelClosed("the transfer was given up")
        if rc != RFAAS_OK:
            self.channel.refuse(rc)
        return self.client.status
