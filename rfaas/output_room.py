"""Memory for the output of a function that is called in this very process."""

from __future__ import annotations


def new_room(capacity_bytes: int) -> bytearray | memoryview:
    """Zeroed memory; of what is large only what is written to is taken.

    Raises:
        MemoryError: there is not so much.
    """
    if capacity_bytes <= 1 << 16:
        return bytearray(capacity_bytes)
    import mmap

    no_reserve = 0x4000  # MAP_NORESERVE, which Python has no name for before 3.13
    try:
        return memoryview(mmap.mmap(-1, capacity_bytes, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | no_reserve))
    except OSError as error:
        raise MemoryError(f"an output of {capacity_bytes} bytes can't be mapped: {error.strerror}") from error
