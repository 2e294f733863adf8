"""One call of a Python function: from the segments of its CALL to the segments of its RESULT.

Must not know channels, pages or the agent. Runs in the worker, in the user's own environment, and imports nothing but
the standard library, cloudpickle, msgpack and rfaas_transport. Spec: docs/spec/001-invocation.md sections 2, 4.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import msgpack

from rfaas_executors._process import current_pid
from rfaas_executors.chains import TRACEBACK, links
from rfaas_transport import array_memory
from rfaas_transport.class_copies import dumps as _dumps_by_value
from rfaas_transport.frame import Status
from rfaas_transport.manifest import Manifest, decode_manifest, digest

if TYPE_CHECKING:
    from typing_extensions import Buffer


MOST_FUNCTIONS: Final = 256  # unpickled at a time: as many as a client announces on a channel
MOST_BYTES: Final = 64 << 20  # of the blobs that they came from

# Bound now: a function may replace what the modules hold, and the next one is to be none the wiser.
_loads, _dumps = pickle.loads, array_memory.dumps


class WorkerExit(BaseException):
    """The worker leaves with `status`: a function asked for it (`sys.exit`), or made it useless.

    Args:
        why: for people.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(status, why)
        self.status = status
        self.why = why.encode(errors="replace")


SUMMARY_CHARS: Final = 500  # of the text of an exception that is too large to travel


@dataclass(slots=True)
class Outcome:
    """What goes back: a status of 001 section 4 and the segments, which borrow from the function's own result."""

    status: int
    segments: Sequence[Buffer]

    @property
    def size_bytes(self) -> int:
        """Sum of the segments."""
        return sum(memoryview(segment).nbytes for segment in self.segments)

    def summary(self, limit_bytes: int) -> Sequence[Buffer]:
        """What of it goes with TOO_LARGE: of an exception its type and the beginning of its text; of a result nothing.

        Args:
            limit_bytes: what the client takes; 0: as much as a channel does.
        """
        if self.status != Status.EXCEPTION:
            return ()
        about = msgpack.unpackb(self.segments[0])
        short = msgpack.packb({"type": about["type"][:SUMMARY_CHARS], "message": about["message"][:SUMMARY_CHARS]})
        return (short,) if not limit_bytes or len(short) <= limit_bytes else ()


@dataclass(frozen=True, slots=True)
class Defined:
    """A function as a client has defined it: its manifest, and the hash of that, which is its identity."""

    identity: bytes
    manifest: Manifest


class Functions:
    """The functions that this worker has unpickled, by identity: the MOST_FUNCTIONS used last, of MOST_BYTES at most.

    A function is unpickled once, by the first call that needs it and inside that call, so what its module does at
    import counts as started. Blobs are kept until then. One that was forgotten is fetched and unpickled again; the one
    that is called is always kept, however large it is.
    """

    def __init__(self) -> None:
        self._blobs: dict[bytes, bytes] = {}
        self._callables: OrderedDict[bytes, tuple[Callable[..., Any], int]] = OrderedDict()  # with its blob's size
        self._size_bytes = 0  # of the blobs that they were unpickled from

    def define(self, encoded: Buffer, blobs: Sequence[Buffer]) -> Defined:
        """Read a manifest and keep the blobs that came along.

        Raises:
            ProtocolError: it is no manifest; nothing was kept.
        """
        data = bytes(encoded)
        defined = Defined(digest(data), decode_manifest(data))
        if defined.identity not in self._callables:
            for blob in blobs:
                self.add_blob(blob)
        return defined

    def add_blob(self, blob: Buffer) -> None:
        """Keep a blob under its digest."""
        data = bytes(blob)
        self._blobs[digest(data)] = data

    def missing(self, defined: Defined) -> list[bytes]:
        """Digests that must be fetched before the function can be called."""
        if defined.identity in self._callables:
            return []
        blobs = defined.manifest.blobs
        lacking = [name for name in blobs if name not in self._blobs]
        return [name for name in lacking if name not in blobs[1:] or not _placed(name)]

    def load(self, defined: Defined) -> Callable[..., Any]:
        """Unpickle the function, or return it if that was done before.

        Raises:
            Exception: whatever unpickling raised; the next call tries again, with blobs that it fetches anew.
        """
        known = self._callables.get(defined.identity)
        if known is not None:
            self._callables.move_to_end(defined.identity)
            return known[0]
        manifest = defined.manifest
        try:
            if (manifest.kind, manifest.abi) != ("python", "pickle5") or len(manifest.blobs) not in (1, 2):
                raise TypeError(f"this worker can't run functions of kind {manifest.kind!r}, ABI {manifest.abi!r}")
            for files in manifest.blobs[1:]:
                self._place(files)
            size_bytes = len(self._blobs[manifest.blobs[0]])
            self._make_room(size_bytes)
            function = _loads(self._blobs[manifest.blobs[0]])
            if not callable(function):
                raise TypeError(f"{type(function).__name__!r} object is not callable")
            self._callables[defined.identity] = function, size_bytes
            self._size_bytes += size_bytes
            return function  # type: ignore[no-any-return]
        finally:
            for name in manifest.blobs:
                self._blobs.pop(name, None)

    def _make_room(self, size_bytes: int) -> None:
        """Forget what was unused for longest until another function of this size may come."""
        while self._callables and (
            len(self._callables) >= MOST_FUNCTIONS or self._size_bytes + size_bytes > MOST_BYTES
        ):
            _, (_, freed_bytes) = self._callables.popitem(last=False)
            self._size_bytes -= freed_bytes

    def _place(self, name: bytes) -> None:
        """Have the files of this digest on the node, for the function that is about to be unpickled too."""
        from rfaas_executors import placing

        directory = placing.find(name.hex()) or placing.place(self._blobs[name], name.hex())
        self._blobs.pop(name, None)
        placing.use(directory)

    def run(self, defined: Defined, segments: Sequence[memoryview]) -> Outcome:
        """Call a function; nothing that it raises comes out of here but WorkerExit.

        Args:
            segments: of the CALL; the arguments' arrays are views into them and keep them alive.
        Raises:
            WorkerExit: it called `sys.exit`.
        """
        stage = Status.BAD_FUNCTION
        value: object = None
        try:
            function = self.load(defined)
            stage = Status.BAD_ARGUMENTS
            arguments, keywords = _loads(segments[0], buffers=segments[1:])
            stage = Status.EXCEPTION
            value = function(*arguments, **keywords)
            stage = Status.BAD_RESULT
            return Outcome(Status.OK, dumps(value))
        except SystemExit as request:
            status = _exit_status(request)
            raise WorkerExit(status, f"the function called sys.exit({_shown(request.code)}): status {status}") from None
        except BaseException as error:
            if isinstance(error, MemoryError):
                _say_how_much(error)
            return failure(stage, error, *_culprit(value) if stage == Status.BAD_RESULT else ())


