"""One call of a function over bytes, raw or compiled: from the input of its CALL to the output of its RESULT.

Nothing is pickled, and what the function writes is what is sent: its output lies in memory that is used again once that
is done. Must not know channels. Loaded by workers that run such functions.
Spec: docs/spec/001-invocation.md section 11.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgpack

from rfaas_executors._compiled import (
    CAPACITY_BYTES_MAX,
    FUNCTION_ERROR,
    LARGE_INPUT,
    OK,
    OVERRUN,
    TOO_LARGE,
    UNSAID,
    NativeFunction,
    Output,
    Outputs,
    isa_level,
    watch_crashes,
    watch_notice,
)
from rfaas_executors.libraries import Libraries
from rfaas_transport.errors import EnvironmentFailed
from rfaas_transport.frame import Status
from rfaas_transport.manifest import Manifest
from rfaas_transport.shared_library import this_isa

if TYPE_CHECKING:
    from rfaas_executors._process import StatePage
    from rfaas_executors.agent_line import AgentLine
    from rfaas_transport._core import Frame

FORMS: Final = {"rfaas-1": 1, "rfaas-0": 0}
MAX_SYMBOL_BYTES: Final = 1024

# What a compiled function did wrong: the status, and the type and text of what its caller is told.
_WRONG: Final = {
    LARGE_INPUT: (Status.BAD_ARGUMENTS, "OverflowError", "a function of ABI rfaas-0 takes less than 4 GiB of input"),
    UNSAID: (
        Status.BAD_RESULT,
        "ValueError",
        "the function did not set *out_size to the bytes that it wrote, and no out_size was asked for",
    ),
    OVERRUN: (
        Status.BAD_RESULT,
        "OverflowError",
        "the function wrote behind its output: it must not write more than *out_size bytes",
    ),
}


class ByteCalls:
    """The functions over bytes of one worker.

    Args:
        line: knows whether the worker's cores go back; None: nobody does.
        page: for the last words of a worker that a function crashes; None: it has none.
    """

    def __init__(self, line: AgentLine | None = None, page: StatePage | None = None) -> None:
        self._libraries = Libraries()
        self._outputs = Outputs()
        self._line = line
        self._page = page
        self._watches = False
        self._holder, self._holder_id = "", bytes(16)

    def is_here(self, name: bytes) -> bool:
        """True if a library need not be fetched."""
        return self._libraries.is_here(name)

    def load(self, manifest: Manifest, blob: bytes | None) -> NativeFunction:
        """Make a compiled function ready to be called.

        Args:
            blob: its library; None if `is_here`.

        Raises:
            EnvironmentFailed: it can't be, on this machine; says why, with the remedy.
        """
        try:
            return self._load(manifest, blob)
        finally:
            self._libraries.give_up(manifest.blobs[0])

    def _load(self, manifest: Manifest, blob: bytes | None) -> NativeFunction:
        form = FORMS.get(manifest.abi)
        if form is None:
            raise EnvironmentFailed(f"this worker knows no ABI {manifest.abi!r}, only {', '.join(FORMS)}")
        _check_isa(manifest.isa)
        symbol = manifest.entry.encode()
        if not 0 < len(symbol) <= MAX_SYMBOL_BYTES or b"\0" in symbol:
            raise EnvironmentFailed(f"{manifest.entry[:64]!r} is no name of a symbol")
        self._watch()
        return NativeFunction(self._libraries.symbol(manifest.blobs[0], blob, manifest.entry), form, symbol)

    def _watch(self) -> None:
        """From the first compiled function on: say why a worker crashed, and whether its cores go back."""
        if self._watches:
            return
        self._watches = True
        address, room_bytes = self._page.words_place() if self._page is not None else (0, 0)
        if address:
            watch_crashes(address, room_bytes)
        line = self._line
        if line is not None:

            def look() -> bool:
                line.read()
                return line.draining

            watch_notice(look)

    def call(
        self,
        function: NativeFunction | Callable[..., Any],
        segments: Sequence[memoryview],
        call: Frame,
        holder: str,
        remaining_ns: int,
    ) -> tuple[int, Sequence[Any], int]:
        """Call a function; what one of Python raises comes out.

        Args:
            segments: the input, or nothing.
            call: the CALL.
            holder: the client's id, hex.
            remaining_ns: until the deadline; 0: there is none.

        Returns:
            Status and segments of the RESULT, and how many bytes would have been needed (TOO_LARGE).

        Raises:
            MemoryError: its output can't be mapped.
        """
        if not isinstance(function, NativeFunction):
            output = self._outputs.take(min(call.out_size or CAPACITY_BYTES_MAX, CAPACITY_BYTES_MAX))
            return _call_raw(function, segments[0] if segments else memoryview(b""), output)
        if holder != self._holder:
            self._holder, self._holder_id = holder, bytes.fromhex(holder).rjust(16, b"\0")
        return told(*function.answer(call, segments, self._outputs, self._holder_id, remaining_ns))


def told(end: int, output: Output | None, n: int) -> tuple[int, Sequence[Any], int]:
    """What `ByteCalls.call` returns of a compiled function's end (see `NativeFunction.answer`)."""
    if end == OK:
        return 0, (output,), 0
    if end == FUNCTION_ERROR:
        return Status.FUNCTION_ERROR, (n.to_bytes(4, "little", signed=True),), 0
    if end == TOO_LARGE:
        return Status.TOO_LARGE, (), n
    return _wrong(*_WRONG[end])


def _call_raw(function: Callable[..., Any], given: memoryview, output: Output) -> tuple[int, Sequence[Any], int]:
    room = memoryview(output)
    try:
        returned = function(given.toreadonly(), room)
    finally:
        with contextlib.suppress(BufferError):  # it has kept an array over it: then this memory is not used again
            room.release()
    status, said, n_bytes = raw_end(returned, output.capacity_bytes)
    if status != Status.OK:
        return status, said, n_bytes
    output.show(n_bytes)
    return Status.OK, [output], 0


def raw_end(returned: object, capacity_bytes: int) -> tuple[int, Sequence[Any], int]:
    """What it means that a raw function returned this: status and segments, and how many bytes it wrote or needed."""
    try:
        n_bytes = operator.index(returned)  # type: ignore[arg-type]
    except TypeError:
        text = f"a raw function returns how many bytes it wrote to its output, not {type(returned).__name__}"
        return _wrong(Status.BAD_RESULT, "TypeError", text)
    if n_bytes < 0:
        return _wrong(Status.BAD_RESULT, "ValueError", f"a raw function can't have written {n_bytes} bytes")
    if n_bytes > capacity_bytes:
        return Status.TOO_LARGE, (), min(n_bytes, (1 << 64) - 1)
    return Status.OK, (), n_bytes


def _wrong(status: Status, kind: str, text: str) -> tuple[int, Sequence[Any], int]:
    return status, [msgpack.packb({"type": kind, "message": text, "traceback": f"{kind}: {text}\n"}), b""], 0


def _check_isa(isa: str) -> None:
    """Refuse what was built for another machine.

    Raises:
        EnvironmentFailed: it was.
    """
    machine, _, level = isa.partition("-v") if isa.startswith("x86-64-v") else (isa, "", "")
    here = this_isa()
    if machine not in ("any", here):
        raise EnvironmentFailed(f"the library was built for {isa}, and this node is {here}", hint="build it there too")
    if level and not (level.isdigit() and int(level) <= isa_level()):
        raise EnvironmentFailed(
            f"the library needs {isa}, and this node has x86-64-v{isa_level()}", hint="build it for an older -march"
        )
