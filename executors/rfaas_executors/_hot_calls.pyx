"""Calls of one function that come one upon the other on one channel, served without a frame of Python's between them.

Does what `worker.Worker` does for any call, in the same order (docs/spec/001-invocation.md section 5), and leaves to it
whatever is not a plain call with a plain end. Must not hold policy. `_hot_calls.pyi` holds the types.
"""

from libc.stdint cimport int64_t, uint64_t

import pickle

from rfaas_executors._process import is_marked_process
from rfaas_executors.calls import SAID_BYTES, Outcome, dumps as dump_anything, failed, still_this_process
from rfaas_transport import array_memory, current_call
from rfaas_transport._core import Frame, Requests
from rfaas_transport.frame import Kind, Status

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    enum:
        CLOCK_MONOTONIC

cdef extern from "Python.h":
    ctypedef struct PyObject:
        pass
    PyObject *PySys_GetObject(const char *name)

cdef object loads = pickle.loads, dumps = pickle.dumps  # bound now: a function may replace what the modules hold
cdef dict current = current_call.__dict__
cdef int CALL = Kind.CALL, RESULT = Kind.RESULT
cdef int OK = Status.OK, BAD_ARGUMENTS = Status.BAD_ARGUMENTS, EXCEPTION = Status.EXCEPTION, BAD_RESULT = Status.BAD_RESULT
cdef object MOST_BYTES = 1 << 30  # a larger result may be too large for a channel
cdef frozenset PLAIN = frozenset([type(None), bool, int, float, complex, str])  # hold nothing that travels on its own
cdef bytes NO_ARGUMENTS = pickle.dumps(((), {}), 5), NOTHING = pickle.dumps(None, 5)  # what many calls bring and return
cdef object is_marked = is_marked_process


cdef int64_t now_ns() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef object outcome_of(pickled):
    return Outcome(OK, [pickled] if type(pickled) is bytes else pickled)


