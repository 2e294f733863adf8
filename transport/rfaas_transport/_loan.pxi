# Loan over transport/core/loan.h. Part of _core.pyx.
#
# From `rfaas_loan_take` to the end of an exchange no Python object is made or freed and no Python code runs: neither a
# KeyboardInterrupt nor a finalizer can come in between, and whoever waits for the channel waits for C code only.

cdef extern from "loan.h" nogil:
    enum rfaas_loan_state:
        RFAAS_LOAN_ABSENT
        RFAAS_LOAN_IDLE
        RFAAS_LOAN_BUSY
        RFAAS_LOAN_ASLEEP
        RFAAS_LOAN_LEFT
    ctypedef struct rfaas_loan:
        int wake_fd
    int rfaas_loan_open(rfaas_loan *loan)
    void rfaas_loan_close(rfaas_loan *loan)
    void rfaas_loan_begin(rfaas_loan *loan)
    void rfaas_loan_recall(rfaas_loan *loan)
    bint rfaas_loan_end(rfaas_loan *loan)
    rfaas_loan_state rfaas_loan_look(const rfaas_loan *loan)
    bint rfaas_loan_take(rfaas_loan *loan)
    void rfaas_loan_give_back(rfaas_loan *loan)
    void rfaas_loan_leave(rfaas_loan *loan)
    rfaas_rc rfaas_loan_await(rfaas_loan *loan, rfaas_channel *channel, int64_t spin_ns, int64_t sleep_ns)

cdef extern from "frame.h" nogil:
    enum:
        RFAAS_KIND_RESULT

cdef enum:
    ANSWERS_MAX = 6  # statuses below end an exchange: the peer has answered and takes the next (001 section 4)

cdef int64_t LOOK_NS = 200000        # a hot peer answers within microseconds
cdef int64_t SLEEP_NS = 20000000     # for so long a signal may have to wait


