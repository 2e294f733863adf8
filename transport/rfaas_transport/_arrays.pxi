# Memory of this process for arrays, over transport/core/shm/array_pool.h. Part of _core.pyx.

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo

cdef extern from "array_pool.h" nogil:
    ctypedef struct rfaas_array_pool:
        pass
    ctypedef struct rfaas_array_pool_use:
        uint64_t size_bytes, used_bytes, cached_bytes
        uint32_t n_used
    void rfaas_array_pool_set_size(uint64_t size_bytes)
    void *rfaas_array_pool_take(size_t size_bytes, rfaas_array_pool **pool)
    void rfaas_array_pool_give_back(rfaas_array_pool *pool, void *block)
    int rfaas_array_pool_export()
    rfaas_array_pool_use rfaas_array_pool_usage()


@cython.final
cdef class PoolMemory:
    """A writable buffer in this process's pool, which peers on this node read in place; given back when it is freed."""

    cdef rfaas_array_pool *pool
    cdef void *at
    cdef Py_ssize_t view_bytes

    def __init__(self):
        raise TypeError("use pool_memory")

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.at, self.view_bytes, 0, flags)

    def __dealloc__(self):
        if self.at != NULL:
            rfaas_array_pool_give_back(self.pool, self.at)


def pool_memory(Py_ssize_t size_bytes):
    """Memory for an array that will be passed to functions.

    Returns:
        A writable buffer of `size_bytes`, its content undefined, its beginning aligned to 4096; None if the pool has no
        room, or can't be (a limit on address space or on file sizes).
    """
    cdef PoolMemory made = PoolMemory.__new__(PoolMemory)
    if size_bytes <= 0:
        return None
    made.at = rfaas_array_pool_take(<size_t>size_bytes, &made.pool)
    made.view_bytes = size_bytes
    return None if made.at == NULL else made


def pool_descriptor():
    """A descriptor of the pool that can only be read, the caller's; -1 if there can be no pool."""
    return rfaas_array_pool_export()


def set_pool_size(uint64_t size_bytes):
    """How large the pool will be; 0: as the machine's memory. Without effect once it is there."""
    rfaas_array_pool_set_size(size_bytes)


def pool_usage():
    """What the pool may hold and holds, in bytes; all zero before it is made."""
    cdef rfaas_array_pool_use use = rfaas_array_pool_usage()
    return {
        "size_bytes": use.size_bytes,
        "used_bytes": use.used_bytes,
        "cached_bytes": use.cached_bytes,
        "arrays": use.n_used,
    }
