"""`rfaas agent`: lend cores and memory of this host to an allocator, until SIGTERM. No Slurm, no root.

Becomes the agent (`python -m rfaas_executors`) by exec, so signals and exit code are the agent's own; imports no
component.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

import click

import rfaas.config
from rfaas import host_memory
from rfaas.cli.common import fail
from rfaas.settings import Settings
from rfaas.settings.kinds import HOST_PORT
from rfaas.units import parse_duration_s
from rfaas_transport.errors import ConfigError, RfaasError


@click.command("agent")
@click.option(
    "--allocator", metavar="DIR|HOST:PORT", help="Its state directory, or its address [allocator, else state_dir]."
)
@click.option(
    "--credentials",
    type=click.Path(path_type=Path),
    help="With HOST:PORT: private directory with its secret, tls.key and tls.crt [the state directory].",
)
@click.option("--cores", type=click.IntRange(1), help="Cores to lend [all that this process may use].")
@click.option("--memory", metavar="SIZE", help="Memory to lend, e.g. 16GiB [80 % of what is available now].")
@click.option("--grace", metavar="DURATION", help="From SIGTERM to the kill [5s].")
@click.option("--drain", metavar="DURATION", help="What running calls get of it [grace - 1s].")
@click.option("--for", "lasting", metavar="DURATION", help="Leave by itself after this long [never].")
@click.option(
    "--listen",
    metavar="HOST",
    help="Address, interface or network (CIDR) for programs on other hosts [found, if the allocator has one].",
)
@click.option("--port-range", metavar="LOW-HIGH", help="Ports to listen on [any].")
@click.option("--name", help="Name of this host for status and placement [its host name].")
@click.option("--label", help="Tells apart several agents on one host [none].")
@click.option("--abandoned-after", metavar="DURATION", help="Without allocator: leave after this long [60s].")
@click.option(
    "--idle/--no-idle", default=None, help="Run functions only when nothing else wants the CPU (SCHED_IDLE) [no]."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line: waiting, joined, leaving, left.")
def agent(as_json: bool, **options: Any) -> None:  # noqa: ANN401
    """Lend cores and memory of this host, until SIGTERM.

    \b
    On the host of the allocator, or one that sees its state directory:   rfaas agent
    On any other host, with copies of secret, tls.key and tls.crt (0600):
        rfaas agent --allocator head:41234 --credentials ~/rfaas-credentials
    SIGTERM and Ctrl-C give everything back: running calls get the grace, then it exits with 0.
    Every option but --for may stand in rfaas.toml, [local] and [agent], or RFAAS_*: `rfaas config show`.
    """
    try:
        arguments = _arguments(options)
    except RfaasError as error:
        fail(error, as_json=as_json)
    command = [sys.executable, "-m", "rfaas_executors", *arguments, "--say", "json" if as_json else "text"]
    sys.stdout.flush()
    os.execv(sys.executable, command)


SETTING_OF: Final = {
    **{option: f"agent.{option}" for option in ("allocator", "credentials", "listen", "port_range", "name", "label")},
    **{"drain": "agent.drain_s", "abandoned_after": "agent.abandoned_after_s", "idle": "agent.idle"},
    **{"cores": "local.cores", "memory": "local.memory", "grace": "local.grace_s"},
}
"""The setting of each option that is one."""


def _arguments(options: dict[str, Any]) -> list[str]:
    """The agent's own command line.

    Raises:
        ConfigError: a value is wrong; nothing was started.
    """
    lasting = options.pop("lasting")
    settings = Settings.load(options={SETTING_OF[option]: value for option, value in options.items()})
    cores = settings.value("local.cores") or rfaas.config.usable_cpus()
    memory_bytes = settings.value("local.memory") or host_memory.offered_bytes("MemAvailable")
    arguments = [*_allocator(settings), "--cores", str(cores), "--memory-bytes", str(memory_bytes), "--by-hand"]
    for name, option in (
        ("local.grace_s", "--grace-s"),
        ("agent.drain_s", "--drain-s"),
        ("agent.abandoned_after_s", "--abandoned-after-s"),
        ("agent.listen", "--listen"),
        ("agent.port_range", "--port-range"),
        ("agent.name", "--node"),
        ("agent.label", "--label"),
    ):
        value = settings.value(name)
        arguments += [] if value is None else [option, str(value)]
    if lasting is not None:
        arguments += ["--end-in-s", str(parse_duration_s(lasting, name="--for"))]
    return [*arguments, "--sched", "idle"] if settings.value("agent.idle") else arguments


def _allocator(settings: Settings) -> list[str]:
    """Where it is, by `agent.allocator`, else where the programs' own allocator is, else the user's state directory."""
    found, credentials = settings.find("agent.allocator"), settings.find("agent.credentials")
    if found.value is None:
        found = settings.find("allocator")
        inherited = os.environ.get("RFAAS_ALLOCATOR", "")
        if found.source == "environment" and HOST_PORT.fullmatch(inherited):
            found = found._replace(value=inherited)
    where = None if found.value == "embedded" else found.value
    if where is not None and not Path(where).is_dir():
        if not HOST_PORT.fullmatch(where):
            raise ConfigError(
                f"{found.label} {where} is neither a state directory nor HOST:PORT",
                hint="name the directory that `rfaas up` uses, or the address that its allocator printed",
            )
        return ["--state-dir", str(credentials.value or rfaas.config.state_dir().absolute()), "--allocator", where]
    if credentials.value is not None:
        raise ConfigError(f"{credentials.label} goes with --allocator HOST:PORT", hint="leave it out")
    return ["--state-dir", str(rfaas.config.state_dir().absolute() if where is None else where)]
