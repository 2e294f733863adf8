"""The C core of transport/core/, callable from Python; `_core.pyi` holds the types.

Must not hold policy: it converts arguments, drops the GIL where that pays, calls C and converts the result.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from rfaas_transport.errors import ChannelBroken, ChannelClosed, ConfigError, NoCredit, PayloadTooLarge

include "_arrays.pxi"
include "_channel.pxi"
include "_numpy_memory.pxi"
include "_poller.pxi"
include "_request.pxi"
include "_exchange.pxi"
include "_loan.pxi"
include "_requests.pxi"
include "_exports.pxi"
include "_serving.pxi"
include "_attendant.pxi"
include "_regions.pxi"


cdef extern from "crc32c.h" nogil:
    uint32_t rfaas_crc32c(const void *data, size_t size_bytes, uint32_t crc)
    uint32_t rfaas_crc32c_portable(const void *data, size_t size_bytes, uint32_t crc)


def crc32c(const uint8_t[::1] data not None, uint32_t crc=0):
    """Checksum bytes with CRC-32C (Castagnoli).

    Args:
        data: any contiguous buffer of bytes; borrowed for the call.
        crc: checksum of what came before `data`; 0 to begin.
    Returns:
        The checksum, in [0, 2**32).
    Raises:
        TypeError, ValueError, BufferError: `data` is no contiguous buffer of bytes; nothing was computed.
        OverflowError: `crc` is outside [0, 2**32).
    """
    cdef size_t size_bytes = data.shape[0]
    return rfaas_crc32c(&data[0] if size_bytes else NULL, size_bytes, crc)


def _crc32c_portable(const uint8_t[::1] data not None, uint32_t crc=0):
    """`crc32c` without the CPU's instruction, for tests."""
    cdef size_t size_bytes = data.shape[0]
    return rfaas_crc32c_portable(&data[0] if size_bytes else NULL, size_bytes, crc)
