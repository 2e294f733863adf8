# What the other compiled modules of the house call here, with no Python between: each does what the method does that it
# is named for, to an object of that class, which its caller has made sure of. Part of _core.pyx.

from libc.stdint cimport int64_t, uint64_t

cdef enum Under:  # what has become of a request that was sent to be waited for
    NOWHERE       # there is no such loan
    UNDER_WAY     # its answer comes another way, if it was sent
    ANSWERED

# Request; one that wants memory gets a small answer as a memoryview of that, and not as bytes
cdef object make_request(object identity, object payload, object about, uint64_t out_size, bint wants_memory)
cdef bint request_renew(object request, object identity, bytes payload, object about, uint64_t out_size, bint wants_memory) except -1
cdef bint request_rest(object request) noexcept
cdef object request_about(object request)
cdef object request_answer(object request)
cdef object request_claim(object request, object future)
cdef bint request_is_done(object request)
cdef bint request_is_withdrawn(object request)
cdef void request_is_wanted(object request) noexcept

# Loan
cdef Under loan_call(object loan, uint64_t generation, object request) except *
cdef bint loan_submit(object loan, uint64_t generation, object request) except *
cdef bint loan_wait(object loan, object request, object timeout_s) except *
cdef int loan_look(object loan) except -1

# Requests
cdef object requests_next(object requests, int64_t spin_ns)
cdef void requests_sizes(object requests, uint64_t *call_id, uint64_t *in_size, uint64_t *out_size) noexcept
cdef bint requests_answer(object requests, object payload) except *
