"""`rfaas slurm install` and `uninstall`: the lines that a site needs to be harvested, added and taken away again."""

from __future__ import annotations

import os
import stat
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from rfaas.cli.common import fail, json_option, print_json
from rfaas_slurm_plugin.site import block, conf, files, plan
from rfaas_slurm_plugin.views.hostlist import expand
from rfaas_transport.errors import ConfigError, RfaasError

DEFAULT_CONF: Final = "/etc/slurm/slurm.conf"
DEFAULTS: Final = plan.Wanted()
RECONFIGURE: Final = "scontrol reconfigure"
CHECK: Final = "rfaas slurm check"
HOOK_PROGRAM: Final = "python -c 'from rfaas_slurm_plugin.programs import hook_program as p; print(p())'"
RESTART: Final = (
    "systemctl restart slurmctld   # PreemptType, PrologSlurmctld and EpilogSlurmctld are read at its start"
)

conf_option = click.option(
    "--conf",
    "path",
    type=click.Path(path_type=Path),
    default=lambda: Path(os.environ.get("SLURM_CONF") or DEFAULT_CONF),
    show_default=f"$SLURM_CONF or {DEFAULT_CONF}",
    help="The cluster's slurm.conf; plugstack.conf lies beside it.",
)


@click.command()
@conf_option
@click.option("--partition", default=DEFAULTS.partition, show_default=True, help="Name of the partition to add.")
@click.option("--nodes", default=DEFAULTS.nodes, show_default=True, help="Its nodes, as a hostlist.")
@click.option(
    "--grace",
    "grace_s",
    type=click.IntRange(0, 3600),
    default=DEFAULTS.grace_s,
    show_default=True,
    help="GraceTime in seconds: what running calls get when a job wants the node.",
)
@click.option("--hooks", "hook", default="", help="Site mode: path of rfaas-hook on every node, for Prolog and Epilog.")
@click.option("--spank", default="", help="Path of rfaas_spank.so on every node, for --rfaas-share of jobs.")
@click.option("--dry-run", is_flag=True, help="Print what would change as a diff.")
@click.option("--write", is_flag=True, help="Change the files; without it nothing is written.")
@json_option
def install(
    path: Path,
    partition: str,
    nodes: str,
    grace_s: int,
    hook: str,
    spank: str,
    dry_run: bool,
    write: bool,
    as_json: bool,
) -> None:
    """Print the lines that let a cluster be harvested; with --write add them to slurm.conf.

    \b
    rfaas slurm install              what to add, and what to do besides
    rfaas slurm install --dry-run    the same as a diff
    rfaas slurm install --write      add it: one marked block at the end of each file, the old file kept beside it

    Asked again it replaces its block. Nothing of the site's is changed: where a line stands in the way this is refused,
    with its file and line.
    """
    try:
        _refuse_wrong_words(partition, nodes, hook, spank)
        wanted = plan.Wanted(partition, nodes, grace_s, hook, spank)
        made, changes = _plan(path, wanted)
        if write and not dry_run and hook:
            _refuse_missing_hook(Path(hook))
        written = files.write(changes, keep_backup=True) if write and not dry_run else []
    except RfaasError as error:
        fail(error, as_json=as_json)
    after = [*_after(changes), CHECK] if written or not write else []
    if as_json:
        shown = [{"file": str(change.path), "diff": change.diff()} for change in changes]
        print_json({**asdict(made), "changes": shown, "written": [str(file) for file in written], "next": after})
    elif dry_run:
        click.echo("".join(change.diff() for change in changes) or "nothing would change", nl=not changes)
    else:
        _tell(path, made, written, write, after)


def _refuse_wrong_words(partition: str, nodes: str, *paths: str) -> None:
    bare = partition.replace("-", "").replace("_", "")
    if not (bare.isascii() and bare.isalnum()) or partition.upper() in ("DEFAULT", "ALL"):
        raise ConfigError(f"--partition {partition!r} is no name for a partition", hint="letters, digits, - and _")
    try:
        expand(nodes)
    except ValueError as error:
        raise ConfigError(f"--nodes: {error}", hint='write a hostlist as Slurm does: "n[1-4,7],login"') from error
    if any(char.isspace() or char in '"#\\=' for char in nodes):
        raise ConfigError(f"--nodes {nodes!r} is no hostlist", hint='write "n[1-4,7],login"')
    for path in paths:
        if path and (not path.startswith("/") or any(char.isspace() or char in '"#\\' for char in path)):
            raise ConfigError(f"{path!r} is no absolute path that slurm.conf can hold", hint="name it in full")


