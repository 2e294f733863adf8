"""One call of a function: from the segments of its CALL to the segments of its RESULT.

Functions over bytes, raw and compiled, are called by `byte_calls`. Must not know channels, pages or the agent. Runs in
the worker, in the user's own environment, and imports nothing but the standard library, cloudpickle, msgpack and
rfaas_transport. Spec: docs/spec/001-invocation.md sections 2, 4.
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

from rfaas_executors._process import is_marked_process
from rfaas_executors.chains import TRACEBACK, links
from rfaas_transport import array_memory
from rfaas_transport.class_copies import dumps as _dumps_by_value
from rfaas_transport.errors import EnvironmentFailed
from rfaas_transport.frame import Status
from rfaas_transport.manifest import Manifest, decode_manifest, digest

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from rfaas_executors._compiled import NativeFunction, Output
    from rfaas_executors._process import StatePage
    from rfaas_executors.agent_line import AgentLine
    from rfaas_executors.byte_calls import ByteCalls
    from rfaas_transport._core import Frame


MOST_FUNCTIONS: Final = 256  # unpickled at a time: as many as a client announces on a channel
MOST_BYTES: Final = 64 << 20  # of the blobs that they came from
SAID_BYTES: Final = 64 << 10  # of an error of a function over bytes travel, however small its output is to be

PYTHON: Final = "python"
RAW: Final = "raw"
NATIVE: Final = "native"

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
    """What goes back: a status of 001 section 4 and the segments, which borrow from the function's own result.

    Attributes:
        needed_bytes: TOO_LARGE: what the function said that its output would have taken.
        least_bytes: what a client's limit leaves to the segments in any case.
    """

    status: int
    segments: Sequence[bytes | memoryview | Output]
    needed_bytes: int = 0
    least_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """Sum of the segments."""
        return sum(len(one) if isinstance(one, bytes) else one.nbytes for one in self.segments)

    def summary(self, limit_bytes: int) -> Sequence[bytes | memoryview | Output]:
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

    Args:
        line, page: for functions over bytes; see `byte_calls.ByteCalls`.
    """

    def __init__(self, line: AgentLine | None = None, page: StatePage | None = None) -> None:
        self._line, self._page = line, page
        self._byte_calls: ByteCalls | None = None  # with the first function over bytes
        self._blobs: dict[bytes, bytes] = {}
        self._callables: OrderedDict[bytes, tuple[Callable[..., Any] | NativeFunction, int]] = OrderedDict()
        self._size_bytes = 0  # of the blobs that they were unpickled from, which stand beside each

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
        return [
            name for name in lacking if not (_placed(name) if name in blobs[1:] else self._is_library(defined, name))
        ]

    def _is_library(self, defined: Defined, name: bytes) -> bool:
        """True if a blob is a shared library that this worker, or another of this node, has."""
        return defined.manifest.kind == NATIVE and self.over_bytes.is_here(name)

    @property
    def over_bytes(self) -> ByteCalls:
        """Calls functions over bytes."""
        if self._byte_calls is None:
            from rfaas_executors.byte_calls import ByteCalls  # only now: not every worker needs it

            self._byte_calls = ByteCalls(self._line, self._page)
        return self._byte_calls

    def load(self, defined: Defined) -> Callable[..., Any] | NativeFunction:
        """Unpickle the function, or load its library; return it if that was done before.

        Raises:
            Exception: whatever unpickling raised; the next call tries again, with blobs that it fetches anew.
        """
        known = self._callables.get(defined.identity)
        if known is not None:
            self._callables.move_to_end(defined.identity)
            return known[0]
        manifest = defined.manifest
        try:
            pickled = manifest.kind in (PYTHON, RAW) and manifest.abi == "pickle5"
            if not (pickled or manifest.kind == NATIVE) or len(manifest.blobs) not in (1, 2):
                raise TypeError(f"this worker can't run functions of kind {manifest.kind!r}, ABI {manifest.abi!r}")
            for files in manifest.blobs[1:]:
                self._place(files)
            size_bytes = len(self._blobs[manifest.blobs[0]]) if pickled else 0  # libraries stay, whoever forgets them
            self._make_room(size_bytes)
            function: Callable[..., Any] | NativeFunction
            if pickled:
                function = _loads(self._blobs[manifest.blobs[0]])
                if not callable(function):
                    raise TypeError(f"{type(function).__name__!r} object is not callable")
            else:
                function = self.over_bytes.load(manifest, self._blobs.get(manifest.blobs[0]))
            self._callables[defined.identity] = function, size_bytes
            self._size_bytes += size_bytes
            return function
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

    def run(
        self,
        defined: Defined,
        segments: Sequence[memoryview],
        call: Frame | None = None,
        holder: str = "",
        remaining_ns: int = 0,
    ) -> Outcome:
        """Call a function; nothing that it raises comes out of here but WorkerExit.

        Args:
            segments: of the CALL; the arguments' arrays are views into them and keep them alive.
            call, holder, remaining_ns: of a function over bytes: its CALL, the client's id, the time to its deadline.
        Raises:
            WorkerExit: it called `sys.exit`.
        """
        stage = Status.BAD_FUNCTION
        value: object = None
        try:
            function = self.load(defined)
            if defined.manifest.kind != PYTHON:
                assert call is not None
                stage = Status.EXCEPTION
                return Outcome(*self.over_bytes.call(function, segments, call, holder, remaining_ns), SAID_BYTES)
            stage = Status.BAD_ARGUMENTS
            arguments, keywords = _loads(segments[0], buffers=segments[1:])
            stage = Status.EXCEPTION
            value = function(*arguments, **keywords)  # type: ignore[operator]
            stage = Status.BAD_RESULT
            return Outcome(Status.OK, dumps(value))
        except BaseException as error:
            return failed(stage, error, value, SAID_BYTES if defined.manifest.kind != PYTHON else 0)


