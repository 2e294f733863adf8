"""A compiled function called in this very process, by ctypes: for tests, and where a worker's function calls another.

What crashes, crashes here. Has no guard page behind the output.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from rfaas.output_room import new_room
from rfaas_transport.errors import ConfigError
from rfaas_transport.shared_library import path_for_loading, seal

PAGE: Final = 4096  # buffers begin on a multiple of 64, as on a worker


class _Context(ctypes.Structure):
    """`rfaas_ctx` of rfaas_function.h."""


_Reclaimed = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Context))
_Context._fields_ = [
    ("size_bytes", ctypes.c_uint64),
    ("abi_version", ctypes.c_uint32),
    ("attempt", ctypes.c_uint32),
    ("invocation_id", ctypes.c_uint8 * 24),
    ("deadline_ns", ctypes.c_uint64),
    ("lease_seq", ctypes.c_uint64),
    ("epoch", ctypes.c_uint64),
    ("reclaimed", _Reclaimed),
]


_never = _Reclaimed(lambda _: 0)


class NativeHere:
    """One function.

    Args:
        library: bytes of a shared library.
        symbol: its name there.
        abi: "rfaas-1" or "rfaas-0".

    Raises:
        ConfigError: it can't be loaded on this machine, or has no such symbol.
    """

    def __init__(self, library: bytes, symbol: str, abi: str) -> None:
        memory = seal(library)
        path = path_for_loading(memory)
        try:
            self._function = getattr(ctypes.CDLL(path), symbol)
        except (OSError, AttributeError) as error:
            text = str(error).replace(path, "the library")
            raise ConfigError(f"the library can't be loaded here: {text}", hint="look with ldd") from error
        finally:
            os.close(memory)
        self._is_old = abi == "rfaas-0"
        sizes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        self._function.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p] if self._is_old else sizes
        self._function.restype = ctypes.c_uint32 if self._is_old else ctypes.c_int32

    def call(self, data: memoryview, capacity_bytes: int) -> tuple[int, int, memoryview]:
        """Call it; return its value, how many bytes it says it wrote, and the output."""
        given = memoryview(new_room(data.nbytes + PAGE + (1 << 16)))  # large enough to begin on a page
        room = memoryview(new_room(capacity_bytes + PAGE + (1 << 16)))
        given[: data.nbytes] = data
        arguments, output = (ctypes.addressof(ctypes.c_char.from_buffer(view)) for view in (given, room))
        if self._is_old:
            if data.nbytes > 0xFFFFFFFF:
                raise ConfigError("a function of ABI rfaas-0 takes less than 4 GiB of input")
            return 0, int(self._function(arguments, data.nbytes, output)), room
        out_bytes = ctypes.c_uint64(capacity_bytes)
        about = _Context(ctypes.sizeof(_Context), 1, reclaimed=_never)
        value = self._function(arguments, data.nbytes, output, ctypes.byref(out_bytes), ctypes.byref(about))
        return int(value), out_bytes.value, room
