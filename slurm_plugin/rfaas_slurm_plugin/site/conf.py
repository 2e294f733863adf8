"""slurm.conf as settings, each with the file and line where it stands. Includes are followed; nothing is changed.

Source: slurm.conf(5): `Key=Value` words, comments after #, a backslash at the end goes on, `Include FILE`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rfaas_transport.errors import ConfigError

MAX_DEPTH: Final = 8
_WORD: Final = re.compile(r'([A-Za-z_][\w/.-]*)\s*[+*/-]?=\s*("[^"]*"|[^\s"]*)')
_INCLUDE: Final = re.compile(r"include\s+(\S.*)", re.IGNORECASE)
_HEADS: Final = frozenset(["nodename", "partitionname", "downnodes", "frontendname", "nodeset", "slurmctldhost"])


@dataclass(frozen=True, slots=True)
class Line:
    """One line with its continuations, without comments."""

    file: Path
    number: int
    text: str

    @property
    def where(self) -> str:
        """`/etc/slurm/slurm.conf:12`."""
        return f"{self.file}:{self.number}"


@dataclass(frozen=True, slots=True)
class Entry:
    """The words of one line, by their names in lower case."""

    line: Line
    words: dict[str, str]

    def get(self, name: str, default: str = "") -> str:
        """A value as written, without quotes."""
        return self.words.get(name.lower(), default)


@dataclass(slots=True)
class SlurmConf:
    """What is set: settings of the whole cluster by name, and nodes and partitions in their order."""

    settings: dict[str, Entry] = field(default_factory=dict)  # the last line of a name counts, as for Slurm
    partitions: list[Entry] = field(default_factory=list)  # DEFAULT lines too
    nodes: list[Entry] = field(default_factory=list)  # and sets of them; DEFAULT lines too
    files: list[Path] = field(default_factory=list)

    def setting(self, name: str) -> str:
        """Value of a setting, "" if it is not there."""
        entry = self.settings.get(name.lower())
        return "" if entry is None else entry.get(name)

    def partition(self, name: str) -> Entry | None:
        """The line of a partition of that name."""
        return next((entry for entry in self.partitions if entry.get("PartitionName") == name), None)

    def partition_word(self, entry: Entry, name: str, default: str) -> str:
        """A word of a partition: its own, else that of the last DEFAULT line before it, else `default`."""
        found = default
        for other in self.partitions:
            if other is entry:
                return entry.get(name, found)
            if other.get("PartitionName").upper() == "DEFAULT":
                found = other.get(name, found)
        return entry.get(name, found)


def read(path: Path, text: bytes | None = None) -> SlurmConf:
    """Read slurm.conf and what it includes.

    Args:
        path: of slurm.conf.
        text: what it is taken to hold, if not what it holds.

    Raises:
        ConfigError: a file can't be read, or a line is not understood; the message names file and line.
    """
    conf = SlurmConf()
    for line in _lines(path, path.parent, 0, conf.files, text):
        words = _words(line)
        head = next(iter(words))
        entry = Entry(line, words)
        if head == "partitionname":
            conf.partitions.append(entry)
        elif head in ("nodename", "nodeset"):
            conf.nodes.append(entry)
        elif head not in _HEADS:
            for name in words:
                conf.settings[name] = entry
    return conf


def _lines(path: Path, folder: Path, depth: int, files: list[Path], text: bytes | None = None) -> Iterator[Line]:
    for line in logical_lines(path, _text(path, text)):
        included = _INCLUDE.fullmatch(line.text)
        if included is None:
            yield line
            continue
        if depth >= MAX_DEPTH:
            raise ConfigError(f"{line.where}: more than {MAX_DEPTH} files include each other", hint="is there a ring?")
        name = included[1].strip().strip('"')
        if "%" in name or "*" in name:
            raise ConfigError(
                f"{line.where}: Include {name}: patterns are not understood here",
                hint="name the files one by one, or add the lines that `rfaas slurm install` prints by hand",
            )
        try:
            yield from _lines(folder / name, folder, depth + 1, files)
        except FileNotFoundError as error:
            raise ConfigError(f"{line.where}: {folder / name} is not there", hint="mend the Include line") from error
    files.append(path)


def _text(path: Path, text: bytes | None) -> str:
    try:
        return (path.read_bytes() if text is None else text).decode()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="run this as who may read it, mostly root") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: byte {error.start} is not UTF-8", hint="mend it, or add the lines by hand"
        ) from error


def logical_lines(path: Path, text: str) -> Iterator[Line]:
    """Lines without comments, those that go on joined, empty ones left out."""
    whole, first = "", 0
    for number, physical in enumerate(text.split("\n"), 1):  # as Slurm counts; a carriage return is stripped
        bare = re.sub(r"(?<!\\)#.*", "", physical).rstrip()
        first = first or number
        if bare.endswith("\\"):
            whole += bare[:-1] + " "
            continue
        whole = (whole + bare).strip()
        if whole:
            yield Line(path, first, whole)
        whole, first = "", 0
    if whole.strip():
        yield Line(path, first, whole.strip())


def _words(line: Line) -> dict[str, str]:
    words = {name.lower(): value.strip('"') for name, value in _WORD.findall(line.text)}
    rest = _WORD.sub("", line.text).strip()
    if rest or not words:
        raise ConfigError(
            f"{line.where}: {rest[:60] or line.text[:60]!r} is not understood",
            hint="is it Key=Value? Slurm itself says more: scontrol reconfigure",
        )
    return words
