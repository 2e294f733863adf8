"""`rfaas accounting`: what leases cost, as a table, CSV, JSON or like `sacct -p`.

Asks the allocator (service Admin) and changes nothing. Numbers: docs/spec/002-lease.md section 9. Times of day are for
people; every duration was measured by an agent.
"""

from __future__ import annotations

import asyncio
import csv
import pwd
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click

from rfaas.cli.common import fail, json_option, print_json, print_table, state_dir_option
from rfaas.control.messages import Account
from rfaas.units import parse_duration_s
from rfaas_transport.errors import ConfigError, RfaasError

GIB: Final = 2**30

PARSABLE: Final = {
    "LeaseID": "lease",
    "User": "user",
    "UID": "uid",
    "JobName": "holder_name",
    "JobID": "job_id",
    "NodeList": "node",
    "State": "state",
    "Start": "start",
    "End": "end",
    "ElapsedRaw": "allocated_s",
    "AllocCPUS": "cores",
    "ReqMem": "memory_bytes",
    "CPUTimeRAW": "core_s",
    "MemTimeRaw": "gib_s",
    "TotalCPU": "cpu_s",
    "Workers": "workers",
    "AliveRaw": "alive_s",
    "RunningRaw": "running_s",
    "HotRaw": "hot_s",
    "WarmRaw": "warm_s",
    "Calls": "calls",
    "BytesIn": "bytes_in",
    "BytesOut": "bytes_out",
    "Cost": "cost",
    "Currency": "currency",
    "SharedBy": "shared_by",
    "Credit": "credit",
}
"""Columns of `-p`: sacct's own names where they mean the same, all times in seconds, memory-time in GiB-seconds."""


@click.command("accounting")
@state_dir_option
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values with a header.")
@click.option("-p", "--parsable", is_flag=True, help="Print fields separated and ended by |, like sacct -p.")
@click.option(
    "--since", metavar="WHEN", help="Leases that lived then or later: 24h, 2026-11-25, 2026-11-25T18:00 [all]."
)
@click.option("--user", metavar="USER", help="Only this user's leases, by name or uid.")
@click.option("--site", is_flag=True, help="What the site's allocator granted (docs/site.md), in place of leases.")
@click.option("--all", "everybody", is_flag=True, help="With --site, for its administrator: of all users.")
def accounting(
    state_dir: Path,
    as_json: bool,
    as_csv: bool,
    parsable: bool,
    since: str | None,
    user: str | None,
    site: bool,
    everybody: bool,
) -> None:
    """Show what leases cost: cores and memory held, time hot, warm and running, bytes, money.

    \b
    CORE_S  cores x seconds held        RUNNING_S  seconds of workers in calls
    GIB_S   memory x seconds held       CPU_S      CPU seconds as the kernel counts
    What jobs shared (rfaas share) is told below, with the credit of their owners.
    """
    if as_json + as_csv + parsable > 1:
        raise click.UsageError("give one of --json, --csv and --parsable")
    try:
        since_unix_s = _since_unix_s(since, time.time())
        rows = _site_rows(since_unix_s, everybody) if site else asyncio.run(_rows(state_dir, since_unix_s))
        rows = [row for row in rows if user is None or user in (row["user"], str(row["uid"]))]
    except RfaasError as error:
        fail(error, as_json=as_json)
    if as_json:
        print_json({"accounts": rows, "total": _total(rows)})
    elif as_csv:
        _print_csv(rows)
    elif parsable:
        _print_parsable(rows)
    else:
        _print_table(rows)


def _since_unix_s(text: str | None, now_unix_s: float) -> float:
    """Seconds since 1970 of a time of day, or of so long ago.

    Raises:
        ConfigError: it is neither.
    """
    if text is None:
        return 0.0
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass
    try:
        return now_unix_s - parse_duration_s(text, name="--since")
    except ConfigError:
        raise ConfigError(
            f"--since {text} is neither a time nor a duration", hint="write 2026-11-25T18:00, or 24h"
        ) from None


def _site_rows(since_unix_s: float, everybody: bool) -> list[dict[str, Any]]:
    from rfaas.settings import Settings
    from rfaas.site.asking import SiteAllocator
    from rfaas.site.borrower import SiteSettings
    from rfaas_transport.munge import Munge

    site = SiteSettings.of(Settings.load())
    if not site.allocator:
        raise ConfigError("no site's allocator is set", hint="set site.allocator (RFAAS_SITE_ALLOCATOR=HOST:PORT)")
    with SiteAllocator(site.allocator, Munge(site.munge_socket), allocator_uid=site.allocator_uid) as asked:
        accounts = list(asked.accounts(everybody=everybody))
    lived = (one for one in accounts if one.end_unix_s is None or one.end_unix_s >= since_unix_s)
    return [_row(account) for account in lived]


