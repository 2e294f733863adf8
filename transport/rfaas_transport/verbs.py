"""RDMA: whether channels can go over it here, and which devices there are.

What speaks to devices is C (`transport/core/ibverbs/`), in a module that is there only where rdma-core's headers were
when rfaas was built. Must not open a device but to ask it. Spec: docs/spec/007-verbs.md.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rfaas_transport.errors import ConfigError

if TYPE_CHECKING:
    from rfaas_transport._core import Channel

REMEDY: Final = 'leave transport at "auto", or see what `rfaas devices` says of this host'
NO_DEVICE: Final = "no RDMA device is here (/sys/class/infiniband is empty)"
NO_PORT: Final = "no port of an RDMA device is up"
DEVICES: Final = Path("/sys/class/infiniband")
_REFUSED: Final = b"rfaas007" + bytes([3, 1]) + bytes(6)
_MESSAGE_BYTES: Final = 192
_TEXT_BYTES: Final = 159
_BUILD: Final = "install rdma-core with its headers (Debian: libibverbs-dev, ibverbs-providers) and build rfaas again"


@dataclass(frozen=True)
class Address:
    """One address of a port of an RDMA device, or a port without any.

    `gid` is empty then and `gid_index` -1. `state` is "active" where it can be used; `rate_gbps` is the link's
    signalling rate, 0 if unknown; `lid` is the port's address on InfiniBand, 0 on Ethernet; `max_...` are limits of the
    port and its device.
    """

    device: str
    port: int
    state: str
    physical_state: str
    link_layer: str
    rate_gbps: float
    lid: int
    mtu_bytes: int
    max_mtu_bytes: int
    max_message_bytes: int
    gid_index: int
    gid: bytes
    gid_type: str
    firmware: str
    max_queue_pairs: int
    max_work_requests: int
    max_memory_regions: int
    max_region_bytes: int

    @property
    def is_active(self) -> bool:
        """Whether the port is up."""
        return self.state == "active"

    def shown(self) -> str:
        """The address as people write it: IPv4 where it stands for one."""
        if not self.gid:
            return "-"
        from ipaddress import IPv6Address  # here: workers and programs load this module, and print nothing

        address = IPv6Address(self.gid)
        return str(address.ipv4_mapped or address)


@dataclass(frozen=True)
class Device:
    """An RDMA device: what it is, what it can do beyond reads and writes, and how much of what it can hold."""

    name: str
    firmware: str
    node_guid: str
    vendor_id: int
    vendor_part_id: int
    hardware_version: int
    n_ports: int
    capabilities: tuple[str, ...]
    limits: dict[str, int]


def is_built() -> bool:
    """Whether rfaas was built with what speaks to RDMA devices; loads nothing, so the library may still be missing."""
    return find_spec("rfaas_transport._verbs") is not None


def require_built() -> None:
    """Make sure that RDMA devices can be asked for, though there may be none.

    Raises:
        ConfigError: they can't, with what to do about it.
    """
    if problem := _why_not_loaded():
        raise ConfigError(f"RDMA can't be used here: {problem}", hint=_BUILD)


def _why_not_loaded() -> str:
    if not is_built():
        return "rfaas was built without rdma-core"
    try:
        from rfaas_transport import _verbs  # noqa: F401 - loads libibverbs, only when somebody asks
    except ImportError as error:
        return f"libibverbs can't be loaded: {error}"
    return ""


def addresses() -> list[Address]:
    """All addresses of all devices of this host; empty where there is no device.

    Raises:
        ConfigError: RDMA is not built in, or its library is missing.
        OSError: the system gives no list.
    """
    require_built()
    from rfaas_transport import _verbs

    return [Address(**entry) for entry in _verbs.addresses()]


def devices() -> list[Device]:
    """All devices of this host that can be opened.

    Raises:
        ConfigError: RDMA is not built in, or its library is missing.
        OSError: the system gives no list.
    """
    require_built()
    from rfaas_transport import _verbs

    return [Device(**entry) for entry in _verbs.devices()]


def why_no_port(devices: Path = DEVICES) -> str:
    """Why no RDMA device of this host can be used now, as far as the kernel says; empty if one can. Loads nothing."""
    states = []
    with suppress(OSError):
        for device in devices.iterdir():
            with suppress(OSError):  # one that is going away
                states += [(port / "state").read_text() for port in (device / "ports").iterdir()]
    if any(state.endswith("ACTIVE\n") for state in states):
        return ""
    return NO_PORT if states else NO_DEVICE


def refuse(fd: int, why: str) -> None:
    """Tell the peer of a connection that was to be set up that it can't be here, as a message of 007 section 2."""
    text = why.encode()[:_TEXT_BYTES].decode(errors="ignore").encode()
    with suppress(OSError), socket.socket(fileno=fd) as sock:
        try:
            sock.send(_REFUSED + text.ljust(_MESSAGE_BYTES - len(_REFUSED), b"\0"), socket.MSG_DONTWAIT)
        finally:
            sock.detach()


def adopt(fd: int) -> Channel:
    """Make one end of a channel over RDMA of a connection whose other end does the same (`Channel.from_verbs`).

    Raises:
        ConfigError: it can't be here; the peer was told why. The connection stays the caller's.
        MemoryError: likewise, and nobody was told.
    """
    try:
        require_built()
    except ConfigError as error:
        refuse(fd, error.message)
        raise
    from rfaas_transport import _core  # here: `import rfaas` loads this module and no channels

    return _core.Channel.from_verbs(fd)


def why_not() -> str:
    """Why channels can't go over RDMA here; empty if they can. Loads libibverbs only where there is a device."""
    if not is_built():
        return _why_not_loaded()
    if not DEVICES.is_dir():  # no module of the kernel that knows any
        return NO_DEVICE
    if problem := _why_not_loaded():
        return problem
    try:
        here = addresses()
    except OSError as error:
        return f"the list of RDMA devices can't be read: {error}"
    if not here:
        return NO_DEVICE
    if not any(address.is_active and address.gid for address in here):
        return NO_PORT
    return ""


def require() -> None:
    """Make sure that channels can go over RDMA here.

    Raises:
        ConfigError: they can't, with what to do about it.
    """
    if problem := why_not():
        raise ConfigError(f"RDMA can't be used here: {problem}", hint=REMEDY if is_built() else _BUILD)
