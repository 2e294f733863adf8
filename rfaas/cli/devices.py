"""`rfaas devices`: which RDMA devices, ports and addresses this host has. Asks the devices and changes nothing."""

from __future__ import annotations

from dataclasses import asdict

import click

from rfaas.cli.common import fail, json_option, print_json, print_table
from rfaas_transport import verbs
from rfaas_transport.errors import ConfigError

COLUMNS = ("DEVICE", "PORT", "STATE", "LINK", "MTU", "GID", "ADDRESS", "TYPE")


@click.command("devices")
@json_option
def devices(as_json: bool) -> None:
    """List RDMA devices with their ports and addresses.

    A line for each address (GID) of each port; a port without one has a line too. Exit status 1 without a device.
    """
    try:
        here = verbs.addresses()
    except (ConfigError, OSError) as error:
        fail(error if isinstance(error, ConfigError) else ConfigError(str(error)), as_json=as_json)
    if as_json:
        print_json({"addresses": [asdict(at) | {"gid": at.gid.hex(), "address": at.shown()} for at in here]})
    elif here:
        print_table(
            COLUMNS,
            [
                (
                    at.device,
                    str(at.port),
                    at.state,
                    at.link_layer,
                    str(at.mtu_bytes),
                    str(at.gid_index) if at.gid else "-",
                    at.shown(),
                    at.gid_type or "-",
                )
                for at in here
            ],
        )
        for name in dict.fromkeys(at.device for at in here):
            at = next(at for at in here if at.device == name)
            click.echo(
                f"{name}: firmware {at.firmware or '-'}; at most {at.max_queue_pairs} queue pairs of"
                f" {at.max_work_requests} requests, {at.max_memory_regions} memory regions"
            )
    if not here:
        click.echo(f"{verbs.why_not()}", err=True)
        raise SystemExit(1)
