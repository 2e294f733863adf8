"""RDMA: whether channels can go over it here, and which devices there are.

What speaks to devices is C (`transport/core/verbs/`), in a module that is there only where rdma-core's headers were
when rfaas was built. Must not open a device but to ask it. Spec: docs/spec/007-verbs.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import IPv6Address
from typing import Final

from rfaas_transport.errors import ConfigError

REMEDY: Final = 'leave transport at "auto", or see what `rfaas devices` says of this host'
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


def why_not() -> str:
    """Why channels can't go over RDMA here; empty if they can."""
    if problem := _why_not_loaded():
        return problem
    try:
        here = addresses()
    except OSError as error:
        return f"the list of RDMA devices can't be read: {error}"
    if not here:
        return "no RDMA device is here (/sys/class/infiniband is empty)"
    if not any(address.is_active and address.gid for address in here):
        return "no port of an RDMA device is up"
    return ""


def require() -> None:
    """Make sure that channels can go over RDMA here.

    Raises:
        ConfigError: they can't, with what to do about it.
    """
    if problem := why_not():
        raise ConfigError(f"RDMA can't be used here: {problem}", hint=REMEDY if is_built() else _BUILD)
