"""Encryption of data connections: whether it can be had here, and the key of each.

The TLS itself is C (`transport/core/tls/`), in a module that is there only where OpenSSL was when rfaas was built.
Must not keep a key. Spec: docs/spec/004-session.md section 5.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from rfaas_transport.errors import ConfigError

KEY_BYTES: Final = 32
REMEDY: Final = (
    "use a wheel of rfaas, or install OpenSSL 3 with its headers (Debian: libssl-dev) and build rfaas again; on a"
    ' trusted fabric transport_security = "trusted" needs neither'
)
_LABEL: Final = b"rfaas-004 tls"


def is_built() -> bool:
    """Whether rfaas was built with what encrypts; loads nothing, so OpenSSL itself may still be missing."""
    return find_spec("rfaas_transport._tls") is not None


def why_not() -> str:
    """Why data connections can't be encrypted here; empty if they can."""
    if not is_built():
        return "rfaas was built without OpenSSL"
    try:
        from rfaas_transport import _tls  # noqa: F401 - loads OpenSSL, only when somebody asks
    except ImportError as error:
        return f"OpenSSL can't be loaded: {error}"
    return ""


def library() -> str:
    """Which OpenSSL encrypts here, in its own words.

    Raises:
        ConfigError: none does.
    """
    require()
    from rfaas_transport import _tls

    return _tls.library()


def require() -> None:
    """Make sure that data connections can be encrypted here.

    Raises:
        ConfigError: they can't, with what to do about it.
    """
    if problem := why_not():
        raise ConfigError(f"data connections can't be encrypted here: {problem}", hint=REMEDY)


def channel_key(session_key: bytes, channel: int) -> bytes:
    """The key that both sides of a data connection prove to each other, 32 bytes (HKDF-SHA256, RFC 5869).

    Args:
        session_key: what the handshake of that connection left to both sides alone.
        channel: its number.
    """
    import hmac  # who never encrypts loads nothing for it

    secret = hmac.digest(bytes(KEY_BYTES), session_key, "sha256")
    return hmac.digest(secret, _LABEL + channel.to_bytes(8, "little") + b"\x01", "sha256")
