# Frame and Channel over transport/core/rfaas_channel.h. Part of _core.pyx.
#
# A channel's C functions run under its lock, with the GIL where little is moved (giving it up costs more than that and,
# among busy threads, up to 5 ms to get back) and without it where much is. No Python object is made, freed or asked
# while the lock is held: garbage collection could come back into the same channel.

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_REFCNT, PyObject
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_trylock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)

cdef extern from "secure_stream.h" nogil:
    ctypedef struct rfaas_secure_ops:
        pass

cdef extern from "verbs_link.h" nogil:
    ctypedef struct rfaas_verbs_ops:
        pass
    enum:
        RFAAS_VERBS_WHY_BYTES

cdef extern from "rfaas_channel.h" nogil:
    enum:
        RFAAS_SEGMENTS_MAX
        RFAAS_TEXT_BYTES_MAX
    enum rfaas_rc:
        RFAAS_OK
        RFAAS_AGAIN
        RFAAS_MORE
        RFAAS_QUEUED
        RFAAS_NO_CREDIT
        RFAAS_TOO_LARGE
        RFAAS_CLOSED
        RFAAS_BROKEN
        RFAAS_NO_MEMORY
        RFAAS_UNSUITABLE
    ctypedef struct rfaas_header:
        uint8_t kind, flags, attempt
        uint16_t words, status, function, credits
        uint64_t call_id, lease_seq, epoch, deadline_ns, in_size, out_size, invocation, checkpoint
    ctypedef struct rfaas_memory:
        void *(*allocate)(void *context, size_t size_bytes)
        void (*release)(void *context, void *buffer, size_t size_bytes)
        void *context
    ctypedef struct rfaas_placed:
        uint32_t segment
        bint read_only
    ctypedef struct rfaas_channel_array:
        void *at
        void *owner
    ctypedef struct rfaas_frame:
        rfaas_header header
        const uint8_t *text
        uint32_t text_bytes
        const iovec *segments
        uint32_t n_segments
        const rfaas_placed *placed
        uint32_t n_placed
        void *buffer
        size_t buffer_bytes
        rfaas_memory memory
    ctypedef struct rfaas_statistics:
        uint64_t frames_sent, frames_received, frames_dropped, frames_queued
        uint64_t payload_bytes_sent, payload_bytes_received
    ctypedef struct rfaas_medium:
        bint polls_out
    ctypedef struct rfaas_channel:
        const rfaas_medium *medium
        const char *name
        uint32_t tx_credits, rx_credits
        uint64_t queued_bytes
        size_t queued_frames, n_completed
        rfaas_rc tx_end
        bint closed
        bint violated
        bint holds_bytes
        rfaas_statistics statistics
    ctypedef struct rfaas_tcp_options:
        uint64_t max_payload_bytes
        uint32_t user_timeout_ms
        const rfaas_secure_ops *secure
        const uint8_t *key
        bint is_dialer
    rfaas_rc rfaas_tcp_adopt(int fd, const rfaas_tcp_options *options, rfaas_channel **channel)
    rfaas_rc rfaas_inproc_pair(uint64_t max_payload_bytes, rfaas_channel **left, rfaas_channel **right)
    int rfaas_shm_create(uint64_t arena_bytes)
    rfaas_rc rfaas_shm_adopt(int fd, int memory_fd, int side, uint64_t max_payload_bytes, rfaas_channel **channel)
    rfaas_rc rfaas_verbs_adopt(int fd, const rfaas_verbs_ops *ops, const char *device, uint64_t max_payload_bytes,
                               rfaas_channel **channel, char *why)
    void rfaas_shm_adopt_pool(rfaas_channel *channel, int pool_fd)
    bint rfaas_channel_array_take(rfaas_channel *channel, size_t size_bytes, rfaas_channel_array *array)
    void rfaas_channel_array_give_back(rfaas_channel *channel, const rfaas_channel_array *array)
    void rfaas_channel_array_hand_over(rfaas_channel *channel, const rfaas_channel_array *array)
    bint rfaas_channel_array_missed(const rfaas_channel *channel)
    void rfaas_channel_array_want(rfaas_channel *channel, bint wanted)
    void *rfaas_channel_array_owner(const rfaas_channel *channel, const void *bytes, size_t size_bytes)
    bint rfaas_channel_is_borrowed(const rfaas_channel *channel, const void *bytes, size_t size_bytes)
    rfaas_rc rfaas_channel_detach(rfaas_channel *channel)
    rfaas_rc rfaas_channel_spin(const rfaas_channel *channel, int64_t spin_ns)
    rfaas_rc rfaas_channel_look(const rfaas_channel *channel)
    bint rfaas_channel_stay_awake(rfaas_channel *channel, bint on)
    bint rfaas_channel_wants_write(const rfaas_channel *channel)
    rfaas_rc rfaas_channel_send(rfaas_channel *channel, rfaas_header *header, const iovec *segments, size_t n_segments,
                                const void *text, size_t text_bytes, void *cookie)
    rfaas_rc rfaas_channel_poll(rfaas_channel *channel, uint64_t budget_bytes, rfaas_frame *frame)
    rfaas_rc rfaas_channel_flush(rfaas_channel *channel, uint64_t budget_bytes)
    rfaas_rc rfaas_channel_wait(rfaas_channel *channel, int64_t timeout_ns)
    void *rfaas_channel_completed(rfaas_channel *channel)
    int rfaas_channel_fd(const rfaas_channel *channel)
    uint64_t rfaas_channel_unacknowledged_bytes(const rfaas_channel *channel)
    void rfaas_channel_close(rfaas_channel *channel)
    void rfaas_channel_free(rfaas_channel *channel)
    bint rfaas_channel_is_inherited(const rfaas_channel *channel)
    const char *rfaas_channel_why(const rfaas_channel *channel)

