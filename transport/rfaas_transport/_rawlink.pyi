from array import array
from mmap import mmap
from typing import final

Bytes = bytearray | memoryview | mmap
Samples = array[int] | memoryview

@final
class MemoryLink:
    def __init__(self, memory: Bytes, size_bytes: int, *, sleeps: bool = False, patience_s: float = 20.0) -> None: ...
    def prepare(self) -> None: ...
    def ping(
        self,
        payload: bytes | Bytes,
        answer: Bytes,
        took_ns: Samples,
        *,
        pause_s: float = 0.0,
        budget_s: float = 1e6,
        last: bool = False,
    ) -> int: ...
    def serve(self) -> int: ...

@final
class StreamLink:
    def __init__(
        self, fd_in: int, fd_out: int, size_bytes: int, *, sleeps: bool = False, patience_s: float = 20.0
    ) -> None: ...
    def ping(
        self,
        payload: Bytes,
        answer: Bytes,
        took_ns: Samples,
        *,
        pause_s: float = 0.0,
        budget_s: float = 1e6,
        last: bool = False,
    ) -> int: ...
    def serve(self) -> int: ...

def memory_bytes(size_bytes: int) -> int: ...
def clock_cost_ns() -> int: ...