cdef class HotCalls:
    """The calls of one function on one channel.

    Args:
        channel, page, page_slot, lease_seq, epoch: of the connection.
        index: of the function there.
        function: what is called.
        streams: where prints go.
        make_context: makes what `rfaas.current()` returns, of a frame.
        watched: the channel's descriptor, to be compared before each answer, or -1: answers don't need it.
        held: compares it.
        over_bytes: calls the function if it is one over bytes (`ByteCalls.call`); None: it is none.
        holder: the client's id, for that.
    """

    cdef object channel, over_bytes, holder
    cdef object requests, next_request, answer, start, finish, call_printed, function, make_context, holds
    cdef object out, err, out_writer, err_writer
    cdef int64_t write_ns
    cdef int n_writes  # when it was last looked whether anything was printed
    cdef bint running
    cdef readonly int n_calls  # of the last `run`
    cdef int page_slot, watched

    def __init__(self, channel, page, int page_slot, uint64_t lease_seq, uint64_t epoch, int index, function, streams,
                 make_context, int watched, held, over_bytes=None, holder=""):
        self.channel = channel
        self.over_bytes = over_bytes
        self.holder = holder
        self.requests = Requests(channel, CALL, RESULT, index, lease_seq, epoch)
        self.next_request = self.requests.next
        self.answer = self.requests.answer
        self.start = page.start
        self.finish = page.finish
        self.holds = held.holds
        self.call_printed = streams.call_printed
        self.write_ns = streams.write_ns
        if streams.writers:
            self.out, self.err = streams.streams
            self.out_writer, self.err_writer = streams.writers
        self.function = function
        self.make_context = make_context
        self.page_slot = page_slot
        self.watched = watched

    def __call__(self):
        """The context of the call that runs: `current_call` asks for it if the function does."""
        return self.make_context(self.requests.frame()) if self.running else None

    cdef bint may_have_printed(self, int64_t took_ns) except -1:
        """Whether it is worth while to look: that takes system calls."""
        if self.out is None or took_ns >= self.write_ns:
            return True
        if <PyObject *>self.out != PySys_GetObject("stdout") or <PyObject *>self.err != PySys_GetObject("stderr"):
            return True
        cdef int n_writes = self.out_writer.n_writes + self.err_writer.n_writes
        if n_writes == self.n_writes:
            return False
        self.n_writes = n_writes
        return True

    cdef int end_context(self) except -1:
        self.running = False
        if current["_call"] is not None:
            context, current["_call"] = current["_call"], None
            context.close()
        return 0

    def run(self, double soon_s, int64_t for_ns):
        """Serve calls until none came for `soon_s` or `for_ns` are over.

        Returns:
            None; or a frame that is no plain call, untouched; or, of a call that was run and whose end is not plain,
            its frame without the payload, its outcome (None: it must not run, it was interrupted) and whether it
            printed (None: unknown).
        Raises:
            WorkerExit: the function called `sys.exit`.
        """
        cdef int64_t until_ns = now_ns() + for_ns
        cdef int stage
        cdef int64_t start_ns, took_ns
        cdef object requests = self.requests
        self.n_calls = 0
        current["_make"], current["_call"] = self, None
        array_memory.serve(self.channel)
        try:
            while now_ns() < until_ns:
                payload = self.next_request(soon_s)
                if payload is None or type(payload) is Frame:
                    return payload
                call_id = requests.call_id
                self.n_calls += 1
                if not self.start(self.page_slot, call_id):
                    return requests.frame(), None, None
                self.running = True
                stage = BAD_ARGUMENTS
                value = None
                try:
                    if self.over_bytes is not None:
                        stage = EXCEPTION
                        given = (memoryview(payload),) if type(payload) is bytes else payload
                        start_ns = now_ns()
                        status, pickled, needed_bytes = self.over_bytes(self.function, given, requests, self.holder, 0)
                        took_ns = now_ns() - start_ns
                        given = None
                        if status != OK:
                            still_this_process()
                            self.end_context()
                            return requests.frame(), Outcome(status, pickled, needed_bytes, SAID_BYTES), None
                    elif type(payload) is bytes:
                        if payload == NO_ARGUMENTS:
                            arguments, keywords = (), None
                        else:
                            arguments, keywords = loads(payload)
                    else:
                        arguments, keywords = loads(payload[0], buffers=payload[1:])
                    if self.over_bytes is None:
                        stage = EXCEPTION
                        start_ns = now_ns()
                        value = self.function(*arguments, **keywords) if keywords else self.function(*arguments)
                        took_ns = now_ns() - start_ns
                        stage = BAD_RESULT
                        if value is None:
                            pickled = NOTHING
                        else:
                            pickled = dumps(value, 5) if type(value) in PLAIN else dump_anything(value)
                except BaseException as error:
                    still_this_process()
                    self.end_context()
                    return requests.frame(), failed(stage, error, value, SAID_BYTES if self.over_bytes else 0), None
                if not is_marked():
                    still_this_process()
                self.end_context()
                payload = arguments = keywords = value = None
                if self.over_bytes is None and type(pickled) is list:  # arrays made where they can be handed over
                    self.channel.settle(None, pickled)
                if type(pickled) is bytes:
                    size_bytes = len(pickled)
                else:
                    size_bytes = Outcome(OK, pickled).size_bytes
                if self.may_have_printed(took_ns) and self.call_printed():
                    return requests.frame(), outcome_of(pickled), True
                if size_bytes > (requests.out_size or MOST_BYTES):
                    return requests.frame(), outcome_of(pickled), False
                if self.watched >= 0 and not self.holds(self.watched):
                    return requests.frame(), outcome_of(pickled), False
                if not self.finish(self.page_slot, call_id, requests.in_size, size_bytes):
                    return requests.frame(), outcome_of(pickled), False
                if not self.answer(pickled):
                    return None  # it waits for the peer to read, and somebody has to look after that
                payload = value = pickled = None
        finally:
            current["_make"] = current["_call"] = None
            array_memory.serve(None)
        return None
