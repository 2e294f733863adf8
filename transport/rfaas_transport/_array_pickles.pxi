# Pickles of one numpy array of numbers, alone or among a few plain values. Included after _plain.pxi, on the same terms:
# what is written here pickle reads, as `array_memory.stand_in_alone` has it written, and what is read here is what pickle
# would have read. The bytes of the array are a segment of their own and are neither read nor written here.

from cpython.buffer cimport PyBUF_ND, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.string cimport memcmp as _compare

import copyreg
import sys

from rfaas_transport import array_memory

cdef enum:
    STACK_GLOBAL = 0x93
    NEXT_BUFFER = 0x97
    READONLY_BUFFER = 0x98
    REDUCE = 82            # R
    MOST_AXES = 8
    ARRAY_ROOM_BYTES = 64 + MOST_AXES * 10

cdef dict names_of_arrays = array_memory.__dict__, modules = sys.modules, reducers = copyreg.dispatch_table
cdef bytes ARRAY_OPENS = (
    b"\x8c\x1c" + array_memory.__name__.encode() + b"\x8c\x06" + array_memory._array.__name__.encode() + b"\x93(\x8c\x01"
)
cdef bytes ARRAY_ENDS = b"t\x8c\x01C\x97tR"   # behind its shape: order, buffer, and the call that makes it
cdef object Array = None                      # numpy's, once there is one
cdef dict chars_by_type = {}, types_by_char = {}
cdef list types_kept = []


cdef int meet_numpy(numpy) except -1:
    """Learn numpy's types of numbers, of which it has one object each."""
    global Array
    for char in "?bBhHiIlLqQefdFD":
        kind = numpy.dtype(char)
        types_kept.append(kind)
        chars_by_type[id(kind)] = ord(char)
        types_by_char[ord(char)] = kind
    Array = numpy.ndarray
    return 0


cdef bint is_array(value) except -1:
    """True of an array that numpy itself would pickle, of its own type and not of one made from it."""
    if Array is None:
        numpy = modules.get("numpy") if type(value).__name__ == "ndarray" else None
        if numpy is None or type(value) is not getattr(numpy, "ndarray", None):
            return False
        meet_numpy(numpy)
    return type(value) is Array and Array not in reducers and not names_of_arrays["_lent"]


cdef Py_ssize_t put_array(uint8_t *to, value, list buffers) except -1:
    """Pickle an array and add its bytes to `buffers`; how many bytes the pickle took, 0: pickle has to."""
    cdef Py_buffer view
    cdef Py_ssize_t i, n_bytes = PyBytes_GET_SIZE(ARRAY_OPENS)
    char = chars_by_type.get(id(value.dtype))
    if char is None:
        return 0
    try:
        PyObject_GetBuffer(value, &view, PyBUF_ND)
    except (BufferError, ValueError):  # its elements don't lie one after the other
        return 0
    try:
        if view.ndim == 0 or view.ndim > MOST_AXES or view.len == 0 or view.readonly:
            return 0
        _copy(to, PyBytes_AS_STRING(ARRAY_OPENS), n_bytes)
        to[n_bytes] = char
        to[n_bytes + 1] = MARK
        n_bytes += 2
        for i in range(view.ndim):
            n_bytes += put_number(to + n_bytes, view.shape[i])
    finally:
        PyBuffer_Release(&view)
    _copy(to + n_bytes, PyBytes_AS_STRING(ARRAY_ENDS), PyBytes_GET_SIZE(ARRAY_ENDS))
    buffers.append(pickle.PickleBuffer(value).raw())
    return n_bytes + PyBytes_GET_SIZE(ARRAY_ENDS)


cdef object take_array(const uint8_t *at, Py_ssize_t left_bytes, data, Py_ssize_t *used_bytes):
    """The array over `data` whose pickle begins here; `used_bytes` 0: pickle has to."""
    cdef Py_ssize_t opens_bytes = PyBytes_GET_SIZE(ARRAY_OPENS), ends_bytes = PyBytes_GET_SIZE(ARRAY_ENDS)
    cdef Py_ssize_t i = opens_bytes + 2, axis_bytes = 0
    used_bytes[0] = 0
    if left_bytes < i + ends_bytes or _compare(at, PyBytes_AS_STRING(ARRAY_OPENS), opens_bytes) or at[i - 1] != MARK:
        return None
    shape = []
    while left_bytes - i >= ends_bytes and at[i] != TUPLE:
        number = take_plain(at + i, left_bytes - i, &axis_bytes)
        if axis_bytes == 0 or type(number) is not int:
            return None
        shape.append(number)
        i += axis_bytes
    if left_bytes - i < ends_bytes or _compare(at + i, PyBytes_AS_STRING(ARRAY_ENDS), ends_bytes):
        return None
    if Array is None:
        import numpy
        meet_numpy(numpy)
    kind = types_by_char.get(at[opens_bytes])
    if kind is None:
        return None
    used_bytes[0] = i + ends_bytes
    return Array(tuple(shape), kind, data)