@cython.final
cdef class Loan:
    """At most one channel on loan to whichever thread asks: a request out, its answer in, with no other thread's help.

    The owner is the one thread that waits on `poller`; no signal handler may interrupt it. It lends a channel and gets
    it back, with the request that was sent there and not answered, if there is one. Any other thread asks.

    Args:
        poller: the owner waits on it, and is woken when an exchange is left to it.
    """

    cdef rfaas_loan loan
    cdef Poller poller
    cdef Channel channel      # None: there is no loan
    cdef object request       # sent and not answered, as `ask` had it
    cdef rfaas_header header  # of the request that was sent last
    cdef uint64_t last_id
    cdef rfaas_frame received
    cdef bint has_received    # came instead of an answer
    cdef uint64_t n_answers
    cdef uint64_t generation  # names the loan

    LEFT = object()
    """What `ask` returns if the request was sent, and the rest is the owner's affair."""

    def __cinit__(self, Poller poller not None):
        self.loan.wake_fd = -1
        self.poller = poller
        if rfaas_loan_open(&self.loan) != 0:
            raise _os_error()

    def __dealloc__(self):
        if self.has_received:
            self.received.memory.release(self.received.memory.context, self.received.buffer, self.received.buffer_bytes)
        rfaas_loan_close(&self.loan)

    # --- the owner ---

    def begin(self, Channel channel not None, uint8_t kind, uint64_t generation, uint64_t id_before, uint64_t n_ids,
              uint64_t lease_seq, uint64_t epoch, uint64_t out_size):
        """Lend a channel, with which the owner does nothing until `end`.

        Args:
            generation: names the loan to borrowers, who may know of an older one still.
            kind: of the requests; they are numbered from the one after `id_before`, `n_ids` at most.
            lease_seq, epoch, out_size: of each.
        """
        memset(&self.header, 0, sizeof(self.header))
        self.header.kind = kind
        self.header.call_id = id_before
        self.header.lease_seq = lease_seq
        self.header.epoch = epoch
        self.header.out_size = out_size
        self.last_id = id_before + n_ids
        self.n_answers = 0
        self.generation = generation
        self.channel = channel
        channel.stay_awake(True)
        rfaas_loan_begin(&self.loan)

    def recall(self):
        """Let no exchange begin any more, from any thread; the owner does the rest."""
        rfaas_loan_recall(&self.loan)

    def end(self):
        """Have the channel back, once nobody uses it any more: a fraction of a millisecond, or a large payload's time.

        Returns:
            None if there was no loan; else how many answers came, then what was sent and not answered (None: nothing),
            its number, and the frame that came instead of an answer, or None.
        """
        cdef bint was
        with nogil:
            was = rfaas_loan_end(&self.loan)
        if not was:
            return None
        request, self.request, self.channel = self.request, None, None
        frame = None
        if self.has_received:
            self.has_received = False
            frame = _frame(&self.received)
        return self.n_answers, request, self.header.call_id, frame

    @property
    def open(self):
        """True while there is a loan."""
        return rfaas_loan_look(&self.loan) != RFAAS_LOAN_ABSENT

    @property
    def unused(self):
        """True while there is a loan and nobody uses it."""
        return rfaas_loan_look(&self.loan) == RFAAS_LOAN_IDLE

    @property
    def is_left(self):
        """True once an exchange was left to the owner."""
        return rfaas_loan_look(&self.loan) == RFAAS_LOAN_LEFT

    @property
    def answers(self):
        """How many answers came since `begin`."""
        return self.n_answers

    # --- borrowers ---

    def ask(self, uint64_t generation, uint16_t function, payload not None, request not None):
        """Send a request and wait for its answer.

        Args:
            generation: of the loan that is meant.
            function: its index on that loan's channel.
            payload: bytes; or segments, as in `Channel.send`.
            request: what the owner gets if it isn't answered here.
        Returns:
            The payload of an answer with status 0 and one small segment, as bytes; any other answer's frame; LEFT: it was sent, and the owner will have the answer; None: nothing was sent, since
            there is no loan, another thread uses it, or the channel doesn't take the request.
        Raises:
            TypeError, BufferError, PayloadTooLarge: as `Channel.send`; nothing was sent.
        """
        cdef _Borrowed borrowed = None
        cdef Channel channel
        cdef rfaas_rc rc
        cdef rfaas_frame received
        if rfaas_loan_look(&self.loan) != RFAAS_LOAN_IDLE:
            return None
        if type(payload) is not bytes:
            borrowed = _Borrowed.__new__(_Borrowed)
            borrowed.borrow(payload)
        if self.generation != generation or not rfaas_loan_take(&self.loan):
            return None
        channel = self.channel
        rc = RFAAS_NO_CREDIT
        if self.header.call_id < self.last_id:
            self.header.call_id += 1
            self.header.function = function
            if borrowed is None:
                rc = channel.hand_over_bytes(&self.header, <bytes>payload)
            else:
                rc = channel.hand_over(&self.header, borrowed, NULL, 0)
        if rc != RFAAS_OK and rc != RFAAS_QUEUED:
            rfaas_loan_leave(&self.loan)  # the ordinary way tells what is wrong
            self.poller.wake()
            return None
        self.request = request
        while True:
            with nogil:
                rc = rfaas_loan_await(&self.loan, channel.channel, LOOK_NS, SLEEP_NS)
            if rc == RFAAS_OK:
                rc = channel.take(&received)
                if rc == RFAAS_AGAIN or rc == RFAAS_MORE:
                    continue
                if rc == RFAAS_OK and self.is_answer(&received):
                    break
                if rc == RFAAS_OK:
                    self.received = received
                    self.has_received = True
                rfaas_loan_leave(&self.loan)
            self.poller.wake()
            return Loan.LEFT
        self.n_answers += 1
        answered, self.request = self.request, None  # freed below, with all that it holds
        rfaas_loan_give_back(&self.loan)
        channel.let_go()
        small = _small(&received) if received.header.status == 0 else None
        return _frame(&received) if small is None else small

    cdef bint is_answer(self, const rfaas_frame *frame):
        return (frame.header.kind == RFAAS_KIND_RESULT and frame.header.call_id == self.header.call_id
                and frame.header.status < ANSWERS_MAX and frame.header.credits == 1)
