import sys
from collections.abc import Callable

if sys.version_info >= (3, 12):
    from collections.abc import Buffer
else:
    from typing_extensions import Buffer

OK: int
FUNCTION_ERROR: int
TOO_LARGE: int
LARGE_INPUT: int
UNSAID: int
OVERRUN: int

class Output:
    def __init__(self, capacity_bytes: int) -> None: ...
    def show(self, n_bytes: int) -> None: ...
    @property
    def capacity_bytes(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def free(self) -> bool: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Outputs:
    def take(self, capacity_bytes: int) -> Output: ...

class NativeFunction:
    def __init__(self, symbol: int, form: int, name: bytes) -> None: ...
    def call(
        self,
        arguments: Buffer | None,
        output: Output,
        bounded: bool,
        invocation_id: bytes,
        attempt: int = 0,
        remaining_ns: int = 0,
        lease_seq: int = 0,
        epoch: int = 0,
    ) -> tuple[int, int]: ...

def load_library(path: bytes) -> int: ...
def find_symbol(library: int, name: bytes) -> int: ...
def isa_level() -> int: ...
def watch_crashes(words: int, room_bytes: int) -> None: ...
def watch_notice(looker: Callable[[], bool]) -> None: ...
