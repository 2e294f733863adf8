"""The shared libraries of a worker: loaded from sealed memory, which the workers of a template share.

A library comes to a node once: whoever has it names its memory in the template's directory (`placing.home`), and others
take it from there, after a look at its seals and its digest. Nothing found there is believed. Must not call functions.
Spec: docs/spec/001-invocation.md section 11.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections import OrderedDict
from typing import Final

from rfaas_executors import placing
from rfaas_executors._compiled import find_symbol, load_library
from rfaas_transport.errors import EnvironmentFailed
from rfaas_transport.manifest import digest
from rfaas_transport.shared_library import describe, is_sealed, path_for_loading, seal

SHARED: Final = 16  # libraries whose memory a worker keeps open for others; the newest

_REMEDIES: Final = (
    ("cannot open shared object file", "install that library on the nodes too, or link it in statically"),
    ("undefined symbol", "link the library with what defines that symbol (-l...)"),
    ("not found (required by", "build it on a system as old as the oldest node"),
    ("CPU ISA level", "build it for an older -march"),
)


class Libraries:
    """By digest."""

    def __init__(self) -> None:
        self._loaded: dict[bytes, int] = {}  # handles: what was loaded stays
        self._shared: OrderedDict[bytes, tuple[int, int]] = OrderedDict()  # descriptors, with their inodes

    def is_here(self, name: bytes) -> bool:
        """True if the library is loaded or can be: another worker of this node has it."""
        return name in self._loaded or name in self._shared or self._take(name)

    def symbol(self, name: bytes, blob: bytes | None, symbol: str) -> int:
        """The address of a symbol; loads the library if this is its first.

        Args:
            blob: the library; None if `is_here` said that it is.

        Raises:
            EnvironmentFailed: it can't be loaded, or has no such symbol; with the remedy. What was loaded stays.
        """
        handle = self._loaded.get(name)
        if handle is None:
            if blob is not None and name not in self._shared:
                self._keep(name, _sealed(blob))
                self._offer(name)
            handle = self._loaded[name] = self._load(name)
        try:
            return find_symbol(handle, symbol.encode())
        except OSError:
            raise EnvironmentFailed(
                f"the library has no symbol {symbol!r}",
                hint='look with nm -D: it may be static, hidden, or C++ without extern "C"',
            ) from None

    def _load(self, name: bytes) -> int:
        memory, _ = self._shared[name]
        path = path_for_loading(memory)
        try:
            return load_library(path.encode())
        except OSError as error:
            text = str(error).replace(path, "the library")
            hint = next((hint for cause, hint in _REMEDIES if cause in text), "look with ldd on a node")
            raise EnvironmentFailed(f"the library can't be loaded: {text}", hint=hint) from None

    def _keep(self, name: bytes, memory: int) -> None:
        """Keep its memory open, and no longer that of the oldest; a function may have closed it, and opened another."""
        self._shared[name] = memory, os.fstat(memory).st_ino
        if len(self._shared) > SHARED:
            _, (oldest, inode) = self._shared.popitem(last=False)
            with contextlib.suppress(OSError):
                if os.fstat(oldest).st_ino == inode:
                    os.close(oldest)

    def _offer(self, name: bytes) -> None:
        """Say to the other workers where it is."""
        memory, _ = self._shared[name]
        with contextlib.suppress(OSError):  # then they ask the client
            place = placing.make_home()
            new = place / f".new-{os.getpid()}-{memory}"
            new.symlink_to(f"/proc/{os.getpid()}/fd/{memory}")
            new.rename(place / f"{name.hex()}.so")

    def _take(self, name: bytes) -> bool:
        """Open the memory of another worker, if it is what it should be."""
        path = placing.home(os.getppid()) / f"{name.hex()}.so"
        try:
            memory = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:  # nobody has it, or who had it is gone
            return False
        with contextlib.suppress(OSError, ValueError):
            if is_sealed(memory) and _digest(memory) == name:
                self._keep(name, memory)
                self._offer(name)  # whoever named it may go before us
                return True
        os.close(memory)
        return False


def _digest(memory: int) -> bytes:
    with mmap.mmap(memory, 0, prot=mmap.PROT_READ) as data, memoryview(data) as view:
        return digest(view)


def _sealed(blob: bytes) -> int:
    try:
        describe(blob)
    except ValueError as error:
        raise EnvironmentFailed(
            f"the library can't be loaded: {error}", hint="build it by cc -shared -fPIC -o libNAME.so"
        ) from error
    return seal(blob)
