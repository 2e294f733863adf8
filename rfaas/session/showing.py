"""How an embedded session process shows what it holds, and how somebody asks (docs/spec/004-session.md section 3).

Both sides of one exchange: `show` in place of `join`, answered by as many `shown` as it takes, and the end. Standard
library and msgpack only: the embedded session process loads no protobuf.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Final

import msgpack

from rfaas.control.messages import Snapshot
from rfaas.control.plain import from_plain, to_plain
from rfaas.session import packets
from rfaas.session.names import embedded_key, process_start, socket_name
from rfaas_transport.errors import AllocatorUnavailable, AuthenticationFailed, ProtocolError
from rfaas_transport.messages import Message

PART_BYTES: Final = 64 << 10  # of the snapshot in one packet, half of what a packet takes
ANSWER_S: Final = 5.0


def shown(snapshot: Snapshot) -> Iterator[Message]:
    """The answer to `show`, a message a packet."""
    data = msgpack.packb(to_plain(snapshot))
    for start in range(0, len(data), PART_BYTES):
        yield {"m": "shown", "part": data[start : start + PART_BYTES], "more": start + PART_BYTES < len(data)}


def of_program(pid: int) -> Snapshot:
    """What the embedded allocator of a program of ours holds at this moment.

    Raises:
        AllocatorUnavailable: the program has none, or it does not answer.
        AuthenticationFailed: somebody else sits at its address.
        ProtocolError: the answer is none of this version.
    """
    try:
        name = socket_name(os.getuid(), embedded_key(pid, process_start(pid)))
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(ANSWER_S)
            sock.connect(name)
            if packets.peer(sock)[1] != os.getuid():
                raise AuthenticationFailed(f"the address of the session process of {pid} is held by another user")
            packets.send(sock, packets.pack({"m": "show"}))
            return from_plain(Snapshot, msgpack.unpackb(_answer(sock)))
    except OSError as error:
        raise AllocatorUnavailable(
            f"process {pid} has no workers of its own: {error}",
            hint="name a program of yours on this host that has called something; one that uses an allocator is shown "
            "without --pid",
        ) from error


def _answer(sock: socket.socket) -> bytes:
    parts: list[bytes] = []
    while (received := packets.receive(sock)) is not None:
        message, descriptors = received
        packets.close_all(descriptors)
        if message["m"] != "shown" or not isinstance(message.get("part"), bytes):
            raise ProtocolError(f"the session process answered {message['m']!r}")
        parts.append(message["part"])
        if not message.get("more"):
            return b"".join(parts)
    raise ConnectionError("the session process closed the connection")
