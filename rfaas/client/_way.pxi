# What calls an executor's user makes are made of: on a channel on loan, or as the engine does. Part of _borrowing.pyx.

from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM


cdef class Way:
    """How calls of one kind are made: on a channel on loan where there is one, else as the engine does.

    Args:
        engine: the ordinary way (rfaas.client.engine.Engine).
        lender: of that engine.
        settings: of the calls.
    """

    cdef readonly object _engine, _settings
    cdef Lender lender
    cdef bint may_borrow  # who has borrowed neither keeps time nor runs a call again

    def __init__(self, engine, Lender lender not None, settings):
        self._engine = engine
        self.lender = lender
        self._settings = settings
        self.may_borrow = settings.call_timeout_s is None and not settings.retry_on

    cdef object call(self, function, tuple args, dict kwargs):
        cdef Borrowing borrowing = self.lender.borrowing
        if borrowing is not None and self.may_borrow:
            value = borrowing.invoke(function, args, kwargs, self._settings)
            if value is not ELSEWHERE:
                return value
        return self._engine.invoke(function, args, kwargs or {}, self._settings)

    cdef object call_with_bytes(self, function, bytes data):
        """Call the function over bytes that was called last, with a small input; ELSEWHERE: nothing was sent."""
        cdef Borrowing borrowing = self.lender.borrowing
        if borrowing is None or not self.may_borrow or borrowing.last is None:
            return ELSEWHERE
        if borrowing.last.function is not function or not borrowing.last.is_over_bytes:
            return ELSEWHERE
        request = borrowing.prepare_small(borrowing.last, data, self._settings, False)
        return ELSEWHERE if request is None else borrowing.finish(request, borrowing.last)

    def _submit(self, function, tuple args not None, dict kwargs not None):
        """Call and return the call's future, as `Engine.submit`."""
        cdef Borrowing borrowing = self.lender.borrowing
        if borrowing is not None and self.may_borrow and not self._engine.refuses:
            future = borrowing.submit(function, args, kwargs, self._settings)
            if future is not None:
                return future
        return self._engine.submit(function, args, kwargs, self._settings)


# `Way.invoke(function, /, *args, **kwargs)`, by hand: Cython's own way to call it makes a dict of no keywords each time.

cdef extern from *:
    """
    typedef PyObject *(*rfaas_vector_method)(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);
    static PyObject *rfaas_new_method(PyTypeObject *type, rfaas_vector_method call, const char *name, const char *doc)
    {
        static PyMethodDef definition;
        definition = (PyMethodDef){name, (PyCFunction)(void (*)(void))call, METH_FASTCALL | METH_KEYWORDS, doc};
        return PyDescr_NewMethod(type, &definition);
    }
    """
    ctypedef object (*rfaas_vector_method)(object, PyObject *const *, Py_ssize_t, PyObject *)
    object rfaas_new_method(type, rfaas_vector_method call, const char *name, const char *doc)

cdef const char *INVOKE_DOC = b"""invoke($self, fn, /, *args, **kwargs)
--

Call a function on a worker and wait for what it returns.

Raises:
    BaseException: what the function raised, or an RfaasError, as for `submit`. A KeyboardInterrupt here takes
        the call back if it was not sent; one that runs goes on, and its result is dropped.
"""


cdef object invoke(object self, PyObject *const *values, Py_ssize_t n_values, PyObject *names):
    cdef Py_ssize_t i
    cdef dict kwargs = None
    if n_values == 0:
        raise TypeError("invoke() missing 1 required positional argument: 'fn'")
    if n_values == 2 and names == NULL and PyBytes_CheckExact(<object>values[1]):
        value = (<Way>self).call_with_bytes(<object>values[0], <object>values[1])
        if value is not ELSEWHERE:
            return value
    args = PyTuple_New(n_values - 1)
    for i in range(1, n_values):
        value = <object>values[i]
        Py_INCREF(value)
        PyTuple_SET_ITEM(args, i - 1, value)
    if names != NULL:
        kwargs = {}
        for i, name in enumerate(<tuple><object>names):
            kwargs[name] = <object>values[n_values + i]
    return (<Way>self).call(<object>values[0], args, kwargs)


invoke_method = rfaas_new_method(Way, invoke, b"invoke", INVOKE_DOC)
"""To be the method of that name of a class made from Way."""
