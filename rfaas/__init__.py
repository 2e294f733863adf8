"""Call functions on the cores that a Slurm cluster leaves idle: what a user's program imports, and the `rfaas` command.

Must not load grpc, protobuf or numpy (daemons do that in processes of their own), must not start anything at import,
and must not import the packages above it: allocator, executors, slurm_plugin. Names outside `__all__` are private.
"""

from rfaas.client.futures import Future
from rfaas.client.reclaims import ReclaimNotice
from rfaas.context import Context, current
from rfaas.executor import Executor
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
    LeaseDenied,
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

__version__ = "0.1.0.dev0"

__all__ = [
    "AcquireTimeout",
    "AgentLost",
    "AllocatorUnavailable",
    "AuthenticationFailed",
    "Cancelled",
    "ChannelBroken",
    "ChannelClosed",
    "ConfigError",
    "ConnectionLost",
    "Context",
    "DeadlineExceeded",
    "EnvironmentFailed",
    "Executor",
    "ExecutorBroken",
    "Future",
    "LeaseDenied",
    "NoCredit",
    "NodeLost",
    "PayloadTooLarge",
    "PoisonFunction",
    "ProtocolError",
    "ReasonCode",
    "ReclaimNotice",
    "Reclaimed",
    "RemoteError",
    "RfaasError",
    "SerializationError",
    "VersionMismatch",
    "WorkerLost",
    "__version__",
    "current",
]
