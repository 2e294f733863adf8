# Loan over transport/core/loan.h. Part of _core.pyx.
#
# From `rfaas_loan_take` to the end of what a borrower does no object is made that the garbage collector follows, none is
# freed that could be anybody's, and no Python code runs: neither a KeyboardInterrupt nor a finalizer can come between,
# and whoever waits for the channels waits for C code only.

cdef extern from "loan.h" nogil:
    enum:
        RFAAS_LOAN_CHANNELS
    enum rfaas_loan_state:
        RFAAS_LOAN_ABSENT
        RFAAS_LOAN_IDLE
        RFAAS_LOAN_BUSY
        RFAAS_LOAN_ASLEEP
        RFAAS_LOAN_LEFT
    ctypedef struct rfaas_loan:
        int recalled
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
    int rfaas_loan_await(rfaas_loan *loan, rfaas_channel **channels, int n, int64_t spin_ns, int64_t sleep_ns)

MOST_LENT = RFAAS_LOAN_CHANNELS


@cython.final
cdef class Loan(_Exchange):
    """Channels on loan to whichever thread asks: requests out, answers in, with no other thread's help.

    The owner is the one thread that waits on `poller`; no signal handler may interrupt it. It lends channels and gets
    them back, with what was sent there and not answered. Any other thread asks. Each channel has one request at a time;
    those that find none free wait here, in order.

    Args:
        poller: the owner waits on it, and is woken when something is left to it.
        sleep_s: for how long a borrower sleeps when nothing comes; for so long a signal may have to wait.
        look_s: for how long it looks before.
        quick_s: a peer that answers within it is sent small requests behind others.
    """

    cdef rfaas_loan loan
    cdef Poller poller
    cdef int64_t sleep_ns, look_ns
    cdef readonly object awaited  # futures of answered requests, for the owner to tell who waits for them
    cdef uint64_t generation     # names the loan
    cdef rfaas_channel *busy[RFAAS_LOAN_CHANNELS]
    cdef public bint watched     # the owner looks after it every now and then
    cdef readonly uint64_t unattended # grows with each request whose sender went on

    def __cinit__(self, Poller poller not None, double sleep_s=0.02, double look_s=0.0002, double quick_s=0.001):
        self.loan.wake_fd = -1
        self.sleep_ns = <int64_t>(sleep_s * 1e9)
        self.look_ns = <int64_t>(look_s * 1e9)
        self.quick_ns = <int64_t>(quick_s * 1e9)
        self.poller = poller
        self.awaited = deque()
        if rfaas_loan_open(&self.loan) != 0:
            raise _os_error()

    def __dealloc__(self):
        rfaas_loan_close(&self.loan)

    # --- the owner ---

    def begin(self, uint64_t generation, channels, uint8_t kind, uint64_t n_ids, uint64_t out_size):
        """Lend channels, with which the owner does nothing until `end`.

        Args:
            generation: names the loan to borrowers, who may know of an older one still; not 0.
            channels: of each the channel, the number before that of its first request, lease_seq, epoch and the
                indices of its functions by identity; at most MOST_LENT.
            kind: of the requests, of which there are `n_ids` a channel at most.
            out_size: of each that names none itself.
        """
        cdef _Lent one
        lent = []
        for channel, id_before, lease_seq, epoch, functions in channels:
            one = _Lent.__new__(_Lent)
            one.channel = channel
            one.functions = functions
            one.behind = []
            one.header.kind = kind
            one.header.call_id = id_before
            one.header.lease_seq = lease_seq
            one.header.epoch = epoch
            one.last_id = id_before + n_ids
            lent.append(one)
            one.channel.stay_awake(True)
        self.lent = lent
        self.generation = generation
        self.out_size = out_size
        self.n_busy = 0
        rfaas_loan_begin(&self.loan)

    def recall(self):
        """Let nobody borrow any more, from any thread, and have the owner see to the rest."""
        rfaas_loan_recall(&self.loan)
        self.poller.wake()

    def end(self):
        """Have the channels back, once nobody uses them any more: a fraction of a millisecond, or a large payload's time.

        Returns:
            None if there was no loan. Else, of each channel, how many answers came, the requests that were sent there
            and not answered, in order, the number of the first, the frame that came instead of its answer or None, and how
            many credits came with no answer; then the requests that were not sent, in order.
        """
        cdef _Lent one
        cdef Request request
        cdef bint was
        with nogil:
            was = rfaas_loan_end(&self.loan)
        if not was:
            return None
        lent, self.lent = self.lent, []
        waiting = [each for each in self.queue if not (<Request>each).withdrawn]
        self.queue.clear()
        for request in waiting:
            request.generation = 0
        channels = []
        for one in lent:
            left = [] if one.request is None else [one.request, *one.behind]
            for request in left:
                request.generation = 0
            frame = None
            if one.has_received:
                one.has_received = False
                frame = _frame(&one.received)
            channels.append((one.n_answers, left, one.header.call_id - <uint64_t>one.n_behind, frame, one.n_credits))
            one.channel.let_go()
        self.look_after()
        return channels, waiting

    def close(self):
        """Give up what it needs of the kernel, once there is no loan any more and never will be; repeatable."""
        rfaas_loan_close(&self.loan)

    @property
    def open(self):
        """True while there is a loan."""
        return rfaas_loan_look(&self.loan) != RFAAS_LOAN_ABSENT

    @property
    def unused(self):
        """True while there is a loan and nobody uses it at this moment."""
        return rfaas_loan_look(&self.loan) == RFAAS_LOAN_IDLE

    @property
    def is_over(self):
        """True once the owner has to end it: it is recalled, or something was left."""
        return self.loan.recalled != 0 or rfaas_loan_look(&self.loan) == RFAAS_LOAN_LEFT

    @property
    def outstanding(self):
        """Requests that were sent and not answered, or wait."""
        return self.n_busy + len(self.queue)

    @property
    def waiting(self):
        """Requests that wait for a channel."""
        return len(self.queue)

    @property
    def answers(self):
        """How many answers came since `begin`."""
        cdef _Lent one
        cdef uint64_t n = 0
        for one in self.lent:
            n += one.n_answers
        return n

    def requests(self):
        """What is outstanding; for a forked child, where nobody will answer it."""
        cdef _Lent one
        sent = []
        for one in self.lent:
            if one.request is not None:
                sent += [one.request, *one.behind]
        return sent + list(self.queue)

    # --- borrowers ---

    def submit(self, uint64_t generation, Request request not None):
        """Send a request now or, once those before it are answered, then; `generation`: of the loan that is meant.

        Returns:
            False: there is no such loan, or it is about to end, and the request is nowhere.
        """
        return self.send(generation, request)

    def wait(self, Request request not None, timeout_s=None):
        """Wait for the answer of a request, and meanwhile look after all that is on loan.

        Returns:
            True: it is answered. False: this is the owner's affair now, `timeout_s` is over, or another thread waits
            here already.
        """
        return self.wait_for(request, timeout_s)

    def call(self, uint64_t generation, Request request not None):
        """`submit` and then `wait`, in less time than the two.

        Returns:
            As `wait`; None: as `submit`, if that is False.
        """
        cdef Under under = self.send_and_wait(generation, request)
        return None if under == NOWHERE else under == ANSWERED

    cdef bint send(self, uint64_t generation, Request request) except *:
        cdef rfaas_loan_state state = rfaas_loan_look(&self.loan)
        if self.generation != generation or self.loan.recalled or state == RFAAS_LOAN_LEFT or state == RFAAS_LOAN_ABSENT:
            return False
        request.generation = generation
        self.activity += 1
        self.unattended += 1
        if len(self.queue) == 0 and rfaas_loan_take(&self.loan):
            if not self.send_first(request):
                self.leave()
            elif request.sent:
                rfaas_loan_give_back(&self.loan)
            else:
                self.use()
            self.look_after()
        else:
            self.put(request)
            if rfaas_loan_take(&self.loan):
                self.use()
                self.look_after()
            elif state == RFAAS_LOAN_ASLEEP:  # whoever has it waits for something long, and would hinder this one
                self.recall()
        self.have_it_watched()
        return True

    cdef bint wait_for(self, Request request, timeout_s) except *:
        cdef int64_t sleep_ns = self.sleep_ns
        if request.done:
            return True
        if request.generation == 0 or request.generation != self.generation:
            return False
        if timeout_s is not None:
            sleep_ns = min(self.sleep_ns, max(0, <int64_t>(timeout_s * 1e9)))
        if not rfaas_loan_take(&self.loan):
            return False
        self.await_one(request, sleep_ns)
        self.have_it_watched()  # what others sent, while this thread did it
        self.look_after()
        return request.done

    cdef Under send_and_wait(self, uint64_t generation, Request request) except *:
        if self.generation != generation or len(self.queue) > 0 or not rfaas_loan_take(&self.loan):
            if not self.send(generation, request):
                return NOWHERE
            return ANSWERED if self.wait_for(request, None) else UNDER_WAY
        request.generation = generation
        self.activity += 1
        if not self.send_and_look(request):
            self.leave()
            self.have_it_watched()
        elif request.done:  # as most are
            rfaas_loan_give_back(&self.loan)
        else:
            self.await_one(request, self.sleep_ns)
            self.have_it_watched()  # what others sent, while this thread did it; who waits for its own needs nobody
        self.look_after()
        return ANSWERED if request.done else UNDER_WAY

    cdef void wake_owner(self) noexcept:
        if not self.poller.closing:
            rfaas_poller_wake(&self.poller.poller)

    cdef void have_it_watched(self) noexcept:
        """Have the owner look after what was sent, in case nobody else does."""
        if not self.watched and self.n_busy:
            self.watched = True
            self.wake_owner()

    def look(self):
        """Send and take what can be without waiting."""
        self.look_at_all()

    cdef int look_at_all(self) except -1:
        if self.n_busy != 0 and rfaas_loan_take(&self.loan):
            self.use()
            self.look_after()
        return 0

    def withdraw(self, Request request not None):
        """Take a request back that was not sent; False if it is too late, or if somebody must be told."""
        if request.done or request.sent or request.is_awaited or request.generation != self.generation:
            return False
        request.withdrawn = True
        request.generation = 0
        return True

    # --- with the loan taken ---

    cdef void use(self):
        """Exchange what can be at once, and let go of the loan."""
        if self.exchange():
            rfaas_loan_give_back(&self.loan)
        else:
            self.leave()

    cdef void leave(self) noexcept:
        """What comes next is the owner's affair."""
        rfaas_loan_leave(&self.loan)
        self.wake_owner()

    cdef void await_one(self, Request request, int64_t sleep_ns):
        """Exchange and wait until this request is answered or is the owner's affair; then let go of the loan."""
        if self.is_on_its_way(request) and not self.await_answers(sleep_ns):  # it was looked at just now
            self.wake_owner()
            return
        while self.exchange():
            if request.done:
                rfaas_loan_give_back(&self.loan)
                return
            if not self.await_answers(sleep_ns):
                self.wake_owner()
                return
        self.leave()

    cdef bint await_answers(self, int64_t sleep_ns):
        """Wait for the next answer; False: nothing came, or the loan was recalled, and it is left."""
        cdef _Lent one
        cdef int n = 0
        cdef int ready
        for i in range(PyList_GET_SIZE(self.lent)):
            one = <_Lent>PyList_GET_ITEM(self.lent, i)
            if one.request is not None:
                self.busy[n] = one.channel.channel
                n += 1
        if n == 1 and rfaas_channel_look(self.busy[0]) != RFAAS_AGAIN:
            return True
        with nogil:
            ready = rfaas_loan_await(&self.loan, self.busy, n, self.look_ns, sleep_ns)
        return ready >= 0

    cdef int look_after(self) except -1:
        """With the loan given back: free what is over, tell those who wait for it."""
        cdef _Lent one
        cdef int i
        cdef Py_ssize_t n = PyList_GET_SIZE(self.finished)
        if n == 0:
            return 0
        for i in range(PyList_GET_SIZE(self.lent)):
            one = <_Lent>PyList_GET_ITEM(self.lent, i)
            if one.channel.channel.n_completed > 0:
                one.channel.let_go()
        if n == 1:
            self.let_go(<Request>self.finished.pop())
            return 0
        finished, self.finished = self.finished, []
        for request in finished:
            self.let_go(<Request>request)
        return 0

    cdef int let_go(self, Request request) except -1:
        if request.is_awaited and request.future is not None:
            self.awaited.append(request.future)
            self.wake_owner()
        request.future = None
        request.borrowed = None
        return 0
