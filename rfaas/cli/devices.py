"""`rfaas devices`: which RDMA devices, ports and addresses this host has. Asks the devices and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from ipaddress import IPv6Address
from typing import Any

import click

from rfaas.cli.common import fail, json_option, print_json, print_table
from rfaas_transport import verbs
from rfaas_transport.errors import ConfigError

COLUMNS = ("DEVICE", "PORT", "STATE", "LINK", "GBIT/S", "MTU", "LID", "GID", "ADDRESS", "TYPE")


@click.command("devices")
@json_option
def devices(as_json: bool) -> None:
    """List RDMA devices with their ports, addresses, capabilities and limits.

    A line for each address (GID) of each port; a port without one has a line too. Where rfaas was built without
    rdma-core, the system's pyverbs is asked. Exit status 1 without a device.
    """
    told_by = "rfaas"
    try:
        ports = [asdict(at) | {"gid": at.gid.hex(), "address": at.shown()} for at in verbs.addresses()]
        here = [asdict(device) for device in verbs.devices()]
    except (ConfigError, OSError) as error:
        from rfaas.doctor.rdma import ask_pyverbs

        answer = ask_pyverbs()
        if answer is None or not answer.get("devices"):
            fail(error if isinstance(error, ConfigError) else ConfigError(str(error)), as_json=as_json)
        told_by, here = "pyverbs", answer["devices"]
        ports = [at | {"address": _shown(at["gid"])} for at in answer["addresses"]]
        click.echo(f"rfaas: told by pyverbs, calls can't use it: {error}", err=True)
    if as_json:
        print_json({"addresses": ports, "devices": here, "told_by": told_by})
    elif here:
        _print_all(ports, here)
    if not here:
        click.echo(f"{verbs.why_not()}", err=True)
        raise SystemExit(1)


def _shown(gid: str) -> str:
    address = IPv6Address(bytes.fromhex(gid)) if gid else None
    return str(address.ipv4_mapped or address) if address else "-"


def _print_all(ports: Sequence[dict[str, Any]], here: Sequence[dict[str, Any]]) -> None:
    print_table(
        COLUMNS,
        [
            (
                at["device"],
                str(at["port"]),
                at["state"],
                at["link_layer"],
                f"{at['rate_gbps']:g}" if at["rate_gbps"] else "-",
                f"{at['mtu_bytes']} of {at['max_mtu_bytes']}",
                str(at["lid"]) if at["lid"] else "-",
                str(at["gid_index"]) if at["gid"] else "-",
                at["address"],
                at["gid_type"] or "-",
            )
            for at in ports
        ],
    )
    for device in here:
        vendor = f"vendor 0x{device['vendor_id']:x}, part 0x{device['vendor_part_id']:x}"
        click.echo(f"\n{device['name']}: firmware {device['firmware'] or '-'}, {vendor}")
        click.echo(f"  can: {', '.join(device['capabilities']) or 'no more than reads and writes'}")
        for name, limit in device["limits"].items():
            click.echo(f"  {name.replace('_', ' '):26} {limit:,}")
