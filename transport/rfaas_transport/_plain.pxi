# Pickles of what many calls bring and return: a few numbers and short texts. Included by the two ends of a hot call.
#
# What is written here is what pickle writes (protocol 5), but for frames, which only help who reads a file, and for the
# memo, which is for objects that occur twice: of those it is pickle that writes. So pickle reads it, and what is read
# here is what pickle would have read.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.tuple cimport PyTuple_GET_SIZE
from libc.string cimport memcpy as _copy
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

import pickle

cdef extern from "Python.h":
    int PyFloat_Pack8(double number, char *to, int is_little)
    double PyFloat_Unpack8(const char *data, int is_little)
    bint PyUnicode_CheckExact(object text)
    bint PyUnicode_IS_ASCII(object text)
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size_bytes) except NULL
    object PyUnicode_DecodeUTF8(const char *data, Py_ssize_t size_bytes, const char *errors)

cdef object loads = pickle.loads, dumps = pickle.dumps  # bound now: a function may replace what the module holds
cdef bytes NO_ARGUMENTS = pickle.dumps(((), {}), 5), NOTHING = pickle.dumps(None, 5)
cdef frozenset PLAIN = frozenset([type(None), bool, int, float, complex, str])  # hold nothing that travels on its own

cdef enum:
    MOST_VALUES = 6
    MOST_BYTES_EACH = 255
    ROOM_BYTES = 16 + MOST_VALUES * (2 + MOST_BYTES_EACH)
    # Opcodes of pickle.
    PROTO = 0x80
    MARK = 40              # (
    TUPLE = 116            # t
    EMPTY_DICT = 125       # }
    TUPLE2 = 0x86
    STOP = 46              # .
    NONE = 78              # N
    NEWTRUE = 0x88
    NEWFALSE = 0x89
    BININT1 = 75           # K
    BININT = 74            # J
    LONG1 = 0x8a
    BINFLOAT = 71          # G
    SHORT_BINUNICODE = 0x8c
    SHORT_BINBYTES = 67    # C


cdef Py_ssize_t put_text(uint8_t *to, uint8_t opcode, const char *data, Py_ssize_t size_bytes) noexcept:
    if size_bytes > MOST_BYTES_EACH:
        return 0
    to[0] = opcode
    to[1] = <uint8_t>size_bytes
    _copy(to + 2, data, size_bytes)
    return 2 + size_bytes


cdef Py_ssize_t put_number(uint8_t *to, int64_t number) noexcept:
    cdef int i
    cdef int n_bytes
    if 0 <= number < 256:
        to[0] = BININT1
        to[1] = <uint8_t>number
        return 2
    if -0x80000000 <= number <= 0x7fffffff:
        to[0] = BININT
        to += 1
        n_bytes = 4
    else:
        to[0] = LONG1
        to[1] = 8
        to += 2
        n_bytes = 8
    for i in range(n_bytes):
        to[i] = <uint8_t>(<uint64_t>number >> (8 * i))
    return n_bytes + (1 if n_bytes == 4 else 2)


