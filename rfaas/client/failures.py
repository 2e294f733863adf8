"""A function's exception as its caller gets it: itself, with the remote traceback and what stood behind it.

Must not touch sockets, threads or the core. Spec: docs/spec/001-invocation.md section 2 (RESULT, status EXCEPTION).
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgpack

from rfaas_transport.errors import RemoteError, SerializationError
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


_FIND_IT: Final = "install it where the workers run, or bring it along: Executor(files=['module.py', 'package/'])"


def load_failure(status: int, segments: Sequence[memoryview]) -> BaseException:
    """Rebuild the exception that a RESULT of another status than OK brought.

    As in the standard executors its cause is the remote traceback. That one's cause is the exception's own, if it had
    one; its context is the one it had.
    """
    try:
        about = msgpack.unpackb(segments[0])
        kind, message, traceback = str(about["type"]), str(about["message"]), str(about["traceback"])
        culprit, hint = str(about.get("culprit", "")), str(about.get("hint", ""))
    except (ValueError, TypeError, KeyError, IndexError, msgpack.UnpackException) as error:
        return SerializationError(f"the worker's report of a failure can't be read: {error}", may_have_run=True)
    if status != Status.EXCEPTION:
        ran = status == Status.BAD_RESULT
        text = f"{_WHAT_WAS_BAD.get(status, f'the call failed with status {status}')}: {kind}: {message}"
        text = f"{text}; {culprit}" if culprit else text
        hint = _FIND_IT if kind in ("ModuleNotFoundError", "ImportError") and not ran else hint
        phase: Literal["DONE", "STARTED"] = "DONE" if ran else "STARTED"
        failure: BaseException = SerializationError(text, may_have_run=ran, phase=phase, hint=hint)
    else:
        failure = (_unpickled(segments[1]) if len(segments) > 1 else None) or _stand_in(kind, message, traceback)
        _link(failure, segments)
    told = RemoteTraceback(traceback)
    told.__cause__, failure.__cause__ = failure.__cause__, told
    return failure


def raised_there(segments: Sequence[memoryview]) -> str:
    """Type and text of an exception that was too large to travel, as a RESULT of status TOO_LARGE has them; else ""."""
    try:
        about = msgpack.unpackb(segments[0])
        return f"{about['type']}: {about['message']}"
    except (ValueError, TypeError, KeyError, IndexError, msgpack.UnpackException):
        return ""


def _unpickled(segment: memoryview) -> BaseException | None:
    """An exception; None if its class can't be imported here, or its __init__ takes other arguments."""
    if not segment.nbytes:
        return None
    try:
        failure = pickle.loads(segment)
    except Exception:
        return None
    return failure if isinstance(failure, BaseException) else None


def _stand_in(kind: str, message: str, traceback: str = "") -> RemoteError:
    remote = RemoteError(f"{kind}: {message}", may_have_run=True, phase="DONE")
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
    return _unpickled(segments[node["segment"]]) or _stand_in(str(node["type"]), str(node["message"]))


def _link_one(exception: BaseException, node: dict[str, Any], found: list[BaseException]) -> None:
    cause, context = node["cause"], node["context"]
    if context is not None and found[context] is not exception:
        exception.__context__ = found[context]
    if cause is not None and found[cause] is not exception:
        exception.__cause__ = found[cause]
    exception.__suppress_context__ = bool(node["suppress"])
    if node["notes"] and not hasattr(exception, "__notes__"):
        for note in node["notes"]:
            exception.add_note(str(note))