cdef enum:
    SMALL_BYTES = 65536     # moved with the GIL held: some 10 us of copying
    TURN_BYTES = 16 << 20   # moved in one turn without it, before other channels are looked at
    INLINE_SEGMENTS = 4
    BYTES_MAX = 4096        # copied into bytes at less cost than a view of them has

MAX_SEGMENTS = RFAAS_SEGMENTS_MAX
MAX_TEXT_BYTES = RFAAS_TEXT_BYTES_MAX
DEFAULT_MAX_PAYLOAD_BYTES = 1 << 32
DEFAULT_ARENA_BYTES = 1 << 28


@cython.final
@cython.freelist(64)
cdef class _Borrowed:
    """The buffers of one frame to be sent; lets go of them when it is freed."""

    cdef Py_buffer inline_views[INLINE_SEGMENTS]
    cdef iovec inline_pieces[INLINE_SEGMENTS]
    cdef Py_buffer *views
    cdef iovec *pieces
    cdef Py_ssize_t n
    cdef uint64_t size_bytes

    cdef int borrow(self, segments) except -1:
        cdef Py_ssize_t wanted = len(segments)
        if wanted > RFAAS_SEGMENTS_MAX:
            raise PayloadTooLarge(f"{wanted} segments, at most {RFAAS_SEGMENTS_MAX} fit in a frame")
        self.views = self.inline_views
        self.pieces = self.inline_pieces
        if wanted > INLINE_SEGMENTS:
            self.views = <Py_buffer *>malloc(wanted * sizeof(Py_buffer))
            self.pieces = <iovec *>malloc(wanted * sizeof(iovec))
            if self.views == NULL or self.pieces == NULL:
                raise MemoryError
        for segment in segments:
            if self.n == wanted:
                raise ValueError("the sequence of segments grew while it was read")
            PyObject_GetBuffer(segment, &self.views[self.n], PyBUF_SIMPLE)
            self.pieces[self.n].iov_base = self.views[self.n].buf
            self.pieces[self.n].iov_len = <size_t>self.views[self.n].len
            self.size_bytes += <uint64_t>self.views[self.n].len
            self.n += 1
        return 0

    def __dealloc__(self):
        for i in range(self.n):
            PyBuffer_Release(&self.views[i])
        if self.views != self.inline_views:
            free(self.views)
        if self.pieces != self.inline_pieces:
            free(self.pieces)


@cython.final
@cython.freelist(64)
cdef class _Payload:
    """Owns the receive buffer of one frame."""

    cdef void *data
    cdef size_t size_bytes       # of the allocation
    cdef Py_ssize_t view_bytes   # that is shown
    cdef rfaas_memory memory

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.view_bytes, 0, flags)

    def __dealloc__(self):
        if self.data != NULL:
            self.memory.release(self.memory.context, self.data, self.size_bytes)


@cython.final
cdef class _Window:
    """One segment of a frame some of whose segments lie elsewhere."""

    cdef _Payload payload
    cdef iovec piece
    cdef bint read_only

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.piece.iov_base, <Py_ssize_t>self.piece.iov_len, self.read_only, flags)


cdef tuple _placed_views(_Payload payload, const rfaas_frame *received):
    cdef uint32_t i, j = 0
    cdef _Window window
    views = []
    for i in range(received.n_segments):
        window = _Window.__new__(_Window)
        window.payload = payload
        window.piece = received.segments[i]
        if j < received.n_placed and received.placed[j].segment == i:
            window.read_only = received.placed[j].read_only
            j += 1
        views.append(PyMemoryView_FromObject(window))
    return tuple(views)


cdef tuple _views(_Payload payload, const rfaas_frame *received):
    """One memoryview a segment, each keeping `payload` alive; writable but for the peer's own memory."""
    cdef uint32_t i
    cdef size_t offset_bytes
    if received.n_segments == 0:
        return ()
    if received.n_placed > 0:
        return _placed_views(payload, received)
    if received.n_segments == 1:
        payload.view_bytes = <Py_ssize_t>received.segments[0].iov_len
        return (PyMemoryView_FromObject(payload),)
    payload.view_bytes = <Py_ssize_t>received.buffer_bytes
    whole = PyMemoryView_FromObject(payload)
    views = []
    for i in range(received.n_segments):
        offset_bytes = <uint8_t *>received.segments[i].iov_base - <uint8_t *>received.buffer
        views.append(whole[offset_bytes:offset_bytes + received.segments[i].iov_len])
    return tuple(views)


