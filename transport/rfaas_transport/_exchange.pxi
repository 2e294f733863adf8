# Requests and answers on the channels of a loan: what whoever has taken it does with them. Part of _core.pyx.
#
# Under the rules of _loan.pxi: no object is made that the garbage collector follows, none is freed that could be
# anybody's, and no Python code runs.

from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE

from collections import deque

cdef extern from "frame.h" nogil:
    enum:
        RFAAS_KIND_RESULT
        RFAAS_KIND_TAKEN

cdef enum:
    ANSWERS_MAX = 6  # statuses below end a request: the peer has answered and takes the next (001 section 4)
    FUNCTION_ERROR = 8  # and this one

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    enum:
        CLOCK_MONOTONIC

cdef enum:
    MOST_AT_ONCE = 8     # requests on a channel
    SMALL_BEHIND = 32768 # bytes of one that lies behind another



cdef int64_t _now_ns() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


@cython.final
cdef class _Lent:
    """One channel on loan."""

    cdef Channel channel
    cdef rfaas_header header    # of the request that was sent last
    cdef uint64_t last_id
    cdef dict functions         # index by identity
    cdef object last_function   # identity of the one whose index `header` has
    cdef Request request        # sent and not answered, the oldest
    cdef list behind            # the others, in order
    cdef int n_behind
    cdef uint64_t n_answers
    cdef uint32_t n_credits     # that came with no answer
    cdef object quick_with      # identity of the function whose last answer was quick, while others wait
    cdef int64_t since_ns, took_ns   # when the answer before came, while others wait; how long it took
    cdef rfaas_frame received
    cdef bint has_received      # came instead of an answer

    def __dealloc__(self):
        if self.has_received and self.received.buffer != NULL:
            self.received.memory.release(self.received.memory.context, self.received.buffer, self.received.buffer_bytes)


