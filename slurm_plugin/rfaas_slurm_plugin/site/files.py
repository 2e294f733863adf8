"""Writes a site's files as a whole: all of them or none, each at once, and never over what changed meanwhile."""

from __future__ import annotations

import contextlib
import difflib
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from rfaas_transport.errors import ConfigError

BACKUP_SUFFIX: Final = ".before-rfaas"


@dataclass(frozen=True, slots=True)
class Change:
    """One file: what it held when the plan was made, and what it shall hold; None: no file.

    `site` is what the site itself wrote into it, without lines of ours: what a backup holds.
    """

    path: Path
    old: bytes | None
    new: bytes | None
    site: bytes | None

    @property
    def backup(self) -> Path:
        """Where the file as it was before rfaas is kept."""
        return self.path.with_name(self.path.name + BACKUP_SUFFIX)

    def diff(self) -> str:
        """A unified diff, as patch(1) takes it."""
        old, new = ((text or b"").decode(errors="replace").splitlines(keepends=True) for text in (self.old, self.new))
        names = [str(self.path) if text is not None else "/dev/null" for text in (self.old, self.new)]
        lines = difflib.unified_diff(old, new, names[0], names[1])
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def content(path: Path) -> bytes | None:
    """What a file holds; None if there is none. Raises ConfigError if it can't be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="run this as who may read it, mostly root") from error


def write(changes: list[Change], *, keep_backup: bool) -> list[Path]:
    """Carry the changes out and return the files that were written; what is already so is left alone.

    Args:
        changes: made from what the files hold now.
        keep_backup: keep the site's own lines of each file beside it; otherwise backups that hold the same as the new
            file are removed.

    Raises:
        ConfigError: a file changed since the plan was made, or can't be written. What was written before is put back.
    """
    real = [replace(change, path=change.path.resolve()) for change in changes if change.old != change.new]
    for change in real:
        if content(change.path) != change.old:
            raise ConfigError(f"{change.path} changed while this ran", hint="nothing was written; run it again")
    done: list[Change] = []
    try:
        for change in real:
            if keep_backup and change.site is not None and (change.site == change.old or not change.backup.exists()):
                _put(change.backup, change.site, like=change.path)
            _put(change.path, change.new, like=change.path)
            done.append(change)
    except OSError as error:
        for change in reversed(done):
            with contextlib.suppress(OSError):
                _put(change.path, change.old, like=change.path)
        raise ConfigError(
            f"{error.filename}: {error.strerror}", hint="nothing was changed; run this as root"
        ) from error
    if not keep_backup:
        for change in real:
            with contextlib.suppress(OSError):
                if change.backup.read_bytes() == change.new:
                    change.backup.unlink()
    return [change.path for change in real]


def _put(path: Path, data: bytes | None, *, like: Path) -> None:
    """Make the file hold this, at once and durably, with owner and mode of `like` if that is there."""
    if data is None:
        path.unlink()
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
            if like.exists():
                status = like.stat()
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
                shutil.copymode(like, name)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
