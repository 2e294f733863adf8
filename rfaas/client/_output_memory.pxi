# Where small outputs of functions over bytes are shown to whoever called. Part of _borrowing.pyx.

import gc as _gc

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromObject

cdef extern from "Python.h":
    Py_ssize_t references "Py_REFCNT" (PyObject *one)  # of an object that is not looked at by way of one more


cdef class OutputMemory:
    """Memory for outputs of one size, used again once nobody has a view of the one before.

    A memoryview is two objects and what it shows a third, or a fourth; of memory that was shown before one is made. That
    is a tenth of a hot call.
    """

    cdef bytearray memory
    cdef object view    # of all of it; those that callers get share its hold on the memory
    cdef object hold    # which is an object of its own: it counts them
    cdef bint is_busy   # a view is being made, which may run anything

    def __cinit__(self, Py_ssize_t size_bytes):
        self.memory = bytearray(size_bytes)
        self.view = PyMemoryView_FromObject(self.memory)
        holds = _gc.get_referents(self.view)
        self.hold = holds[0] if len(holds) == 1 and holds[0] is not self.memory else None

    cdef bint suits(self, Py_ssize_t size_bytes) noexcept:
        """True if it has this size and nobody looks at it, nor can."""
        return (not self.is_busy and self.hold is not None and PyByteArray_GET_SIZE(self.memory) == size_bytes
                and references(<PyObject *>self.hold) == 2 and references(<PyObject *>self.memory) == 2)

    cdef object show(self, bytes output):
        """A view of this output, which has its size."""
        self.is_busy = True
        try:
            _copy(PyByteArray_AS_STRING(self.memory), PyBytes_AS_STRING(output), PyBytes_GET_SIZE(output))
            return PyMemoryView_FromObject(self.view)
        finally:
            self.is_busy = False


cdef class Outputs:
    """The outputs of one function: of the call before the caller still has the view while the next is under way."""

    cdef OutputMemory first, second

    cdef object show(self, bytes output):
        """A writable view of these bytes, the caller's own."""
        cdef Py_ssize_t size_bytes = PyBytes_GET_SIZE(output)
        if self.first is None or not self.first.suits(size_bytes):
            self.first, self.second = self.second, self.first
            if self.first is None or not self.first.suits(size_bytes):
                self.first = OutputMemory.__new__(OutputMemory, size_bytes)
        return self.first.show(output)
