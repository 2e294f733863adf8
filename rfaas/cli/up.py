"""`rfaas up`: start the daemons of one user, or those of them that are missing.

Starts the upper packages as subprocesses (`python -m …`) and imports none of them. What runs is recorded in the state
directory (`daemons.py`). Every way to fail leaves nothing started. Spec: docs/spec/003-control.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from rfaas import host_memory
from rfaas.cli import daemons
from rfaas.cli.common import fail, json_option, print_json, run_json, state_dir_option
from rfaas.cli.daemons import Daemon
from rfaas.control.address import AllocatorAddress
from rfaas.settings import TABLE, Settings
from rfaas.settings.pairs import split_quotas
from rfaas_transport.errors import ConfigError, RfaasError

START_TIMEOUT_S = 15.0
T = TypeVar("T")


@click.command("up")
@state_dir_option
@json_option
@click.option("--slurm", is_flag=True, help="Harvest idle cores of this Slurm cluster by preemptible jobs of your own.")
@click.option("--cores", help="Without --slurm: cores of this host to offer [all].")
@click.option("--memory-mib", type=click.IntRange(1), help="Without --slurm [80 % of this host's].")
@click.option("--partition", help="Preemptible partition to harvest in [the one of the lowest tier].")
@click.option("--nodes", multiple=True, help="Harvest only on these nodes, e.g. n[1-4]; repeatable.")
@click.option("--leave-cores", help="Idle cores to leave a node [0].")
@click.option("--leave-memory-mib", type=click.IntRange(0), help="Idle MiB to leave a node [0].")
@click.option("--slice-cores", help="Cores of one slice [all idle ones of a node].")
@click.option("--max-cores", help="Cores to harvest in all [no limit].")
@click.option("--cycle-s", help="Between looks at Slurm [10].")
@click.option("--backoff-s", help="After a node was taken back [3].")
@click.option("--time-limit-min", help="Of one slice [the partition's].")
@click.option("--hooks-socket", help="Hear slurmctld's hooks there: /path or @name [nobody is heard].")
@click.option("--slurmrestd", help="Read Slurm there: unix:/path, http(s)://host [commands].")
@click.option(
    "--quota",
    multiple=True,
    metavar="[USER:]LIMITS",
    help="Of each user, or of USER, e.g. cores=8,memory=16GiB [none].",
)
@click.option("--price", metavar="PRICES", help="For rfaas accounting, e.g. core_s=0.00002,currency=EUR [none].")
@click.option("--inventory", metavar="FILE", help="Known hosts, as rfaas inventory export writes them [none].")
@click.option("--listen", help="Address of this host that the nodes reach [found by itself].")
@click.option("--daemon-python", help="Interpreter that has rfaas, on nodes too [this one].")
@click.option("--sbatch-option", "sbatch_options", multiple=True, help="Passed on, e.g. --sbatch-option=--account=x.")
def up(state_dir: Path, as_json: bool, slurm: bool, **options: Any) -> None:  # noqa: ANN401
    """Start the allocator, and what brings it cores: harvest jobs (--slurm) or this host.

    \b
    On a cluster, as yourself, no root:     rfaas up --slurm
    On one machine, for several programs:   rfaas up --cores 4
    Then `rfaas.Executor()` in your programs uses it; `rfaas status` shows it, `rfaas down` ends it.
    Every option but --slurm may stand in rfaas.toml or RFAAS_*: `rfaas config show`. A daemon that died is started
    again by the same command, as it was; the others, leases and calls go on.
    """
    started: list[Daemon] = []
    try:
        with _EndedBySignals() as signals:
            settings = Settings.load(options=_named(options))
            options = _resolved(settings)
            daemons.prepare_state_dir(state_dir)
            if (found := _found(state_dir)) is not None:
                _start_missing(state_dir, found, started, signals, as_json)
                return
            plan = _slurm_plan(options) if slurm else None
            _start_all(state_dir, started, signals, plan, options, settings.exported())
    except BaseException as error:  # Ctrl-C too: without its record nobody could stop a daemon
        for daemon in reversed(started):
            daemons.stop(daemon, 5.0)
        if isinstance(error, RfaasError):
            fail(error, as_json=as_json)
        raise
    if as_json:
        print_json({"state_dir": str(state_dir), "slurm": plan, "pids": {d.name: d.pid for d in started}})
    elif plan:
        click.echo(f"harvesting in partition {plan['partition']} (grace {plan['grace_s']:g} s); see: rfaas status")
    else:
        click.echo("offering this host's cores; see: rfaas status")


class _EndedBySignals:
    """A closed terminal and `timeout` end this command as Ctrl-C does: nothing half started stays."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._holding = False
        self._came = 0  # while it was holding

    def _leave(self, number: int, _: object) -> None:
        if self._holding:
            self._came = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            sys.exit(128 + number)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold them back meanwhile: between a daemon's start and its entry nobody would know of it."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            if self._came:
                self._leave(self._came, None)

    def __enter__(self) -> _EndedBySignals:
        self._before = {number: signal.signal(number, self._leave) for number in self._SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, action in self._before.items():
            signal.signal(number, action)


def _start_all(
    state_dir: Path,
    started: list[Daemon],
    signals: _EndedBySignals,
    plan: dict[str, Any] | None,
    options: dict[str, Any],
    exported: dict[str, str],
) -> None:
    """Start allocator, then harvester or agent. The record is written after each: this process may be killed."""
    python = options["daemon_python"]
    address = plan["listen"] if plan else options["listen"]
    allocator = [python, "-m", "rfaas_allocator", "--state-dir", str(state_dir)]
    allocator += ["--listen", address] if address else []
    allocator += _policy_options(options)
    commands = {"allocator": allocator}
    environ = {**os.environ, **exported}
    record: dict[str, object] = {"slurm": None, "alloc_id": "", "daemon_python": python}
    record |= {"commands": commands, "exported": exported}
    with signals.held():
        started.append(daemons.spawn("allocator", allocator, state_dir, environ))
    daemons.save(state_dir, started, record)
    try:
        record["alloc_id"] = _wait_for_allocator(state_dir, started[0]).alloc_id
        second = "harvester" if plan else "agent"
        commands[second] = (
            _harvester(python, state_dir, plan, options) if plan else _local_agent(python, state_dir, options)
        )
        record["slurm"] = plan
        with signals.held():
            started.append(daemons.spawn(second, commands[second], state_dir, environ))
        daemons.save(state_dir, started, record)
        _still_alive(started, state_dir)
    except BaseException:
        (state_dir / daemons.RECORD).unlink(missing_ok=True)
        raise


Found = tuple[list[Daemon], dict[str, Any]]


def _found(state_dir: Path) -> Found | None:
    """Daemons of which some run and some have died, with their settings; None if none runs.

    Raises:
        ConfigError: all of them run.
    """
    found = daemons.load(state_dir)
    alive = [daemon for daemon in found[0] if daemon.alive] if found else []
    if found is None or not alive:
        return None
    commands = found[1].get("commands")
    if not isinstance(commands, dict) or {daemon.name for daemon in alive} == set(commands):
        raise ConfigError(
            f"already up: {', '.join(f'{d.name} (pid {d.pid})' for d in alive)}",
            hint="rfaas down, or another --state-dir",
        )
    return alive, found[1]


def _start_missing(
    state_dir: Path, found: Found, started: list[Daemon], signals: _EndedBySignals, as_json: bool
) -> None:
    """Start those that died with the commands they were started with; leases and calls never stopped."""
    alive, settings = found
    environ = {**os.environ, **settings["exported"]}
    for name, command in settings["commands"].items():
        if name not in {daemon.name for daemon in alive}:
            with signals.held():
                started.append(daemons.spawn(name, command, state_dir, environ))
            daemons.save(state_dir, [*alive, *started], settings)
            if name == "allocator":
                _wait_for_allocator(state_dir, started[-1])
    _still_alive(started, state_dir)
    if as_json:
        pids = {daemon.name: daemon.pid for daemon in (*alive, *started)}
        print_json({"state_dir": str(state_dir), "slurm": settings["slurm"], "pids": pids})
    else:
        names = " and ".join(daemon.name for daemon in started)
        others = " and ".join(daemon.name for daemon in alive)
        click.echo(f"started {names} again; {others} went on, with the options given then")


def _named(options: dict[str, Any]) -> dict[str, Any]:
    """The command line as settings: an option is the setting whose table line names it."""
    given = dict(options)
    for name in ("memory_mib", "leave_memory_mib"):
        mib = given.pop(name)
        given[name.removesuffix("_mib")] = None if mib is None else mib << 20
    given["quota"], given["quotas"] = split_quotas(given["quota"])
    given["prices"] = given.pop("price")
    sections = ("local", "harvest", "up", "policy", "")
    places = {setting.key: setting.name for setting in TABLE if setting.section in sections}
    return {places[key]: value for key, value in given.items()}


def _resolved(settings: Settings) -> dict[str, Any]:
    """Every option, from wherever it is said."""
    names = [setting.name for setting in TABLE if setting.section in ("local", "harvest", "up", "policy")]
    values = {name.rpartition(".")[2]: settings.value(name) for name in names}
    values["daemon_python"] = settings.value("daemon_python") or sys.executable
    values["slurmrestd"] = settings.value("slurmrestd")
    values["pyslurm_python"] = settings.value("pyslurm_python")
    values["leave_memory_mib"] = values.pop("leave_memory") >> 20
    return values


def _slurm_plan(options: dict[str, Any]) -> dict[str, Any]:
    """Ask the plugin whether this cluster can be harvested, and how."""
    command = [options["daemon_python"], "-m", "rfaas_slurm_plugin", "check"]
    for name in ("partition", "listen", "slurmrestd", "pyslurm_python"):
        if options[name]:
            command += [f"--{name.replace('_', '-')}", options[name]]
    command += [f"--node={name}" for name in options["nodes"]]
    command += [f"--leave-node={name}" for name in options["leave_nodes"]]
    command += [f"--sbatch-option={text}" for text in options["sbatch_options"]]
    answer = run_json(command, timeout_s=60.0)
    if "error" in answer:
        raise ConfigError(answer["error"], hint=answer["hint"])
    return answer


def _harvester(python: str, state_dir: Path, plan: dict[str, Any], options: dict[str, Any]) -> list[str]:
    limits = ("cores", "memory", "nodes", "jobs")
    fields = (
        *("leave_cores", "leave_memory_mib", "slice_cores", "backoff_s", "min_idle_s", "leave_planned"),
        *("leave_partitions", "leave_features", "require_features", "leave_users"),
        *(f"max_{name}{whose}" for name in limits for whose in ("", "_per_user")),
    )
    settings = {
        "plan": plan,
        "policy": {name: options[name] for name in fields},
        "daemon_python": python,
        "time_limit_min": options["time_limit_min"],
        "cycle_s": options["cycle_s"],
        "sbatch_options": list(options["sbatch_options"]),
        "slurmrestd": options["slurmrestd"],
        "hooks_socket": options["hooks_socket"],
        "pyslurm_python": options["pyslurm_python"],
    }
    harvest = [python, "-m", "rfaas_slurm_plugin", "harvest"]
    return [*harvest, "--state-dir", str(state_dir), "--settings", json.dumps(settings)]


def _local_agent(python: str, state_dir: Path, options: dict[str, Any]) -> list[str]:
    cores = options["cores"] or len(os.sched_getaffinity(0))
    agent = [python, "-m", "rfaas_executors", "--state-dir", str(state_dir)]
    return [
        *agent,
        "--local",
        "--cores",
        str(cores),
        "--memory-bytes",
        str(options["memory"] or host_memory.offered_bytes("MemTotal")),
        "--grace-s",
        str(options["grace_s"]),
    ]


def _policy_options(options: dict[str, Any]) -> list[str]:
    """Quotas, prices and inventory for the allocator's command line."""
    quotas = [*([options["quota"]] if options["quota"] else []), *options["quotas"]]
    policy = [f"--quota={text}" for text in quotas]
    policy += [f"--price={options['prices']}"] if options["prices"] else []
    return policy + ([f"--inventory={options['inventory']}"] if options["inventory"] else [])


def _wait_for_allocator(state_dir: Path, daemon: Daemon) -> AllocatorAddress:
    def address() -> AllocatorAddress | None:
        try:
            found = AllocatorAddress.load(state_dir)
        except RfaasError:
            return None
        return found if found.pid == daemon.pid else None

    found = _wait(address, daemon, START_TIMEOUT_S)
    if found is None:
        said, _, remedy = _tail(state_dir, daemon).partition("\n  remedy: ")
        raise ConfigError(f"the allocator did not start: {said}", hint=remedy or f"rfaas logs {daemon.name}")
    return found


def _wait(condition: Callable[[], T | None], daemon: Daemon, timeout_s: float) -> T | None:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s and daemon.alive:
        if (value := condition()) is not None:
            return value
        time.sleep(0.02)
    return condition()


def _still_alive(started: Sequence[Daemon], state_dir: Path) -> None:
    """A daemon that can't run ends within its first moments; better said now than found out later."""
    deadline_s = time.monotonic() + 0.5
    while time.monotonic() < deadline_s:
        for daemon in started:
            if not daemon.alive:
                raise ConfigError(f"the {daemon.name} ended at once: {_tail(state_dir, daemon)}")
        time.sleep(0.05)


def _tail(state_dir: Path, daemon: Daemon) -> str:
    try:
        data = (state_dir / "log" / f"{daemon.name}.log").read_bytes()[daemon.log_offset :]
    except OSError as error:
        return str(error)
    return "\n".join(data.decode(errors="replace").strip().splitlines()[-3:]) or "it said nothing"
