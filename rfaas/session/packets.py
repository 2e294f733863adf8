"""One msgpack map a packet, with descriptors beside it: the form of everything between client and session process.

Used on both sides, so it must stay standard library and msgpack only (docs/spec/004-session.md section 3).
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence
from typing import Any, Final

import msgpack

from rfaas_transport.errors import ProtocolError

LIMIT_BYTES: Final = 128 << 10
_DESCRIPTORS: Final = 8  # a peer of our own uid sends one; more than these are refused
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_DESCRIPTORS * array.array("i").itemsize)

Message = dict[str, Any]


def pack(message: Message) -> bytes:
    """Encode one message.

    Raises:
        ProtocolError: it is longer than a packet may be; nothing was sent.
    """
    data: bytes = msgpack.packb(message)
    if len(data) > LIMIT_BYTES:
        raise ProtocolError(
            f"a message of {len(data)} bytes ({message.get('m')}) exceeds the {LIMIT_BYTES} of a packet"
        )
    return data


def send(sock: socket.socket, data: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one packet whole; the descriptors stay the caller's to close.

    Raises:
        BlockingIOError: the peer reads too slowly; nothing was sent.
        OSError: the peer is gone.
    """
    if not descriptors:
        sock.send(data, socket.MSG_NOSIGNAL)
        return
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
    sock.sendmsg([data], [rights], socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """Receive one packet; the descriptors are the caller's. None: the peer closed.

    Raises:
        BlockingIOError: nothing is there (a non-blocking socket only).
        ProtocolError: not one msgpack map with the key `m`; its descriptors are closed, the packet is gone.
        OSError: the connection failed.
    """
    data, ancillary, flags, _ = sock.recvmsg(LIMIT_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
    descriptors = _descriptors(ancillary)
    if not data and not ancillary:
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ProtocolError("a packet is longer than a packet may be")
        message = msgpack.unpackb(data)
        if not isinstance(message, dict) or not isinstance(message.get("m"), str):
            raise ProtocolError("a packet is not a map with the key `m`")
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        close_all(descriptors)
        raise ProtocolError(f"a packet can't be read: {error}") from error
    except ProtocolError:
        close_all(descriptors)
        raise
    return message, descriptors


def close_all(descriptors: Sequence[int]) -> None:
    """Close these descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)


def peer(sock: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the process at the other end, as the kernel knows them (pid 0: not visible from here)."""
    credentials = array.array("i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return credentials[0], credentials[1]


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            found += numbers
    return found
