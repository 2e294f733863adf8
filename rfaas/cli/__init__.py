"""The `rfaas` command: a group whose sub-commands are found by the entry-point group `rfaas.commands`.

Must stay quick to start: a sub-command's module is imported only when that command runs, so nothing here may import
grpc, numpy or a component. Its line in `rfaas --help` is read from the source, without running it.
"""

import ast
import importlib.util
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import click

import rfaas
from rfaas_transport.errors import RfaasError

COMMANDS_GROUP = "rfaas.commands"


class LazyGroup(click.Group):
    """A click group that knows its commands by name and imports each only when it is used."""

    def _installed(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=COMMANDS_GROUP)}

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as click's
        """Run a command; what is set wrong is said, never a traceback."""
        try:
            return super().invoke(ctx)
        except RfaasError as error:
            from rfaas.cli.common import fail

            fail(error, as_json="--json" in ctx.args or "--json" in sys.argv)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name every installed command, sorted, importing none."""
        return sorted({*super().list_commands(ctx), *self._installed()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command.

        Raises:
            click.ClickException: the command is installed but is not a click command; nothing has run.
        """
        entry = self._installed().get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        command = entry.load()
        if not isinstance(command, click.Command):
            raise click.ClickException(f"{entry.value} (entry point {cmd_name!r}) is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one line for each command; click's own version would import them all."""
        rows = [(name, _first_line(entry)) for name, entry in sorted(self._installed().items())]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _first_line(entry: EntryPoint) -> str:
    """First line of the docstring of the function that an entry point names, without importing its module."""
    spec = importlib.util.find_spec(entry.module)  # imports the parent package only
    if spec is None or spec.origin is None:
        return "(not importable)"
    body = ast.parse(Path(spec.origin).read_bytes()).body
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name == entry.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(rfaas.__version__, prog_name="rfaas")
def main() -> None:
    """Functions on the cores and memory that a Slurm cluster leaves idle.

    A program calls `rfaas.Executor` and needs none of these commands; they start, stop and show what serves it.
    """
