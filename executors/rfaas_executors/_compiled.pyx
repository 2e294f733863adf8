"""Compiled functions in a worker: libraries, the memory of outputs, the call itself; `_compiled.pyi` holds the types.

Must not hold policy: `byte_calls` does. Loaded by workers that run raw or compiled functions, and by no other.
Spec: docs/spec/001-invocation.md section 11.
"""

import os

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.pycapsule cimport PyCapsule_New
from libc.errno cimport errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset


cdef extern from "rfaas_function.h" nogil:
    ctypedef struct rfaas_ctx:
        uint32_t attempt
        uint8_t *invocation_id
        uint64_t deadline_ns
        uint64_t lease_seq
        uint64_t epoch

cdef extern from "output.h" nogil:
    ctypedef struct rfaas_output:
        void *map
        uint8_t *start
        uint64_t capacity_bytes
    int rfaas_output_map(uint64_t capacity_bytes, rfaas_output *output)
    bint rfaas_output_fit(rfaas_output *output, uint64_t capacity_bytes)
    void rfaas_output_unmap(rfaas_output *output)
    void rfaas_output_shrink(rfaas_output *output, uint64_t keep_bytes)

cdef extern from "native_call.h" nogil:
    ctypedef enum rfaas_abi:
        RFAAS_ABI_0
        RFAAS_ABI_1
    ctypedef struct rfaas_native:
        void *symbol
        rfaas_abi abi
        const char *name
    enum:
        RFAAS_CALL_OK
        RFAAS_CALL_FUNCTION_ERROR
        RFAAS_CALL_TOO_LARGE
        RFAAS_CALL_LARGE_INPUT
        RFAAS_CALL_UNSAID
        RFAAS_CALL_OVERRUN
    ctypedef struct rfaas_call_result:
        int end
        int32_t value
        uint64_t out_bytes
    rfaas_call_result rfaas_native_call(const rfaas_native *function, void *input, uint64_t in_size,
                                        rfaas_output *output, bint bounded, rfaas_ctx *ctx)
    void rfaas_on_reclaimed(int (*look)() noexcept)

cdef extern from "state_page.h" nogil:
    ctypedef struct rfaas_page_slot:
        pass
    ctypedef struct rfaas_page_usage:
        pass
    ctypedef struct rfaas_page_output:
        pass

cdef extern from "held.h" nogil:
    ctypedef struct rfaas_held:
        int fd
    int rfaas_hold(int fd, rfaas_held *held)

cdef extern from "ticks.h" nogil:
    ctypedef struct rfaas_ticks:
        pass
    void rfaas_ticks_look(rfaas_ticks *ticks)

cdef extern from "native_server.h" nogil:
    ctypedef struct rfaas_header:
        pass
    ctypedef struct iovec:
        pass
    ctypedef bint (*serve_f)(void *context, const rfaas_header *request, const iovec *input, iovec *answer)
    ctypedef struct rfaas_server:
        serve_f serve
        void *context
    ctypedef enum rfaas_native_left:
        RFAAS_LEFT_INTERRUPTED
        RFAAS_LEFT_ENDED
        RFAAS_LEFT_AT_END
    ctypedef bint (*rfaas_process_check)()
    ctypedef struct rfaas_native_server:
        const rfaas_native *function
        rfaas_output *output
        uint64_t capacity_bytes_max, out_bytes_max
        uint8_t *holder_id
        rfaas_ctx *ctx
        rfaas_page_slot *slot
        rfaas_page_usage *usage
        rfaas_process_check is_this_process
        uint64_t write_ns
        int out_fd, err_fd
        const rfaas_page_output *taken
        const uint64_t *known_takes
        rfaas_held watched
        rfaas_ticks ticks
        rfaas_native_left left
        rfaas_call_result result
    bint rfaas_native_serve(void *context, const rfaas_header *request, const iovec *input, iovec *answer)

cdef extern from "crash_words.h" nogil:
    int rfaas_crash_watch(void *words, uint32_t room_bytes)

cdef extern from "isa_level.h" nogil:
    int rfaas_isa_level()

