"""`rfaas explain`: why is nothing running, and what is it with this lease, call or node?

Asks the allocator, reads logs and event logs, and where `rfaas up --slurm` runs asks Slurm. Changes nothing. What is
said of a snapshot is worked out by `rfaas.cli.reasons`, without I/O.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import click

from rfaas.cli import asking, daemons, reasons
from rfaas.cli.common import fail, json_option, print_json, state_dir_option
from rfaas.cli.reasons import Reason
from rfaas.control.messages import Snapshot
from rfaas_transport.errors import ConfigError, RfaasError

HEX = re.compile(r"[0-9a-f]{4,32}")


@click.command("explain")
@click.argument("subject", required=False)
@state_dir_option
@asking.pid_option
@json_option
def explain(subject: str | None, state_dir: Path, pid: int | None, as_json: bool) -> None:
    """Explain why nothing runs, or what it is with one LEASE, CALL or NODE.

    \b
    rfaas explain               what waits for workers, why, and what would help; what calls from here go over
    rfaas explain 1f00c3d2      a lease, by the first digits that `rfaas leases` shows
    rfaas explain n7            a node: its slices, its leases, what Slurm says of it, why it is not harvested
    rfaas explain 5b1e…:17      a call, by client and number, from the event log (setting event_log)
    """
    try:
        found = _named(_explain(subject, state_dir, pid), state_dir, pid)
    except RfaasError as error:
        fail(error, as_json=as_json)
    if as_json:
        print_json({"subject": subject or "", "reasons": [reason._asdict() for reason in found]})
        return
    for reason in found:
        click.echo(reason.text)
        if reason.remedy:
            click.echo(f"  remedy: {reason.remedy}")


def _explain(subject: str | None, state_dir: Path, pid: int | None) -> list[Reason]:
    if subject is not None and ":" in subject:
        return _call(subject, state_dir, pid)
    try:
        snapshot = asking.snapshot(state_dir, pid)
    except RfaasError as error:
        if subject is not None or pid is not None:
            raise
        return [Reason(error.message, error.hint), *_daemons(state_dir)]
    if subject is None and pid is not None:
        return [*reasons.of_waiting(snapshot), *_wanted_and_held(snapshot), *_channels()]
    if subject is None:
        said = [*reasons.of_waiting(snapshot), *_wanted_and_held(snapshot)]
        return [*said, *_channels(), *_supply(snapshot, state_dir)]
    if any(view.slice.node == subject for view in snapshot.slices):
        said = [*reasons.of_node(snapshot, subject), *_channels(node=subject)]
        return [*said, *_slurm_node(subject, state_dir)]
    if HEX.fullmatch(subject.lower()):
        found = reasons.of_lease(snapshot, subject.lower())
        if found:
            return [*found, *_channels(lease=subject.lower())]
    from_slurm = _slurm_node(subject, state_dir)
    if from_slurm:
        return [*reasons.of_node(snapshot, subject), *from_slurm]
    nodes = ", ".join(sorted({view.slice.node for view in snapshot.slices})) or "none"
    raise ConfigError(
        f"{subject!r} is no lease, node or call that is known here",
        hint=f"nodes with slices: {nodes}; leases that ended are forgotten; a call is CLIENT:NUMBER",
    )


def _wanted_and_held(snapshot: Snapshot) -> list[Reason]:
    return [*reasons.of_wants(snapshot), *reasons.of_spawned(snapshot)]


def _channels(*, lease: str = "", node: str = "") -> list[Reason]:
    return reasons.of_channels(asking.channels(), lease=lease, node=node)


def _named(found: list[Reason], state_dir: Path, pid: int | None) -> list[Reason]:
    """The same, with what programs are called beside their numbers."""
    if not any("program " in part for reason in found for part in reason):
        return found
    for holder, name in asking.names(state_dir, pid).items():
        number = f"program {holder.hex()[:8]}"
        if name:
            found = [Reason(*(part.replace(number, f"{number} ({name})") for part in reason)) for reason in found]
    return found


def _call(subject: str, state_dir: Path, pid: int | None) -> list[Reason]:
    from rfaas.settings import Settings

    directory = Settings.load().value("event_log")
    if directory is None:
        raise ConfigError(
            "calls are recorded only in the event log, which is off",
            hint="set event_log (RFAAS_EVENT_LOG=DIR) before the program starts",
        )
    client, _, number = subject.partition(":")
    if not number.isdecimal():
        raise ConfigError(f"{subject!r} is no call", hint="write CLIENT:NUMBER, e.g. 5b1e:17")
    snapshot = None
    with contextlib.suppress(RfaasError):  # the log alone says most
        snapshot = asking.snapshot(state_dir, pid)
    found = reasons.of_call(Path(directory), client.lower(), int(number), snapshot)
    if not found:
        raise ConfigError(f"{directory} knows no call {subject}", hint="is it the directory of that program?")
    return found


def _supply(snapshot: Snapshot, state_dir: Path) -> list[Reason]:
    """Where capacity should come from, if some is lacking."""
    lacking = bool(snapshot.waiting) or not any(view.state == "up" for view in snapshot.slices)
    return [*_daemons(state_dir), *_harvest(state_dir)] if lacking else []


def _daemons(state_dir: Path) -> list[Reason]:
    try:
        found = daemons.load(state_dir) if state_dir.is_dir() else None
    except RfaasError as error:
        return [Reason(error.message, error.hint)]
    dead = [daemon.name for daemon in found[0] if not daemon.alive] if found else []
    return [
        Reason(
            f"the {name} has ended: {_last_line(state_dir, name)}",
            f"`rfaas up` starts it again; `rfaas logs {name}` says more",
        )
        for name in dead
    ]


def _harvest(state_dir: Path) -> list[Reason]:
    try:
        found = daemons.load(state_dir)
    except RfaasError:
        return []
    if not found or not found[1].get("slurm"):
        return []
    from rfaas.cli import slurm_words

    said = [Reason(f"the harvester's last word: {_last_line(state_dir, 'harvester')}", "")]
    return said + slurm_words.pending_jobs(str(found[1]["alloc_id"]))


def _slurm_node(node: str, state_dir: Path) -> list[Reason]:
    from rfaas.cli import slurm_words

    return [*slurm_words.node(node), *slurm_words.verdict(state_dir, node)]


def _last_line(state_dir: Path, name: str) -> str:
    try:
        lines = (state_dir / "log" / f"{name}.log").read_text(errors="replace").strip().splitlines()
    except OSError as error:
        return str(error.strerror)
    return lines[-1] if lines else "it said nothing"
