"""`rfaas.toml`: which files there are, who may have written them, and what they say, key by key.

A file in a directory above the working directory names interpreters that are started, so it is believed only if the
user or root owns it and nobody but owner and group can write it. Must not load tomllib where there is no file.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from rfaas.settings.spelling import did_you_mean
from rfaas.settings.table import BY_NAME, CONFIG_VARIABLE, RENAMED
from rfaas_transport.errors import ConfigError

FILE_NAME: Final = "rfaas.toml"
SYSTEM_FILE: Final = Path("/etc/rfaas/rfaas.toml")


class Place(NamedTuple):
    """A file that may hold settings. `kind`: project, user or system; earlier ones win."""

    kind: str
    path: Path


def places(environ: Mapping[str, str], directory: Path) -> Iterator[Place]:
    """Where files are looked for, the first to win first; a project's only if there is one.

    Raises:
        ConfigError: RFAAS_CONFIG names a file that is not there.
    """
    named = environ.get(CONFIG_VARIABLE, "")
    if named and named != "none":
        path = Path(named).expanduser().absolute()
        if not path.is_file():
            raise ConfigError(f"{CONFIG_VARIABLE}={named!r} is no file", hint='name a file, or "none" for no project')
        yield Place("project", path)
    elif not named:
        near = (folder / FILE_NAME for folder in (directory, *directory.parents))
        yield from (Place("project", path) for path in list(filter(os.path.isfile, near))[:1])
    base = environ.get("XDG_CONFIG_HOME") or "~/.config"
    with contextlib.suppress(RuntimeError):  # no HOME and no entry in passwd: a user without files
        yield Place("user", Path(base).expanduser() / "rfaas" / FILE_NAME)
    yield Place("system", SYSTEM_FILE)


def read(path: Path) -> dict[str, Any] | None:
    """Values of one file by setting's name, keys checked, values not; None if there is no such file.

    Raises:
        ConfigError: not readable, not ours, no TOML, or a key that means nothing.
    """
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    if about.st_uid not in (os.geteuid(), 0) or about.st_mode & stat.S_IWOTH:
        whose = "everybody can write it" if about.st_mode & stat.S_IWOTH else f"it belongs to uid {about.st_uid}"
        raise ConfigError(
            f"{path} is not believed: {whose}, and it could name programs to start",
            hint=f"chmod o-w {path} if it is yours, or set {CONFIG_VARIABLE}=none",
        )
    return _parsed(path, about.st_mtime_ns, about.st_size, about.st_ino)


@lru_cache(maxsize=8)
def _parsed(path: Path, _mtime_ns: int, _size: int, _inode: int) -> dict[str, Any]:
    import tomllib  # here: a program without a file never pays for it

    text = ""
    try:
        text = path.read_bytes().decode()
        content = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}", hint=f"chmod u+r {path}") from error
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        hint = _both(text) or "see https://toml.io; `rfaas config check FILE`"
        raise ConfigError(f"{path} is no TOML: {error}", hint=hint) from error
    values: dict[str, Any] = {}
    sections = {setting.section for setting in BY_NAME.values()} - {""}
    renamed = {name.partition(".")[0]: new.partition(".")[0] for name, new in RENAMED.items()}
    for key, value in content.items():
        if isinstance(value, dict) and key in renamed:
            section = f"[{key}] is no section any more"
            raise ConfigError(f"{path}{_line(text, key)}: {section}", hint=f"it is called [{renamed[key]}]")
        if isinstance(value, dict) and key in sections:
            values.update({f"{key}.{inner}": one for inner, one in value.items()})
        else:
            values[key] = value
    for name, value in values.items():
        if name in sections and name not in BY_NAME:
            raise ConfigError(f"{path}: {name} is a section", hint=f"write [{name}], and its keys below")
        if name not in BY_NAME:
            _refuse(path, text, name, {f"[{each}]" for each in sections} if isinstance(value, dict) else BY_NAME)
    return values


def _both(text: str) -> str:
    """What to do about the one name that was a key and a section."""
    key, section = (re.search(pattern, text, re.MULTILINE) for pattern in (r"^\s*allocator\s*=", r"^\s*\[allocator\b"))
    return "the section [allocator] is called [policy] now" if key and section else ""


def _line(text: str, key: str) -> str:
    """ ":N" of the first line that begins with a key or a section, for messages; "" if there is none."""
    return next(
        (f":{n}" for n, one in enumerate(text.splitlines(), 1) if re.match(rf"\s*\[?{re.escape(key)}\b", one)), ""
    )


def _refuse(path: Path, text: str, name: str, known: Iterable[str]) -> None:
    raise ConfigError(
        f"{path}{_line(text, name.rpartition('.')[2])}: {name} is no setting",
        hint=did_you_mean(name, known) or "`rfaas config show` lists all settings",
    )
