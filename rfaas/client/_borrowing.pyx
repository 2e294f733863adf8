"""The way of a call on a channel on loan, without a frame of Python's in it. `_borrowing.pyi` holds the types.

Must not hold policy: what is not a plain call with a plain result goes to whoever it is told.
"""

import pickle

from cloudpickle import list_registry_pickle_by_value

from rfaas.client.futures import Future
from rfaas_transport._core import Frame

cdef extern from "Python.h":
    object PyLong_FromVoidPtr(void *pointer)

cdef object loads = pickle.loads, dumps = pickle.dumps
cdef frozenset PLAIN = frozenset([type(None), bool, int, float, complex, str, bytes])  # hold nothing that travels on its own

ELSEWHERE = object()
"""What `Borrowing.call` returns if the call has to go the ordinary way: nothing was sent."""


cdef bint are_plain(values) except -1:
    for value in values:
        if type(value) not in PLAIN:
            return False
    return True


cdef object pack(tuple args, dict kwargs, object limit_bytes):
    """Payload of the arguments; None if that takes more than the C pickler, or fails: the ordinary way tells."""
    if are_plain(args) and (not kwargs or are_plain(kwargs.values())):
        payload = dumps((args, kwargs), 5)
        return None if limit_bytes and len(payload) > limit_bytes else payload
    if list_registry_pickle_by_value():
        return None
    buffers = []
    try:
        payload = dumps((args, kwargs), 5, buffer_callback=buffers.append)
        if b"__main__" in payload:
            return None
        if buffers:
            payload = [payload, *[buffer.raw() for buffer in buffers]]
    except Exception:
        return None
    if limit_bytes and sum([memoryview(segment).nbytes for segment in
                            (payload if buffers else (payload,))]) > limit_bytes:
        return None
    return payload


cdef class Borrowing:
    """What borrowers need to know of one loan.

    Args:
        port: whose channel it is.
        generation: names the loan.
        ask: of the loan (rfaas_transport._core.Loan).
        look_up: returns a function's definition and its index on the channel, or None.
        load: makes the value of an answer that is no small plain result, or raises what it says.
        limit_bytes: of arguments; 0: none.
    """

    cdef readonly object port
    cdef object generation, ask, look_up, load, limit_bytes
    cdef dict known  # by id of the function

    def __init__(self, port, generation, ask, look_up, load, limit_bytes):
        self.port = port
        self.generation = generation
        self.ask = ask
        self.look_up = look_up
        self.load = load
        self.limit_bytes = limit_bytes
        self.known = {}

    def call(self, function, tuple args, dict kwargs, settings):
        """Call a function and return what it returned, or ELSEWHERE.

        Raises:
            BaseException: what the function raised, or an RfaasError, as for `Executor.submit`. After a
                KeyboardInterrupt the call goes on, and its result is dropped.
        """
        key = PyLong_FromVoidPtr(<void *>function)
        known = self.known.get(key)
        if known is None or (<tuple>known)[0] is not function:
            found = self.look_up(function)
            if found is None:
                return ELSEWHERE
            known = self.known[key] = (function, *found)
        payload = pack(args, kwargs, self.limit_bytes)
        if payload is None:
            return ELSEWHERE
        request = {"definition": (<tuple>known)[1], "payload": payload, "settings": settings}
        answer = self.ask(self.generation, (<tuple>known)[2], payload, request)
        if type(answer) is bytes:
            try:
                return loads(answer)
            except Exception as error:
                return self.load(None, error)
        if answer is None:
            return ELSEWHERE
        if type(answer) is Frame:
            return self.load(answer, None)
        # Sent, and the I/O thread's affair now. Whoever comes first makes the future, in one step.
        future = request.setdefault("future", Future())
        try:
            return future.result()
        finally:
            future = None  # an exception's traceback would keep it, and it the exception
