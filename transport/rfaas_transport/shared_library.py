"""Shared libraries as bytes: what they were built for, what they offer, and memory that nobody can change any more.

Both ends need it: a client reads a library before it sends it, a worker loads what came. Reads ELF headers and nothing
else; must not load anything. Spec: docs/spec/001-invocation.md section 11.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_MACHINES: Final = {21: "ppc64le", 22: "s390x", 62: "x86-64", 183: "aarch64", 243: "riscv64"}
_UNAME: Final = {"x86_64": "x86-64", "amd64": "x86-64", "arm64": "aarch64"}
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

_SHARED_OBJECT, _LOADED_SEGMENT, _DYNAMIC_SYMBOLS = 3, 1, 11
_MAX_SYMBOLS: Final = 1 << 20
_MAX_NAME: Final = 4096
_SYMBOL: Final = 24  # bytes of one entry

_spellings = itertools.count()


@dataclass(frozen=True)
class Library:
    """What an ELF file says of itself.

    Args:
        isa: the instruction set, as in manifests; "elf-N" for one without a name here.
        symbols: names that it defines for others, not of variables; None: it has no table of them.
    """

    isa: str
    symbols: frozenset[str] | None


def this_isa() -> str:
    """The instruction set of this machine, as in manifests."""
    machine = os.uname().machine
    return _UNAME.get(machine, machine)


def describe(data: bytes) -> Library:
    """Read the headers of a shared library.

    Raises:
        ValueError: it is none, or is cut short; the text says what it is instead.
    """
    if data[:4] != b"\x7fELF":
        raise ValueError("it is no ELF file")
    if data[4:5] != b"\2":
        raise ValueError("it is no 64-bit library")
    order = {b"\1": "<", b"\2": ">"}.get(data[5:6])
    if order is None:
        raise ValueError("its byte order is neither of two")
    try:
        return _describe(data, order)
    except (struct.error, OverflowError) as error:
        raise ValueError("it is cut short") from error


def _describe(data: bytes, order: str) -> Library:
    kind, machine = struct.unpack_from(order + "HH", data, 16)
    if kind != _SHARED_OBJECT:
        raise ValueError("it is an object file or a program, no shared library")
    segments_at, sections_at = struct.unpack_from(order + "QQ", data, 32)
    segment_bytes, n_segments, section_bytes, n_sections = struct.unpack_from(order + "HHHH", data, 54)
    for n in range(n_segments):
        kind, _, offset, _, _, size = struct.unpack_from(order + "IIQQQQ", data, segments_at + n * segment_bytes)
        if kind == _LOADED_SEGMENT and offset + size > len(data):
            raise ValueError("it is cut short")
    symbols: frozenset[str] | None = None
    sections = [sections_at + n * section_bytes for n in range(n_sections)]
    for section in sections:
        kind, _, _, offset, size, link = struct.unpack_from(order + "IQQQQI", data, section + 4)
        if kind == _DYNAMIC_SYMBOLS and link < n_sections:
            names_at, names_bytes = struct.unpack_from(order + "QQ", data, sections[link] + 24)
            names = data[names_at : names_at + names_bytes]
            symbols = frozenset(_defined(data[offset : offset + size], names, order))
            break  # there is one
    isa = _MACHINES.get(machine, f"elf-{machine}")
    return Library("ppc64" if isa == "ppc64le" and order == ">" else isa, symbols)


def _defined(table: bytes, names: bytes, order: str) -> Iterator[str]:
    """Names of what a table defines for others and can be called."""
    for entry in range(0, min(len(table) // _SYMBOL, _MAX_SYMBOLS) * _SYMBOL, _SYMBOL):
        name_at, info, _, section = struct.unpack_from(order + "IBBH", table, entry)
        binding, kind = info >> 4, info & 15
        # Global, weak, unique; and of assembly, code, chosen when it is loaded.
        if section != 0 and binding in (1, 2, 10) and kind in (0, 2, 10):
            yield names[name_at : name_at + _MAX_NAME].partition(b"\0")[0].decode(errors="replace")


def seal(data: bytes, name: str = "rfaas-function") -> int:
    """Put bytes into memory that nobody can change any more, this process included.

    Returns:
        Its descriptor, the caller's.

    Raises:
        OSError: no memory or descriptor was left; nothing is.
    """
    memory = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(memory, view) :]
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(memory)
        raise
    return memory


def is_sealed(memory: int) -> bool:
    """True if nobody can change what a descriptor leads to."""
    try:
        return fcntl.fcntl(memory, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:  # no memfd
        return False


def path_for_loading(memory: int) -> str:
    """A path of a descriptor for `dlopen`, never the same twice.

    The dynamic linker takes a library for loaded if one of the same path is, whatever the number stands for by now. So
    a counter is spelled into it, by `/.` for a one and `/` for a zero.
    """
    spelled = "".join("/." if digit == "1" else "/" for digit in f"{next(_spellings):b}")
    return f"/proc/self/fd{spelled}/{memory}"
