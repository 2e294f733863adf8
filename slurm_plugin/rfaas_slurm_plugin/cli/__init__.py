"""`rfaas slurm`: what an administrator asks and does, one module a command; a command is imported only when it runs."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Final

import click

COMMANDS: Final = {
    "check": "rfaas_slurm_plugin.cli.check:check",
    "install": "rfaas_slurm_plugin.cli.install:install",
    "uninstall": "rfaas_slurm_plugin.cli.install:uninstall",
    "status": "rfaas_slurm_plugin.cli.status:status",
    "drain": "rfaas_slurm_plugin.cli.drain:drain",
    "resume": "rfaas_slurm_plugin.cli.drain:resume",
    "report": "rfaas_slurm_plugin.cli.report:report",
    "simulate": "rfaas_slurm_plugin.cli.simulate:simulate",
}
"""Each command and the click command that it is."""


class LazyCommands(click.Group):
    """A group that knows its commands by name; their lines of help are read from the sources."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command; None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one line for each command, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_line(where)) for name, where in COMMANDS.items()])


def _first_line(where: str) -> str:
    module, _, name = where.partition(":")
    source = Path(__file__).with_name(module.rpartition(".")[2] + ".py")
    for node in ast.parse(source.read_bytes()).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


@click.group(cls=LazyCommands)
def slurm() -> None:
    """Prepare a Slurm cluster for harvesting, watch it, and take all of it back."""