@cython.final
@cython.freelist(64)
cdef class Frame:
    """A received frame; see docs/spec/001-invocation.md for its fields.

    `segments` are writable memoryviews of bytes, each beginning on a 64-byte boundary; together they own the receive
    buffer, which lives as long as one of them does. Segments that the peer did not have to move lie where it made them:
    aligned as there, and read-only if the memory stays the peer's (docs/spec/006-shared-memory.md section 7). Then
    `is_placed` is true.
    """

    cdef readonly uint8_t kind
    cdef readonly uint8_t flags
    cdef readonly uint8_t attempt
    cdef readonly uint16_t status
    cdef readonly uint16_t function
    cdef readonly uint16_t credits
    cdef readonly uint64_t call_id
    cdef readonly uint64_t lease_seq
    cdef readonly uint64_t epoch
    cdef readonly uint64_t deadline_ns
    cdef readonly uint64_t in_size
    cdef readonly uint64_t out_size
    cdef readonly uint64_t invocation
    cdef readonly uint64_t checkpoint
    cdef readonly tuple segments
    cdef readonly str text

    cdef readonly bint is_placed

    def __init__(self):
        raise TypeError("frames are received, not made")


    def __repr__(self):
        return (f"<Frame kind={self.kind} status={self.status} call_id={self.call_id} function={self.function} "
                f"credits={self.credits} segments={len(self.segments)} in_size={self.in_size} text={self.text!r}>")


cdef Frame _frame(const rfaas_frame *received):
    """Takes over the buffer of `received`, also when it fails."""
    cdef _Payload payload
    try:
        payload = _Payload.__new__(_Payload)
    except BaseException:
        if received.buffer != NULL:
            received.memory.release(received.memory.context, received.buffer, received.buffer_bytes)
        raise
    payload.memory = received.memory
    payload.data = received.buffer
    payload.size_bytes = received.buffer_bytes
    cdef Frame frame = Frame.__new__(Frame)
    frame.segments = _views(payload, received)
    frame.is_placed = received.n_placed > 0
    frame.text = "" if received.text_bytes == 0 else received.text[:received.text_bytes].decode("utf-8", "replace")
    frame.kind = received.header.kind
    frame.flags = received.header.flags
    frame.attempt = received.header.attempt
    frame.status = received.header.status
    frame.function = received.header.function
    frame.credits = received.header.credits
    frame.call_id = received.header.call_id
    frame.lease_seq = received.header.lease_seq
    frame.epoch = received.header.epoch
    frame.deadline_ns = received.header.deadline_ns
    frame.in_size = received.header.in_size
    frame.out_size = received.header.out_size
    frame.invocation = received.header.invocation
    frame.checkpoint = received.header.checkpoint
    return frame


cdef bint _is_small(const rfaas_frame *received) noexcept:
    return received.n_segments == 1 and received.n_placed == 0 and received.segments[0].iov_len <= BYTES_MAX


cdef _Payload _memory(const rfaas_frame *received):
    """The buffer of a small frame."""
    cdef _Payload payload = _Payload.__new__(_Payload)
    payload.memory = received.memory
    payload.data = received.buffer
    payload.size_bytes = received.buffer_bytes
    payload.view_bytes = <Py_ssize_t>received.segments[0].iov_len
    return payload


cdef object _small(const rfaas_frame *received):
    """The payload of a frame of one small segment as bytes, its buffer released; None of any other, left as it is."""
    if received.n_segments != 1 or received.segments[0].iov_len > BYTES_MAX:
        return None
    try:
        return PyBytes_FromStringAndSize(<char *>received.segments[0].iov_base, <Py_ssize_t>received.segments[0].iov_len)
    finally:
        if received.buffer != NULL:
            received.memory.release(received.memory.context, received.buffer, received.buffer_bytes)


cdef bytes _text_bytes(str text):
    """UTF-8, cut between two characters where it is longer than a frame's text may be."""
    cdef bytes encoded = text.encode("utf-8", "replace")
    if len(encoded) <= RFAAS_TEXT_BYTES_MAX:
        return encoded
    return encoded[:RFAAS_TEXT_BYTES_MAX].decode("utf-8", "ignore").encode()


