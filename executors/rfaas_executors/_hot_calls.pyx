"""Calls of one function that come one upon the other on one channel, served without a frame of Python's between them.

Does what `worker.Worker` does for any call, in the same order (docs/spec/001-invocation.md section 5), and leaves to it
whatever is not a plain call with a plain end. Must not hold policy. `_hot_calls.pyi` holds the types.
"""

from libc.stdint cimport int64_t, uint64_t

import pickle

from rfaas_executors.calls import Outcome, dumps as dump_anything, failed, still_this_process
from rfaas_transport import current_call
from rfaas_transport.frame import Kind, Status

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    enum:
        CLOCK_MONOTONIC

cdef object loads = pickle.loads, dumps = pickle.dumps  # bound now: a function may replace what the modules hold
cdef dict current = current_call.__dict__
cdef int CALL = Kind.CALL, RESULT = Kind.RESULT
cdef int OK = Status.OK, BAD_ARGUMENTS = Status.BAD_ARGUMENTS, EXCEPTION = Status.EXCEPTION, BAD_RESULT = Status.BAD_RESULT
cdef object MOST_BYTES = 1 << 30  # a larger result may be too large for a channel
cdef frozenset PLAIN = frozenset([type(None), bool, int, float, complex, str])  # hold nothing that travels on its own


cdef int64_t now_ns() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


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
    """

    cdef object spin, answer, start, finish, call_printed, function, make_context, holds
    cdef object frame  # of the call that runs
    cdef readonly int n_calls  # of the last `run`
    cdef uint64_t lease_seq, epoch
    cdef int page_slot, index, watched

    def __init__(self, channel, page, int page_slot, uint64_t lease_seq, uint64_t epoch, int index, function, streams,
                 make_context, int watched, held):
        self.spin = channel.spin
        self.answer = channel.answer
        self.start = page.start
        self.finish = page.finish
        self.holds = held.holds
        self.call_printed = streams.call_printed
        self.function = function
        self.make_context = make_context
        self.page_slot = page_slot
        self.lease_seq = lease_seq
        self.epoch = epoch
        self.index = index
        self.watched = watched

    def __call__(self):
        """The context of the call that runs: `current_call` asks for it if the function does."""
        return None if self.frame is None else self.make_context(self.frame)

    cdef int end_context(self) except -1:
        self.frame = None
        if current["_call"] is not None:
            context, current["_call"] = current["_call"], None
            context.close()
        return 0

    def run(self, double soon_s, int64_t for_ns):
        """Serve calls until none came for `soon_s` or `for_ns` are over.

        Returns:
            None; or a frame that is no plain call, untouched; or, of a call that was run and whose end is not plain,
            its frame, its outcome (None: it must not run, it was interrupted) and whether it printed (None: unknown).
        Raises:
            WorkerExit: the function called `sys.exit`.
        """
        cdef int64_t until_ns = now_ns() + for_ns
        cdef int stage
        self.n_calls = 0
        current["_make"], current["_call"] = self, None
        try:
            while now_ns() < until_ns:
                frame = self.spin(soon_s)
                if frame is None:
                    return None
                if not frame.asks_plainly(CALL, self.index, self.lease_seq, self.epoch):
                    return frame
                call_id = frame.call_id
                segments = frame.segments
                self.n_calls += 1
                if not self.start(self.page_slot, call_id):
                    return frame, None, None
                self.frame = frame
                stage = BAD_ARGUMENTS
                value = None
                try:
                    if len(segments) == 1:
                        arguments, keywords = loads(segments[0])
                    else:
                        arguments, keywords = loads(segments[0], buffers=segments[1:])
                    stage = EXCEPTION
                    value = self.function(*arguments, **keywords) if keywords else self.function(*arguments)
                    stage = BAD_RESULT
                    pickled = [dumps(value, 5)] if type(value) in PLAIN else dump_anything(value)
                except BaseException as error:
                    still_this_process()
                    self.end_context()
                    return frame, failed(stage, error, value), None
                still_this_process()
                self.end_context()
                arguments = keywords = None
                if self.call_printed():
                    return frame, Outcome(OK, pickled), True
                size_bytes = len(pickled[0]) if len(pickled) == 1 else Outcome(OK, pickled).size_bytes
                out_size = frame.out_size or MOST_BYTES
                if size_bytes > out_size:
                    return frame, Outcome(OK, pickled), False
                if self.watched >= 0 and not self.holds(self.watched):
                    return frame, Outcome(OK, pickled), False
                if not self.finish(self.page_slot, call_id, frame.in_size, size_bytes):
                    return frame, Outcome(OK, pickled), False
                if not self.answer(RESULT, call_id, self.index, 0, OK, 1, pickled):
                    return None  # it waits for the peer to read, and somebody has to look after that
                frame = segments = value = pickled = None
        finally:
            current["_make"] = current["_call"] = None
        return None
