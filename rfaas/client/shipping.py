"""Reading the files that an executor is to bring to its workers (`Executor(files=…)`).

They are read once, when the executor is made: later changes are not seen. Nothing outside of what was named is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from rfaas.client import bundles
from rfaas.client.bundles import File
from rfaas_transport.errors import ConfigError, PayloadTooLarge
from rfaas_transport.manifest import digest

SKIPPED: Final = ("__pycache__",)
_FILES_HINT: Final = 'write files=["helpers.py", "data/"] or files={"name there": "path here"}'

Files = Iterable[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]]


class Bundle:
    """Files as workers know them.

    Attributes:
        blob: see `rfaas.client.bundles`.
        digest: SHA-256 of `blob`.
        modules: names that can be imported from it.
    """

    def __init__(self, files: list[File]) -> None:
        self.blob = bundles.encode(files)
        self.digest = digest(self.blob)
        tops = {file.name.partition("/")[0] for file in files}
        self.modules = frozenset(top.removesuffix(".py") for top in tops)


def read(files: Files | None, limit_bytes: int) -> Bundle | None:
    """Read files and directories; None if none are named.

    Args:
        files: paths, each found on a worker under its last part, or names there with paths here.
        limit_bytes: of all together.

    Raises:
        ConfigError: one can't be read, is no file, leads elsewhere by a symbolic link, or two have one name.
        PayloadTooLarge: they are larger than that; as little as possible was read.
    """
    if files is None:
        return None
    if isinstance(files, str | os.PathLike) or not isinstance(files, Iterable):
        raise ConfigError(f"files={files!r} is no list of paths", hint=_FILES_HINT)
    named: list[tuple[str | None, str | os.PathLike[str]]]
    named = list(files.items()) if isinstance(files, Mapping) else [(None, path) for path in files]
    found: list[File] = []
    room = limit_bytes
    for name, path in named:
        for file in _read_named(name, path, room, limit_bytes):
            room -= len(file.data)
            found.append(file)
    try:
        return Bundle(found) if found else None
    except ValueError as error:
        raise ConfigError(f"files: {error}", hint=_FILES_HINT) from error


def _read_named(name: str | None, path: str | os.PathLike[str], room: int, limit_bytes: int) -> Iterator[File]:
    try:
        if not os.fspath(path):  # which would mean the whole working directory
            raise ConfigError("files: '' names nothing", hint=_FILES_HINT)
        root = Path(os.path.abspath(os.path.expanduser(os.fspath(path))))
        name = root.name if name is None else bundles.check_name(name)
        for relative, source in _walk(root):
            file = _read_one(f"{name}/{relative}" if relative else name, source, root, room, limit_bytes)
            room -= len(file.data)
            yield file
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, ConfigError | PayloadTooLarge):  # which are ValueErrors too
            raise
        raise ConfigError(f"files: {path!r} can't be shipped: {error}", hint=_FILES_HINT) from error


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """The files of a directory by their relative names, or the file itself with none."""
    if not root.is_dir():
        yield "", root
        return
    pending = [root]
    while pending:
        directory = pending.pop()
        for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
            if entry.name in SKIPPED:
                continue
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
            elif entry.is_symlink() and entry.is_dir():
                raise ConfigError(f"files: {path} is a symbolic link to a directory", hint="name the directory itself")
            else:
                yield path.relative_to(root).as_posix(), path


def _read_one(name: str, path: Path, root: Path, room: int, limit_bytes: int) -> File:
    """Read one file. A link inside of a directory may not lead out of it: its owner may have meant another place."""
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:  # a pipe would block
        where = Path(os.readlink(f"/proc/self/fd/{file.fileno()}"))  # of what is open, whatever the path means by now
        if path != root and not where.is_relative_to(root.resolve()):
            raise ConfigError(
                f"files: {path} is a symbolic link that leads out of {root}", hint="name its target itself"
            )
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ConfigError(f"files: {path} is neither a file nor a directory", hint=_FILES_HINT)
        data = file.read(room + 1) if about.st_size <= room else b""
    if about.st_size > room or len(data) > room:
        raise PayloadTooLarge(
            f"files: with {path} they have more bytes than files_limit, which is {limit_bytes}",
            phase="QUEUED",
            hint="put large data where the nodes see it, or raise files_limit",
        )
    return File(name, bool(about.st_mode & 0o100), data)
