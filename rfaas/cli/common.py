"""What all commands share: options, exit codes, one JSON form, errors with their remedy.

Standard library and click only: `rfaas --help` and completion must stay quick.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import click

import rfaas.config
from rfaas_transport.errors import ConfigError, RfaasError

EXIT_FAILED: Final = 1  # the command ran and did not reach its aim
EXIT_UNAVAILABLE: Final = 69  # sysexits.h EX_UNAVAILABLE: nobody answers
EXIT_CONFIG: Final = 78  # EX_CONFIG: a setting is wrong

state_dir_option = click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    callback=lambda _context, _option, path: path.absolute(),  # the daemons run in another directory
    default=rfaas.config.state_dir,
    show_default="$RFAAS_STATE_DIR or ~/.local/state/rfaas",
    help="Where secret, journal and logs are; on a cluster, a directory that the nodes see too.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON value instead of text.")


class Seconds(click.FloatRange):
    """A number of seconds; not nan, which lies in no range and outside of none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """Refuse what is no number of seconds."""
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value} is no number of seconds", param, ctx)
        return found


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON value with the version of its form."""
    click.echo(json.dumps({"meta": {"schema": "rfaas/1"}, **value}))


def fail(error: RfaasError, *, as_json: bool) -> NoReturn:
    """Say what is wrong and what to do, and end with the fitting exit code."""
    if as_json:
        print_json({"error": error.message, "code": error.code, "hint": error.hint})
    else:
        click.echo(f"rfaas: {error}", err=True)
    sys.exit(EXIT_CONFIG if error.code == "config" else EXIT_UNAVAILABLE)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, right: bool = False) -> None:
    """Print columns like sinfo's: upper-case headers, two spaces between, numbers (`right`: all) to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(headers, *texts, strict=True)]
    to_right = [
        right or (bool(rows) and all(isinstance(row[i], int | float) for row in rows)) for i in range(len(headers))
    ]
    for row in [list(headers), *texts]:
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, to_right, strict=True)]
        click.echo("  ".join(cells).rstrip())


def run_json(command: Sequence[str], timeout_s: float) -> dict[str, Any]:
    """Run a program of ours that answers with one JSON object.

    Raises:
        ConfigError: it can't be run, took too long, or said something else.
    """
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
