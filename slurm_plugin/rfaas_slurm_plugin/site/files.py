"""Writes a site's files as a whole: all of them or none, each at once, and never over what changed meanwhile.

One writer at a time: the directory of each file is locked from the last look at it to the end. Who was killed in
between left whole files, and perhaps an unfinished copy beside them, which the next writer removes.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from rfaas_transport.errors import ConfigError

BACKUP_SUFFIX: Final = ".before-rfaas"
UNFINISHED: Final = ".rfaas-"  # between a file's name and what mkstemp adds


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
    with _alone({change.path.parent for change in real}):
        for change in real:
            if content(change.path) != change.old:
                raise ConfigError(f"{change.path} changed while this ran", hint="nothing was written; run it again")
        _write_all(real, keep_backup=keep_backup)
    if not keep_backup:
        remove_backups([change.path for change in real])
    return [change.path for change in real]


def remove_backups(paths: list[Path]) -> list[Path]:
    """Remove backups that hold what their file holds; return them. Others stay."""
    removed = []
    for path in paths:
        backup = path.with_name(path.name + BACKUP_SUFFIX)
        with contextlib.suppress(OSError):
            if backup.read_bytes() == path.read_bytes():
                backup.unlink()
                removed.append(backup)
    return removed


@contextlib.contextmanager
def _alone(folders: set[Path]) -> Iterator[None]:
    """Nobody else writes there by `write` for the length of the block; what killed writers left is gone.

    Raises:
        ConfigError: a folder is not there, or can't be read.
    """
    with contextlib.ExitStack() as stack:
        for folder in sorted(folders):
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                raise ConfigError(
                    f"{folder}: {error.strerror}", hint="nothing was changed; run this as root"
                ) from error
            for left in folder.glob(f".*{UNFINISHED}*"):
                with contextlib.suppress(OSError):
                    left.unlink()
        yield


def _write_all(changes: list[Change], *, keep_backup: bool) -> None:
    done: list[Change] = []
    at = Path()
    try:
        for change in changes:
            at = change.path
            if keep_backup and change.site is not None and (change.site == change.old or not change.backup.exists()):
                _put(change.backup, change.site, like=change.path)
            _put(change.path, change.new, like=change.path)
            done.append(change)
    except OSError as error:
        stay = _put_back(done)
        hint = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "run this as root"
        state = f"changed already, and can't be put back: {', '.join(stay)}" if stay else "nothing was changed"
        raise ConfigError(f"{error.filename or at}: {error.strerror}", hint=f"{state}; {hint}") from error


def _put_back(done: list[Change]) -> list[str]:
    """Undo changes, the last first; returns the files of those that can't be undone."""
    stay = []
    for change in reversed(done):
        try:
            _put(change.path, change.old, like=change.path)
        except OSError:  # a full file system may refuse that, too
            stay.append(str(change.path))
    return stay


def _put(path: Path, data: bytes | None, *, like: Path) -> None:
    """Make the file hold this, at once and durably, with owner and mode of `like` if that is there."""
    if data is None:
        path.unlink()
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}{UNFINISHED}")
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
