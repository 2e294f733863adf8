# numpy's arrays in a channel's arena, over transport/core/shm/array_heap.h. Part of _core.pyx, which is built without numpy's
# headers: it speaks to whichever numpy a function's environment has, by the places in its C API that never move.

from cpython.pycapsule cimport PyCapsule_New as _new_capsule

cdef extern from "array_heap.h" nogil:
    enum:
        RFAAS_ARRAY_HEAP_LEAST_BYTES
    ctypedef struct rfaas_array_allocator:
        pass
    ctypedef struct rfaas_array_handler:
        uint8_t version
        rfaas_array_allocator allocator
    ctypedef struct rfaas_array_pin:
        pass
    rfaas_array_handler *rfaas_array_heap_begin(const rfaas_array_allocator *behind)
    void rfaas_array_heap_serve(rfaas_channel *channel, pthread_mutex_t *channel_lock)
    void rfaas_array_heap_leave(const rfaas_channel *channel)
    bint rfaas_array_heap_is_used()
    rfaas_array_pin *rfaas_array_heap_pin(const rfaas_channel *channel, const void *bytes, size_t size_bytes)
    bint rfaas_array_heap_claim(rfaas_array_pin *pin, rfaas_channel_array *array, size_t *size_bytes)
    void rfaas_array_heap_unpin(rfaas_array_pin *pin)

cdef enum:  # where numpy's API has what; numpy/_core/code_generators/numpy_api.py
    FEATURE_VERSION_PLACE = 211
    SET_HANDLER_PLACE = 304
    GET_HANDLER_PLACE = 305
    DEFAULT_HANDLER_PLACE = 306
cdef enum:
    NUMPY_1_22 = 0xF  # feature version of the first that has handlers


@cython.final
@cython.no_gc
cdef class PinnedMemory:
    """Bytes of an array of numpy's that somebody may still write to, for the time until they are sent."""

    cdef rfaas_array_pin *pin
    cdef Channel channel
    cdef void *at
    cdef Py_ssize_t view_bytes

    def __init__(self):
        raise TypeError("use Channel.settle")

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.at, self.view_bytes, 0, flags)

    def __dealloc__(self):
        if self.pin != NULL:
            rfaas_array_heap_unpin(self.pin)


def lend_arena_to_numpy(api not None):
    """Have numpy put the large arrays that it makes in this thread's context into the arena of the channel of `serve_numpy`.

    Args:
        api: `numpy._core._multiarray_umath._ARRAY_API`, numpy's C API (NEP 49).
    Returns:
        False: this numpy takes no handler (it is older than 1.22), or has another one here already.
    Raises:
        ValueError: that is no API of numpy's; nothing was done.
    """
    cdef void **table = <void **>PyCapsule_GetPointer(api, NULL)
    if (<unsigned int (*)() noexcept>table[FEATURE_VERSION_PLACE])() < NUMPY_1_22:
        return False
    cdef PyObject *behind = (<PyObject **>table[DEFAULT_HANDLER_PLACE])[0]
    present = (<object (*)()>table[GET_HANDLER_PLACE])()
    if <PyObject *>present != behind:
        return False
    cdef rfaas_array_handler *handler = <rfaas_array_handler *>PyCapsule_GetPointer(<object>behind, "mem_handler")
    if handler.version != 1:
        return False
    ours = _new_capsule(rfaas_array_heap_begin(&handler.allocator), "mem_handler", NULL)
    (<object (*)(object)>table[SET_HANDLER_PLACE])(ours)
    return True


def serve_numpy(Channel channel):
    """Say on which channel the call came that runs now, None if none runs."""
    if channel is None:
        rfaas_array_heap_serve(NULL, NULL)
    else:
        rfaas_array_heap_serve(channel.channel, &channel.lock)
