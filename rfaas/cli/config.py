"""`rfaas config`: what is set, where it comes from, and what is wrong in a file."""

from __future__ import annotations

from pathlib import Path

import click

from rfaas.cli.common import fail, json_option, print_json, print_table
from rfaas.settings import Found, Settings, files, kinds
from rfaas.settings.document import default_text
from rfaas_transport.errors import ConfigError, RfaasError


@click.group("config", invoke_without_command=True)
@click.option("--cflags", is_flag=True, help="Print what compilers of C need to find rfaas.h.")
@click.option("--fortran", is_flag=True, help="Print the path of rfaas.f90, to be compiled with the program.")
@click.option("--libs", is_flag=True, help="Print what the linker needs for librfaas.")
@click.option("--pkgconfigdir", is_flag=True, help="Print the directory of rfaas.pc, for PKG_CONFIG_PATH.")
@click.pass_context
def config(context: click.Context, cflags: bool, fortran: bool, libs: bool, pkgconfigdir: bool) -> None:
    """Show and check settings: values, where they come from, files; and what builds programs in C and Fortran.

    \b
    An argument in the program goes before the command line, then RFAAS_* variables, then rfaas.toml: nearest
    upward from here, then of the user ($XDG_CONFIG_HOME/rfaas), then of the machine (/etc/rfaas).

    \b
    rfaas config show                       every value and its source
    RFAAS_EXECUTOR_CORES=2 rfaas config show --set
    rfaas config check rfaas.toml           before you commit it
    cc program.c $(rfaas config --cflags --libs)
    """
    if context.invoked_subcommand is not None:
        return
    if not (cflags or fortran or libs or pkgconfigdir):
        click.echo(context.get_help())
        return
    from rfaas.librfaas import building

    try:
        found = building.words(cflags=cflags, fortran=fortran, libs=libs, pkgconfigdir=pkgconfigdir)
    except RfaasError as error:
        fail(error, as_json=False)
    click.echo(" ".join(found))


@config.command("show")
@click.option("--set", "only_set", is_flag=True, help="Only what is not the default.")
@json_option
def show(only_set: bool, as_json: bool) -> None:
    """Show each setting, its value, and which variable or file says so."""
    try:
        found = [each for each in Settings.load().all() if each.source != "default" or not only_set]
    except RfaasError as error:
        fail(error, as_json=as_json)
    if as_json:
        print_json({"settings": [as_json_value(each) for each in found]})
        return
    if not found:
        click.echo("nothing is set: every value is the default; see: rfaas config show")
        return
    print_table(("SETTING", "VALUE", "SOURCE"), [(each.setting.name, _value(each), _source(each)) for each in found])


@config.command("path")
@json_option
def path(as_json: bool) -> None:
    """Show which files are looked for, the first to win first, and which are there."""
    import os

    from rfaas.settings.lookup import working_directory

    try:
        found = list(files.places(os.environ, working_directory()))
    except RfaasError as error:
        fail(error, as_json=as_json)
    if as_json:
        rows = [{"kind": each.kind, "path": str(each.path), "exists": each.path.is_file()} for each in found]
        print_json({"files": rows})
        return
    print_table(
        ("KIND", "THERE", "FILE"), [(each.kind, "yes" if each.path.is_file() else "no", each.path) for each in found]
    )


@config.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def check(file: Path, as_json: bool) -> None:
    """Check a file: its syntax, every key, every value. Exit status 78 if anything is wrong."""
    try:
        values = files.read(file.absolute())
        if values is None:
            raise ConfigError(f"there is no file {file}", hint="rfaas config path shows where files are looked for")
        place = files.Place("project", file.absolute())
        found = Settings({}, {}, [(place, values)])
        checked = [found.find(name) for name in values]
    except RfaasError as error:
        fail(error, as_json=as_json)
    if as_json:
        print_json({"file": str(file), "settings": [as_json_value(each) for each in checked]})
    else:
        click.echo(f"{file}: {len(checked)} settings, nothing wrong")


def _value(found: Found) -> str:
    if found.source == "default" and found.value in (None, ()):
        return f"({default_text(found.setting)})"
    return kinds.show(found.setting.kind, found.value)


def _source(found: Found) -> str:
    return found.source if not found.where else f"{found.source} {found.where}"


def as_json_value(found: Found) -> dict[str, object]:
    """One setting as JSON."""
    value = list(found.value) if isinstance(found.value, tuple) else found.value
    return {
        "name": found.setting.name,
        "environment": found.setting.environment,
        "value": value,
        "unit": found.setting.kind.unit,
        "source": found.source,
        "where": found.where,
        "default": default_text(found.setting),
    }
