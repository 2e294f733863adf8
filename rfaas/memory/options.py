"""What a RemoteMemory may be told, checked once at the door. Starts nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from rfaas import config
from rfaas.settings import Settings
from rfaas.units import parse_size_bytes
from rfaas_transport.errors import ConfigError

ARENA_BYTES: Final = 64 << 20  # of shared memory for what is under way, each way
REGION_BYTES_MAX: Final = 2**50


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """All that a RemoteMemory was told, checked.

    Attributes:
        size_bytes: of the region.
        when_reclaimed: "lose", "move" or "spill".
        spill_dir: where a spill file is made; None: the temporary directory.
        Others: as of rfaas.config.ExecutorConfig.
    """

    size_bytes: int
    when_reclaimed: str
    spill_dir: str | None
    choice: config.AllocatorChoice
    transport: str
    transport_security: str
    placement: str
    acquire_timeout_s: float | None
    daemon_python: str | None
    arena_bytes: int = ARENA_BYTES


def configure(
    size: str | int,
    *,
    when_reclaimed: str | None = None,
    spill_dir: str | os.PathLike[str] | None = None,
    **as_executor: Any,  # noqa: ANN401 - checked there
) -> MemoryOptions:
    """Check arguments; those that are None come from the settings, where an Executor's are a RemoteMemory's too.

    Args:
        as_executor: arguments of `rfaas.RemoteMemory` that `rfaas.Executor` has too, by name.
    Raises:
        ConfigError: a value is wrong; the message says which, and what would be right.
    """
    size_bytes = parse_size_bytes(size)
    if size_bytes > REGION_BYTES_MAX:
        raise ConfigError(f"size={size!r} is more than a region can have", hint="ask for at most 2**50 bytes")
    settings = Settings.load()
    directory = settings.value("remote_memory.spill_dir", None if spill_dir is None else os.fspath(spill_dir))
    if directory is not None and not os.path.isdir(directory):
        raise ConfigError(f"spill_dir={directory!r} is no directory", hint="make it, or name one that is there")
    about = config.configure(**as_executor)
    return MemoryOptions(
        size_bytes=size_bytes,
        when_reclaimed=settings.value("remote_memory.when_reclaimed", when_reclaimed),
        spill_dir=directory,
        choice=about.choice,
        transport=about.transport,
        transport_security=about.transport_security,
        placement=about.placement,
        acquire_timeout_s=about.acquire_timeout_s,
        daemon_python=about.daemon_python,
    )
