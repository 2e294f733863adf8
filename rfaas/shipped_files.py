"""`rfaas.shipped()`: where a function finds the files that came along with it (`Executor(files=…)`)."""

from __future__ import annotations

import os
from pathlib import Path


def shipped(name: str = "") -> Path:
    """The path of a shipped file or directory on this worker; without a name, of the directory that holds them all.

    They are read-only, shared by the workers of one node, and gone soon after the last of them. Modules among them are
    imported by their names: the directory comes first in `sys.path`.

    Raises:
        LookupError: this is no function on a worker, or its executor brought no files.
        FileNotFoundError: none has this name; the message lists those that are there.
    """
    directory = os.environ.get("RFAAS_FILES")
    if not directory:
        raise LookupError("no files came along: only a function on a worker of an Executor(files=[...]) has some")
    path = Path(directory, name)
    if not path.exists() or ".." in Path(name).parts:
        there = ", ".join(sorted(entry.name for entry in Path(directory).iterdir()))
        raise FileNotFoundError(f"no file {name!r} came along; there are: {there}")
    return path
