"""Which address of this host others see: that of the way to them."""

from __future__ import annotations

import socket


def own_address_towards(host: str, port: int = 9) -> str:
    """This host's own address on the way to another; nothing is sent to find out.

    Args:
        host: name or address; one of IPv6 without brackets.
        port: any; nobody need listen there.

    Raises:
        OSError: the name can't be resolved, or there is no way.
    """
    family, kind, proto, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, proto) as probe:
        probe.connect(where)
        return str(probe.getsockname()[0])
