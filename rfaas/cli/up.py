"""`rfaas up` and `rfaas down`: start and stop the daemons of one user.

Starts the upper packages as subprocesses (`python -m …`) and imports none of them. What runs is recorded in the state
directory (`daemons.py`). Every way to fail leaves nothing started. Spec: docs/spec/003-control.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from rfaas.cli import daemons, host_memory
from rfaas.cli.common import EXIT_FAILED, fail, json_option, print_json, state_dir_option
from rfaas.cli.daemons import Daemon
from rfaas.settings import TABLE, Settings
from rfaas.settings.pairs import split_quotas
from rfaas_transport.errors import ConfigError, RfaasError

START_TIMEOUT_S = 15.0


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
    Every option but --slurm may stand in rfaas.toml or RFAAS_*: `rfaas config show`.
    """
    started: list[Daemon] = []
    try:
        settings = Settings.load(options=_named(options))
        options = _resolved(settings)
        daemons.prepare_state_dir(state_dir)
        _refuse_second(state_dir)
        plan = _slurm_plan(options) if slurm else None
        python = options["daemon_python"]
        environ = {**os.environ, **settings.exported()}
        address = plan["listen"] if plan else options["listen"]
        allocator = [python, "-m", "rfaas_allocator", "--state-dir", str(state_dir)]
        allocator += ["--listen", address] if address else []
        allocator += _policy_options(options)
        started.append(daemons.spawn("allocator", allocator, state_dir, environ))
        about = _wait_for_allocator(state_dir, started[0])
        command = _harvester(python, state_dir, plan, options) if plan else _local_agent(python, state_dir, options)
        started.append(daemons.spawn("harvester" if plan else "agent", command, state_dir, environ))
        _still_alive(started, state_dir)
        daemons.save(state_dir, started, {"slurm": plan, "alloc_id": about["alloc_id"], "daemon_python": python})
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


def _named(options: dict[str, Any]) -> dict[str, Any]:
    """The command line as settings: an option is the setting whose table line names it."""
    given = dict(options)
    for name in ("memory_mib", "leave_memory_mib"):
        mib = given.pop(name)
        given[name.removesuffix("_mib")] = None if mib is None else mib << 20
    given["quota"], given["quotas"] = split_quotas(given["quota"])
    given["prices"] = given.pop("price")
    sections = ("local", "harvest", "up", "allocator", "")
    places = {setting.key: setting.name for setting in TABLE if setting.section in sections}
    return {places[key]: value for key, value in given.items()}


def _resolved(settings: Settings) -> dict[str, Any]:
    """Every option, from wherever it is said."""
    names = [setting.name for setting in TABLE if setting.section in ("local", "harvest", "up", "allocator")]
    values = {name.rpartition(".")[2]: settings.value(name) for name in names}
    values["daemon_python"] = settings.value("daemon_python") or sys.executable
    values["leave_memory_mib"] = values.pop("leave_memory") >> 20
    return values


def _refuse_second(state_dir: Path) -> None:
    found = daemons.load(state_dir)
    if found and (alive := [daemon for daemon in found[0] if daemon.alive]):
        raise ConfigError(
            f"already up: {', '.join(f'{d.name} (pid {d.pid})' for d in alive)}",
            hint="rfaas down, or another --state-dir",
        )


def _slurm_plan(options: dict[str, Any]) -> dict[str, Any]:
    """Ask the plugin whether this cluster can be harvested, and how."""
    command = [options["daemon_python"], "-m", "rfaas_slurm_plugin", "check"]
    for name in ("partition", "listen"):
        if options[name]:
            command += [f"--{name}", options[name]]
    command += [f"--node={name}" for name in options["nodes"]]
    command += [f"--sbatch-option={text}" for text in options["sbatch_options"]]
    answer = _run_json(command, timeout_s=60.0)
    if "error" in answer:
        raise ConfigError(answer["error"], hint=answer["hint"])
    return answer


def _run_json(command: Sequence[str], timeout_s: float) -> dict[str, Any]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        answer = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{command[0]}: {error}", hint="is --daemon-python right?") from error
    except ValueError as error:
        text = (done.stderr or done.stdout).strip()[-500:]
        raise ConfigError(f"{' '.join(command[:4])} failed: {text}") from error
    assert isinstance(answer, dict)
    return answer


def _harvester(python: str, state_dir: Path, plan: dict[str, Any], options: dict[str, Any]) -> list[str]:
    policy_fields = ("leave_cores", "leave_memory_mib", "slice_cores", "max_cores", "backoff_s")
    settings = {
        "plan": plan,
        "policy": {name: options[name] for name in policy_fields} | {"nodes": plan["nodes"]},
        "daemon_python": python,
        "time_limit_min": options["time_limit_min"],
        "cycle_s": options["cycle_s"],
        "sbatch_options": list(options["sbatch_options"]),
    }
    harvest = [python, "-m", "rfaas_slurm_plugin", "harvest"]
    return [*harvest, "--state-dir", str(state_dir), "--settings", json.dumps(settings)]


