"""`rfaas doctor`: look for what may hinder rfaas here, and say what to do."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import click

from rfaas.cli.common import EXIT_FAILED, json_option, print_json, print_table, state_dir_option
from rfaas.doctor import examine


@click.command("doctor")
@click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors.")
@state_dir_option
@json_option
def doctor(quiet: bool, state_dir: Path, as_json: bool) -> None:
    """Look for what may hinder rfaas here; say what to do about each finding.

    \b
    SEVERITY ok       as it should be
             info     absent, and may be
             warning  works, but not as well, or not for long
             error    does not work; exit status 1
    """
    found = examine(state_dir)
    shown = [finding for finding in found if not quiet or finding.severity in ("warning", "error")]
    is_sick = any(finding.severity == "error" for finding in found)
    if as_json:
        print_json({"healthy": not is_sick, "findings": [finding._asdict() for finding in shown]})
    else:
        if shown:
            print_table(("SEVERITY", "CHECK", "FOUND"), [(f.severity, f.check, f.text) for f in shown])
        for finding in shown:
            if finding.remedy and finding.severity in ("warning", "error"):
                click.echo(f"{finding.check}: {finding.remedy}")
        counts = Counter(finding.severity for finding in found)
        click.echo(", ".join(f"{counts[s]} {s}" for s in ("ok", "info", "warning", "error") if counts[s]))
    sys.exit(EXIT_FAILED if is_sick else 0)
