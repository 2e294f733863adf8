"""The way of a call on a channel on loan, without a frame of Python's in it. `_borrowing.pyi` holds the types.

Must not hold policy: what is not a plain call with a plain result goes to whoever it is told.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint64_t

from rfaas.client.byte_results import Room
from rfaas.client.serial import dump_arguments
from rfaas.functions import ByteFunction
from rfaas_transport._core import Loan

from rfaas_transport._core cimport (
    ANSWERED, NOWHERE, Under, loan_call, loan_look, loan_submit, loan_wait, make_request, request_about, request_answer,
    request_claim, request_is_done, request_is_wanted, request_is_withdrawn, request_renew, request_rest,
)

include "rfaas_transport/_plain.pxi"
include "rfaas_transport/_array_pickles.pxi"
include "_pending.pxi"
include "_output_memory.pxi"

cdef int MOST_KNOWN = 256  # functions that one loan keeps alive; a loop that makes a lambda a call would have no end
cdef int SMALL_BYTES = 4096  # bytes are handed over at less cost than a view of them

ELSEWHERE = object()
"""What `Borrowing.invoke` returns if the call has to go the ordinary way: nothing was sent."""


cdef bint are_plain(values) except -1:
    for value in values:
        kind = type(value)
        if kind is bytes:
            if len(<bytes>value) > SMALL_BYTES:
                return False
        elif kind not in PLAIN:
            return False
    return True


cdef object pack(tuple args, dict kwargs, uint64_t limit_bytes):
    """Payload of the arguments; None if they can't be pickled or are too large: the ordinary way tells."""
    if not args and not kwargs:
        payload = NO_ARGUMENTS
    elif not kwargs and (payload := dump_arguments_plainly(args)) is not None:
        pass
    elif are_plain(args) and (not kwargs or are_plain(kwargs.values())):
        payload = dumps((args, kwargs or {}), 5)
    else:
        try:
            segments = None if kwargs else dump_arguments_with_array(args)
            if segments is None:
                segments = dump_arguments(args, kwargs or {})
        except Exception:
            return None
        if limit_bytes and <uint64_t>sum([memoryview(segment).nbytes for segment in segments]) > limit_bytes:
            return None
        return segments if len(segments) > 1 else segments[0]
    return None if limit_bytes and <uint64_t>len(<bytes>payload) > limit_bytes else payload


def dump_few(tuple args not None):
    """What is sent of these arguments; None: what pickle makes of them. For tests, as the next seven."""
    return dump_arguments_plainly(args)


def load_few(bytes pickled not None):
    """The arguments of such a pickle; None: it is for pickle."""
    return load_arguments_plainly(pickled)


def dump_one(value):
    """What is sent of a result; None: what pickle makes of it."""
    return dump_plainly(value)


def load_one(bytes pickled not None):
    """Such a result."""
    return load_value(pickled)


def dump_few_with_array(tuple args not None):
    """What is sent of arguments one of which is an array: pickle and bytes; None: what pickle makes of them."""
    return dump_arguments_with_array(args)


def load_few_with_array(pickled not None, data not None):
    """Such arguments, the array over `data`; None: they are for pickle."""
    return load_arguments_with_array(pickled, data)


def dump_one_array(value):
    """What is sent of an array that is a result; None: what pickle makes of it."""
    return dump_array(value)


def load_one_array(pickled not None, data not None):
    """Such a result; None: it is for pickle."""
    return load_array(pickled, data)


cdef class Known:
    """A function: what its requests are made of. Of one over bytes the usual room for its output, too."""

    cdef object function, definition, identity, room
    cdef Outputs outputs
    cdef bint is_over_bytes
    cdef uint64_t asked_bytes
    cdef tuple about  # of the requests that were made last

    cdef tuple with_settings(self, settings):
        if self.about is None or self.about[1] is not settings:
            self.about = (self.definition, settings, self.room)
        return self.about