cdef class _Exchange:
    """The channels of a loan, what was sent on them and not answered, and what waits for one."""

    cdef list lent               # of _Lent
    cdef object queue, put, take_first   # requests that wait
    cdef list finished           # answered, to be looked after once nobody has the loan
    cdef uint64_t out_size       # of requests that name none
    cdef int64_t quick_ns        # who answers within it gets requests behind others; after twice that no more of them
    cdef int n_busy              # requests that were sent and not answered
    cdef readonly uint64_t activity   # grows with each request and each answer

    def __cinit__(self):
        self.lent = []
        self.finished = []
        self.queue = deque()
        self.put = self.queue.append
        self.take_first = self.queue.popleft

    cdef int free_place(self) noexcept:
        """The first channel without a request, as a place among those lent; -1: there is none."""
        cdef int i
        for i in range(PyList_GET_SIZE(self.lent)):
            if (<_Lent>PyList_GET_ITEM(self.lent, i)).request is None:
                return i
        return -1

    cdef bint send_first(self, Request request):
        """Send a request before which none waits, or have it wait; False: a channel doesn't take it."""
        cdef int place = self.free_place()
        if place >= 0 and self.send_on(<_Lent>PyList_GET_ITEM(self.lent, place), place, request):
            return True
        self.put(request)
        return place < 0

    cdef bint send_and_look(self, Request request):
        """`send_first`, and take the answer if it comes meanwhile: of a small request, under one lock.

        Returns:
            False: the rest is the owner's affair.
        """
        cdef _Lent one
        cdef rfaas_frame received
        cdef rfaas_rc came = RFAAS_AGAIN
        cdef int place = self.free_place()
        if place < 0 or request.borrowed is not None:
            return self.send_first(request)
        one = <_Lent>PyList_GET_ITEM(self.lent, place)
        if not self.address(one, request):
            self.put(request)
            return False
        cdef rfaas_rc rc = one.channel.exchange_bytes(&one.header, <bytes>request.payload, &came, &received)
        if rc != RFAAS_OK and rc != RFAAS_QUEUED:
            self.put(request)
            return False
        if came == RFAAS_OK and self.is_answer(one, &received) and request.take(&received):
            request.sent = True
            request.channel = place
            one.n_answers += 1
            self.activity += 1
            return True
        self.note_sent(one, place, request)
        return self.arrived(one, came, &received)

    cdef bint is_on_its_way(self, Request request):
        """True if nothing is to be sent before there is an answer to be taken."""
        cdef _Lent one
        if not request.sent or len(self.queue) > 0:
            return False
        one = <_Lent>PyList_GET_ITEM(self.lent, request.channel)
        return one.channel.channel.queued_bytes == 0

    cdef bint exchange(self):
        """Take the answers that are there and send what waits; False: the rest is the owner's affair."""
        cdef _Lent one
        cdef int i
        cdef bint going_on = True
        cdef uint64_t n_answers
        for i in range(PyList_GET_SIZE(self.lent)):
            one = <_Lent>PyList_GET_ITEM(self.lent, i)
            while one.request is not None:
                n_answers = one.n_answers
                if not self.take_answer(one):
                    going_on = False
                if one.n_answers == n_answers or not going_on:
                    break
            if one.request is None and going_on and not self.send_next(one, i):
                going_on = False
        return going_on and (not self.queue or self.send_behind())

    cdef bint send_behind(self):
        """All channels have a request: send what waits behind them, in turn, where it will not wait for long.

        False: a channel doesn't take it.
        """
        cdef _Lent one
        cdef int i
        cdef bint sent = True
        cdef int64_t now_ns = _now_ns()
        while sent:
            sent = False
            for i in range(PyList_GET_SIZE(self.lent)):
                one = <_Lent>PyList_GET_ITEM(self.lent, i)
                if not self.queue:
                    return True
                if self.takes_behind(one, now_ns):
                    if not self.send_next(one, i):
                        return False
                    sent = True
        return True

    cdef bint takes_behind(self, _Lent one, int64_t now_ns):
        """As `rfaas.client.behind` has it: a small one behind quick ones of its own function."""
        cdef Request request
        if one.request is None or one.n_behind + 1 >= MOST_AT_ONCE or one.channel.channel.tx_credits == 0:
            return False
        if one.quick_with is None or (one.n_behind + 1) * one.took_ns >= self.quick_ns:
            return False
        if now_ns - one.since_ns >= 2 * self.quick_ns:
            return False
        request = <Request>self.queue[0]
        if request.identity is not one.quick_with or request.borrowed is not None:
            return False
        return PyBytes_GET_SIZE(request.payload) <= SMALL_BEHIND

    cdef bint take_answer(self, _Lent one):
        """False: what came is no answer, or the channel ended."""
        cdef rfaas_frame received
        cdef rfaas_rc rc = one.channel.take(&received)
        return self.arrived(one, rc, &received)

    cdef bint arrived(self, _Lent one, rfaas_rc rc, rfaas_frame *came):
        """Deal with what a look for an answer gave; False as `take_answer`."""
        if rc == RFAAS_AGAIN or rc == RFAAS_MORE:
            return True
        if rc != RFAAS_OK:
            return False
        cdef rfaas_header *header = &came.header
        if header.kind == RFAAS_KIND_TAKEN and header.call_id == 0 and came.buffer == NULL:
            one.n_credits += header.credits
            return True
        cdef Request request = one.request
        if not self.is_answer(one, came) or not request.take(came):
            one.received = came[0]
            one.has_received = True
            return False
        self.finished.append(request)  # keeps it, with all that it holds, until nobody has the loan
        one.request = None
        if one.n_behind > 0:
            one.request = <Request>one.behind.pop(0)
            one.request.behind = False
            one.n_behind -= 1
        self.see_how_quick(one, request)
        one.n_answers += 1
        self.activity += 1
        self.n_busy -= 1
        return True

    cdef bint is_answer(self, _Lent one, const rfaas_frame *came) noexcept:
        """True of a plain answer of the oldest request there."""
        cdef const rfaas_header *header = &came.header
        cdef uint64_t call_id = one.header.call_id - <uint64_t>one.n_behind
        cdef bint is_end = header.status < ANSWERS_MAX or header.status == FUNCTION_ERROR
        return header.kind == RFAAS_KIND_RESULT and header.call_id == call_id and is_end and header.credits == 1

    cdef void see_how_quick(self, _Lent one, Request request):
        """After an answer: how long it took, while others wait; otherwise nobody needs to know."""
        cdef int64_t now_ns
        if not self.queue:
            one.since_ns = 0
            one.quick_with = None
            return
        now_ns = _now_ns()
        one.took_ns = now_ns - one.since_ns
        one.quick_with = request.identity if one.since_ns != 0 and one.took_ns < self.quick_ns else None
        one.since_ns = now_ns

    cdef bint send_next(self, _Lent one, int place):
        """Send the request that waited longest, behind what is there; False: the channel doesn't take it."""
        cdef Request request
        while self.queue:
            request = <Request>self.take_first()
            if request.withdrawn:
                self.finished.append(request)
                continue
            if not self.send_on(one, place, request):
                self.queue.appendleft(request)  # the ordinary way tells what is wrong
                return False
            return True
        return True

    cdef bint send_on(self, _Lent one, int place, Request request):
        """Send a request on a channel, behind what is there; False: the channel doesn't take it."""
        cdef rfaas_rc rc
        if not self.address(one, request):
            return False
        if request.borrowed is None:
            rc = one.channel.hand_over_bytes(&one.header, <bytes>request.payload)
        else:
            rc = one.channel.hand_over(&one.header, request.borrowed, NULL, 0)
        if rc != RFAAS_OK and rc != RFAAS_QUEUED:
            return False
        self.note_sent(one, place, request)
        return True

    cdef bint address(self, _Lent one, Request request):
        """Fill in the header of a request; False: this loan has no number left for it."""
        if one.header.call_id >= one.last_id:
            return False
        one.header.call_id += 1
        if request.identity is not one.last_function:
            one.header.function = <uint16_t>one.functions[request.identity]
            one.last_function = request.identity
        one.header.out_size = request.out_size or self.out_size
        return True

    cdef int note_sent(self, _Lent one, int place, Request request) except -1:
        """A request was sent."""
        request.sent = True
        request.channel = place
        if one.request is None:
            one.request = request
        else:
            request.behind = True
            one.behind.append(request)
            one.n_behind += 1
        self.n_busy += 1
        return 0
