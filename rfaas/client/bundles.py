"""Files on their way to workers, as one blob: names, the bit that makes a program of a file, contents.

Equal files make equal bytes, so the blob's digest names them. Must not touch the file system. Loaded by workers too.
Spec: docs/spec/001-invocation.md section 10.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgpack

FORMAT: Final = 1
NAME_BYTES: Final = 1024
COMPONENT_BYTES: Final = 255


class File(NamedTuple):
    """One file. `name` is relative, with slashes."""

    name: str
    executable: bool
    data: bytes


def check_name(name: object) -> str:
    """Return a name that can only mean a place below the directory that it is put in.

    Raises:
        ValueError: it is absolute, leads upward, is empty or too long, or no text; the message says which.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"{name!r} is no name of a file")
    if "\0" in name or "\\" in name:
        raise ValueError(f"the name {name!r} holds a character that no file on a worker may have")
    if name.startswith("/"):
        raise ValueError(f"the name {name!r} is absolute")
    components = name.split("/")
    if ".." in components:
        raise ValueError(f"the name {name!r} leads out of the directory")
    if "" in components or "." in components:
        raise ValueError(f"the name {name!r} has an empty part")
    try:
        longest_bytes = max(len(component.encode()) for component in components)
    except UnicodeEncodeError as error:
        raise ValueError(f"the name {name!r} is no text") from error
    if longest_bytes > COMPONENT_BYTES or len(name.encode()) > NAME_BYTES:
        raise ValueError(f"the name {name[:40]!r}… is too long")
    return name


def _check_names(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if check_name(name) in seen:
            raise ValueError(f"there are two files of the name {name!r}")
        seen.add(name)
    for name in seen:
        above = name
        while above := above.rpartition("/")[0]:
            if above in seen:
                raise ValueError(f"{above!r} is a file, and {name!r} wants it to be a directory")


def encode(files: Iterable[File]) -> bytes:
    """The blob of these files.

    Raises:
        ValueError: a name won't do, or two files are in each other's way.
    """
    ordered = sorted(files)
    _check_names(file.name for file in ordered)
    blob: bytes = msgpack.packb({"files": FORMAT, "entries": [list(file) for file in ordered]}, use_bin_type=True)
    return blob


def decode(blob: bytes | memoryview) -> list[File]:
    """The files of a blob, checked anew: whoever wrote it may have been no `encode`.

    Raises:
        ValueError: it is no such blob, or a name won't do.
    """
    try:
        fields = msgpack.unpackb(blob, raw=False, strict_map_key=True, max_ext_len=0)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise ValueError(f"no bundle of files: {error or type(error).__name__}") from error
    if not isinstance(fields, Mapping) or fields.get("files") != FORMAT or not isinstance(fields.get("entries"), list):
        raise ValueError("no bundle of files, or of another format")
    files = []
    for entry in fields["entries"]:
        match entry:
            case [str(name), bool(executable), bytes(data)]:
                files.append(File(name, executable, data))
            case _:
                raise ValueError("no bundle of files: an entry is a name, a bit and bytes")
    _check_names(file.name for file in files)
    return files
