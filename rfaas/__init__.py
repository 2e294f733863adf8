"""Call functions on the cores that a Slurm cluster leaves idle: what a user's program imports, and the `rfaas` command.

Must not load grpc, protobuf or numpy (daemons do that in processes of their own), must not start anything at import,
and must not import the packages above it: allocator, executors, slurm_plugin. Names outside `__all__` are private.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rfaas.context import Context, current
from rfaas_transport.errors import (
    AcquireTimeout,
    AgentLost,
    AllocatorUnavailable,
    AuthenticationFailed,
    Cancelled,
    ChannelBroken,
    ChannelClosed,
    ConfigError,
    ConnectionLost,
    DeadlineExceeded,
    EnvironmentFailed,
    ExecutorBroken,
    FunctionError,
    FunctionOOM,
    LeaseDenied,
    MemoryLost,
    NoCredit,
    NodeLost,
    PayloadTooLarge,
    PoisonFunction,
    ProtocolError,
    ReasonCode,
    Reclaimed,
    RemoteError,
    RfaasError,
    SerializationError,
    VersionMismatch,
    WorkerLost,
)

if TYPE_CHECKING:
    from rfaas._marking import mark
    from rfaas.adaptivity import adaptive
    from rfaas.arrays import empty, empty_like, from_dlpack
    from rfaas.client.capacity import Capacity
    from rfaas.client.futures import Future
    from rfaas.client.mismatch import EnvironmentWarning
    from rfaas.client.reclaims import GainNotice, ReclaimNotice
    from rfaas.executor import Executor
    from rfaas.functions import NativeFunction, RawFunction, get_include, native, raw
    from rfaas.memory.arrays import RemoteArray
    from rfaas.progress_bar import progress
    from rfaas.remote_memory import RemoteMemory
    from rfaas.shipped_files import shipped
    from rfaas.steering import Observation, follow_calls

__version__ = "0.1.0.dev0"

__all__ = [
    "AcquireTimeout",
    "AgentLost",
    "AllocatorUnavailable",
    "AuthenticationFailed",
    "Cancelled",
    "Capacity",
    "ChannelBroken",
    "ChannelClosed",
    "ConfigError",
    "ConnectionLost",
    "Context",
    "DeadlineExceeded",
    "EnvironmentFailed",
    "EnvironmentWarning",
    "Executor",
    "ExecutorBroken",
    "FunctionError",
    "FunctionOOM",
    "Future",
    "GainNotice",
    "LeaseDenied",
    "MemoryLost",
    "NativeFunction",
    "NoCredit",
    "NodeLost",
    "Observation",
    "PayloadTooLarge",
    "PoisonFunction",
    "ProtocolError",
    "RawFunction",
    "ReasonCode",
    "ReclaimNotice",
    "Reclaimed",
    "RemoteArray",
    "RemoteError",
    "RemoteMemory",
    "RfaasError",
    "SerializationError",
    "VersionMismatch",
    "WorkerLost",
    "__version__",
    "adaptive",
    "current",
    "empty",
    "empty_like",
    "follow_calls",
    "from_dlpack",
    "get_include",
    "mark",
    "native",
    "progress",
    "raw",
    "shipped",
]

_LAZY = {
    "Capacity": "rfaas.client.capacity",
    "EnvironmentWarning": "rfaas.client.mismatch",
    "Executor": "rfaas.executor",
    "Future": "rfaas.client.futures",
    "GainNotice": "rfaas.client.reclaims",
    "NativeFunction": "rfaas.functions",
    "RawFunction": "rfaas.functions",
    "Observation": "rfaas.steering",
    "adaptive": "rfaas.adaptivity",
    "follow_calls": "rfaas.steering",
    "get_include": "rfaas.functions",
    "mark": "rfaas._marking",
    "native": "rfaas.functions",
    "raw": "rfaas.functions",
    "ReclaimNotice": "rfaas.client.reclaims",
    "RemoteArray": "rfaas.memory.arrays",
    "RemoteMemory": "rfaas.remote_memory",
    "empty": "rfaas.arrays",
    "empty_like": "rfaas.arrays",
    "from_dlpack": "rfaas.arrays",
    "progress": "rfaas.progress_bar",
    "shipped": "rfaas.shipped_files",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    """Load the executor when it is first named: a program, and every command, that only imports rfaas stays light."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
