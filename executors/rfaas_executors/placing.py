"""Files that came along with functions, on a worker's node: one directory for all workers of a template.

Each set of files lies in a directory named by its digest, written once and whole, then only read. Nothing can be
written outside of it, whatever a bundle's names and whatever is made beside it meanwhile. Loaded in the user's own
environment, by workers that need it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

VARIABLE = "RFAAS_FILES"
"""Names the directory to functions; `rfaas.shipped` reads it."""


def home(template_pid: int) -> Path:
    """Where the workers of a template keep files. The name says who has to live for it to be of use."""
    return Path(tempfile.gettempdir(), f"{_mine()}{template_pid}-{_start(template_pid)}")


def _mine() -> str:
    namespace = os.stat("/proc/self/ns/pid").st_ino  # a process of another one can't be seen to live
    return f"rfaas-files-{os.geteuid()}-{namespace}-"


def _start(pid: int) -> str:
    """When a process was started; empty if there is none."""
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[19]
    return ""


def remove(template_pid: int) -> None:
    """Remove what the workers of a template kept; it, or its agent, calls this at its end."""
    with contextlib.suppress(OSError):
        for path in Path(tempfile.gettempdir()).glob(f"{_mine()}{template_pid}-*"):
            shutil.rmtree(path, ignore_errors=True)


def _remove_left() -> None:
    """Remove what templates kept that were killed together with their agents."""
    for path in Path(tempfile.gettempdir()).glob(f"{_mine()}*"):
        pid, _, start = path.name.removeprefix(_mine()).partition("-")
        if pid.isdigit() and _start(int(pid)) != start:
            shutil.rmtree(path, ignore_errors=True)


def find(name: str) -> str:
    """The directory of a set of files, if it is there; else nothing."""
    path = home(os.getppid()) / name
    return str(path) if path.is_dir() else ""


def make_home() -> Path:
    """The directory of this worker's template, made if need be.

    Raises:
        OSError: it can't be made, or is not this user's alone.
    """
    place = home(os.getppid())
    if not place.exists():
        _remove_left()
    place.mkdir(mode=0o700, exist_ok=True)
    about = place.lstat()
    if about.st_uid != os.geteuid() or about.st_mode & 0o077 or place.is_symlink():
        raise PermissionError(f"{place} is not this user's alone: remove it")
    return place


def place(blob: bytes, name: str) -> str:
    """Write a set of files, unless another worker was quicker; return its directory.

    Raises:
        OSError: it can't be written, or somebody else owns the place; nothing is left.
        ValueError: it is no bundle, or one of its names leads elsewhere; nothing was written.
    """
    from rfaas.client.bundles import decode  # only now: it would load `rfaas` into every worker

    files = decode(blob)
    place = make_home()
    new = tempfile.mkdtemp(prefix=".new-", dir=place)
    try:
        root = os.open(new, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for file in files:
                _write(root, file.name.split("/"), file.data, 0o555 if file.executable else 0o444)
        finally:
            os.close(root)
        with contextlib.suppress(FileExistsError):
            _rename(new, place / name)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return str(place / name)


def _rename(new: str, final: Path) -> None:
    try:
        os.rename(new, final)
    except OSError:
        if not final.is_dir():  # not the other worker's work
            raise


def _write(root: int, components: list[str], data: bytes, mode: int) -> None:
    """Write one file below an open directory, following no link on the way."""
    opened: list[int] = []
    here = root
    try:
        for component in components[:-1]:
            with contextlib.suppress(FileExistsError):
                os.mkdir(component, 0o700, dir_fd=here)
            here = os.open(component, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            opened.append(here)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(components[-1], flags, 0o600, dir_fd=here), "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def use(directory: str) -> None:
    """Have functions of this worker find what lies there: modules by import, all else by `rfaas.shipped`."""
    os.environ[VARIABLE] = directory
    if directory not in sys.path:
        sys.path.insert(0, directory)
        importlib.invalidate_caches()
