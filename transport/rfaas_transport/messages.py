"""Messages of msgpack maps, sans-IO: what the handshake and the session connection carry, behind a length.

Must not trust a byte: a length is checked before it is waited for, depth and kinds of values are bounded, and nothing
but maps with text keys and a text "m" comes out. Spec: docs/spec/004-session.md sections 1, 2 and 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack

from rfaas_transport.errors import PayloadTooLarge, ProtocolError

Message = dict[str, Any]

SESSION_LIMIT_BYTES = 8 << 20
PACKET_LIMIT_BYTES = 128 << 10
LENGTH_BYTES = 4
MAX_DEPTH = 16


def encode(message: Mapping[str, Any], limit_bytes: int = SESSION_LIMIT_BYTES) -> bytes:
    """The map alone, as packets carry it; keys in the order of the mapping, every value in its shortest form.

    Raises:
        PayloadTooLarge: longer than `limit_bytes`.
        TypeError, ValueError, OverflowError: a value has no place in msgpack.
    """
    body: bytes = msgpack.packb(dict(message), use_bin_type=True)
    if len(body) > limit_bytes:
        raise PayloadTooLarge(f"a message of {len(body)} bytes, at most {limit_bytes} are allowed")
    return body


def pack(message: Mapping[str, Any], limit_bytes: int = SESSION_LIMIT_BYTES) -> bytes:
    """The map behind its length, as streams carry it; raises as `encode`."""
    body = encode(message, limit_bytes)
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def decode(body: bytes | bytearray | memoryview, limit_bytes: int = SESSION_LIMIT_BYTES) -> Message:
    """The one map that `body` holds, exactly.

    Raises:
        ProtocolError: it is no such map, is longer than `limit_bytes`, nests deeper than MAX_DEPTH or has no text "m".
    """
    if len(body) > limit_bytes:
        raise ProtocolError(f"a message of {len(body)} bytes, at most {limit_bytes} are allowed")
    try:
        # The limits of each kind follow from the length of `body`; extension types are never used.
        message = msgpack.unpackb(body, raw=False, strict_map_key=True, max_ext_len=0)
    except (ValueError, RecursionError) as error:  # msgpack's own errors and UnicodeDecodeError are ValueErrors
        raise ProtocolError(f"no message: {error or type(error).__name__}") from error
    if not isinstance(message, dict) or not isinstance(message.get("m"), str):
        raise ProtocolError('no message: not a map with a text "m"')
    _check(message, MAX_DEPTH)
    return message


def _check(value: object, depth: int) -> None:
    """Refuse nesting beyond `depth`, keys that are no text, and values of extension types."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ProtocolError("no message: a key is not text")
        children: list[object] = list(value.values())
    elif isinstance(value, list):
        children = value
    elif value is None or isinstance(value, bool | int | float | str | bytes):
        return
    else:
        raise ProtocolError(f"no message: a value of {type(value).__name__}")
    if depth == 0:
        raise ProtocolError("no message: nested too deep")
    for child in children:
        _check(child, depth - 1)


class MessageReader:
    """Cuts a stream of bytes into messages, fed in pieces of any size."""

    def __init__(self, limit_bytes: int = SESSION_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._problem: str | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """Take more bytes; return the messages that are whole now.

        Raises:
            ProtocolError: the bytes are no messages; so each later call, and the connection should be closed.
                Messages before it in the same call are lost.
        """
        if self._problem is not None:
            raise ProtocolError(self._problem)
        self._buffer += data
        messages = []
        try:
            while (body := self._next_body()) is not None:
                messages.append(decode(body, self._limit_bytes))
        except ProtocolError as error:
            self._problem = error.message
            raise
        return messages

    @property
    def pending_bytes(self) -> int:
        """Bytes of a message that is not whole yet; 0 where a stream may end in order."""
        return len(self._buffer)

    @property
    def wanted_bytes(self) -> int:
        """How many bytes are missing to the end of the present message, or of its length; at least 1.

        Raises:
            ProtocolError: the length is out of range.
        """
        if len(self._buffer) < LENGTH_BYTES:
            return LENGTH_BYTES - len(self._buffer)
        return LENGTH_BYTES + self._length() - len(self._buffer)

    def _length(self) -> int:
        length = int.from_bytes(self._buffer[:LENGTH_BYTES], "little")
        if not 1 <= length <= self._limit_bytes:
            raise ProtocolError(f"a message of {length} bytes, 1 to {self._limit_bytes} are allowed")
        return length

    def _next_body(self) -> bytes | None:
        if len(self._buffer) < LENGTH_BYTES:
            return None
        end = LENGTH_BYTES + self._length()
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[LENGTH_BYTES:end])
        del self._buffer[:end]
        return body