cdef list dump_arguments_with_array(tuple values):
    """Pickle `(values, {})`, one of which is an array: the pickle and the array's bytes; None: pickle has to."""
    cdef uint8_t room[ROOM_BYTES + ARRAY_ROOM_BYTES]
    cdef Py_ssize_t i, put_bytes, n_bytes = 3
    if PyTuple_GET_SIZE(values) > MOST_VALUES or occurs_twice(values):
        return None
    buffers = [None]
    room[0] = PROTO
    room[1] = 5
    room[2] = MARK
    for i in range(PyTuple_GET_SIZE(values)):
        value = values[i]
        put_bytes = put_plain(room + n_bytes, value)
        if put_bytes == 0 and len(buffers) == 1 and is_array(value):
            put_bytes = put_array(room + n_bytes, value, buffers)
        if put_bytes == 0:
            return None
        n_bytes += put_bytes
    if len(buffers) == 1:
        return None
    room[n_bytes] = TUPLE
    room[n_bytes + 1] = EMPTY_DICT
    room[n_bytes + 2] = TUPLE2
    room[n_bytes + 3] = STOP
    buffers[0] = PyBytes_FromStringAndSize(<char *>room, n_bytes + 4)
    return buffers


cdef tuple load_arguments_with_array(pickled, data):
    """What `dump_arguments_with_array` was given; None: pickle has to."""
    cdef Py_buffer view
    cdef const uint8_t *at
    cdef Py_ssize_t end, i = 3, used_bytes = 0
    cdef bint has_array = False
    PyObject_GetBuffer(pickled, &view, PyBUF_SIMPLE)
    try:
        at = <const uint8_t *>view.buf
        end = view.len - 4
        if end < 3 or at[0] != PROTO or at[1] != 5 or at[2] != MARK or at[end] != TUPLE:
            return None
        if at[end + 1] != EMPTY_DICT or at[end + 2] != TUPLE2 or at[end + 3] != STOP:
            return None
        values = []
        while i < end:
            used_bytes = 0
            if not has_array:  # first: it begins like a text
                value = take_array(at + i, end - i, data, &used_bytes)
                has_array = used_bytes > 0
            if used_bytes == 0:
                value = take_plain(at + i, end - i, &used_bytes)
            if used_bytes == 0:
                return None
            values.append(value)
            i += used_bytes
        return tuple(values) if has_array else None
    finally:
        PyBuffer_Release(&view)


cdef list dump_array(value):
    """Pickle an array: the pickle and the array's bytes; None: it is none, or pickle has to."""
    cdef uint8_t room[3 + ARRAY_ROOM_BYTES]
    cdef Py_ssize_t put_bytes
    if not is_array(value):
        return None
    buffers = [None]
    put_bytes = put_array(room + 2, value, buffers)
    if put_bytes == 0:
        return None
    room[0] = PROTO
    room[1] = 5
    room[2 + put_bytes] = STOP
    buffers[0] = PyBytes_FromStringAndSize(<char *>room, put_bytes + 3)
    return buffers


cdef object load_array(pickled, data):
    """What `dump_array` was given; None: pickle has to."""
    cdef Py_buffer view
    cdef const uint8_t *at
    cdef Py_ssize_t used_bytes = 0
    PyObject_GetBuffer(pickled, &view, PyBUF_SIMPLE)
    try:
        at = <const uint8_t *>view.buf
        if view.len < 3 or at[0] != PROTO or at[1] != 5 or at[view.len - 1] != STOP:
            return None
        value = take_array(at + 2, view.len - 3, data, &used_bytes)
        return value if used_bytes == view.len - 3 else None
    finally:
        PyBuffer_Release(&view)