def _plan(path: Path, wanted: plan.Wanted) -> tuple[plan.SitePlan, list[files.Change]]:
    """What to write, judged without the block that is there: a second run plans the same as the first."""
    old = files.content(path)
    if old is None:
        raise ConfigError(f"{path} is not there", hint="name the cluster's slurm.conf with --conf")
    bare = _without(path, old)
    made = plan.make(conf.read(path, text=bare), wanted)
    changes = [files.Change(path, old, block.with_block(bare, made.slurm_conf), bare)]
    plugstack = path.with_name("plugstack.conf")
    has = files.content(plugstack)
    rest = _without(plugstack, has)
    changes.append(
        files.Change(plugstack, has, block.with_block(rest, made.plugstack) if made.plugstack else rest, rest)
    )
    return made, [change for change in changes if change.old != change.new]


def _without(path: Path, text: bytes | None) -> bytes | None:
    try:
        return block.without(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from error


def _refuse_missing_hook(hook: Path) -> None:
    """Slurm drains a node whose Prolog or Epilog can't be run (22.05: "Prolog error"), and fails the job there."""
    hint = f'on every node and beside slurmctld, before this: install -m 0755 "$({HOOK_PROGRAM})" {hook}'
    try:
        status = hook.stat()
    except OSError as error:
        raise ConfigError(f"{hook}: {error.strerror}", hint=hint) from error
    if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o001:  # slurmctld runs it as SlurmUser
        raise ConfigError(f"{hook} is no program that everybody may run", hint=hint)
    if status.st_uid or status.st_mode & 0o022:
        raise ConfigError(f"{hook} belongs to another than root, or others may write to it", hint=hint)


def _after(changes: list[files.Change]) -> list[str]:
    """What makes Slurm take notice of these changes."""
    lines: set[str] = set()
    for change in changes:
        old, new = ((text or b"").decode(errors="replace").split("\n") for text in (change.old, change.new))
        lines ^= set(old) ^ set(new)
    restart = plan.needs_restart(lines)
    on_nodes = any(line.partition("=")[0] in (*plan.ON_NODES, "PrologFlags") for line in lines)
    return [*([RESTART] if restart else []), *([RECONFIGURE] if on_nodes or not restart else [])]


def _tell(path: Path, made: plan.SitePlan, written: list[Path], write: bool, after: list[str]) -> None:
    if write:
        click.echo("\n".join(f"wrote {file}" for file in written) or "everything is there already: nothing was written")
    else:
        for file, lines in ((path, made.slurm_conf), (path.with_name("plugstack.conf"), made.plugstack)):
            if lines:
                click.echo(f"# at the end of {file}:")
                click.echo("\n".join(lines))
    for number, step in enumerate([*made.by_hand, *after]):
        click.echo(f"{'then: ' if number == 0 else '      '}{step}")
    if not write:
        click.echo("Nothing was written: --write does it, `rfaas slurm uninstall --write` undoes it.")


@click.command()
@conf_option
@click.option("--dry-run", is_flag=True, help="Print what would change as a diff; this is the default.")
@click.option("--write", is_flag=True, help="Change the files.")
@json_option
def uninstall(path: Path, dry_run: bool, write: bool, as_json: bool) -> None:
    """Take the lines of `rfaas slurm install` away again; every other byte stays as it is.

    First end what harvests (`rfaas down`): jobs of a partition that goes end at once, without a notice.
    """
    try:
        if files.content(path) is None:
            raise ConfigError(f"{path} is not there", hint="name the cluster's slurm.conf with --conf")
        ours = (path, path.with_name("plugstack.conf"))
        olds = [(file, files.content(file)) for file in ours]
        found = [files.Change(file, old, site, site) for file, old in olds for site in (_without(file, old),)]
        changes = [change for change in found if change.old != change.new]
        written = []
        if write and not dry_run:
            written = files.write(changes, keep_backup=False)
            files.remove_backups([file.resolve() for file in ours])  # of an install that was killed before it wrote
        after = _after(changes) if changes else []
    except RfaasError as error:
        fail(error, as_json=as_json)
    if as_json:
        shown = [{"file": str(change.path), "diff": change.diff()} for change in changes]
        print_json({"changes": shown, "written": [str(file) for file in written], "next": after})
    elif written:
        click.echo("\n".join(f"put back {file}" for file in written))
        click.echo("\n".join(f"{'then: ' if number == 0 else '      '}{step}" for number, step in enumerate(after)))
    elif changes:
        click.echo("".join(change.diff() for change in changes), nl=False)
        click.echo("Nothing was written: --write does it.")
    else:
        click.echo(f"{path} has no lines of rfaas")