cdef extern from "<dlfcn.h>" nogil:
    void *dlopen(const char *path, int mode)
    void *dlsym(void *library, const char *symbol)
    char *dlerror()
    enum:
        RTLD_NOW
        RTLD_LOCAL

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    enum:
        CLOCK_MONOTONIC

OK = RFAAS_CALL_OK
FUNCTION_ERROR = RFAAS_CALL_FUNCTION_ERROR
TOO_LARGE = RFAAS_CALL_TOO_LARGE
LARGE_INPUT = RFAAS_CALL_LARGE_INPUT
UNSAID = RFAAS_CALL_UNSAID
OVERRUN = RFAAS_CALL_OVERRUN

cdef enum:
    KEEP_BYTES = 64 << 20  # of an output between two calls: what went beyond goes back to the system once it is sent
    POOL = 4               # outputs that are kept for the next call
    SMALL_BYTES = 1 << 20  # only one is kept that may be larger: a worker's memory is limited

CAPACITY_BYTES_MAX = 1 << 32
"""Of an output: what a channel takes."""

cdef uint64_t most_bytes = CAPACITY_BYTES_MAX


@cython.final
cdef class Output:
    """Memory for one function's output. A buffer of the bytes that `show` says, borrowed by whoever sends them."""

    cdef rfaas_output output
    cdef Py_ssize_t shown_bytes
    cdef Py_ssize_t used_bytes
    cdef int borrowers

    def __cinit__(self, uint64_t capacity_bytes):
        if rfaas_output_map(capacity_bytes, &self.output) != 0:
            raise MemoryError(f"an output of {capacity_bytes} bytes can't be mapped: {os.strerror(errno)}")
        self.shown_bytes = <Py_ssize_t>capacity_bytes

    def show(self, Py_ssize_t n_bytes):
        """Say how many bytes, from its start, the buffers that are taken from now on have.

        Raises:
            ValueError: more than its capacity.
        """
        if n_bytes < 0 or <uint64_t>n_bytes > self.output.capacity_bytes:
            raise ValueError(f"{n_bytes} bytes of an output of {self.output.capacity_bytes}")
        self.shown_bytes = self.used_bytes = n_bytes

    @property
    def capacity_bytes(self):
        """How much a function may write."""
        return self.output.capacity_bytes

    @property
    def nbytes(self):
        """How many bytes a buffer has."""
        return self.shown_bytes

    @property
    def free(self):
        """True while nobody has a buffer of it."""
        return self.borrowers == 0

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.output.start, self.shown_bytes, 0, flags)
        self.borrowers += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.borrowers -= 1
        if self.borrowers == 0 and self.used_bytes > KEEP_BYTES:
            rfaas_output_shrink(&self.output, KEEP_BYTES)
            self.used_bytes = 0

    def __dealloc__(self):
        rfaas_output_unmap(&self.output)


@cython.final
cdef class Outputs:
    """Outputs that are used again once what was in them is sent: the few used last, one large one among them."""

    cdef list kept

    def __cinit__(self):
        self.kept = []

    cpdef Output take(self, uint64_t capacity_bytes):
        """An output of this capacity that nobody reads; it may hold anything.

        Raises:
            MemoryError: it can't be mapped.
        """
        cdef Output output
        for output in self.kept:
            if output.output.capacity_bytes == capacity_bytes and output.borrowers == 0:
                output.shown_bytes = <Py_ssize_t>capacity_bytes
                return output
        self.kept = [output for output in self.kept if output.output.capacity_bytes <= SMALL_BYTES]
        output = Output(capacity_bytes)
        self.kept.insert(0, output)
        del self.kept[POOL:]  # one that is still being sent is freed when that is done
        return output


