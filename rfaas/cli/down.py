"""`rfaas down`: stop what `rfaas up` started, leaving nothing.

What runs is in the record (`daemons.py`); without one the allocator's own address says whom to ask. Spec:
docs/spec/003-control.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any

import click

from rfaas.cli import daemons
from rfaas.cli.common import EXIT_FAILED, fail, json_option, print_json, run_json, state_dir_option
from rfaas.cli.daemons import Daemon
from rfaas.control.rests import RESTS
from rfaas_transport.errors import RfaasError

AGENTS_S = 10.0  # for agents to leave when the allocator has to ask them


@click.command("down")
@state_dir_option
@json_option
@click.option("--purge", is_flag=True, help="Remove the state directory too: secret, journal and logs.")
def down(state_dir: Path, as_json: bool, purge: bool) -> None:
    """Stop everything that `rfaas up` started: running calls get their grace, harvest jobs end, nothing stays."""
    result: dict[str, Any] = {"stopped": [], "killed": [], "cancelled": 0, "left": []}
    unrecorded = daemons.serving(state_dir)
    found = None
    try:
        found = daemons.load(state_dir) if state_dir.exists() else None
    except RfaasError as error:
        if unrecorded is None:
            fail(error, as_json=as_json)
    if found is not None:
        _stop_recorded(result, *found)
    elif unrecorded is not None:
        _ask_to_leave(state_dir)
        _note(result, unrecorded, daemons.wait_gone(unrecorded, AGENTS_S) or daemons.stop(unrecorded, 5.0))
    was_up = found is not None or unrecorded is not None
    if was_up and not result["left"]:
        (state_dir / daemons.RECORD).unlink(missing_ok=True)
        (state_dir / "allocator.json").unlink(missing_ok=True)
    if purge and not result["left"]:
        _purge(state_dir)
    _report_down(result, was_up, state_dir, as_json)


def _stop_recorded(result: dict[str, Any], running: list[Daemon], settings: dict[str, Any]) -> None:
    for daemon in (d for d in running if d.name == "harvester"):
        _note(result, daemon, daemons.stop(daemon, 10.0))
    if settings["slurm"]:
        result |= _cancel_slices(settings)
    # The allocator last: an agent that says goodbye to it leaves no slice behind in the journal.
    for daemon in (d for d in reversed(running) if d.name != "harvester"):
        _note(result, daemon, daemons.stop(daemon, 10.0))


def _ask_to_leave(state_dir: Path) -> None:
    """Have the allocator end its agents and then itself: nobody wrote down what else runs."""
    from rfaas.control.address import AllocatorAddress
    from rfaas.control.dial import AdminClient

    async def ask() -> None:
        async with AdminClient(AllocatorAddress.load(state_dir)) as admin:
            await admin.stop(timeout_s=AGENTS_S)

    with contextlib.suppress(RfaasError):  # then it is stopped by signals
        asyncio.run(ask())


def _note(result: dict[str, Any], daemon: Daemon, by_itself: bool) -> None:
    result["stopped" if by_itself else "killed"].append(daemon.name)


def _cancel_slices(settings: dict[str, Any]) -> dict[str, Any]:
    plan = settings["slurm"]
    timeout_s = float(plan["overdue_s"]) + 40.0  # scancel waits KillWait, 30 s by default, before it kills
    command = [settings["daemon_python"], "-m", "rfaas_slurm_plugin", "cancel"]
    answer = run_json([*command, "--alloc-id", settings["alloc_id"], "--timeout-s", str(timeout_s)], timeout_s + 60)
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
        "harvest.json",
        daemons.RECORD,
    )
    for name in ours:
        (state_dir / name).unlink(missing_ok=True)
    for log in (state_dir / "log").glob("*.log"):
        log.unlink(missing_ok=True)
    for rest in (state_dir / RESTS).glob("*.json"):
        rest.unlink(missing_ok=True)
    for directory in (state_dir / "log", state_dir / RESTS, state_dir):
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
