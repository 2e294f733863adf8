"""The settings of section [tcp] as options of data connections, for session processes and agents."""

from __future__ import annotations

from rfaas.settings import Settings
from rfaas_transport.socket_options import SocketOptions


def socket_options(settings: Settings) -> SocketOptions:
    """What this side wants of its data connections.

    Raises:
        ConfigError: a value is wrong.
    """
    return SocketOptions(
        priority=settings.value("tcp.priority"),
        busy_poll_us=settings.value("tcp.busy_poll_us"),
        zerocopy=settings.value("tcp.zerocopy"),
        user_timeout_s=settings.value("tcp.user_timeout_s"),
    )
