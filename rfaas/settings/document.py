"""docs/configuration.md, made of the table: `python -m rfaas.settings.document > docs/configuration.md`."""

from __future__ import annotations

from collections.abc import Iterator

from rfaas.settings import kinds
from rfaas.settings.table import TABLE, Setting

HEAD = """# Configuration

Made from `rfaas/settings/table.py` by `python -m rfaas.settings.document`; a test keeps them equal.

Nothing needs to be set. Where something is, the first of these that says it wins:

1. the argument in the program: `rfaas.Executor(memory="2GiB")`
2. the command line: `rfaas up --cores 4`
3. the environment: `RFAAS_EXECUTOR_MEMORY=2GiB`
4. the project: `rfaas.toml` in the working directory or the nearest above it; `RFAAS_CONFIG=FILE` names another, `none`
   means none
5. the user: `$XDG_CONFIG_HOME/rfaas/rfaas.toml` (`~/.config/rfaas/rfaas.toml`)
6. the machine: `/etc/rfaas/rfaas.toml`
7. the default

`rfaas config show` says each value and where it comes from, `rfaas config path` the files, `rfaas config check FILE`
what is wrong in one. A key or variable that is mistyped is an error that says which was meant. A file that belongs to
somebody else, or that everybody can write, is not believed: it could name programs to start. Relative paths are meant
from the file's directory. Daemons that `rfaas up` starts get what the files said then.

```toml
allocator = "embedded"

[executor]
memory = "2GiB"
acquire_timeout_s = "10m"

[harvest]
partition = "scavenge"
leave_cores = 2
```
"""

SECTIONS = {
    "": ("Before all sections", "Whom programs and commands ask, and what daemons say."),
    "executor": ("[executor]", "Defaults of `rfaas.Executor`; its arguments have the same names."),
    "remote_memory": (
        "`[memory]`: borrowed memory",
        "The defaults of `rfaas.RemoteMemory`, beside those of `[executor]` that it has too.",
    ),
    "session": ("[session]", "The session process beside a user's programs."),
    "tcp": (
        "[tcp]",
        "Sockets of calls to and from other hosts; each side sets its own (docs/transport.md).",
    ),
    "leases": ("[leases]", "The allocator."),
    "policy": ("[policy]", "What the allocator allows and charges, and the hosts that it knows."),
    "local": ("[local]", "`rfaas up` on one host, and `rfaas agent`."),
    "agent": ("[agent]", "Every agent: embedded, of `rfaas up`, of Slurm's jobs, by hand."),
    "guard": ("[guard]", "The neighbour guard of every agent but embedded ones (docs/neighbours.md)."),
    "up": ("[up]", "`rfaas up` in general."),
    "site": ("[site]", "Slices of nodes outside of Slurm's jobs, where the site lends them (docs/site.md)."),
    "harvest": ("[harvest]", "`rfaas up --slurm`."),
}


def document() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_sections()])


def _sections() -> Iterator[str]:
    for section, (title, about) in SECTIONS.items():
        yield f"## {title}\n\n{about}\n"
        yield "| key | environment | kind | unit | default | what | why that default |"
        yield "| --- | --- | --- | --- | --- | --- | --- |"
        yield from (_row(setting) for setting in TABLE if setting.section == section)
        yield ""


def _row(setting: Setting) -> str:
    option = f" (`{setting.option}`)" if setting.option else ""
    cells = (
        f"`{setting.key}`",
        f"`{setting.environment}`",
        setting.kind.name,
        setting.kind.unit or "-",
        default_text(setting),
        setting.about + option,
        setting.why,
    )
    return f"| {' | '.join(cells)} |"


def default_text(setting: Setting) -> str:
    """The default for people."""
    if setting.default in (None, ()):
        return setting.otherwise
    return kinds.show(setting.kind, setting.default)


if __name__ == "__main__":
    print(document(), end="")
