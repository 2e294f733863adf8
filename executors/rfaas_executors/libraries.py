"""The shared libraries of a worker: loaded from sealed memory, which the workers of a template share.

A library comes to a node once: whoever is first to need it asks the client, and others wait for that. Whoever has it
names its memory in the template's directory (`placing.home`), beside a copy for when all of those are gone. Nothing
found there is believed: seals and digest are looked at. Must not call functions.
Spec: docs/spec/001-invocation.md section 11.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rfaas_executors import placing
from rfaas_executors._compiled import find_symbol, load_library
from rfaas_transport.errors import EnvironmentFailed
from rfaas_transport.manifest import digest
from rfaas_transport.shared_library import describe, is_sealed, path_for_loading, seal

SHARED: Final = 16  # libraries whose memory a worker keeps open for others; the newest
WAIT_S: Final = 2.0  # for another worker to get a library
LOOK_S: Final = 0.002

_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe would block

_REMEDIES: Final = (
    ("cannot open shared object file", "install that library on the nodes too, or link it in statically"),
    ("undefined symbol", "link the library with what defines that symbol (-l...)"),
    ("not found (required by", "build it on a system as old as the oldest node"),
    ("CPU ISA level", "build it for an older -march"),
)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A descriptor of ours, which a function may have closed since, and opened another of its number."""

    fd: int
    inode: int

    @classmethod
    def of(cls, fd: int) -> _Kept:
        return cls(fd, os.fstat(fd).st_ino)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if os.fstat(self.fd).st_ino == self.inode:
                os.close(self.fd)


class Libraries:
    """By digest."""

    def __init__(self) -> None:
        self._loaded: dict[bytes, int] = {}  # handles: what was loaded stays
        self._shared: OrderedDict[bytes, _Kept] = OrderedDict()  # memory
        self._claims: dict[bytes, _Kept] = {}  # locks: what we have said that we would get

    def is_here(self, name: bytes) -> bool:
        """True if the library is loaded or can be: this node has it. False: it is for us to ask for it.

        Waits for another worker that gets it at this moment.
        """
        return name in self._loaded or name in self._shared or self._take(name) or self._is_awaited(name)

    def symbol(self, name: bytes, blob: bytes | None, symbol: str) -> int:
        """The address of a symbol; loads the library if this is its first.

        Args:
            blob: the library; None if `is_here` said that it is.

        Raises:
            EnvironmentFailed: it can't be loaded, or has no such symbol; with the remedy. What was loaded stays.
        """
        try:
            if name not in self._loaded:
                if blob is not None and name not in self._shared:
                    self._keep(name, _sealed(blob))
                    self._offer(name, blob)
                self._loaded[name] = self._load(name)
        finally:
            self.give_up(name)
        try:
            return find_symbol(self._loaded[name], symbol.encode())
        except OSError:
            raise EnvironmentFailed(
                f"the library has no symbol {symbol!r}",
                hint='look with nm -D: it may be static, hidden, or C++ without extern "C"',
            ) from None

    def give_up(self, name: bytes) -> None:
        """Let another worker ask for it, if we have said that we would; harmless otherwise."""
        if claim := self._claims.pop(name, None):
            claim.close()

    def _load(self, name: bytes) -> int:
        path = path_for_loading(self._shared[name].fd)
        try:
            return load_library(path.encode())
        except OSError as error:
            text = str(error).replace(path, "the library")
            hint = next((hint for cause, hint in _REMEDIES if cause in text), "look with ldd on a node")
            raise EnvironmentFailed(f"the library can't be loaded: {text}", hint=hint) from None

    def _keep(self, name: bytes, memory: int) -> None:
        """Keep its memory open, and no longer that of the oldest."""
        self._shared[name] = _Kept.of(memory)
        if len(self._shared) > SHARED:
            self._shared.popitem(last=False)[1].close()

    # --- with the other workers -----------------------------------------------------------------

    def _offer(self, name: bytes, blob: bytes | None = None) -> None:
        """Say to the other workers where it is; with `blob` leave a copy too, which outlives this worker."""
        with contextlib.suppress(OSError):  # then they ask the client
            place = placing.make_home()
            new = place / f".new-{os.getpid()}"
            new.unlink(missing_ok=True)
            new.symlink_to(f"/proc/{os.getpid()}/fd/{self._shared[name].fd}")
            new.rename(place / f"{name.hex()}.memory")
            if blob is not None:
                new.write_bytes(blob)
                new.rename(place / f"{name.hex()}.so")

    def _take(self, name: bytes) -> bool:
        """Open the memory of another worker, or make it of the copy, if they are what they should be."""
        place = placing.home(os.getppid())
        memory = _memory_of_another(place / f"{name.hex()}.memory", name)
        if memory is None:
            memory = _memory_of_copy(place / f"{name.hex()}.so", name)
        if memory is None:
            return False
        self._keep(name, memory)
        self._offer(name)  # whoever named it may go before us
        return True

    def _is_awaited(self, name: bytes) -> bool:
        """Wait for the worker that gets a library, and take it; False: there is none, and now it is us."""
        if name in self._claims:
            return False
        try:
            claim = _Kept.of(os.open(placing.make_home() / f"{name.hex()}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC))
        except OSError:
            return False
        give_up_s = time.monotonic() + WAIT_S
        is_ours = _locked(claim.fd)
        while not (taken := self._take(name)) and not is_ours and time.monotonic() < give_up_s:
            time.sleep(LOOK_S)
            is_ours = _locked(claim.fd)
        if taken or not is_ours:
            claim.close()
        else:
            self._claims[name] = claim
        return taken


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _memory_of_another(path: Path, name: bytes) -> int | None:
    """The sealed memory that a path leads to, if its digest is `name`."""
    try:
        memory = os.open(path, _OPEN)
    except OSError:  # nobody has it, or who had it is gone
        return None
    with contextlib.suppress(OSError, ValueError):
        if is_sealed(memory):
            with mmap.mmap(memory, 0, prot=mmap.PROT_READ) as data, memoryview(data) as view:
                if digest(view) == name:
                    return memory
    os.close(memory)
    return None


def _memory_of_copy(path: Path, name: bytes) -> int | None:
    """Sealed memory with what a file holds, if its digest is `name`."""
    with contextlib.suppress(OSError), open(os.open(path, _OPEN | os.O_NOFOLLOW), "rb") as file:
        data = file.read()
        if digest(data) == name:
            return seal(data)
    return None


def _sealed(blob: bytes) -> int:
    try:
        describe(blob)
    except ValueError as error:
        raise EnvironmentFailed(
            f"the library can't be loaded: {error}", hint="build it by cc -shared -fPIC -o libNAME.so"
        ) from error
    return seal(blob)
