"""The one family of errors, with the base class at the bottom of the house so that every package can raise it.

`rfaas` re-exports the public ones. The table is docs/spec/001-invocation.md section 6; a test holds both together.
"""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from enum import IntEnum
from typing import Any, ClassVar, Literal

Phase = Literal["QUEUED", "SENT", "ACCEPTED", "STARTED", "DONE"]


class ReasonCode(IntEnum):
    """Why resources or a worker went away; stable on the wire."""

    NONE = 0
    SLURM_PREEMPT = 1
    NODE_DRAIN = 2
    NODE_DOWN = 3
    JOB_TIMELIMIT = 4
    ADMIN = 5
    OWNER_RELEASE = 6
    LEASE_EXPIRED = 7
    QUOTA = 8
    MEMORY_PRESSURE = 9
    CPU_PRESSURE = 10
    UPGRADE = 11
    CLIENT_GONE = 12
    PARTITION = 13
    WORKER_CRASHED = 14
    WORKER_EXITED = 15
    AGENT_LOST = 16
    CALL_TIMEOUT = 17
    CALL_INTERRUPTED = 18
    MEMORY_LIMIT = 19
    MEMORY_EXHAUSTED = 20
    PROCESS_LIMIT = 21
    KEY_VIOLATION = 22

    @property
    def text(self) -> str:
        """The name in specifications and messages, e.g. `slurm-preempt`."""
        return self.name.lower().replace("_", "-")


class RfaasError(Exception):
    """Base of all errors of rfaas; a function's own exceptions are raised as themselves.

    Args:
        message: what happened, for people.
        may_have_run: True if the function may have been executed, wholly or in part.
        phase: how far the call came; None if the error is not about a call.
        reason_code: why, see ReasonCode.
        node, lease_id, epoch: where; empty or 0 if unknown.
        attempt: how many dispatches went before; 0 at the first.
        grace_s: seconds between notice and kill, if there was a notice.
        checkpoint: what the function saved last, or a reference to it.
        hint: the remedy, for people.
    """

    code: ClassVar[str] = "error"
    retriable: ClassVar[bool] = False

    def __init__(
        self,
        message: str = "",
        *,
        may_have_run: bool = False,
        phase: Phase | None = None,
        reason_code: int = 0,
        node: str = "",
        lease_id: bytes = b"",
        epoch: int = 0,
        attempt: int = 0,
        grace_s: float | None = None,
        checkpoint: bytes | str | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.may_have_run = may_have_run
        self.phase = phase
        self.reason_code = ReasonCode(reason_code)
        self.node = node
        self.lease_id = lease_id
        self.epoch = epoch
        self.attempt = attempt
        self.grace_s = grace_s
        self.checkpoint = checkpoint
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  remedy: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        state = {k: v for k, v in self.__dict__.items() if k != "message"}
        return _rebuild, (type(self), self.message, state)


def _rebuild(cls: type[RfaasError], message: str, state: dict[str, Any]) -> RfaasError:
    error = cls(message)
    error.__dict__.update(state)
    return error


class ConfigError(RfaasError, ValueError):
    """A setting, argument or file is wrong; nothing was started."""

    code = "config"


class AllocatorUnavailable(RfaasError, ConnectionError):
    """The allocator or the session process can't be reached or started."""

    code = "allocator-unavailable"
    retriable = True


class VersionMismatch(RfaasError):
    """Two parts of rfaas speak versions further apart than one."""

    code = "version-mismatch"


class AuthenticationFailed(RfaasError, PermissionError):
    """The peer could not prove who it is; nothing of it was believed."""

    code = "authentication-failed"


class NotFound(RfaasError, LookupError):
    """The peer knows no such lease, slot or generation, any more or yet; nothing was opened."""

    code = "not-found"


class AcquireTimeout(RfaasError, TimeoutError):
    """No capacity came within `acquire_timeout_s`; the call did not start."""

    code = "acquire-timeout"
    retriable = True


class LeaseDenied(RfaasError):
    """What was asked for can never be served; the call did not start."""

    code = "lease-denied"


class EnvironmentFailed(RfaasError):
    """The client's interpreter or modules could not be started, or a shared library not loaded, where functions run."""

    code = "environment-failed"


class Reclaimed(RfaasError):
    """The cores went back to their owner while the call ran on them."""

    code = "reclaimed"
    retriable = True


class WorkerLost(RfaasError):
    """The worker that ran the call crashed, exited or was killed."""

    code = "worker-lost"
    retriable = True


class FunctionOOM(WorkerLost):
    """The worker that ran the call was killed for its memory; the message says how much it had and what the limit was.

    `reason_code`: MEMORY_LIMIT, its own limit (`Executor(memory=…)`), or MEMORY_EXHAUSTED, the machine's.
    """

    code = "function-oom"
    retriable = False


class MemoryLost(RfaasError):
    """Borrowed memory and what it held are gone: its owner took it back, or its lender died.

    `reason_code` says which; `grace_s` is what the notice gave, None if there was none. The RemoteMemory stays lost.
    """

    code = "memory-lost"


class AgentLost(RfaasError):
    """The agent died and its workers with it."""

    code = "agent-lost"
    retriable = True


class NodeLost(RfaasError):
    """The node went down."""

    code = "node-lost"
    retriable = True


class ConnectionLost(RfaasError, ConnectionError):
    """The channel broke and nobody can say what became of the call."""

    code = "connection-lost"
    retriable = True


class DeadlineExceeded(RfaasError, TimeoutError):
    """`call_timeout_s` passed; `phase` says how far the call had come."""

    code = "deadline-exceeded"


class PoisonFunction(RfaasError):
    """The function ended three workers; it is not dispatched again."""

    code = "poison-function"


class ExecutorBroken(RfaasError, BrokenExecutor):
    """The executor can't run the call: its initializer failed, or its workers were ended by `terminate_workers`.

    `__cause__` is what the initializer raised. The executor stays as it is: it refuses every later call.
    """

    code = "executor-broken"


class Cancelled(RfaasError):
    """The call was cancelled after it had started."""

    code = "cancelled"


class PayloadTooLarge(RfaasError, ValueError):
    """Arguments or result exceed the limit; nothing was sent."""

    code = "payload-too-large"


class SerializationError(RfaasError):
    """Function, arguments or result can't be pickled or unpickled; `__cause__` says why."""

    code = "serialization"


class FunctionError(RfaasError):
    """A compiled function returned another value than 0, which is `value` (an int32); its output is lost.

    Args:
        message: the text, or the value.
        about: as for `RfaasError`.
    """

    code = "function-error"

    def __init__(self, message: str | int = "", **about: Any) -> None:  # noqa: ANN401
        self.value = message if isinstance(message, int) else 0
        super().__init__(f"the function returned {message}" if isinstance(message, int) else message, **about)


class RemoteError(RfaasError):
    """Stands for an exception of the function that can't be rebuilt here.

    `remote_type` is its class's name, `remote_traceback` its traceback as text.
    """

    code = "remote"
    remote_type: str = ""
    remote_traceback: str = ""


class ProtocolError(RfaasError):
    """The peer broke the specification; the connection is closed."""

    code = "protocol"


class ChannelClosed(RfaasError):
    """The channel was closed, here or by the peer's BYE; nothing was sent."""

    code = "channel-closed"


class ChannelBroken(RfaasError, ConnectionError):
    """The medium failed; what was sent last may or may not have arrived."""

    code = "channel-broken"


class NoCredit(RfaasError, BlockingIOError):
    """The peer takes no further call yet; nothing was sent."""

    code = "no-credit"
    retriable = True