cdef class Borrowing:
    """What borrowers need to know of one loan.

    Args:
        loan: the loan itself (rfaas_transport._core.Loan).
        generation: names it.
        look_up: returns the definition of a function that all channels on loan know, or None.
        load: of an answer that is no small plain result, or of the error that taking one gave: value and error.
        limit_bytes: of arguments; 0: none.
        make_future: makes the future of a call.
    """

    cdef readonly uint64_t generation
    cdef object loan, look_up, load, make_future
    cdef uint64_t limit_bytes
    cdef dict known  # by id of the function
    cdef Known last
    cdef object spare  # a request that is over and that nobody else has

    def __init__(self, loan not None, uint64_t generation, look_up, load, uint64_t limit_bytes, make_future):
        if type(loan) is not Loan:
            raise TypeError(f"no Loan: {loan!r}")
        self.loan = loan
        self.generation = generation
        self.look_up = look_up
        self.load = load
        self.limit_bytes = limit_bytes
        self.make_future = make_future
        self.known = {}

    cdef Known find(self, function):
        """What is known of a function; None: it has to go the ordinary way."""
        cdef Known known = self.last
        if known is not None and known.function is function:
            return known
        key = id(function)
        known = self.known.get(key)
        if known is None or known.function is not function:
            definition = self.look_up(function)
            if definition is None:
                return None
            if len(self.known) >= MOST_KNOWN:
                self.known.clear()
            known = self.known[key] = self.remember(function, definition)
        self.last = known
        return known

    cdef Known remember(self, function, definition):
        cdef Known known = Known.__new__(Known)
        known.function = function
        known.definition = definition
        known.identity = definition.identity
        known.is_over_bytes = isinstance(function, ByteFunction)
        if known.is_over_bytes:
            known.room = Room(function.out_size or 0, None)
            known.asked_bytes = known.room.asked_bytes(self.limit_bytes)
            known.outputs = Outputs.__new__(Outputs)
        return known

    cdef object prepare(self, Known known, tuple args, dict kwargs, settings, bint wants_memory):
        """A request for this call, or None: it has to go the ordinary way; `wants_memory`: of an output."""
        if known is None:
            return None
        if known.is_over_bytes:
            return self.prepare_bytes(known, args, kwargs, settings, wants_memory)
        payload = pack(args, kwargs, self.limit_bytes)
        if payload is None:
            return None
        return self.request_of(known.identity, payload, known.with_settings(settings), 0, False)

    cdef object request_of(self, identity, payload, about, uint64_t out_size, bint wants_memory):
        """As `make_request`, of an old one if there is one."""
        if self.spare is None or type(payload) is not bytes:
            return make_request(identity, payload, about, out_size, wants_memory)
        request, self.spare = self.spare, None
        request_renew(request, identity, payload, about, out_size, wants_memory)
        return request

    cdef object prepare_bytes(self, Known known, tuple args, dict kwargs, settings, bint wants_memory):
        """A request whose payload is the input itself."""
        cdef uint64_t n_bytes
        if len(args) == 1 and not kwargs and type(args[0]) is bytes:
            request = self.prepare_small(known, <bytes>args[0], settings, wants_memory)
            if request is not None:
                return request
        try:
            data, capacity_bytes, out = known.function.pack(args, kwargs or {})
        except Exception:
            return None  # the ordinary way tells
        n_bytes = data.nbytes
        if self.limit_bytes and n_bytes > self.limit_bytes:
            return None
        room = Room(capacity_bytes, out)
        return make_request(
            known.identity,
            (data,),
            (known.definition, settings, room),
            room.asked_bytes(self.limit_bytes),
            out is None,
        )

    cdef object prepare_small(self, Known known, bytes data, settings, bint wants_memory):
        """The same of bytes that are handed over as they are; None: there are too many of them for that."""
        if len(data) > SMALL_BYTES or (self.limit_bytes and <uint64_t>len(data) > self.limit_bytes):
            return None
        return self.request_of(known.identity, data, known.with_settings(settings), known.asked_bytes, wants_memory)

    cdef object plain_value(self, answer, room):
        """What a small answer holds.

        Raises:
            Exception: it can't be unpickled, or doesn't fit in its room.
        """
        if room is None:
            return None if answer == NOTHING else load_value(answer)
        return room.take(answer)

    cdef object array_value(self, frame):
        """The array that a frame of two segments brought; None: pickle tells."""
        try:
            return load_array((<tuple>frame.segments)[0], (<tuple>frame.segments)[1])
        except Exception:
            return None

    cdef tuple decode(self, request):
        """Value and error."""
        answer = request_answer(request)
        if type(answer) is memoryview:  # what a function over bytes gives
            return answer, None
        if type(answer) is not bytes:
            if (<tuple>request_about(request))[2] is None and answer.status == 0 and len(<tuple>answer.segments) == 2:
                value = self.array_value(answer)
                if value is not None:
                    return value, None
            return self.load(request, answer, None)
        try:
            return self.plain_value(answer, (<tuple>request_about(request))[2]), None
        except Exception as error:
            return self.load(request, None, error)

    cdef object value_of(self, request, Known known):
        answer = request_answer(request)
        if type(answer) is memoryview:
            return answer
        if type(answer) is bytes and known.room is not None and (<tuple>request_about(request))[2] is known.room:
            return known.outputs.show(answer)
        value, failure = self.decode(request)
        if failure is None:
            return value
        try:
            raise failure
        finally:
            failure = None  # its traceback would keep it

    cdef tuple outcome_of(self, request):
        """The result of a request that is answered, and what it ended with instead, or None."""
        loan_look(self.loan)  # who takes a thousand results would not come to send what waits
        return self.decode(request)

    cpdef Under call(self, request) except *:
        """Send a request and wait for its answer."""
        return loan_call(self.loan, self.generation, request)

    cdef object invoke(self, function, tuple args, dict kwargs, settings):
        """Call a function and return what it returned, or ELSEWHERE: nothing was sent.

        Raises:
            BaseException: what the function raised, or an RfaasError, as for `Executor.submit`. After a
                KeyboardInterrupt the call goes on, and its result is dropped.
        """
        cdef Known known = self.find(function)
        request = self.prepare(known, args, kwargs, settings, False)
        return ELSEWHERE if request is None else self.finish(request, known)

    cdef object finish(self, request, Known known):
        """Send the request of a call and return what it ends with, as `invoke`."""
        cdef Under under = self.call(request)
        if under == ANSWERED:
            value = self.value_of(request, known)
            if self.spare is None and request_rest(request):
                self.spare = request
            return value
        if under == NOWHERE:
            return ELSEWHERE
        # Somebody else's affair now: of another borrower, who may answer it still, or of the I/O thread, which then has
        # taken it over with a future of its own. Whoever comes first makes the future, and any of them can end it.
        future = self.make_future()
        (<Pending>future).belong_to(self, request)
        future = request_claim(request, future)
        try:
            return future.result()
        finally:
            future = None  # an exception's traceback would keep it, and it the exception

    cdef object submit(self, function, tuple args, dict kwargs, settings):
        """Call a function and return the future of the call, or None: nothing was sent."""
        request = self.prepare(self.find(function), args, kwargs, settings, True)
        if request is None:
            return None
        future = self.make_future()
        request_claim(request, future)
        (<Pending>future).belong_to(self, request)
        return future if loan_submit(self.loan, self.generation, request) else None

    cpdef bint wait(self, request, timeout_s) except *:
        """Wait for an answer; False: it comes another way, or `timeout_s` is over."""
        return loan_wait(self.loan, request, timeout_s)

    def look(self):
        """Take what answers are there."""
        loan_look(self.loan)

    def withdraw(self, request):
        """Take a request back that was not sent; False if it is too late."""
        return self.loan.withdraw(request)

    def give_up(self):
        """Have the I/O thread see to all that is on loan: somebody waits in another way."""
        self.loan.recall()


cdef class Lender:
    """Who has loans to give: `borrowing` is the way in for calls; None: there is no loan."""

    cdef public Borrowing borrowing


include "_way.pxi"
