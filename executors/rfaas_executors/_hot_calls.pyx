"""Calls of one function that come one upon the other on one channel, served without a frame of Python's between them.

Does what `running.Running` does for any call, in the same order (docs/spec/001-invocation.md section 5), and leaves to
it whatever is not a plain call with a plain end. Must not hold policy. `_hot_calls.pyi` holds the types.
"""

from libc.stdint cimport int64_t, uint64_t, uintptr_t

import sys

from rfaas_executors._process import marked_process_check, written_place
from rfaas_executors.calls import SAID_BYTES, Outcome, dumps as dump_anything, failed, still_this_process
from rfaas_transport import array_memory, current_call
from rfaas_transport._core import Frame, Requests
from rfaas_transport.frame import Kind, Status

from rfaas_transport._core cimport requests_answer, requests_next, requests_sizes

include "rfaas_transport/_plain.pxi"
include "rfaas_transport/_array_pickles.pxi"

cdef extern from "state_page.h" nogil:
    ctypedef struct rfaas_page_slot:
        pass
    ctypedef struct rfaas_page_usage:
        pass
    ctypedef struct rfaas_page_output:
        pass
    uint64_t rfaas_page_output_takes(const rfaas_page_output *output)
    bint rfaas_page_start(rfaas_page_slot *slot, uint64_t call_id, uint64_t deadline_boot_ns, uint64_t now_boot_ns)
    bint rfaas_page_finish(rfaas_page_slot *slot, uint64_t call_id)
    void rfaas_page_account(rfaas_page_usage *usage, uint64_t running_ns, uint64_t bytes_in, uint64_t bytes_out)

cdef extern from "held.h" nogil:
    ctypedef struct rfaas_held:
        int fd
    int rfaas_hold(int fd, rfaas_held *held)
    bint rfaas_is_held(const rfaas_held *held)

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    enum:
        CLOCK_BOOTTIME

cdef extern from *:
    """
    #include <stdio.h>
    #include <stdio_ext.h>
    #include <sys/ioctl.h>

    /* True: neither pipe holds anything, and C's own stdout nothing that would go there. */
    static inline int rfaas_pipes_are_empty(int out_fd, int err_fd)
    {
        int out_bytes = 0, err_bytes = 0;
        return __fpending(stdout) == 0 && ioctl(out_fd, FIONREAD, &out_bytes) == 0 &&
               ioctl(err_fd, FIONREAD, &err_bytes) == 0 && out_bytes == 0 && err_bytes == 0;
    }
    """
    bint rfaas_pipes_are_empty(int out_fd, int err_fd) nogil

cdef extern from "Python.h":
    ctypedef struct PyObject:
        pass
    PyObject *PyDict_GetItem(object dictionary, object key)
    const char *PyByteArray_AS_STRING(object array)
    object PyMemoryView_FromObject(object data)

cdef extern from *:
    """
    #include <stdbool.h>
    typedef bool (*rfaas_process_check)(void);
    """
    ctypedef bint (*rfaas_process_check)() noexcept

# Bound now: a function may replace what the modules hold.
cdef dict names_of_sys = sys.__dict__
cdef rfaas_process_check is_marked = <rfaas_process_check><uintptr_t>marked_process_check()
cdef const uint64_t *n_written = <const uint64_t *><uintptr_t>written_place()
cdef dict current = current_call.__dict__
cdef int CALL = Kind.CALL, RESULT = Kind.RESULT
cdef int OK = Status.OK, BAD_ARGUMENTS = Status.BAD_ARGUMENTS, EXCEPTION = Status.EXCEPTION, BAD_RESULT = Status.BAD_RESULT
cdef uint64_t MOST_BYTES = 1 << 30  # a larger result may be too large for a channel
cdef enum:
    BYTES_A_NS = 8  # that whoever calls again takes and moves meanwhile; slowly, with caches that others have filled
    SMALL_ROOM_BYTES = 65536  # of a raw function's output: zeroed and copied at less cost than mapped