@cython.final
cdef class Channel:
    """A symmetric, ordered channel of frames to one peer; made by `from_fd` or `pair`.

    Any thread may use any method; one thread at a time polls. Nothing but `wait` blocks. A channel belongs to the
    process that made it: a forked child may close its copy, no more, which leaves the parent's as it is. Frames that
    this version does not understand are answered by ERROR and dropped here.
    """

    cdef rfaas_channel *channel
    cdef pthread_mutex_t lock
    cdef bint polling
    cdef readonly bint has_arrays  # some were taken here: `settle` has something to do
    cdef bint has_copied           # `settle` has left a large segment to be copied
    cdef readonly str medium

    def __cinit__(self):
        pthread_mutex_init(&self.lock, NULL)

    def __init__(self):
        raise TypeError("use Channel.from_fd or Channel.pair")

    def __dealloc__(self):
        if self.channel != NULL:
            self.close()
            rfaas_channel_free(self.channel)
        pthread_mutex_destroy(&self.lock)

    @staticmethod
    def from_fd(int fd, *, uint64_t max_payload_bytes=DEFAULT_MAX_PAYLOAD_BYTES, double user_timeout_s=0.0,
                bytes key=None, bint is_dialer=False):
        """Adopt a connected stream socket, TCP or unix: it becomes non-blocking, close-on-exec and the channel's own.

        Reads no frame. Args:
            fd: its descriptor; on any error it stays the caller's.
            max_payload_bytes: larger payloads are refused, sent or received.
            user_timeout_s: TCP_USER_TIMEOUT; 0: as the socket has it. It also ends connections to a living peer that reads
                nothing for that long, so it does not suit peers that compute.
            key: 32 bytes that the peer has and nobody else: all is encrypted (medium "tls") and who lacks the key is
                refused, in `poll`. None: plain.
            is_dialer: with `key`: which side speaks first; one does.
        Raises:
            ConfigError: `fd` is no connected stream socket, `key` has another size, or nothing encrypts here.
            MemoryError: no memory for the channel.
        """
        cdef rfaas_tcp_options options
        cdef rfaas_channel *channel = NULL
        memset(&options, 0, sizeof(options))
        options.max_payload_bytes = max_payload_bytes
        options.user_timeout_ms = <uint32_t>(user_timeout_s * 1000.0)
        if key is not None:
            options.secure = _encryption(key)
            options.key = key
            options.is_dialer = is_dialer
        cdef rfaas_rc rc = rfaas_tcp_adopt(fd, &options, &channel)
        if rc == RFAAS_NO_MEMORY:
            raise MemoryError
        if rc != RFAAS_OK:
            raise ConfigError(f"descriptor {fd} is no connected stream socket")
        return _adopt(channel)

    @staticmethod
    def pair(*, uint64_t max_payload_bytes=DEFAULT_MAX_PAYLOAD_BYTES):
        """Two connected ends in this process, each usable from its own thread.

        Raises:
            OSError: no descriptor was left.
            MemoryError: no memory for the channels.
        """
        cdef rfaas_channel *left = NULL
        cdef rfaas_channel *right = NULL
        cdef rfaas_rc rc = rfaas_inproc_pair(max_payload_bytes, &left, &right)
        if rc == RFAAS_NO_MEMORY:
            raise MemoryError
        if rc != RFAAS_OK:
            raise _os_error()
        return _adopt(left), _adopt(right)

    @staticmethod
    def from_shm(int fd, int memory_fd, int side, *, uint64_t max_payload_bytes=DEFAULT_MAX_PAYLOAD_BYTES,
                 int pool_fd=-1):
        """Make one end of a channel over shared memory; the first two descriptors become the channel's own.

        Args:
            fd: a connected unix stream socket with nothing in it, whose ends the two sides hold; it wakes a side that
                sleeps, and its end is the channel's.
            memory_fd: what `shm_segment` made, or a copy of it.
            side: 0 for whoever made the segment, 1 for the peer.
            max_payload_bytes: larger payloads are refused, sent or received.
            pool_fd: side 1: the peer's `pool_descriptor`, which stays the caller's; -1: it sent none.
        Raises:
            ConfigError: no such socket, or no sealed segment; both stay the caller's.
            MemoryError: no memory for the channel; both stay the caller's.
        """
        cdef rfaas_channel *channel = NULL
        cdef rfaas_rc rc = rfaas_shm_adopt(fd, memory_fd, side, max_payload_bytes, &channel)
        if rc == RFAAS_NO_MEMORY:
            raise MemoryError
        if rc != RFAAS_OK:
            raise ConfigError(f"descriptors {fd} and {memory_fd} are no unix stream socket and sealed segment of a channel")
        if pool_fd >= 0:
            rfaas_shm_adopt_pool(channel, pool_fd)
        return _adopt(channel)

    @staticmethod
    def from_verbs(int fd, *, str device="", uint64_t max_payload_bytes=DEFAULT_MAX_PAYLOAD_BYTES):
        """Make one end of a channel over RDMA; a connection becomes the channel's own.

        The other side does the same with its end of the connection. Setting up goes on in `poll` and `flush`; what is
        sent meanwhile is queued. A peer without RDMA says so: then the channel breaks, with the peer's reason.

        Args:
            fd: a connected stream socket with nothing in it, on which the two sides set the connection up, and whose end
                is the channel's.
            device: "mlx5_0", "mlx5_0:1" with a port; "": the one with the socket's own address, else any that is up.
            max_payload_bytes: larger payloads are refused, sent or received.
        Raises:
            ConfigError: no such socket, no device, a limit of locked memory, or nothing built in; the reason is in the
                text. The socket stays the caller's, and the peer was told unless nothing is built in.
            MemoryError: no memory for the channel; the socket stays the caller's.
        """
        cdef rfaas_channel *channel = NULL
        cdef char[RFAAS_VERBS_WHY_BYTES] why
        cdef bytes name = device.encode()
        why[0] = 0
        cdef const rfaas_verbs_ops *ops = _rdma()
        cdef rfaas_rc rc = rfaas_verbs_adopt(fd, ops, name, max_payload_bytes, &channel, why)
        if rc == RFAAS_NO_MEMORY:
            raise MemoryError
        if rc != RFAAS_OK:
            raise ConfigError((<bytes>why).decode("utf-8", "replace"))
        return _adopt(channel)

    cdef void acquire(self) noexcept:
        # Whoever holds the lock may be about to ask for the GIL.
        if pthread_mutex_trylock(&self.lock) != 0:
            with nogil:
                pthread_mutex_lock(&self.lock)

    cdef void let_go(self) noexcept:
        """Free the borrowed buffers of frames that have left."""
        cdef void *cookie
        while self.channel.n_completed > 0:
            self.acquire()
            cookie = rfaas_channel_completed(self.channel)
            pthread_mutex_unlock(&self.lock)
            if cookie != NULL:
                Py_DECREF(<object><PyObject *>cookie)

    cdef int refuse(self, rfaas_rc rc) except -1:
        why = rfaas_channel_why(self.channel).decode("utf-8", "replace")
        if rc == RFAAS_CLOSED:
            raise ChannelClosed(f"{self.medium} channel is closed: {why or 'this side said BYE'}")
        if rc == RFAAS_BROKEN:
            raise ChannelBroken(f"{self.medium} channel broke: {why}")
        if rc == RFAAS_NO_CREDIT:
            raise NoCredit("the peer takes no further call yet")
        if rc == RFAAS_TOO_LARGE:
            raise PayloadTooLarge("the payload is larger than max_payload_bytes")
        if rc == RFAAS_NO_MEMORY:
            raise MemoryError
        raise SystemError(f"the transport core answered {rc}")

    def fileno(self):
        """The descriptor that is readable, level-triggered, exactly while `poll` has something to do; -1 once closed.

        While `wants_write` is true, wait for it to be writable too. Remove it from pollers before `close`.
        """
        return rfaas_channel_fd(self.channel)

    def send(self, uint8_t kind, *, uint64_t call_id=0, uint16_t function=0, uint16_t status=0, uint8_t attempt=0,
             uint16_t credits=0, uint64_t lease_seq=0, uint64_t epoch=0, uint64_t deadline_ns=0, uint64_t out_size=0,
             uint64_t invocation=0, uint64_t checkpoint=0, str text not None="", segments=()):
        """Send one frame after all that were sent before; never blocks.

        Args:
            text: for people; cut at 4096 bytes of UTF-8.
            segments: contiguous buffers, borrowed; at most MAX_SEGMENTS. On shm the peer may read what lies in
                `pool_memory` in place, whatever is returned, until it says that it does no longer (its RESULT).
            checkpoint: number of the segment that is one; 0: none is.
            Others: as in the specification; integers in the range of their field.
        Returns:
            True: handed over whole, the buffers are free. False: the rest is queued, the buffers are borrowed and must
            not be changed until `poll` or `flush` has sent them (`wants_write` is true meanwhile), or, over a socket
            with SO_ZEROCOPY, has found out that the kernel gave them back.
        Raises:
            NoCredit, PayloadTooLarge, ChannelClosed, ChannelBroken, MemoryError: this frame is not sent, nothing is
                borrowed; after the first two the channel stays usable.
            TypeError, BufferError, OverflowError: an argument is wrong; nothing was sent.
        """
        cdef rfaas_header header
        cdef rfaas_rc rc
        cdef _Borrowed borrowed = None
        cdef bytes encoded = None
        cdef const char *text_start = NULL
        cdef size_t text_bytes = 0
        memset(&header, 0, sizeof(header))
        header.kind = kind
        header.attempt = attempt
        header.status = status
        header.function = function
        header.credits = credits
        header.call_id = call_id
        header.lease_seq = lease_seq
        header.epoch = epoch
        header.deadline_ns = deadline_ns
        header.out_size = out_size
        header.invocation = invocation
        header.checkpoint = checkpoint
        if text:
            encoded = _text_bytes(text)
            text_start = encoded
            text_bytes = <size_t>len(encoded)
        if segments:
            borrowed = _Borrowed.__new__(_Borrowed)
            borrowed.borrow(segments)
        rc = self.hand_over(&header, borrowed, text_start, text_bytes)
        if rc == RFAAS_QUEUED:
            return False
        if rc == RFAAS_OK:
            return True
        self.refuse(rc)

    cdef rfaas_rc hand_over(self, rfaas_header *header, _Borrowed borrowed, const char *text, size_t text_bytes) noexcept:
        """Send; the queue keeps `borrowed` for as long as it needs it."""
        cdef rfaas_rc rc
        cdef void *cookie = NULL
        cdef const iovec *pieces = NULL
        cdef size_t n_pieces = 0
        if borrowed is not None:
            pieces = borrowed.pieces
            n_pieces = <size_t>borrowed.n
            cookie = <PyObject *>borrowed
            Py_INCREF(borrowed)  # the queue's reference; another thread may complete it before we are back
        self.acquire()
        if borrowed is not None and borrowed.size_bytes > SMALL_BYTES:
            with nogil:
                rc = rfaas_channel_send(self.channel, header, pieces, n_pieces, text, text_bytes, cookie)
        else:
            rc = rfaas_channel_send(self.channel, header, pieces, n_pieces, text, text_bytes, cookie)
        pthread_mutex_unlock(&self.lock)
        if rc != RFAAS_QUEUED and cookie != NULL:
            Py_DECREF(borrowed)  # the caller has one
        return rc

    cdef rfaas_rc hand_over_bytes(self, rfaas_header *header, bytes data) noexcept:
        """Send one segment of bytes, without a view of them: they don't change, and the queue can keep them."""
        cdef iovec piece
        piece.iov_base = <void *><const char *>data
        piece.iov_len = <size_t>PyBytes_GET_SIZE(data)
        Py_INCREF(data)
        self.acquire()
        cdef rfaas_rc rc = rfaas_channel_send(self.channel, header, &piece, 1, NULL, 0, <PyObject *>data)
        pthread_mutex_unlock(&self.lock)
        if rc != RFAAS_QUEUED:
            Py_DECREF(data)
        return rc

    cdef rfaas_rc exchange_bytes(self, rfaas_header *header, bytes data, rfaas_rc *came, rfaas_frame *received) noexcept:
        """`hand_over_bytes`, and `take` what comes while this looks, which is no longer than a hot peer takes.

        Args:
            came: what taking gave; AGAIN if nothing came, or the data could not be handed over whole.
        """
        cdef iovec piece
        piece.iov_base = <void *><const char *>data
        piece.iov_len = <size_t>PyBytes_GET_SIZE(data)
        came[0] = RFAAS_AGAIN
        Py_INCREF(data)
        self.acquire()
        cdef rfaas_rc rc = rfaas_channel_send(self.channel, header, &piece, 1, NULL, 0, <PyObject *>data)
        if rc == RFAAS_OK and rfaas_channel_look(self.channel) != RFAAS_AGAIN:
            came[0] = rfaas_channel_poll(self.channel, SMALL_BYTES, received)
        pthread_mutex_unlock(&self.lock)
        if rc != RFAAS_QUEUED:
            Py_DECREF(data)
        return rc

    def poll(self):
        """Send what is queued, read what is there; never blocks.

        Returns:
            The next whole frame, or None if there is none now (or a large one is still coming in).
        Raises:
            ChannelClosed: the peer ended in order (BYE, or the end of the stream between two frames), or `close`.
            ChannelBroken: the medium failed, or the peer sent what is no frame or is too large.
                Both only after every frame that had arrived whole was returned; each later call raises the same.
            RuntimeError: another thread polls this channel at this moment; nothing was done.
        """
        cdef rfaas_frame received
        cdef rfaas_rc rc
        if self.polling:
            raise RuntimeError("another thread polls this channel")
        self.polling = True
        try:
            rc = self.take(&received)
            self.let_go()
            if rc == RFAAS_OK:
                return _frame(&received)
        finally:
            self.polling = False
        if rc == RFAAS_AGAIN or rc == RFAAS_MORE:
            return None
        self.refuse(rc)

    cdef rfaas_rc take(self, rfaas_frame *received) noexcept:
        """The C part of `poll`."""
        cdef rfaas_rc rc = RFAAS_MORE
        self.acquire()
        if self.channel.queued_bytes <= SMALL_BYTES:
            rc = rfaas_channel_poll(self.channel, SMALL_BYTES, received)
        if rc == RFAAS_MORE:
            with nogil:
                rc = rfaas_channel_poll(self.channel, TURN_BYTES, received)
                while rc == RFAAS_MORE and (self.channel.holds_bytes or not self.channel.medium.polls_out):
                    rc = rfaas_channel_poll(self.channel, TURN_BYTES, received)
        pthread_mutex_unlock(&self.lock)
        return rc

    def flush(self):
        """Send what is queued, as far as the medium takes it now; never blocks.

        Returns:
            True if nothing is queued any more.
        Raises:
            ChannelClosed, ChannelBroken: what was queued is lost. Frames that arrived can still be polled.
        """
        cdef rfaas_rc rc
        self.acquire()
        with nogil:
            rc = rfaas_channel_flush(self.channel, TURN_BYTES)
        pthread_mutex_unlock(&self.lock)
        self.let_go()
        if rc == RFAAS_OK:
            return True
        if rc == RFAAS_AGAIN or rc == RFAAS_MORE:
            return False
        self.refuse(rc)

    def array(self, Py_ssize_t size_bytes):
        """Memory for an array that will be sent here: sending it after `settle` moves nothing.

        Returns:
            A writable buffer of `size_bytes`, its content undefined, its beginning aligned to 4096; None if there is
            none: another medium, the arena is full, or less of it ready (it grows by what is sent).
        """
        cdef ArenaMemory made = ArenaMemory.__new__(ArenaMemory)
        cdef bint taken
        made.array.owner = <void *><PyObject *>made
        if size_bytes <= 0 or rfaas_channel_is_inherited(self.channel):
            return None
        self.acquire()
        taken = rfaas_channel_array_take(self.channel, <size_t>size_bytes, &made.array)
        pthread_mutex_unlock(&self.lock)
        if not taken:
            return None
        self.has_arrays = True
        made.channel = self
        made.view_bytes = size_bytes
        return made

    def borrows(self, const uint8_t[::1] data not None):
        """True if these bytes lie in the peer's pool."""
        cdef size_t size_bytes = <size_t>data.shape[0]
        if size_bytes == 0:
            return False
        self.acquire()
        cdef bint found = rfaas_channel_is_borrowed(self.channel, &data[0], size_bytes)
        pthread_mutex_unlock(&self.lock)
        return found

    def settle(self, Frame frame, list segments not None):
        """End a call: make what is sent back, and what is kept, independent of the memory that the peer will write to.

        Args:
            frame: the CALL, which lets go of its segments; None: nothing of it was placed, and nobody holds it.
            segments: of the RESULT, with nothing else that refers to what they show. Those that nobody else looks at and
                that lie in `array` memory, or in an array that numpy made here, are handed over by the next send;
                those that lie in the peer's own memory are copied.
        Raises:
            MemoryError: none was left for copies; what was kept may still change under its keeper.
        """
        cdef rfaas_rc rc = RFAAS_OK
        cdef Py_ssize_t i
        cdef bint is_placed = frame is not None and frame.is_placed
        cdef bint has_missed = rfaas_channel_array_missed(self.channel)
        if not (is_placed or self.has_arrays or has_missed or rfaas_array_heap_is_used()):
            return
        self.has_copied = False
        for i in range(len(segments)):
            segments[i] = self.settled(segments, i)
        if has_missed:
            self.acquire()
            rfaas_channel_array_want(self.channel, self.has_copied)
            pthread_mutex_unlock(&self.lock)
        if frame is not None:
            frame.segments = ()
        if is_placed:
            self.acquire()
            rc = rfaas_channel_detach(self.channel)
            pthread_mutex_unlock(&self.lock)
        if rc != RFAAS_OK:
            raise MemoryError("no memory for a copy of the arguments that the function keeps")

    cdef object settled(self, list segments, Py_ssize_t i):
        """What goes in the place of a segment; takes it out of the list."""
        cdef Py_buffer view
        cdef ArenaMemory owner
        cdef void *found
        cdef size_t offset_bytes, size_bytes
        cdef bint borrowed
        cdef rfaas_array_pin *pin = NULL
        segment, segments[i] = segments[i], None
        PyObject_GetBuffer(segment, &view, PyBUF_SIMPLE)
        size_bytes = <size_t>view.len
        if size_bytes >= RFAAS_ARRAY_HEAP_LEAST_BYTES // 2 and rfaas_array_heap_is_used():
            pin = rfaas_array_heap_pin(self.channel, view.buf, size_bytes)
        if pin != NULL:
            found = view.buf
            PyBuffer_Release(&view)
            segment = None  # it is freed now if nobody else has it
            return self.claimed(pin, found, size_bytes)
        self.acquire()
        found = rfaas_channel_array_owner(self.channel, view.buf, size_bytes)
        borrowed = found == NULL and rfaas_channel_is_borrowed(self.channel, view.buf, size_bytes)
        pthread_mutex_unlock(&self.lock)
        if found == NULL or size_bytes == 0:
            self.has_copied |= size_bytes >= RFAAS_ARRAY_HEAP_LEAST_BYTES
            try:
                return self.copied(segment, size_bytes, view.buf) if borrowed and size_bytes > 0 else segment
            finally:
                PyBuffer_Release(&view)
        owner = <ArenaMemory><object><PyObject *>found
        offset_bytes = <uint8_t *>view.buf - <uint8_t *>owner.array.at
        PyBuffer_Release(&view)
        segment = None
        if Py_REFCNT(owner) == 1:  # ours: nobody else can look at it, or will
            self.acquire()
            rfaas_channel_array_hand_over(self.channel, &owner.array)
            pthread_mutex_unlock(&self.lock)
        return PyMemoryView_FromObject(owner)[offset_bytes:offset_bytes + size_bytes]

    cdef object claimed(self, rfaas_array_pin *pin, void *bytes, size_t size_bytes):
        """What is sent of an array of numpy's; draws the pin, now or when that is gone."""
        cdef PinnedMemory pinned
        cdef ArenaMemory claimed = ArenaMemory.__new__(ArenaMemory)
        cdef size_t array_bytes
        if not rfaas_array_heap_claim(pin, &claimed.array, &array_bytes):
            pinned = PinnedMemory.__new__(PinnedMemory)
            pinned.pin, pinned.channel, pinned.at, pinned.view_bytes = pin, self, bytes, <Py_ssize_t>size_bytes
            return PyMemoryView_FromObject(pinned)
        claimed.channel = self
        claimed.view_bytes = <Py_ssize_t>array_bytes
        self.has_arrays = True
        if size_bytes >= array_bytes // 2:  # else a small part would hold all of the memory at the peer
            self.acquire()
            rfaas_channel_array_hand_over(self.channel, &claimed.array)
            pthread_mutex_unlock(&self.lock)
        cdef size_t offset_bytes = <uint8_t *>bytes - <uint8_t *>claimed.array.at
        return PyMemoryView_FromObject(claimed)[offset_bytes:offset_bytes + size_bytes]

    cdef object copied(self, segment, size_t size_bytes, const void *bytes):
        cdef ArenaMemory copy = self.array(<Py_ssize_t>size_bytes)
        if copy is None:
            return PyMemoryView_FromObject(bytearray(segment))
        with nogil:
            memcpy(copy.array.at, bytes, size_bytes)
        self.acquire()
        rfaas_channel_array_hand_over(self.channel, &copy.array)
        pthread_mutex_unlock(&self.lock)
        return PyMemoryView_FromObject(copy)

    def wait(self, timeout_s=None):
        """Block, without the GIL, until `poll` has something to do; None waits for ever.

        Returns:
            False when `timeout_s` is over. May return True early, after a signal for instance.
        """
        cdef int64_t timeout_ns = _nanoseconds(timeout_s)
        cdef rfaas_rc rc
        with nogil:
            rc = rfaas_channel_wait(self.channel, timeout_ns)
        return rc != RFAAS_AGAIN

    def spin(self, double spin_s):
        """Look for a frame again and again, without the GIL, and poll once there may be one.

        For the thread that polls; best while `stay_awake` is on. Gives up early where somebody else wants this CPU.

        Args:
            spin_s: for how long at most.
        Returns:
            As `poll`: a frame, or None.
        Raises:
            As `poll`.
        """
        cdef int64_t spin_ns = <int64_t>(spin_s * 1e9)
        cdef rfaas_rc rc
        frame = self.poll()
        if frame is None:
            with nogil:
                rc = rfaas_channel_spin(self.channel, spin_ns)
            if rc != RFAAS_AGAIN:
                frame = self.poll()
        return frame

    def stay_awake(self, bint on):
        """Say that this side polls all the time, and later that it will sleep.

        While `on`, its descriptor tells nothing: over shm the peer makes no system call to wake this side, over a socket
        this side reads ahead. Any thread but a sleeping one.

        Returns:
            True if `poll` has something to do already: then the descriptor may not tell, and waiting for it would last.
        """
        self.acquire()
        cdef bint busy = rfaas_channel_stay_awake(self.channel, on)
        pthread_mutex_unlock(&self.lock)
        return busy

    def unacknowledged_bytes(self):
        """Bytes that the peer's kernel (unix: the peer) does not have yet, with those queued here; 0 once it ended."""
        self.acquire()
        cdef uint64_t size_bytes = rfaas_channel_unacknowledged_bytes(self.channel)
        pthread_mutex_unlock(&self.lock)
        return size_bytes

    cpdef close(self):
        """End the channel at once; repeatable. What the kernel has is still delivered, what is queued here is not."""
        if rfaas_channel_is_inherited(self.channel):
            pthread_mutex_init(&self.lock, NULL)  # a thread that is not in this process may have held it at the fork
        rfaas_array_heap_leave(self.channel)
        self.acquire()
        rfaas_channel_close(self.channel)
        pthread_mutex_unlock(&self.lock)
        self.let_go()

    def statistics(self):
        """Counters since the channel was made, and what is held and queued now."""
        cdef rfaas_statistics counted = self.channel.statistics
        return {
            "frames_sent": counted.frames_sent,
            "frames_received": counted.frames_received,
            "frames_dropped": counted.frames_dropped,
            "frames_queued": counted.frames_queued,
            "payload_bytes_sent": counted.payload_bytes_sent,
            "payload_bytes_received": counted.payload_bytes_received,
            "queued_bytes": self.channel.queued_bytes,
            "tx_credits": self.channel.tx_credits,
            "rx_credits": self.channel.rx_credits,
        }

    @property
    def wants_write(self):
        """True while frames are queued: wait for writability too, then `poll` or `flush`.

        Never on a medium whose descriptor becomes readable for that (shm).
        """
        return rfaas_channel_wants_write(self.channel)

    @property
    def tx_credits(self):
        """How many credited frames may be sent now."""
        return self.channel.tx_credits

    @property
    def violated(self):
        """True: it broke because the peer asked this side's RDMA device for memory that it has no key for."""
        return self.channel.violated

    @property
    def closed(self):
        """True after `close`; the peer's end shows in `poll` only."""
        return self.channel.closed

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __repr__(self):
        state = "closed" if self.channel.closed else f"fd {rfaas_channel_fd(self.channel)}"
        return f"<Channel {self.medium} {state} tx_credits={self.channel.tx_credits}>"


