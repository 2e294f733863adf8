"""munge: who a process of another host is, by the word of the site's munged. libmunge through ctypes.

A credential is made for one payload and one reader, lives a minute, and names the uid and gid of its maker. Every call
asks the munged of this host and blocks meanwhile (a third of a millisecond, seconds if munged hangs). Must not keep
payloads. Library and daemon: munge(7), munge.h of munge 0.5.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any, Final

from rfaas_transport.errors import AuthenticationFailed, ConfigError

LIBRARY: Final = "libmunge.so.2"
TTL_S: Final = 60
_OPT_TTL, _OPT_SOCKET, _OPT_UID_RESTRICTION = 4, 8, 9
_SUCCESS = 0
_REMEDIES: Final = {
    6: "see that munged runs on this host: systemctl status munge",
    14: "the hosts need the same /etc/munge/munge.key",
    15: "compare the clocks of the two hosts (munge allows 5 minutes); else try again",
    16: "compare the clocks of the two hosts: the credential is of the future",
    17: "a credential is good for one time: make a new one",
    18: "it was made for another user than this one",
}


class MungeError(AuthenticationFailed):
    """munged did not make or accept a credential; nothing was believed.

    Attributes:
        munge_code: munge's error number (munge_err_t); 6: munged can't be reached, 14 another key, 15 expired,
            16 of the future, 17 decoded before, 18 for another user.
    """

    munge_code = 0

    @classmethod
    def of(cls, code: int, doing: str, text: str) -> MungeError:
        """That of a number of munge's."""
        error = cls(f"munge can't {doing}: {text}", hint=_REMEDIES.get(code, "see the log of munged"))
        error.munge_code = code
        return error


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a credential said, and who made it, by munged's word."""

    payload: bytes
    uid: int
    gid: int


class Munge:
    """The munged of this host.

    Args:
        socket_path: where it listens; empty: where libmunge was built to look.

    Raises:
        ConfigError: libmunge is not there.
    """

    def __init__(self, socket_path: str = "") -> None:
        self._library = _load()
        self._socket_path = socket_path

    def encode(self, payload: bytes, *, for_uid: int | None = None, ttl_s: int = TTL_S) -> str:
        """A credential of this process for `payload`.

        Args:
            payload: what it vouches for, encrypted under the site's munge key.
            for_uid: who alone may decode it (root is no exception); None: anyone with the site's munge key.
            ttl_s: how long it may be decoded.

        Raises:
            MungeError: munged made none.
        """
        with _Context(self._library, self._socket_path) as context:
            context.set(_OPT_TTL, ctypes.c_int(ttl_s))
            if for_uid is not None:
                context.set(_OPT_UID_RESTRICTION, ctypes.c_uint32(for_uid))
            credential = ctypes.c_char_p()
            code = self._library.munge_encode(ctypes.byref(credential), context.handle, payload, len(payload))
            try:
                context.check(code, "make a credential")
                assert credential.value is not None
                return credential.value.decode("ascii")
            finally:
                _libc().free(credential)

    def decode(self, credential: str) -> Decoded:
        """What a credential says. It can be decoded once on each host.

        Raises:
            MungeError: it is expired, of the future, decoded before, for another user, or not of this site.
        """
        payload, size = ctypes.c_void_p(), ctypes.c_int()
        uid, gid = ctypes.c_uint32(0xFFFFFFFF), ctypes.c_uint32(0xFFFFFFFF)
        text = credential.encode("ascii", "replace")
        with _Context(self._library, self._socket_path) as context:
            code = self._library.munge_decode(
                *(text, context.handle, ctypes.byref(payload), ctypes.byref(size), ctypes.byref(uid), ctypes.byref(gid))
            )
            try:
                context.check(code, "accept the credential")
                content = ctypes.string_at(payload, size.value) if payload and size.value > 0 else b""
            finally:
                _libc().free(payload)
        return Decoded(content, uid.value, gid.value)


class _Context:
    """A munge_ctx_t, for the length of one call."""

    def __init__(self, library: ctypes.CDLL, socket_path: str) -> None:
        self._library = library
        self.handle = ctypes.c_void_p(library.munge_ctx_create())
        if not self.handle:
            raise MemoryError("munge_ctx_create")
        if socket_path:
            self.set(_OPT_SOCKET, ctypes.c_char_p(socket_path.encode()))

    def set(self, option: int, value: ctypes._SimpleCData[Any]) -> None:
        self.check(self._library.munge_ctx_set(self.handle, ctypes.c_int(option), value), "take an option")

    def check(self, code: int, doing: str) -> None:
        """Raise what a number of munge's means."""
        if code != _SUCCESS:
            text = self._library.munge_ctx_strerror(self.handle) or self._library.munge_strerror(code)
            raise MungeError.of(code, doing, text.decode("utf-8", "replace"))

    def __enter__(self) -> _Context:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.munge_ctx_destroy(self.handle)


def why_not() -> str:
    """Why munge can't be used here; empty if its library is there (munged may still not run)."""
    try:
        _load()
    except ConfigError as error:
        return error.message
    return ""


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
    return libc


@functools.cache
def _load(name: str = LIBRARY) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise ConfigError(
            f"munge can't be used: {error}", hint="install libmunge (Debian: libmunge2, others: munge-libs)"
        ) from error
    pointer = ctypes.POINTER
    library.munge_ctx_create.argtypes, library.munge_ctx_create.restype = [], ctypes.c_void_p
    library.munge_ctx_destroy.argtypes, library.munge_ctx_destroy.restype = [ctypes.c_void_p], None
    library.munge_ctx_strerror.argtypes, library.munge_ctx_strerror.restype = [ctypes.c_void_p], ctypes.c_char_p
    library.munge_strerror.argtypes, library.munge_strerror.restype = [ctypes.c_int], ctypes.c_char_p
    library.munge_encode.argtypes = [pointer(ctypes.c_char_p), ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    library.munge_decode.argtypes = [
        *(ctypes.c_char_p, ctypes.c_void_p, pointer(ctypes.c_void_p), pointer(ctypes.c_int)),
        *(pointer(ctypes.c_uint32), pointer(ctypes.c_uint32)),
    ]
    return library