def _local_agent(python: str, state_dir: Path, options: dict[str, Any]) -> list[str]:
    cores = options["cores"] or len(os.sched_getaffinity(0))
    agent = [python, "-m", "rfaas_executors.agent", "--state-dir", str(state_dir)]
    return [
        *agent,
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


def _wait_for_allocator(state_dir: Path, daemon: Daemon) -> dict[str, Any]:
    path = state_dir / "allocator.json"

    def address() -> dict[str, Any] | None:
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        return found if found.get("pid") == daemon.pid else None

    found = _wait(address, daemon, START_TIMEOUT_S)
    if found is None:
        said, _, remedy = _tail(state_dir, daemon).partition("\n  remedy: ")
        raise ConfigError(f"the allocator did not start: {said}", hint=remedy or f"rfaas logs {daemon.name}")
    return found


def _wait(condition: Callable[[], dict[str, Any] | None], daemon: Daemon, timeout_s: float) -> dict[str, Any] | None:
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
        text = (state_dir / "log" / f"{daemon.name}.log").read_text(errors="replace")
    except OSError as error:
        return str(error)
    return "\n".join(text.strip().splitlines()[-3:]) or "it said nothing"


@click.command("down")
@state_dir_option
@json_option
@click.option("--purge", is_flag=True, help="Remove the state directory too: secret, journal and logs.")
def down(state_dir: Path, as_json: bool, purge: bool) -> None:
    """Stop everything that `rfaas up` started: running calls get their grace, harvest jobs end, nothing stays."""
    try:
        found = daemons.load(state_dir) if state_dir.exists() else None
    except RfaasError as error:
        fail(error, as_json=as_json)
    result: dict[str, Any] = {"stopped": [], "killed": [], "cancelled": 0, "left": []}
    if found:
        running, settings = found
        for daemon in (d for d in running if d.name == "harvester"):
            _note(result, daemon, daemons.stop(daemon, 10.0))
        if settings["slurm"]:
            result |= _cancel_slices(settings)
        # The allocator last: an agent that says goodbye to it leaves no slice behind in the journal.
        for daemon in (d for d in reversed(running) if d.name != "harvester"):
            _note(result, daemon, daemons.stop(daemon, 10.0))
        if not result["left"]:
            (state_dir / daemons.RECORD).unlink(missing_ok=True)
            (state_dir / "allocator.json").unlink(missing_ok=True)
    if purge and not result["left"]:
        _purge(state_dir)
    _report_down(result, found is not None, state_dir, as_json)


def _note(result: dict[str, Any], daemon: Daemon, by_itself: bool) -> None:
    result["stopped" if by_itself else "killed"].append(daemon.name)


def _cancel_slices(settings: dict[str, Any]) -> dict[str, Any]:
    plan = settings["slurm"]
    timeout_s = float(plan["overdue_s"]) + 40.0  # scancel waits KillWait, 30 s by default, before it kills
    command = [settings["daemon_python"], "-m", "rfaas_slurm_plugin", "cancel"]
    answer = _run_json([*command, "--alloc-id", settings["alloc_id"], "--timeout-s", str(timeout_s)], timeout_s + 60)
    if "error" in answer:
        return {"left": ["unknown"], "error": answer["error"], "hint": answer["hint"]}
    return answer


def _purge(state_dir: Path) -> None:
    """Remove what is ours, and the directory if that leaves it empty: never a tree that somebody else filled."""
    ours = (
        "secret",
        "tls.key",
        "tls.crt",
        "journal.reserve",
        "journal.sqlite",
        "journal.sqlite-wal",
        "journal.sqlite-shm",
        daemons.RECORD,
    )
    for name in ours:
        (state_dir / name).unlink(missing_ok=True)
    for log in (state_dir / "log").glob("*.log"):
        log.unlink(missing_ok=True)
    for directory in (state_dir / "log", state_dir):
        with contextlib.suppress(OSError):
            directory.rmdir()


def _report_down(result: dict[str, Any], was_up: bool, state_dir: Path, as_json: bool) -> None:
    if as_json:
        print_json(result)
    elif not was_up:
        click.echo(f"nothing is up in {state_dir}")
    else:
        slices = f", {result['cancelled']} slices ended" if result["cancelled"] else ""
        click.echo(f"down: {', '.join(result['stopped'] + result['killed'])}{slices}")
    if result["left"]:
        why = result.get("error", "Slurm has not ended them yet")
        click.echo(f"rfaas: slices are left ({why}): run `rfaas down` again", err=True)
        sys.exit(EXIT_FAILED)
