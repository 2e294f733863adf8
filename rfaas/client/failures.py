"""A function's exception as its caller gets it: itself, with the remote traceback and what stood behind it.

Must not touch sockets, threads or the core. Spec: docs/spec/001-invocation.md section 2 (RESULT, status EXCEPTION).
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

import msgpack

from rfaas_transport.errors import (
    EnvironmentFailed,
    FunctionError,
    ProtocolError,
    RemoteError,
    RfaasError,
    SerializationError,
)
from rfaas_transport.frame import Status


class RemoteTraceback(Exception):
    """Carries the text of a traceback made elsewhere, as in concurrent.futures.process."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


_WHAT_WAS_BAD: Final[dict[int, str]] = {
    Status.BAD_FUNCTION: "the function could not be unpickled or imported by the worker",
    Status.BAD_ARGUMENTS: "the arguments could not be unpickled by the worker",
    Status.BAD_RESULT: "the result could not be pickled by the worker",
}


_ENVIRONMENT_FAILED: Final = f"{EnvironmentFailed.__module__}.{EnvironmentFailed.__qualname__}"
VALUE_BYTES: Final = 4
_FIND_IT: Final = "install it where the workers run, or bring it along: Executor(files=['module.py', 'package/'])"
_FIND_IT_HERE: Final = "make its class one that this program can import too"


# The interpreter's own: a class may refuse assignments, as frozen dataclasses do, or put a property in their place.
_CAUSE, _CONTEXT, _SUPPRESS_CONTEXT = (
    BaseException.__dict__[name] for name in ("__cause__", "__context__", "__suppress_context__")
)


def load_failure(status: int, segments: Sequence[memoryview]) -> BaseException:
    """Rebuild the exception that a RESULT of another status than OK brought.

    As in the standard executors its cause is the remote traceback. That one's cause is the exception's own, if it had
    one; its context is the one it had.
    """
    if status == Status.FUNCTION_ERROR:
        return _of_value(segments)
    try:
        about = msgpack.unpackb(segments[0])
        kind, message, traceback = str(about["type"]), str(about["message"]), str(about["traceback"])
        culprit, hint = str(about.get("culprit", "")), str(about.get("hint", ""))
    except (ValueError, TypeError, KeyError, IndexError, msgpack.UnpackException) as error:
        return SerializationError(f"the worker's report of a failure can't be read: {error}", may_have_run=True)
    failure: BaseException
    if status == Status.BAD_FUNCTION and kind == _ENVIRONMENT_FAILED:
        failure = EnvironmentFailed(message, phase="STARTED", hint=hint)
    elif status != Status.EXCEPTION:
        ran = status == Status.BAD_RESULT
        text = f"{_WHAT_WAS_BAD.get(status, f'the call failed with status {status}')}: {kind}: {message}"
        text = f"{text}; {culprit}" if culprit else text
        hint = _FIND_IT if kind in ("ModuleNotFoundError", "ImportError") and not ran else hint
        phase: Literal["DONE", "STARTED"] = "DONE" if ran else "STARTED"
        failure = SerializationError(text, may_have_run=ran, phase=phase, hint=hint)
    else:
        rebuilt = _unpickled(segments[1] if len(segments) > 1 else memoryview(b""))
        failure = rebuilt if isinstance(rebuilt, BaseException) else _stand_in(kind, message, traceback, rebuilt)
        _link(failure, segments)
    told = RemoteTraceback(traceback)
    told.__cause__ = _CAUSE.__get__(failure)
    _CAUSE.__set__(failure, told)
    return failure


def _of_value(segments: Sequence[memoryview]) -> RfaasError:
    """The error of a compiled function that returned another value than 0."""
    data = b"".join(segments)
    if len(data) != VALUE_BYTES:
        return ProtocolError(f"a compiled function's value has {len(data)} bytes", may_have_run=True)
    return FunctionError(int.from_bytes(data, "little", signed=True), may_have_run=True, phase="DONE")


def raised_there(segments: Sequence[memoryview]) -> str:
    """Type and text of an exception that was too large to travel, as a RESULT of status TOO_LARGE has them; else ""."""
    try:
        about = msgpack.unpackb(segments[0])
        return f"{about['type']}: {about['message']}"
    except (ValueError, TypeError, KeyError, IndexError, msgpack.UnpackException):
        return ""


class _Missing(NamedTuple):
    """Why an exception isn't there itself, and what its author can do."""

    why: str
    remedy: str


def _unpickled(segment: memoryview) -> BaseException | _Missing:
    """An exception; or why not: its class can't be imported here, its __init__ takes other arguments, …"""
    if not segment.nbytes:
        return _Missing("the worker can't pickle it, or it is too large", "keep locks, files and the like out of it")
    try:
        failure = pickle.loads(segment)
    except Exception as error:
        remedy = _FIND_IT_HERE if isinstance(error, ImportError | AttributeError) else "give its class a __reduce__"
        return _Missing(f"it can't be unpickled: {type(error).__name__}: {str(error).partition(chr(10))[0]}", remedy)
    if isinstance(failure, BaseException):
        return failure
    return _Missing(f"it came as {type(failure).__name__}, which is no exception", "mend its __reduce__")


def _stand_in(kind: str, message: str, traceback: str = "", missing: _Missing | None = None) -> RemoteError:
    text, hint = f"{kind}: {message}", ""
    if missing is not None:
        text, hint = f"{text} (not the exception itself: {missing.why})", missing.remedy
    remote = RemoteError(text, may_have_run=True, phase="DONE", hint=hint)
    remote.remote_type, remote.remote_traceback = kind, traceback
    return remote


def _link(failure: BaseException, segments: Sequence[memoryview]) -> None:
    """Give exceptions back their causes, contexts and notes; what can't be read is left out."""
    if len(segments) < 3:
        return
    with contextlib.suppress(ValueError, TypeError, KeyError, IndexError, AttributeError, msgpack.UnpackException):
        nodes = msgpack.unpackb(segments[2])
        found: list[BaseException] = [failure]
        for node in nodes[1:]:
            found.append(_of_node(node, found, segments))
        for exception, node in zip(found, nodes, strict=True):
            _link_one(exception, node, found)


def _of_node(node: dict[str, Any], found: list[BaseException], segments: Sequence[memoryview]) -> BaseException:
    if "in" in node:
        group, place = node["in"]
        holder = found[group]
        if isinstance(holder, BaseExceptionGroup):
            member: BaseException = holder.exceptions[place]
            return member
        return _stand_in("an exception", "of a group that can't be rebuilt here")
    rebuilt = _unpickled(segments[node["segment"]])
    if isinstance(rebuilt, BaseException):
        return rebuilt
    return _stand_in(str(node["type"]), str(node["message"]), missing=rebuilt)


def _link_one(exception: BaseException, node: dict[str, Any], found: list[BaseException]) -> None:
    cause, context = node["cause"], node["context"]
    if context is not None and found[context] is not exception:
        _CONTEXT.__set__(exception, found[context])
    if cause is not None and found[cause] is not exception:
        _CAUSE.__set__(exception, found[cause])
    _SUPPRESS_CONTEXT.__set__(exception, bool(node["suppress"]))
    if node["notes"] and not hasattr(exception, "__notes__"):
        for note in node["notes"]:
            exception.add_note(str(note))
