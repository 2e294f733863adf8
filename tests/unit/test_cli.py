"""The command line finds commands by entry point, and imports one only when it runs."""

import subprocess
import sys
import textwrap

import pytest

COMMAND = '''
import click

print("module imported")

@click.command()
def greet() -> None:
    """Say something friendly.

    More that does not fit on one line.
    """
    click.echo("good morning")

not_a_command = 7
'''


@pytest.fixture
def rfaas(tmp_path):
    """Run `rfaas` beside an installed distribution that adds commands to it; returns the finished process."""
    site = tmp_path / "site"
    dist_info = site / "greeter-1.0.dist-info"
    dist_info.mkdir(parents=True)
    (site / "greeter_pkg").mkdir()
    (site / "greeter_pkg" / "__init__.py").touch()
    (site / "greeter_pkg" / "commands.py").write_text(COMMAND)
    (dist_info / "METADATA").write_text("Metadata-Version: 2.1\nName: greeter\nVersion: 1.0\n")
    (dist_info / "entry_points.txt").write_text(
        textwrap.dedent("""\
            [rfaas.commands]
            greet = greeter_pkg.commands:greet
            broken = greeter_pkg.commands:not_a_command
            """)
    )

    def run(*args):
        program = f"import sys; sys.path.insert(0, {str(site)!r}); from rfaas.cli import main; main(prog_name='rfaas')"
        return subprocess.run(
            [sys.executable, "-c", program, *args], cwd=tmp_path, capture_output=True, text=True, timeout=30
        )

    return run


def test_help_shows_one_line_for_each_command_and_imports_none(rfaas):
    done = rfaas("--help")
    assert done.returncode == 0, done.stderr
    assert "Say something friendly." in done.stdout
    assert "More that does not fit" not in done.stdout
    assert "module imported" not in done.stdout


def test_a_command_is_imported_when_it_runs(rfaas):
    done = rfaas("greet")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "module imported\ngood morning\n"


def test_an_unknown_command_is_a_usage_error(rfaas):
    done = rfaas("grete")
    assert done.returncode == 2
    assert "No such command 'grete'" in done.stderr


def test_an_entry_point_that_is_no_command_says_which(rfaas):
    done = rfaas("broken")
    assert done.returncode == 1
    assert "greeter_pkg.commands:not_a_command" in done.stderr