def _placed(name: bytes) -> bool:
    """True if another worker of this node has fetched these files."""
    from rfaas_executors import placing

    return bool(placing.find(name.hex()))


def dumps(value: object) -> list[Buffer]:
    """Pickle a value: segment 0 the pickle (protocol 5), then its out-of-band buffers, borrowed from the value.

    What pickle can't take by reference (a lambda, a class of the user's main program) goes by value with cloudpickle.

    Raises:
        Exception: neither could pickle it.
    """
    buffers: list[Buffer] = []

    def out_of_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            buffers.append(buffer.raw())
        except BufferError:  # not contiguous: into the pickle itself
            return True
        return False

    value = array_memory.stand_in(value)
    try:
        head = _dumps(value, out_of_band)
    except Exception:
        buffers.clear()
        head = _dumps_by_value(value, out_of_band)
    return [head, *buffers]


def _culprit(result: object) -> tuple[str, str]:
    """Which part of a result can't be pickled, and what to do; nothing if that can't be said here."""
    with contextlib.suppress(Exception):
        from rfaas.client.unpicklable import find  # only now: it would load `rfaas` into every worker

        culprit = find(result, "result")
        return str(culprit), culprit.hint
    return "", ""


def failure(status: int, error: BaseException, culprit: str = "", hint: str = "") -> Outcome:
    """Describe an exception as 001 section 2 says: text, itself where it can be pickled, and what stands behind it.

    Args:
        culprit, hint: what part of a result was to blame, and the remedy, if that is known.
    """
    text = _traceback(error)
    described = {**_describe(error), "traceback": text}
    if culprit:
        described |= {"culprit": culprit, "hint": hint}
    behind: list[bytes] = []
    with contextlib.suppress(Exception):  # its text and its pickle matter more
        behind = links(error, _pickled, _describe)
    pickled = _pickled(error)
    # A frame that waits in the traceback would keep the call's arguments alive until the next call. Not by assignment,
    # which is the class's to refuse: a frozen dataclass does.
    BaseException.with_traceback(error, None)
    return Outcome(status, [msgpack.packb(described, unicode_errors="replace"), pickled, *behind])


def _traceback(error: BaseException) -> str:
    """The text that Python would print, as far as the exception lets itself be looked at."""
    trace = _users_part(TRACEBACK(error))
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except BaseException:  # an attribute of the user's making may raise anything
        return f"{''.join(traceback.format_tb(trace))}{_qualified_name(type(error))}: {_message(error)}\n"


def _say_how_much(error: MemoryError) -> None:
    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit_bytes != resource.RLIM_INFINITY:
        with contextlib.suppress(Exception):  # its class may forbid notes
            error.add_note(
                f"a process of this worker may map {limit_bytes >> 20} MiB of private memory: twice what "
                "rfaas.Executor(memory=...) asks for, and 4 GiB (docs/isolation.md)"
            )


def _pickled(error: BaseException) -> bytes:
    try:
        return _dumps_by_value(error)
    except BaseException:  # its attributes can't travel; the text does. They are the user's, and may raise anything
        return b""


def _describe(error: BaseException) -> dict[str, str]:
    return {"type": _qualified_name(type(error)), "message": _message(error)}


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of this file at its top."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def _qualified_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # a user's __str__ may raise anything; the failure of the call matters more
        return "<the exception's text can't be made>"


def _exit_status(request: SystemExit) -> int:
    """The process status that Python itself gives for `sys.exit(...)`, which prints what is no number."""
    if request.code is None:
        return 0
    if isinstance(request.code, int):
        return request.code & 0xFF
    with contextlib.suppress(BaseException):  # no stderr, or a __str__ that fails
        print(request.code, file=sys.stderr)
    return 1


def _shown(code: object) -> str:
    try:
        return "" if code is None else repr(code)[:200]
    except BaseException:  # of the user's making
        return "…"


def still_this_process(pid: int) -> None:
    """End this process at once unless it is the worker itself.

    A function may fork and let the child return: that child holds the client's channel and would answer the call twice.
    """
    if current_pid() != pid:
        os._exit(0)
