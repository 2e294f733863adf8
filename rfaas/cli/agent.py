"""`rfaas agent`: lend cores and memory of this host to an allocator, until SIGTERM. No Slurm, no root.

Becomes the agent (`python -m rfaas_executors.agent`) by exec, so signals and exit code are the agent's own; imports no
component.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, Final

import click

import rfaas.config
from rfaas.cli import host_memory
from rfaas.cli.common import fail
from rfaas.units import parse_duration_s, parse_size_bytes
from rfaas_transport.errors import ConfigError, RfaasError

HOST_PORT: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]+):(?P<port>\d{1,5})")


@click.command("agent")
@click.option(
    "--allocator",
    metavar="DIR|HOST:PORT",
    envvar="RFAAS_ALLOCATOR",
    help="Its state directory, or its address [RFAAS_ALLOCATOR, else the user's state directory].",
)
@click.option(
    "--credentials",
    type=click.Path(path_type=Path),
    help="With HOST:PORT: private directory with its secret, tls.key and tls.crt [the state directory].",
)
@click.option("--cores", type=click.IntRange(1), help="Cores to lend [all that this process may use].")
@click.option("--memory", metavar="SIZE", help="Memory to lend, e.g. 16GiB [80 % of what is available now].")
@click.option("--grace", metavar="DURATION", default="5s", show_default=True, help="From SIGTERM to the kill.")
@click.option("--drain", metavar="DURATION", help="What running calls get of it [grace - 1s].")
@click.option("--for", "lasting", metavar="DURATION", help="Leave by itself after this long [never].")
@click.option("--listen", metavar="HOST", help="Address for programs on other hosts [found, if the allocator has one].")
@click.option("--port-range", metavar="LOW-HIGH", help="Ports to listen on [any].")
@click.option("--name", help="Name of this host for status and placement [its host name].")
@click.option("--label", default="", help="Tells apart several agents on one host.")
@click.option(
    "--abandoned-after", metavar="DURATION", default="60s", show_default=True, help="Without allocator: leave."
)
@click.option("--idle", is_flag=True, help="Run functions only when nothing else wants the CPU (SCHED_IDLE).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line: waiting, joined, leaving, left.")
def agent(as_json: bool, **options: Any) -> None:  # noqa: ANN401
    """Lend cores and memory of this host, until SIGTERM.

    \b
    On the host of the allocator, or one that sees its state directory:   rfaas agent
    On any other host, with copies of secret, tls.key and tls.crt (0600):
        rfaas agent --allocator head:41234 --credentials ~/rfaas-credentials
    SIGTERM and Ctrl-C give everything back: running calls get the grace, then it exits with 0.
    """
    try:
        arguments = _arguments(options)
    except RfaasError as error:
        fail(error, as_json=as_json)
    command = [sys.executable, "-m", "rfaas_executors.agent", *arguments, "--say", "json" if as_json else "text"]
    sys.stdout.flush()
    os.execv(sys.executable, command)


def _arguments(options: dict[str, Any]) -> list[str]:
    """The agent's own command line.

    Raises:
        ConfigError: a value is wrong; nothing was started.
    """
    cores = options["cores"] or rfaas.config.usable_cpus()
    memory_bytes = (
        host_memory.offered_bytes("MemAvailable")
        if options["memory"] is None
        else parse_size_bytes(options["memory"], name="--memory")
    )
    grace_s = parse_duration_s(options["grace"], name="--grace")
    arguments = [*_allocator(options), "--cores", str(cores), "--memory-bytes", str(memory_bytes)]
    arguments += ["--by-hand", "--label", options["label"], "--grace-s", str(grace_s)]
    for name, option in (("drain", "--drain-s"), ("lasting", "--end-in-s"), ("abandoned_after", "--abandoned-after-s")):
        if options[name] is not None:
            arguments += [option, str(parse_duration_s(options[name], name=f"--{name.replace('_', '-')}"))]
    for name, option in (("listen", "--listen"), ("port_range", "--port-range"), ("name", "--node")):
        if options[name]:
            arguments += [option, options[name]]
    return [*arguments, "--sched", "idle"] if options["idle"] else arguments


def _allocator(options: dict[str, Any]) -> list[str]:
    where, credentials = options["allocator"], options["credentials"]
    if where is not None and not Path(where).expanduser().is_dir():
        found = HOST_PORT.fullmatch(where)
        if found is None or not 0 < int(found["port"]) < 65536:
            raise ConfigError(
                f"--allocator {where} is neither a state directory nor HOST:PORT",
                hint="name the directory that `rfaas up` uses, or the address that its allocator printed",
            )
        directory = credentials or rfaas.config.state_dir()
        return ["--state-dir", str(directory.expanduser().absolute()), "--allocator", where]
    if credentials is not None:
        raise ConfigError("--credentials goes with --allocator HOST:PORT", hint="leave it out")
    directory = rfaas.config.state_dir() if where is None else Path(where)
    return ["--state-dir", str(directory.expanduser().absolute())]