cdef int64_t boot_ns() noexcept:
    """The clock of the state page; it serves for the rest too, for one costs as much as the call."""
    cdef timespec now
    clock_gettime(CLOCK_BOOTTIME, &now)
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

    cdef object channel, page, outputs, over_bytes, holder
    cdef object requests, call_printed, function, make_context
    cdef object out, err  # the worker's own streams; None: somebody else's
    cdef int64_t write_ns
    cdef int out_fd, err_fd  # pipes that prints go to; -1: nobody takes them
    cdef uint64_t n_writes  # when it was last looked whether anything was printed
    cdef bint running, is_raw
    cdef bytearray room  # for outputs of a raw function
    cdef readonly int n_calls  # of the last `run`
    cdef rfaas_held watched
    cdef bint is_watched
    cdef rfaas_page_slot *slot
    cdef rfaas_page_usage *usage  # NULL: the page has no place for it
    cdef const rfaas_page_output *taken  # likewise: what the agent took from the pipes,
    cdef const uint64_t *known_takes     # and what this process knows of that

    def __init__(self, channel, page, int page_slot, uint64_t lease_seq, uint64_t epoch, int index, function, streams,
                 make_context, int watched, held, over_bytes=None, holder=""):
        self.channel = channel
        self.over_bytes = over_bytes
        self.is_raw = over_bytes is not None and callable(function)
        self.holder = holder
        self.requests = Requests(channel, CALL, RESULT, index, lease_seq, epoch)
        slot, usage, taken, known_takes = page.places(page_slot)
        self.page = page  # the addresses are in it
        self.slot = <rfaas_page_slot *><uintptr_t>slot
        self.usage = <rfaas_page_usage *><uintptr_t>usage
        self.taken = <const rfaas_page_output *><uintptr_t>taken
        self.known_takes = <const uint64_t *><uintptr_t>known_takes
        self.is_watched = watched >= 0
        if self.is_watched and (rfaas_hold(watched, &self.watched) != 0 or not held.holds(watched)):
            self.watched.fd = -1  # lost already, which the first answer finds out
        self.call_printed = streams.call_printed
        self.write_ns = streams.write_ns
        self.out_fd, self.err_fd = streams.pipes
        self.outputs = streams.page
        if streams.writers:
            self.out, self.err = streams.streams
        self.function = function
        self.make_context = make_context

    def __call__(self):
        """The context of the call that runs: `current_call` asks for it if the function does."""
        return self.make_context(self.requests.frame()) if self.running else None

    cdef bint printed(self, int64_t took_ns) except -1:
        """Whether a function that took so long has printed; looks no further than it must: that takes system calls."""
        if (self.out is None or <PyObject *>self.out != PyDict_GetItem(names_of_sys, "stdout")
                or <PyObject *>self.err != PyDict_GetItem(names_of_sys, "stderr")):
            return self.call_printed()
        if self.n_writes != n_written[0]:
            self.n_writes = n_written[0]
            return self.call_printed()
        # Python's own streams have nothing, so only what went past them can be there.
        if took_ns < self.write_ns or self.out_fd < 0:
            return False
        # The agent counts before it reads: so after the look into the pipes.
        if (self.taken != NULL and rfaas_pipes_are_empty(self.out_fd, self.err_fd)
                and rfaas_page_output_takes(self.taken) == self.known_takes[0]):
            return False
        return self.outputs.printed(self.out_fd, self.err_fd)

    cdef tuple call_raw(self, bytes given, Py_ssize_t capacity_bytes):
        """As `ByteCalls.call`, of a raw function whose input and output are small; the output is bytes."""
        cdef bytearray room = self.room
        if room is None or len(room) != capacity_bytes:
            room = self.room = bytearray(capacity_bytes)
        out = PyMemoryView_FromObject(room)
        try:
            returned = self.function(PyMemoryView_FromObject(given), out)
        finally:
            try:
                out.release()
            except BufferError:  # it has kept an array over it: then this memory is not used again
                self.room = None
        if type(returned) is not int or not 0 <= returned <= capacity_bytes:
            from rfaas_executors.byte_calls import raw_end  # hardly ever
            status, said, returned = raw_end(returned, capacity_bytes)
            if status != OK:
                return status, said, returned
        return OK, PyBytes_FromStringAndSize(PyByteArray_AS_STRING(room), returned), 0

    cdef tuple call_over_bytes(self, payload, uint64_t out_size):
        if self.is_raw and type(payload) is bytes and 0 < out_size <= SMALL_ROOM_BYTES:
            return self.call_raw(payload, out_size)
        given = (PyMemoryView_FromObject(payload),) if type(payload) is bytes else payload
        return self.over_bytes(self.function, given, self.requests, self.holder, 0)

    cdef int end_context(self) except -1:
        self.running = False
        if current["_call"] is not None:
            context, current["_call"] = current["_call"], None
            context.close()
        return 0

    def run(self, double soon_s, int64_t for_ns):
        """Serve calls until none came for `soon_s`, or longer after one that moved much, or `for_ns` are over.

        Returns:
            None; or a frame that is no plain call, untouched; or, of a call that was run and whose end is not plain,
            its frame without the payload, its outcome (None: it must not run, it was interrupted) and whether it
            printed (None: unknown).
        Raises:
            WorkerExit: the function called `sys.exit`.
        """
        cdef int64_t now_ns = boot_ns()
        cdef int64_t until_ns = now_ns + for_ns, least_ns = <int64_t>(soon_s * 1e9), soon_ns = least_ns, started_ns, called_ns
        cdef uint64_t call_id = 0, in_size = 0, out_size = 0, size_bytes
        cdef int stage
        cdef object requests = self.requests
        self.n_calls = 0
        current["_make"], current["_call"] = self, None
        array_memory.serve(self.channel)
        try:
            while now_ns < until_ns:
                payload = requests_next(requests, soon_ns)
                if payload is None or type(payload) is Frame:
                    return payload
                requests_sizes(requests, &call_id, &in_size, &out_size)
                self.n_calls += 1
                started_ns = called_ns = boot_ns()
                if not rfaas_page_start(self.slot, call_id, 0, started_ns):
                    return requests.frame(), None, None
                self.running = True
                stage = BAD_ARGUMENTS
                value = None
                try:
                    if self.over_bytes is not None:
                        stage = EXCEPTION
                        status, pickled, needed_bytes = self.call_over_bytes(payload, out_size)
                        now_ns = boot_ns()
                        if status != OK:
                            still_this_process()
                            self.end_context()
                            return requests.frame(), Outcome(status, pickled, needed_bytes, SAID_BYTES), None
                    else:
                        if type(payload) is not bytes:
                            arguments = keywords = None
                            if len(<tuple>payload) == 2:
                                arguments = load_arguments_with_array((<tuple>payload)[0], (<tuple>payload)[1])
                            if arguments is None:
                                arguments, keywords = loads(payload[0], buffers=payload[1:])
                            called_ns = boot_ns()
                        elif payload == NO_ARGUMENTS:
                            arguments = keywords = None
                        else:
                            arguments, keywords = load_arguments_plainly(payload), None
                            if arguments is None:
                                arguments, keywords = loads(payload)
                            called_ns = boot_ns()
                        stage = EXCEPTION
                        if keywords:
                            value = self.function(*arguments, **keywords)
                        elif arguments:
                            value = self.function(*arguments)
                        else:
                            value = self.function()
                        now_ns = boot_ns()
                        stage = BAD_RESULT
                        if value is None:
                            pickled = NOTHING
                        elif type(value) in PLAIN:
                            pickled = dump_value(value)
                        else:
                            pickled = dump_array(value)
                            if pickled is None:
                                pickled = dump_anything(value)
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
                    size_bytes = len(<bytes>pickled)
                else:
                    size_bytes = Outcome(OK, pickled).size_bytes
                if self.printed(now_ns - called_ns):
                    return requests.frame(), outcome_of(pickled), True
                if out_size and size_bytes > out_size or size_bytes > MOST_BYTES:
                    return requests.frame(), outcome_of(pickled), False
                if self.is_watched and not rfaas_is_held(&self.watched):
                    return requests.frame(), outcome_of(pickled), False
                if pickled is not NOTHING:
                    now_ns = boot_ns()
                if not rfaas_page_finish(self.slot, call_id):
                    return requests.frame(), outcome_of(pickled), False
                if self.usage != NULL:
                    rfaas_page_account(self.usage, now_ns - started_ns, in_size, size_bytes)
                soon_ns = min(for_ns, least_ns + <int64_t>((in_size + size_bytes) // BYTES_A_NS))
                if not requests_answer(requests, pickled):
                    return None  # it waits for the peer to read, and somebody has to look after that
                payload = value = pickled = None
        finally:
            current["_make"] = current["_call"] = None
            array_memory.serve(None)
        return None