@cython.final
@cython.no_gc
cdef class ArenaMemory:
    """What `Channel.array` gives; keeps the channel's memory mapped."""

    cdef rfaas_channel_array array
    cdef Channel channel
    cdef Py_ssize_t view_bytes

    def __init__(self):
        raise TypeError("use Channel.array")

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.array.at, self.view_bytes, 0, flags)

    def __dealloc__(self):
        if self.channel is None or rfaas_channel_is_inherited(self.channel.channel):
            return
        self.channel.acquire()
        rfaas_channel_array_give_back(self.channel.channel, &self.array)
        pthread_mutex_unlock(&self.channel.lock)


def shm_segment(uint64_t arena_bytes=DEFAULT_ARENA_BYTES):
    """Make the memory of a channel between two processes of one node, untouched and sealed against other sizes.

    Args:
        arena_bytes: for large payloads, each way; a multiple of 4096, at most 1 GiB. Only what is used takes memory.
    Returns:
        Its descriptor, the caller's.
    Raises:
        OSError: no descriptor or memory was left, or the size is no such number.
    """
    cdef int fd = rfaas_shm_create(arena_bytes)
    if fd < 0:
        raise _os_error()
    return fd


cdef const rfaas_secure_ops *_encryption(bytes key) except NULL:
    """Loads what encrypts, which nobody else pays for."""
    from rfaas_transport import tls
    if len(key) != tls.KEY_BYTES:
        raise ConfigError(f"the key of a channel has {len(key)} bytes, not {tls.KEY_BYTES}")
    tls.require()
    from rfaas_transport import _tls
    return <const rfaas_secure_ops *>PyCapsule_GetPointer(_tls.operations, "rfaas_transport._tls.operations")


cdef const rfaas_verbs_ops *_rdma() except NULL:
    """Loads what speaks to RDMA devices, which nobody else pays for."""
    from rfaas_transport import verbs
    verbs.require_built()
    from rfaas_transport import _verbs
    return <const rfaas_verbs_ops *>PyCapsule_GetPointer(_verbs.operations, "rfaas_transport._verbs.operations")


cdef Channel _adopt(rfaas_channel *channel):
    cdef Channel made = Channel.__new__(Channel)
    made.channel = channel
    made.medium = channel.name.decode()
    return made