def failed(stage: int, error: BaseException, value: object = None, least_bytes: int = 0) -> Outcome:
    """What goes back of a call that ended by an exception.

    Args:
        stage: how far it had come, as the status of that failure.
        value: its result, if that is what could not be pickled.
        least_bytes: what a client's limit leaves to it in any case.
    Raises:
        WorkerExit: it called `sys.exit`.
    """
    if isinstance(error, SystemExit):
        status = _exit_status(error)
        raise WorkerExit(status, f"the function called sys.exit({_shown(error.code)}): status {status}") from None
    if isinstance(error, MemoryError):
        _say_how_much(error)
    outcome = failure(stage, error, *_culprit(value) if stage == Status.BAD_RESULT else ())
    outcome.least_bytes = least_bytes
    return outcome


def _placed(name: bytes) -> bool:
    """True if another worker of this node has fetched these files."""
    from rfaas_executors import placing

    return bool(placing.find(name.hex()))


def dumps(value: object) -> list[bytes | memoryview]:
    """Pickle a value: segment 0 the pickle (protocol 5), then its out-of-band buffers, borrowed from the value.

    What pickle can't take by reference (a lambda, a class of the user's main program) goes by value with cloudpickle.

    Raises:
        Exception: neither could pickle it.
    """
    buffers: list[bytes | memoryview] = []

    def out_of_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            buffers.append(buffer.raw())
        except BufferError:  # not contiguous: into the pickle itself
            return True
        return False

    value = array_memory.stand_in_alone(value)
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
    if status == Status.BAD_FUNCTION and isinstance(error, EnvironmentFailed):  # the node's fault, not the code's
        described |= {"message": error.message, "hint": error.hint}
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


_OURS: Final = (__file__, "rfaas_executors/_hot_calls.pyx")


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of this file and of `_hot_calls` at its top."""
    while trace is not None and trace.tb_frame.f_code.co_filename.endswith(_OURS):
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


def still_this_process() -> None:
    """End this process at once unless it is the worker itself, which has marked it.

    A function may fork and let the child return: that child holds the client's channel and would answer the call twice.
    """
    if not is_marked_process():
        os._exit(0)
