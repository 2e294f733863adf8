"""Which address of this host others see: that of the way to them."""

from __future__ import annotations

import array
import fcntl
import ipaddress
import socket
import struct

from rfaas_transport.errors import ConfigError

_SIOCGIFCONF = 0x8912
_IFREQ_BYTES = 40  # of struct ifreq on 64-bit Linux: name (16), then a sockaddr
_NAME_BYTES = 16


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


def own_address(wish: str, *, name: str) -> str:
    """The address of this host that an address, host name, interface ("ib0") or network ("10.1.0.0/16") means.

    Args:
        wish: what somebody wrote.
        name: of the option or setting, for messages.
    Returns:
        An address; what is neither an interface of this host nor a network, as it is.

    Raises:
        ConfigError: no interface has an address in that network, or the interface has none.
    """
    if not names_no_host(wish):
        return wish
    addresses = ipv4_addresses()
    if "/" not in wish:
        found = [address for interface, address in addresses if interface == wish]
        problem = f"interface {wish} has no IPv4 address"
    else:
        try:
            network = ipaddress.ip_network(wish, strict=False)
        except ValueError as error:
            raise ConfigError(f"{name} {wish} is no network: {error}", hint='write one like "10.1.0.0/16"') from error
        found = [address for _, address in addresses if ipaddress.ip_address(address) in network]
        problem = f"this host has no address in {wish}"
    if not found:
        have = ", ".join(f"{address} ({interface})" for interface, address in addresses)
        raise ConfigError(f"{name}: {problem}", hint=f"this host has {have}")
    return found[0]


def names_no_host(wish: str) -> bool:
    """Whether it is an interface or a network, which mean an address on each host, and no host's own."""
    return "/" in wish or wish in _interfaces()


def _interfaces() -> list[str]:
    try:
        return [interface for _, interface in socket.if_nameindex()]
    except OSError:
        return []


def ipv4_addresses() -> list[tuple[str, str]]:
    """(interface, address) of every IPv4 address of this host, in the kernel's order."""
    room = array.array("B", bytes(256 * _IFREQ_BYTES))
    where, _ = room.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe, _SIOCGIFCONF, struct.pack("iP", len(room), where))
    size = struct.unpack("iP", answer)[0]
    data = room.tobytes()[:size]
    records = (data[at : at + _IFREQ_BYTES] for at in range(0, size, _IFREQ_BYTES))
    return [
        (one[:_NAME_BYTES].rstrip(b"\0").decode(), socket.inet_ntoa(one[_NAME_BYTES + 4 : _NAME_BYTES + 8]))
        for one in records
    ]
