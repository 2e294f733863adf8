"""The way of a call on a channel on loan, without a frame of Python's in it. `_borrowing.pyi` holds the types.

Must not hold policy: what is not a plain call with a plain result goes to whoever it is told.
"""

import pickle

from rfaas.client.byte_results import Room
from rfaas.client.futures import Future
from rfaas.client.serial import dump_arguments
from rfaas.functions import ByteFunction
from rfaas_transport._core import Request

cdef extern from "Python.h":
    object PyLong_FromVoidPtr(void *pointer)
    object PyByteArray_FromObject(object data)
    object PyMemoryView_FromObject(object data)

cdef object loads = pickle.loads, dumps = pickle.dumps
cdef bytes NO_ARGUMENTS = pickle.dumps(((), {}), 5), NOTHING = pickle.dumps(None, 5)  # of many calls, and their results
cdef frozenset PLAIN = frozenset([type(None), bool, int, float, complex, str])  # hold nothing that travels on its own

cdef int MOST_KNOWN = 256  # functions that one loan keeps alive; a loop that makes a lambda a call would have no end
cdef int SMALL_BYTES = 4096  # bytes are handed over at less cost than a view of them

ELSEWHERE = object()
"""What `Borrowing.call` returns if the call has to go the ordinary way: nothing was sent."""


cdef bint are_plain(values) except -1:
    for value in values:
        kind = type(value)
        if kind is bytes:
            if len(<bytes>value) > SMALL_BYTES:
                return False
        elif kind not in PLAIN:
            return False
    return True


cdef object pack(tuple args, dict kwargs, object limit_bytes):
    """Payload of the arguments; None if they can't be pickled or are too large: the ordinary way tells."""
    if are_plain(args) and (not kwargs or are_plain(kwargs.values())):
        payload = dumps((args, kwargs), 5) if args or kwargs else NO_ARGUMENTS
        return None if limit_bytes and len(payload) > limit_bytes else payload
    try:
        segments = dump_arguments(args, kwargs)
    except Exception:
        return None
    if limit_bytes and sum([memoryview(segment).nbytes for segment in segments]) > limit_bytes:
        return None
    return segments if len(segments) > 1 else segments[0]


cdef class Borrowing:
    """What borrowers need to know of one loan.

    Args:
        loan: the loan itself (rfaas_transport._core.Loan).
        generation: names it.
        look_up: returns the definition of a function that all channels on loan know, or None.
        load: of an answer that is no small plain result, or of the error that taking one gave: value and error.
        limit_bytes: of arguments; 0: none.
    """

    cdef readonly object generation
    cdef object loan, submit_request, wait_for, look_up, load, limit_bytes
    cdef dict known  # by id of the function

    def __init__(self, loan, generation, look_up, load, limit_bytes):
        self.loan = loan
        self.submit_request = loan.submit
        self.wait_for = loan.wait
        self.generation = generation
        self.look_up = look_up
        self.load = load
        self.limit_bytes = limit_bytes
        self.known = {}

    cdef object prepare(self, function, tuple args, dict kwargs, settings):
        """A request for this call, or None: it has to go the ordinary way."""
        key = PyLong_FromVoidPtr(<void *>function)
        known = self.known.get(key)
        if known is None or (<tuple>known)[0] is not function:
            definition = self.look_up(function)
            if definition is None:
                return None
            if len(self.known) >= MOST_KNOWN:
                self.known.clear()
            known = self.known[key] = self.remember(function, definition)
        if (<tuple>known)[3]:
            return self.prepare_bytes(<tuple>known, function, args, kwargs, settings)
        payload = pack(args, kwargs, self.limit_bytes)
        if payload is None:
            return None
        return Request((<tuple>known)[2], payload, ((<tuple>known)[1], settings, None))

    cdef tuple remember(self, function, definition):
        """Of a function: what its requests are made of. Of one over bytes the usual room for its output, too."""
        is_over_bytes = isinstance(function, ByteFunction)
        room = Room(function.out_size or 0, None) if is_over_bytes else None
        asked_bytes = room.asked_bytes(self.limit_bytes) if is_over_bytes else 0
        return function, definition, definition.identity, is_over_bytes, room, asked_bytes

    cdef object prepare_bytes(self, tuple known, function, tuple args, dict kwargs, settings):
        """A request whose payload is the input itself."""
        if not kwargs and len(args) == 1 and type(args[0]) is bytes and len(<bytes>args[0]) <= SMALL_BYTES:
            if not self.limit_bytes or len(<bytes>args[0]) <= self.limit_bytes:
                return Request(known[2], args[0], (known[1], settings, known[4]), known[5])
        try:
            data, capacity_bytes, out = function.pack(args, kwargs)
        except Exception:
            return None  # the ordinary way tells
        n_bytes = data.nbytes
        if self.limit_bytes and n_bytes > self.limit_bytes:
            return None
        room = Room(capacity_bytes, out)
        return Request(known[2], (data,), (known[1], settings, room), room.asked_bytes(self.limit_bytes))

    cdef tuple decode(self, request):
        answer = request.answer()
        if type(answer) is not bytes:
            return self.load(request, answer, None)
        room = (<tuple>request.about)[2]
        try:
            if room is not None:
                if room.out is not None:
                    return room.take(answer), None
                return PyMemoryView_FromObject(PyByteArray_FromObject(answer)), None
            return (None if answer == NOTHING else loads(answer)), None
        except Exception as error:
            return self.load(request, None, error)

    cdef object value_of(self, request):
        value, failure = self.decode(request)
        if failure is None:
            return value
        try:
            raise failure
        finally:
            failure = None  # its traceback would keep it

    def outcome_of(self, request):
        """The result of a request that is answered, and what it ended with instead, or None."""
        self.loan.look()  # who takes a thousand results would not come to send what waits
        return self.decode(request)

    def invoke(self, function, tuple args, dict kwargs, settings):
        """Call a function and return what it returned, or ELSEWHERE: nothing was sent.

        Raises:
            BaseException: what the function raised, or an RfaasError, as for `Executor.submit`. After a
                KeyboardInterrupt the call goes on, and its result is dropped.
        """
        request = self.prepare(function, args, kwargs, settings)
        if request is None or not self.submit_request(self.generation, request):
            return ELSEWHERE
        if self.wait_for(request):
            return self.value_of(request)
        # Somebody else's affair now: of another borrower, who may answer it still, or of the I/O thread, which then has
        # taken it over with a future of its own. Whoever comes first makes the future, and any of them can end it.
        future = Future()
        future._borrow(self, request)
        future = request.claim(future)
        try:
            return future.result()
        finally:
            future = None  # an exception's traceback would keep it, and it the exception

    def submit(self, function, tuple args, dict kwargs, settings):
        """Call a function and return the future of the call, or None: nothing was sent."""
        future = Future()
        request = self.prepare(function, args, kwargs, settings)
        if request is None:
            return None
        request.claim(future)
        future._borrow(self, request)
        return future if self.submit_request(self.generation, request) else None

    def wait(self, request, timeout_s):
        """Wait for an answer; False: it comes another way, or `timeout_s` is over."""
        return self.wait_for(request, timeout_s)

    def look(self):
        """Take what answers are there."""
        self.loan.look()

    def withdraw(self, request):
        """Take a request back that was not sent; False if it is too late."""
        return self.loan.withdraw(request)

    def give_up(self):
        """Have the I/O thread see to all that is on loan: somebody waits in another way."""
        self.loan.recall()