async def _rows(state_dir: Path, since_unix_s: float) -> list[dict[str, Any]]:
    from rfaas.control.address import AllocatorAddress
    from rfaas.control.dial import AdminClient

    async with AdminClient(AllocatorAddress.load(state_dir)) as admin:
        return [_row(account) async for account in admin.accounts(since_unix_s)]


def _row(account: Account) -> dict[str, Any]:
    usage = account.usage
    allocated_s = usage.allocated_ns / 1e9
    return {
        "lease": account.lease_id.hex(),
        "lease_seq": account.lease_seq,
        "user": _user_name(account.uid),
        "uid": account.uid,
        "holder": account.holder.hex(),
        "holder_name": account.holder_name,
        "node": account.node,
        "slice": account.slice_id.hex(),
        "job_id": account.job_id,
        "state": (account.reason or "active").upper(),
        "start": _time_text(account.start_unix_s),
        "end": "Unknown" if account.end_unix_s is None else _time_text(account.end_unix_s),
        "start_unix_s": account.start_unix_s,
        "end_unix_s": account.end_unix_s,
        "workers": account.workers,
        "cores": account.cores,
        "memory_bytes": account.memory_bytes,
        "allocated_s": allocated_s,
        "core_s": allocated_s * account.cores,
        "gib_s": allocated_s * account.memory_bytes / GIB,
        "alive_s": usage.alive_ns / 1e9,
        "running_s": usage.running_ns / 1e9,
        "hot_s": usage.hot_ns / 1e9,
        "warm_s": usage.warm_ns / 1e9,
        "cpu_s": usage.cpu_ns / 1e9,
        "calls": usage.calls,
        "bytes_in": usage.bytes_in,
        "bytes_out": usage.bytes_out,
        "cost": account.cost,
        "currency": account.currency,
        "shared_by": "" if account.shared_by is None else _user_name(account.shared_by),
        "credit": account.credit,
    }


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _time_text(unix_s: float) -> str:
    """As sacct writes it: local time, whole seconds."""
    return datetime.fromtimestamp(unix_s).isoformat(timespec="seconds")


SUMMED: Final = (
    "core_s",
    "gib_s",
    "running_s",
    "hot_s",
    "warm_s",
    "cpu_s",
    "calls",
    "bytes_in",
    "bytes_out",
    "cost",
    "credit",
)


def _total(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"leases": len(rows), **{name: sum(row[name] for row in rows) for name in SUMMED}}


def _plain(value: object) -> object:
    return f"{value:.6f}" if isinstance(value, float) else "" if value is None else value


def _print_csv(rows: Sequence[dict[str, Any]]) -> None:
    names = list(rows[0]) if rows else list(dict.fromkeys(PARSABLE.values()))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_plain(row[name]) for name in names] for row in rows)


def _print_parsable(rows: Sequence[dict[str, Any]]) -> None:
    click.echo("|".join(PARSABLE) + "|")
    for row in rows:
        click.echo("|".join(str(_plain(row[name])).replace("|", "/") for name in PARSABLE.values()) + "|")


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        click.echo("no leases in this time: nobody was given anything")
        return
    headers = ("LEASE", "USER", "NODE", "STATE", "START", "CORES", "CORE_S", "GIB_S", "RUNNING_S", "CPU_S", "CALLS")
    table = [
        (
            row["lease"][:8],
            row["user"],
            row["node"],
            row["state"],
            row["start"],
            row["cores"],
            *_sums(row),
            row["calls"],
        )
        for row in rows
    ]
    print_table(headers, table)
    total = _total(rows)
    core_s, gib_s, running_s, cpu_s = _sums(total)
    leases = "1 lease" if len(rows) == 1 else f"{len(rows)} leases"
    click.echo(f"{leases}: {core_s} core-s, {gib_s} GiB-s, {running_s} s running, {cpu_s} CPU-s", nl=False)
    currency = rows[-1]["currency"]
    click.echo(f", {total['cost']:.2f} {currency}".rstrip() if total["cost"] else "")
    for user in sorted({row["shared_by"] for row in rows} - {""}):
        lent = _total([row for row in rows if row["shared_by"] == user])
        credit = f", credit {lent['credit']:.2f} {currency}".rstrip() if lent["credit"] else ""
        click.echo(f"shared by jobs of {user}: {lent['core_s']:.1f} core-s, {lent['gib_s']:.1f} GiB-s{credit}")


def _sums(row: dict[str, Any]) -> tuple[float, ...]:
    return tuple(round(row[name], 1) for name in ("core_s", "gib_s", "running_s", "cpu_s"))
