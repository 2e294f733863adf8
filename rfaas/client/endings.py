"""How a call's end becomes its future's: results decoded, exceptions rebuilt, callbacks run. User code runs here.

For whoever holds no lock. Must not decide anything: the core said what the end is.
"""

from __future__ import annotations

from typing import Any

from rfaas.client.byte_results import Room
from rfaas.client.effects import Broke, Deliver, Examine, Fail, Withdrawn
from rfaas.client.futures import Future
from rfaas.client.records import FrameLike
from rfaas.client.serial import load_result
from rfaas_transport.errors import ExecutorBroken, RfaasError

Ending = Deliver | Fail | Withdrawn
"""Effects that resolve a future."""


def resolve(ending: Ending, future: Future[Any], limit_bytes: int = 0, room: Room | None = None) -> None:
    """Give a future its result, its error or its cancellation, and run its callbacks.

    Args:
        limit_bytes: what this executor takes; 0: what a channel takes.
        room: of a function over bytes.
    """
    if isinstance(ending, Withdrawn):
        future._end_cancelled()
    elif isinstance(ending, Fail):
        future._end(None, ending.error)
    else:
        _deliver(ending, future, limit_bytes, room)


def _deliver(ending: Deliver, future: Future[Any], limit_bytes: int, room: Room | None) -> None:
    """Decode a result and resolve its future."""
    value, error = outcome(ending.frame, limit_bytes, room)
    locate(error, ending.info.node, ending.call.attempt, ending.call.checkpoint)
    future._end(value, error)


def locate(error: BaseException | None, node: str, attempt: int = 0, checkpoint: bytes | None = None) -> None:
    """Say in an error of ours, made of what a worker answered, where it came about; others stay as they are.

    Args:
        attempt: of the call, from 0.
        checkpoint: that the call has left.
    """
    if isinstance(error, RfaasError) and not error.node:
        error.node, error.attempt, error.checkpoint = node, attempt, checkpoint


def outcome(frame: FrameLike, limit_bytes: int, room: Room | None = None) -> tuple[Any, BaseException | None]:
    """What a RESULT frame brought: a value, or the error that it stands for; `room` as for `resolve`."""
    try:
        load = load_result if room is None else room.load_result
        return load(frame.status, frame.segments, frame.out_size, limit_bytes), None
    except BaseException as error:  # the function's own; a KeyboardInterrupt raised there is a result here
        # Frames of ours tell a user nothing; its class may have a `with_traceback` of its own.
        return None, BaseException.with_traceback(error, None)


def is_retried(question: Examine) -> bool:
    """True if the function raised what its call is run again for."""
    try:
        load_result(question.frame.status, question.frame.segments)
    except BaseException as error:
        return isinstance(error, question.call.settings.retry_on)
    return False


def why_broken(broke: Broke, name: str) -> ExecutorBroken:
    """The error of every call that finds no initialized worker; its cause is what the initializer raised.

    Args:
        name: of the initializer.
    """
    cause: BaseException | None = broke.error
    if broke.frame is not None:
        try:
            load_result(broke.frame.status, broke.frame.segments)
        except BaseException as raised_there:  # the initializer's own, whatever it is
            cause = BaseException.with_traceback(raised_there, None)
    raised = f"raised {type(cause).__name__}: {cause}" if broke.error is None else f"failed: {broke.error.message}"
    error = ExecutorBroken(
        f"the initializer {name} {raised}",
        node=broke.info.node,
        hint="no worker can be made; set right what the initializer needs, then make a new executor",
    )
    error.__cause__ = cause
    return error
