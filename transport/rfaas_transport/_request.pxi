# One request on channels on loan: of a Loan (_loan.pxi). Part of _core.pyx.

@cython.final
@cython.freelist(64)
cdef class Request:
    """One request on channels on loan, and its answer once there is one.

    Args:
        identity: of the function, as the channels know it.
        payload: bytes; or segments, as in `Channel.send`.
        about: whatever its owner wants to know of it.
        out_size: of its frame; 0: that of the loan.
    Raises:
        TypeError, BufferError, PayloadTooLarge: as `Channel.send`.
    """

    cdef readonly object identity, payload, about
    cdef _Borrowed borrowed       # of segments
    cdef object future            # of whoever waits beyond the loan
    cdef bytes small              # the answer, if it is small
    cdef bint wants_memory        # of a small answer, in the place of bytes
    cdef _Payload memory          # the answer, if it is that
    cdef rfaas_frame received     # else it is this
    cdef bint has_received
    cdef void *kept               # of what that points to: the channel's own is gone with the next frame
    cdef object made              # of `memory` or `received`
    cdef readonly bint done       # it is answered
    cdef readonly bint sent
    cdef readonly bint behind     # it lies behind another where it was sent
    cdef readonly bint withdrawn  # it never will be
    cdef public bint is_awaited   # by somebody who must be told
    cdef uint64_t generation      # of the loan that it is on; 0: of none
    cdef readonly int channel     # where it was sent, as a place among those lent
    cdef uint64_t out_size

    def __init__(self, identity, payload not None, about, uint64_t out_size=0):
        self.fill(identity, payload, about, out_size)

    cdef int fill(self, identity, payload, about, uint64_t out_size) except -1:
        self.identity = identity
        self.payload = payload
        self.about = about
        self.out_size = out_size
        if type(payload) is not bytes:
            self.borrowed = _Borrowed.__new__(_Borrowed)
            self.borrowed.borrow(payload)
        return 0

    cdef bint rest(self) noexcept:
        """Be as new, to be filled again; False: it is no plain one, or not over, or somebody else has it.

        Of a request that is answered, for its only owner.
        """
        if not self.done or self.has_received or self.kept != NULL or self.borrowed is not None or self.is_awaited:
            return False
        if Py_REFCNT(self) > 1 or self.future is not None:
            return False
        self.payload = self.about = self.made = None
        self.small = None
        self.memory = None
        self.done = self.sent = self.behind = False
        self.generation = 0
        return True

    def __dealloc__(self):
        if self.has_received and self.received.buffer != NULL:
            self.received.memory.release(self.received.memory.context, self.received.buffer, self.received.buffer_bytes)
        free(self.kept)

    cdef bint take(self, const rfaas_frame *received):
        """Be answered; False: there was no memory for that, and the frame is still the caller's."""
        cdef bint is_plain = received.header.status == 0
        if is_plain and self.wants_memory and _is_small(received):
            self.memory = _memory(received)
        elif is_plain:
            self.small = _small(received)
        if self.small is None and self.memory is None and not self.keep(received):
            return False
        self.done = True
        return True

    cdef bint keep(self, const rfaas_frame *received) noexcept:
        cdef size_t segments_bytes = received.n_segments * sizeof(iovec)
        cdef size_t placed_bytes = received.n_placed * sizeof(rfaas_placed)
        cdef char *room = <char *>malloc(segments_bytes + placed_bytes + received.text_bytes + 1)
        if room == NULL:
            return False
        self.kept = room
        self.has_received = True
        self.received = received[0]
        self.received.segments = <const iovec *>room
        memcpy(room, received.segments, segments_bytes)
        self.received.placed = <const rfaas_placed *>(room + segments_bytes)
        memcpy(room + segments_bytes, received.placed, placed_bytes)
        self.received.text = <const uint8_t *>(room + segments_bytes + placed_bytes)
        memcpy(room + segments_bytes + placed_bytes, received.text, received.text_bytes)
        return True

    cpdef object claim(self, future):
        """The future of this request: the one that was claimed first, by whoever came first."""
        if self.future is None:
            self.future = future
        return self.future

    @property
    def is_on_loan(self):
        """True until it is answered or its owner has it."""
        return self.generation != 0 and not self.done

    cpdef object answer(self):
        """What answered it: bytes of an answer with status 0 and one small segment, else a Frame."""
        if self.small is not None:
            return self.small
        if self.has_received:
            self.has_received = False
            self.made = _frame(&self.received)
        elif self.made is None and self.memory is not None:
            self.made = PyMemoryView_FromObject(self.memory)
        return self.made
