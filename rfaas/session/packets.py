"""One msgpack map a packet, with descriptors beside it: the form of everything between client and session process.

Used on both sides, so it must stay standard library and msgpack only (docs/spec/004-session.md section 3).
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

from rfaas_transport.errors import ProtocolError
from rfaas_transport.messages import PACKET_LIMIT_BYTES, Message, decode, encode

_DESCRIPTORS: Final = 8  # a peer of our own uid sends one; more than these are refused
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_DESCRIPTORS * array.array("i").itemsize)


def pack(message: Message) -> bytes:
    """Encode one message.

    Raises:
        PayloadTooLarge: it is longer than a packet may be.
    """
    return encode(message, PACKET_LIMIT_BYTES)


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
    data, ancillary, flags, _ = sock.recvmsg(PACKET_LIMIT_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
    descriptors = _descriptors(ancillary)
    if not data and not ancillary:
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ProtocolError("a packet is longer than a packet may be")
        return decode(data, PACKET_LIMIT_BYTES), descriptors
    except ProtocolError:
        close_all(descriptors)
        raise


def close_all(descriptors: Sequence[int]) -> None:
    """Close these descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)


def peer(sock: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the process at the other end, as the kernel knows them (pid 0: not visible from here)."""
    pid, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            found += numbers
    return found
