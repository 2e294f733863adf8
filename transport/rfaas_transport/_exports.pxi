# What _core.pxd declares: the methods of its name. Part of _core.pyx.


cdef object make_request(object identity, object payload, object about, uint64_t out_size, bint wants_memory):
    cdef Request request = Request.__new__(Request)
    request.wants_memory = wants_memory
    request.fill(identity, payload, about, out_size)
    return request


cdef bint request_renew(
        object request, object identity, bytes payload, object about, uint64_t out_size, bint wants_memory) except -1:
    (<Request>request).wants_memory = wants_memory
    return (<Request>request).fill(identity, payload, about, out_size) == 0


cdef bint request_rest(object request) noexcept:
    return (<Request>request).rest()


cdef object request_about(object request):
    return (<Request>request).about


cdef object request_answer(object request):
    return (<Request>request).answer()


cdef object request_claim(object request, object future):
    return (<Request>request).claim(future)


cdef bint request_is_done(object request):
    return (<Request>request).done


cdef bint request_is_withdrawn(object request):
    return (<Request>request).withdrawn


cdef void request_is_wanted(object request) noexcept:
    (<Request>request).is_awaited = True


cdef Under loan_call(object loan, uint64_t generation, object request) except *:
    return (<Loan>loan).send_and_wait(generation, <Request>request)


cdef bint loan_submit(object loan, uint64_t generation, object request) except *:
    return (<Loan>loan).send(generation, <Request>request)


cdef bint loan_wait(object loan, object request, object timeout_s) except *:
    return (<Loan>loan).wait_for(<Request>request, timeout_s)


cdef int loan_look(object loan) except -1:
    return (<Loan>loan).look_at_all()


cdef object requests_next(object requests, int64_t spin_ns):
    return (<Requests>requests).take_next(spin_ns)


cdef void requests_sizes(object requests, uint64_t *call_id, uint64_t *in_size, uint64_t *out_size) noexcept:
    cdef const rfaas_header *header = &(<Requests>requests).header
    call_id[0], in_size[0], out_size[0] = header.call_id, header.in_size, header.out_size


cdef bint requests_answer(object requests, object payload) except *:
    return (<Requests>requests).give_answer(payload)
