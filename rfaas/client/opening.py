"""What becomes of a connection that a session process hands to a client: a channel over the medium that it says.

Must not decide which medium that is, and never makes less of it than was asked for.
"""

from __future__ import annotations

from rfaas.client.events import ChannelOpened
from rfaas.config import ExecutorConfig
from rfaas_transport import shared_memory, verbs
from rfaas_transport._core import Channel, set_pool_size
from rfaas_transport.errors import ConfigError


def open_channel(event: ChannelOpened, descriptor: int, config: ExecutorConfig) -> Channel:
    """The channel over a connection that was handed over. What is to be encrypted never is a plain one.

    Raises:
        OSError, ValueError: there can be none; the descriptor stays the caller's.
    """
    medium = event.info.medium
    if medium == "shm":
        set_pool_size(config.array_memory_bytes or 0)
        return shared_memory.offer(descriptor, config.arena_bytes)
    if medium == "tls":
        return Channel.from_fd(descriptor, key=event.key, is_dialer=True)
    if medium in ("tcp", "verbs") and config.transport_security == "encrypt":  # a session process that can't, or errs
        raise ConfigError("the session process gave a plain connection where an encrypted one was asked for")
    if medium == "verbs":
        return verbs.adopt(descriptor)
    return Channel.from_fd(descriptor)
