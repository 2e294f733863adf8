# What a hot loop takes and answers, with less to be made for each than a Frame. Part of _core.pyx.

@cython.final
cdef class Requests:
    """Plain requests for one function on one channel: of one kind, under one lease, nothing beside their payload.

    For the thread that polls. Args:
        channel: theirs.
        kind, answer_kind: of the frames that come, and of those that go.
        function, lease_seq, epoch: what they are for.
    """

    cdef Channel channel
    cdef uint8_t kind, answer_kind
    cdef uint16_t function
    cdef readonly uint64_t lease_seq, epoch
    cdef rfaas_header header  # of the one that was taken last

    def __init__(self, Channel channel not None, uint8_t kind, uint8_t answer_kind, uint16_t function,
                 uint64_t lease_seq, uint64_t epoch):
        self.channel = channel
        self.kind = kind
        self.answer_kind = answer_kind
        self.function = function
        self.lease_seq = lease_seq
        self.epoch = epoch

    @property
    def call_id(self):
        """Number of the request that was taken last."""
        return self.header.call_id

    @property
    def in_size(self):
        """Bytes of its payload."""
        return self.header.in_size

    @property
    def out_size(self):
        """Bytes that its answer may have; 0: as many as a channel takes."""
        return self.header.out_size

    @property
    def attempt(self):
        """0: others are not plain."""
        return 0

    @property
    def invocation(self):
        """0, as `attempt`."""
        return 0

    def next(self, double spin_s):
        """Take what comes within `spin_s`, as `Channel.spin`.

        Returns:
            The payload of a plain request: bytes of one small segment, else a tuple of writable memoryviews. Or a Frame
            that is none; or None: nothing came.
        Raises:
            As `Channel.poll`.
        """
        return self.take_next(<int64_t>(spin_s * 1e9))

    cdef object take_next(self, int64_t spin_ns):
        cdef rfaas_frame received
        cdef Channel channel = self.channel
        if channel.polling:
            raise RuntimeError("another thread polls this channel")
        channel.polling = True
        # First for as long as a hot client needs, which is less than giving up the GIL and getting it back takes. What is
        # queued leaves by `take` only.
        cdef rfaas_rc rc = RFAAS_OK if channel.channel.queued_bytes > 0 else rfaas_channel_look(channel.channel)
        if rc == RFAAS_AGAIN:
            with nogil:
                rc = rfaas_channel_spin(channel.channel, spin_ns)
        if rc != RFAAS_AGAIN:
            rc = channel.take(&received)
        channel.polling = False
        if channel.channel.n_completed > 0:
            channel.let_go()
        if rc == RFAAS_AGAIN or rc == RFAAS_MORE:
            return None
        if rc != RFAAS_OK:
            channel.refuse(rc)
        if not self.is_plain(&received.header) or received.n_segments == 0 or received.n_placed > 0:
            return _frame(&received)
        self.header = received.header
        small = _small(&received)
        return _frame(&received).segments if small is None else small

    cdef bint is_plain(self, const rfaas_header *header):
        return (header.kind == self.kind and header.function == self.function and header.lease_seq == self.lease_seq
                and header.epoch == self.epoch and header.deadline_ns == 0 and header.checkpoint == 0
                and header.attempt == 0 and header.invocation == 0)

    def frame(self):
        """The request that was taken last as a Frame without its payload, for who goes on with it in the ordinary way."""
        cdef rfaas_frame empty
        memset(&empty, 0, sizeof(empty))
        empty.header = self.header
        return _frame(&empty)

    def answer(self, payload not None):
        """Answer the request that was taken last, with status 0 and its credit.

        Args:
            payload: bytes; or segments, as in `Channel.send`.
        Returns, raises:
            As `Channel.send`.
        """
        return self.give_answer(payload)

    cdef bint give_answer(self, payload) except *:
        cdef rfaas_header header
        cdef _Borrowed borrowed
        cdef rfaas_rc rc
        memset(&header, 0, sizeof(header))
        header.kind = self.answer_kind
        header.call_id = self.header.call_id
        header.function = self.function
        header.credits = 1
        if type(payload) is bytes:
            rc = self.channel.hand_over_bytes(&header, <bytes>payload)
        else:
            borrowed = _Borrowed.__new__(_Borrowed)
            borrowed.borrow(payload)
            rc = self.channel.hand_over(&header, borrowed, NULL, 0)
        if rc == RFAAS_QUEUED:
            return False
        if rc == RFAAS_OK:
            return True
        self.channel.refuse(rc)