cdef Py_ssize_t put_plain(uint8_t *to, object value) except -1:
    """Pickle one value; how many bytes that took, 0: pickle has to."""
    cdef int overflow = 0
    cdef int64_t number
    cdef Py_ssize_t size_bytes = 0
    cdef const char *data
    if value is None or value is True or value is False:
        to[0] = NONE if value is None else NEWTRUE if value is True else NEWFALSE
        return 1
    if PyLong_CheckExact(value):
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        return 0 if overflow else put_number(to, number)
    if PyFloat_CheckExact(value):
        to[0] = BINFLOAT
        PyFloat_Pack8(PyFloat_AS_DOUBLE(value), <char *>to + 1, 0)
        return 9
    if PyUnicode_CheckExact(value) and PyUnicode_IS_ASCII(value):
        data = PyUnicode_AsUTF8AndSize(value, &size_bytes)
        return put_text(to, SHORT_BINUNICODE, data, size_bytes)
    if PyBytes_CheckExact(value):
        return put_text(to, SHORT_BINBYTES, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    return 0


cdef object take_plain(const uint8_t *at, Py_ssize_t left_bytes, Py_ssize_t *used_bytes):
    """Unpickle the value that begins here; `used_bytes` 0: pickle has to."""
    cdef uint64_t number = 0
    cdef int i
    cdef uint8_t opcode
    used_bytes[0] = 0
    if left_bytes < 1:
        return None
    opcode = at[0]
    if opcode == NONE or opcode == NEWTRUE or opcode == NEWFALSE:
        used_bytes[0] = 1
        return None if opcode == NONE else opcode == NEWTRUE
    if left_bytes < 2:
        return None
    if opcode == BININT1:
        used_bytes[0] = 2
        return at[1]
    if opcode == BININT and left_bytes >= 5:
        used_bytes[0] = 5
        for i in range(4):
            number |= <uint64_t>at[1 + i] << (8 * i)
        return <int32_t>number
    if opcode == LONG1 and at[1] == 8 and left_bytes >= 10:
        used_bytes[0] = 10
        for i in range(8):
            number |= <uint64_t>at[2 + i] << (8 * i)
        return <int64_t>number
    if opcode == BINFLOAT and left_bytes >= 9:
        used_bytes[0] = 9
        return PyFloat_Unpack8(<const char *>at + 1, 0)
    if (opcode == SHORT_BINUNICODE or opcode == SHORT_BINBYTES) and left_bytes - 2 >= at[1]:
        used_bytes[0] = 2 + at[1]
        if opcode == SHORT_BINBYTES:
            return PyBytes_FromStringAndSize(<const char *>at + 2, at[1])
        return PyUnicode_DecodeUTF8(<const char *>at + 2, at[1], "surrogatepass")
    return None


cdef bint occurs_twice(tuple values):
    """True if an object stands there twice that has to be one at the other end too."""
    cdef Py_ssize_t i, j
    for i in range(1, PyTuple_GET_SIZE(values)):
        value = values[i]
        if PyUnicode_CheckExact(value) or PyBytes_CheckExact(value):
            for j in range(i):
                if values[j] is value:
                    return True
    return False


cdef bytes dump_arguments_plainly(tuple values):
    """Pickle `(values, {})`; None: pickle has to."""
    cdef uint8_t room[ROOM_BYTES]
    cdef Py_ssize_t i, put_bytes, n_bytes = 3
    if PyTuple_GET_SIZE(values) > MOST_VALUES or occurs_twice(values):
        return None
    room[0] = PROTO
    room[1] = 5
    room[2] = MARK
    for i in range(PyTuple_GET_SIZE(values)):
        put_bytes = put_plain(room + n_bytes, values[i])
        if put_bytes == 0:
            return None
        n_bytes += put_bytes
    room[n_bytes] = TUPLE
    room[n_bytes + 1] = EMPTY_DICT
    room[n_bytes + 2] = TUPLE2
    room[n_bytes + 3] = STOP
    return PyBytes_FromStringAndSize(<char *>room, n_bytes + 4)


cdef tuple load_arguments_plainly(bytes pickled):
    """What `dump_arguments_plainly` was given; None: pickle has to."""
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(pickled)
    cdef Py_ssize_t size_bytes = PyBytes_GET_SIZE(pickled), end = size_bytes - 4, i = 3, used_bytes = 0
    if size_bytes < 7 or at[0] != PROTO or at[1] != 5 or at[2] != MARK or at[end] != TUPLE:
        return None
    if at[end + 1] != EMPTY_DICT or at[end + 2] != TUPLE2 or at[end + 3] != STOP:
        return None
    values = []
    while i < end:
        value = take_plain(at + i, end - i, &used_bytes)
        if used_bytes == 0:
            return None
        values.append(value)
        i += used_bytes
    return tuple(values)


cdef bytes dump_plainly(value):
    """Pickle a value; None: pickle has to."""
    cdef uint8_t room[ROOM_BYTES]
    cdef Py_ssize_t put_bytes = put_plain(room + 2, value)
    if put_bytes == 0:
        return None
    room[0] = PROTO
    room[1] = 5
    room[2 + put_bytes] = STOP
    return PyBytes_FromStringAndSize(<char *>room, put_bytes + 3)


cdef object load_value(bytes pickled):
    """Unpickle.

    Raises:
        Exception: whatever pickle raises.
    """
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(pickled)
    cdef Py_ssize_t size_bytes = PyBytes_GET_SIZE(pickled), used_bytes = 0
    if size_bytes > 3 and at[0] == PROTO and at[1] == 5 and at[size_bytes - 1] == STOP:
        value = take_plain(at + 2, size_bytes - 3, &used_bytes)
        if used_bytes == size_bytes - 3:
            return value
    return loads(pickled)


cdef object dump_value(value):
    """Pickle a value of one of the types in PLAIN."""
    pickled = dump_plainly(value)
    return dumps(value, 5) if pickled is None else pickled