@cython.final
cdef class NativeFunction:
    """A function of a library that was loaded.

    Args:
        symbol: its address, by `find_symbol`.
        form: 1: rfaas-1; 0: rfaas-0.
        name: for people.
    """

    cdef rfaas_native native
    cdef bytes name

    def __cinit__(self, uintptr_t symbol, int form, bytes name):
        self.name = name
        self.native.symbol = <void *>symbol
        self.native.abi = RFAAS_ABI_0 if form == 0 else RFAAS_ABI_1
        self.native.name = <const char *>self.name

    def answer(self, call, segments not None, Outputs outputs not None, bytes holder not None, uint64_t remaining_ns):
        """Call it as a CALL says, without the GIL.

        Args:
            call: the frame.
            segments: the input, or nothing.
            outputs: where memory for the output comes from.
            holder: the client's id, 16 bytes.
            remaining_ns: until the deadline; 0: there is none.
        Returns:
            (end, output, n): OK with the output; TOO_LARGE with the bytes that were wanted; FUNCTION_ERROR with what it
            returned; the others with 0.
        Raises:
            MemoryError: the output can't be mapped; it was not called.
        """
        cdef rfaas_ctx *ctx = &current  # outlives the call: threads that a function leaves may still look at it
        cdef uint64_t asked_bytes = call.out_size
        cdef uint64_t invocation = call.invocation or call.call_id
        cdef Output output = outputs.take(asked_bytes if 0 < asked_bytes < most_bytes else most_bytes)
        cdef Py_buffer view
        cdef timespec now
        cdef void *here
        cdef int place  # typed, or the shift is Python's and its result checked against a byte
        cdef rfaas_call_result result
        if len(holder) != 16:
            raise ValueError("a client's id has 16 bytes")
        memcpy(ctx.invocation_id, <const char *>holder, 16)
        for place in range(8):
            ctx.invocation_id[16 + place] = <uint8_t>(invocation >> (56 - 8 * place))
        ctx.attempt, ctx.lease_seq, ctx.epoch, ctx.deadline_ns = call.attempt, call.lease_seq, call.epoch, 0
        view.buf, view.len = NULL, 0
        if segments:
            PyObject_GetBuffer(segments[0], &view, PyBUF_SIMPLE)
        with nogil:
            if remaining_ns != 0:
                clock_gettime(CLOCK_MONOTONIC, &now)
                ctx.deadline_ns = <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec + remaining_ns
            if view.len and <uintptr_t>view.buf % 64 != 0 and view.len <= <Py_ssize_t>sizeof(aligned):
                memcpy(aligned, view.buf, view.len)  # a small one that came as bytes
                here = aligned
            else:
                here = view.buf if view.len else NULL
            result = rfaas_native_call(&self.native, here, <uint64_t>view.len,
                                       &output.output, asked_bytes != 0, ctx)
        if segments:
            PyBuffer_Release(&view)
        if result.end == RFAAS_CALL_OK:
            output.show(<Py_ssize_t>result.out_bytes)
            return OK, output, 0
        return result.end, None, result.value if result.end == RFAAS_CALL_FUNCTION_ERROR else result.out_bytes


