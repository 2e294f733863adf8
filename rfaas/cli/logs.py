"""`rfaas logs`: what the daemons of a state directory said, in the order of time, each line with its daemon's name."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from rfaas.cli.common import fail, json_option, print_json, state_dir_option
from rfaas.settings.spelling import did_you_mean
from rfaas_transport.errors import ConfigError

POLL_S = 0.2
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d+")


class Line(NamedTuple):
    """A line of a log; `when` is the time that it, or the last line before it that has one, begins with."""

    when: str
    daemon: str
    text: str


@click.command("logs")
@click.argument("names", nargs=-1)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is said from now on, until Ctrl-C.")
@click.option("-n", "--lines", "n_lines", type=click.IntRange(0), default=100, show_default=True, help="Last lines.")
@state_dir_option
@json_option
def logs(names: tuple[str, ...], follow: bool, n_lines: int, state_dir: Path, as_json: bool) -> None:
    """Show what the daemons said: allocator, agent, harvester, session; all, or those named.

    \b
    rfaas logs                      the last 100 lines of all, in order of time
    rfaas logs -n 0 -f allocator    only what the allocator says from now on
    RFAAS_LOG=debug rfaas up …      to be told more
    """
    try:
        files = find_logs(state_dir, names)
    except ConfigError as error:
        fail(error, as_json=as_json)
    tails = [Tail(path) for path in files]
    lines = sorted((line for tail in tails for line in tail.read()), key=lambda line: line.when)
    shown = lines[-n_lines:] if n_lines else []
    width = max((len(path.stem) for path in files), default=0)
    if as_json and not follow:
        print_json({"lines": [line._asdict() for line in shown]})
        return
    _show(shown, width, as_json)
    try:
        while follow:
            time.sleep(POLL_S)
            tails += [Tail(path) for path in find_logs(state_dir, names) if path not in {tail.path for tail in tails}]
            _show(sorted((line for tail in tails for line in tail.read()), key=lambda line: line.when), width, as_json)
    except KeyboardInterrupt:
        sys.exit(130)


def find_logs(state_dir: Path, names: Sequence[str]) -> list[Path]:
    """The log files of a state directory, or those of the daemons named.

    Raises:
        ConfigError: there are none, or none of a name.
    """
    directory = state_dir / "log"
    there = {path.stem: path for path in sorted(directory.glob("*.log"))}
    if not there:
        raise ConfigError(f"there are no logs in {directory}", hint="start daemons with `rfaas up`, or --state-dir DIR")
    for name in names:
        if name not in there:
            hint = did_you_mean(name, there) or f"there are: {', '.join(there)}"
            raise ConfigError(f"there is no log of {name!r} in {directory}", hint=hint)
    return [there[name] for name in dict.fromkeys(names)] if names else list(there.values())


class Tail:
    """Reads what a growing file has that was not read yet; begins again when it was replaced or cut."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inode = 0
        self._position = 0
        self._when = ""

    def read(self) -> Iterator[Line]:
        """Whole lines since the last call."""
        try:
            with self.path.open("rb") as file:
                about = self.path.stat()
                if about.st_ino != self._inode or about.st_size < self._position:
                    self._inode, self._position = about.st_ino, 0
                file.seek(self._position)
                data = file.read()
        except OSError:  # `rfaas down --purge` meanwhile
            return
        whole, newline, _ = data.rpartition(b"\n")
        self._position += len(whole) + len(newline)
        for text in whole.decode(errors="replace").splitlines() if newline else ():
            match = _TIME.match(text)
            self._when = match[0] if match else self._when
            yield Line(self._when, self.path.stem, text)


def _show(lines: Sequence[Line], width: int, as_json: bool) -> None:
    for line in lines:
        click.echo(json.dumps(line._asdict()) if as_json else f"{line.daemon:{width}} | {line.text}")
