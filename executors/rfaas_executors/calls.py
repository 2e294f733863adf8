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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import cloudpickle
import msgpack

from rfaas_executors._process import current_pid
from rfaas_executors.chains import links
from rfaas_transport.frame import Status
from rfaas_transport.manifest import Manifest, decode_manifest, digest

if TYPE_CHECKING:
    from typing_extensions import Buffer


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


class Functions:
    """The functions that this worker has met, by the hash of their manifest.

    A function is unpickled once, by the first call that needs it and inside that call, so what its module does at
    import counts as started. Blobs are kept until then.
    """

    def __init__(self) -> None:
        self._manifests: dict[bytes, Manifest] = {}
        self._blobs: dict[bytes, bytes] = {}
        self._callables: dict[bytes, Callable[..., Any]] = {}

    def define(self, encoded: Buffer, blobs: Sequence[Buffer]) -> bytes:
        """Learn a manifest and the blobs that came along; return the function's identity.

        Raises:
            ProtocolError: it is no manifest; nothing was learned.
        """
        data = bytes(encoded)
        manifest = decode_manifest(data)
        identity = digest(data)
        self._manifests[identity] = manifest
        if identity not in self._callables:
            for blob in blobs:
                self.add_blob(blob)
        return identity

    def add_blob(self, blob: Buffer) -> None:
        """Keep a blob under its digest."""
        data = bytes(blob)
        self._blobs[digest(data)] = data

    def missing(self, identity: bytes) -> list[bytes]:
        """Digests that must be fetched before the function can be called."""
        if identity in self._callables:
            return []
        lacking = [name for name in self._manifests[identity].blobs if name not in self._blobs]
        return [name for name in lacking if name not in self._manifests[identity].blobs[1:] or not _placed(name)]

    def load(self, identity: bytes) -> Callable[..., Any]:
        """Unpickle the function, or return it if that was done before.

        Raises:
            Exception: whatever unpickling raised; the next call tries again.
        """
        function = self._callables.get(identity)
        if function is None:
            manifest = self._manifests[identity]
            if (manifest.kind, manifest.abi) != ("python", "pickle5") or len(manifest.blobs) not in (1, 2):
                raise TypeError(f"this worker can't run functions of kind {manifest.kind!r}, ABI {manifest.abi!r}")
            for files in manifest.blobs[1:]:
                self._place(files)
            function = pickle.loads(self._blobs[manifest.blobs[0]])
            if not callable(function):
                raise TypeError(f"{type(function).__name__!r} object is not callable")
            self._callables[identity] = function
            self._blobs.pop(manifest.blobs[0], None)
        return function

    def _place(self, name: bytes) -> None:
        """Have the files of this digest on the node, for the function that is about to be unpickled too."""
        from rfaas_executors import placing

        directory = placing.find(name.hex()) or placing.place(self._blobs[name], name.hex())
        self._blobs.pop(name, None)
        placing.use(directory)

    def run(self, identity: bytes, segments: Sequence[memoryview]) -> Outcome:
        """Call a function; nothing that it raises comes out of here but WorkerExit.

        Args:
            segments: of the CALL; the arguments' arrays are views into them and keep them alive.
        Raises:
            WorkerExit: it called `sys.exit`.
        """
        stage = Status.BAD_FUNCTION
        value: object = None
        try:
            function = self.load(identity)
            stage = Status.BAD_ARGUMENTS
            arguments, keywords = pickle.loads(segments[0], buffers=segments[1:])
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

    try:
        head = pickle.dumps(value, protocol=5, buffer_callback=out_of_band)
    except Exception:
        buffers.clear()
        head = cloudpickle.dumps(value, protocol=5, buffer_callback=out_of_band)
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
    text = "".join(traceback.format_exception(type(error), error, _users_part(error.__traceback__)))
    described = {**_describe(error), "traceback": text}
    if culprit:
        described |= {"culprit": culprit, "hint": hint}
    behind = links(error, _pickled, _describe)
    pickled = _pickled(error)
    # A frame that waits in the traceback would keep the call's arguments alive until the next call.
    error.__traceback__ = None
    return Outcome(status, [msgpack.packb(described, unicode_errors="replace"), pickled, *behind])


def _say_how_much(error: MemoryError) -> None:
    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit_bytes != resource.RLIM_INFINITY:
        error.add_note(
            f"a process of this worker may map {limit_bytes >> 20} MiB of private memory: twice what rfaas.Executor("
            "memory=...) asks for, and 4 GiB (docs/isolation.md)"
        )


def _pickled(error: BaseException) -> bytes:
    try:
        return bytes(cloudpickle.dumps(error, protocol=5))
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