@cython.final
cdef class NativeServer:
    """One compiled function as what `rfaas_transport._core.Serving` gives plain requests to.

    Args:
        function: what is called.
        holder: the client's id, 16 bytes.
        places: of the channel's slot in the state page (`StatePage.places`), which outlives this.
        check: address of what tells this process from a copy of it (`marked_process_check`).
        out_fd, err_fd: pipes that prints go to; -1: nobody takes them.
        watched_fd: a descriptor that answers go through, to be compared before each; -1: they go through none.
    Raises:
        OSError: it is closed.
    """

    cdef rfaas_native_server native
    cdef rfaas_server server
    cdef readonly object capsule
    cdef NativeFunction function
    cdef Output output

    def __cinit__(self, NativeFunction function not None, bytes holder not None, tuple places not None,
                  uintptr_t check, int out_fd, int err_fd, int watched_fd=-1):
        if len(holder) != 16:
            raise ValueError("a client's id has 16 bytes")
        slot, usage, taken, known_takes = places
        self.function = function
        self.native.function = &function.native
        self.native.capacity_bytes_max = most_bytes
        self.native.out_bytes_max = SMALL_BYTES
        memcpy(self.native.holder_id, <const char *>holder, 16)
        self.native.ctx = &current
        self.native.slot = <rfaas_page_slot *><uintptr_t>slot
        self.native.usage = <rfaas_page_usage *><uintptr_t>usage
        self.native.taken = <const rfaas_page_output *><uintptr_t>taken
        self.native.known_takes = <const uint64_t *><uintptr_t>known_takes
        self.native.is_this_process = <rfaas_process_check><void *>check
        self.native.out_fd, self.native.err_fd = out_fd, err_fd
        self.native.watched.fd = -1
        if watched_fd >= 0 and rfaas_hold(watched_fd, &self.native.watched) != 0:
            raise OSError(errno, "the descriptor to be watched is closed")
        self.server.serve = rfaas_native_serve
        self.server.context = &self.native
        self.capsule = PyCapsule_New(&self.server, "rfaas_transport.server", NULL)

    def begin(self, Output output not None, uint64_t write_ns):
        """Be ready for requests.

        Args:
            output: of CAPACITY_BYTES_MAX, for their outputs, one after the other; nobody else uses it.
            write_ns: a function that was faster has printed nothing.
        Raises:
            ValueError: the output is smaller.
        """
        if not rfaas_output_fit(&output.output, most_bytes):
            raise ValueError("this output is not of CAPACITY_BYTES_MAX")
        self.output = output
        self.native.output = &output.output
        self.native.write_ns = write_ns
        rfaas_ticks_look(&self.native.ticks)

    def end(self):
        """Of the call that was left: (end, output, n) as `NativeFunction.answer`, or None: it must not run.

        Raises:
            ValueError: as `Output.show`.
        """
        cdef rfaas_call_result result = self.native.result
        if self.native.left == RFAAS_LEFT_INTERRUPTED:
            return None
        if result.end == RFAAS_CALL_OK:
            self.output.show(<Py_ssize_t>result.out_bytes)
            return OK, self.output, 0
        return result.end, None, result.value if result.end == RFAAS_CALL_FUNCTION_ERROR else result.out_bytes

    @property
    def looked(self):
        """True if the call that was left printed nothing."""
        return self.native.left == RFAAS_LEFT_AT_END


cdef extern from *:
    """
    static _Alignas(64) unsigned char aligned[65536];
    """
    unsigned char aligned[65536]

cdef rfaas_ctx current
memset(&current, 0, sizeof(current))


def load_library(bytes path not None):
    """Load a shared library, with all that it needs, for this process's life; its constructors run here.

    Returns:
        A handle for `find_symbol`.
    Raises:
        OSError: it can't be loaded; the text is the dynamic linker's.
    """
    cdef const char *where = path
    cdef void *library
    with nogil:
        library = dlopen(where, RTLD_NOW | RTLD_LOCAL)
    if library == NULL:
        raise OSError(_linker_error())
    return <uintptr_t>library


def find_symbol(uintptr_t library, bytes name not None):
    """The address of a symbol of a library.

    Raises:
        OSError: there is none.
    """
    cdef const char *symbol = name
    cdef void *address = dlsym(<void *>library, symbol)
    if address == NULL:
        raise OSError(_linker_error())
    return <uintptr_t>address


cdef str _linker_error():
    cdef char *why = dlerror()
    return "no reason was given" if why == NULL else (<bytes>why).decode("utf-8", "replace")


def isa_level():
    """Of the x86-64 levels (v1 ... v4) the highest that this CPU has; 0 on other machines."""
    return rfaas_isa_level()


def watch_crashes(uintptr_t words, uint32_t room_bytes):
    """Have crashes of compiled functions say why: `words` is the address of the place for a worker's last words.

    Raises:
        OSError: the kernel refused.
    """
    if rfaas_crash_watch(<void *>words, room_bytes) != 0:
        raise OSError(errno, os.strerror(errno))


cdef object _looker = None


def watch_notice(looker):
    """Have functions that ask whether their cores go back answered by `looker()`."""
    global _looker
    _looker = looker
    rfaas_on_reclaimed(_look)


cdef int _look() noexcept with gil:
    try:
        return 1 if _looker() else 0
    except BaseException:  # there is nobody to tell
        return 0
