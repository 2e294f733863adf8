"""How a session process shows what it holds, and how somebody asks (docs/spec/004-session.md section 3).

Both sides of one exchange: `show` in place of `join`, answered by as many `shown` as it takes, and the end. Standard
library and msgpack only: the embedded session process loads no protobuf.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

import msgpack

from rfaas.control.messages import Snapshot
from rfaas.control.plain import from_plain, to_plain
from rfaas.session import packets
from rfaas.session.names import embedded_key, listed, process_start, socket_name
from rfaas_transport.errors import AllocatorUnavailable, AuthenticationFailed, ProtocolError, RfaasError
from rfaas_transport.messages import Message

PART_BYTES: Final = 64 << 10  # of the snapshot in one packet, half of what a packet takes
ANSWER_S: Final = 5.0


def shown(snapshot: Snapshot) -> Iterator[Message]:
    """The answer to `show`, a message a packet."""
    return _parts(msgpack.packb(to_plain(snapshot)))


def shown_channels(channels: Sequence[Message]) -> Iterator[Message]:
    """The answer to `show` of channels, likewise."""
    return _parts(msgpack.packb(channels))


def _parts(data: bytes) -> Iterator[Message]:
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
        return from_plain(Snapshot, msgpack.unpackb(_ask(name, {"m": "show"})))
    except OSError as error:
        raise AllocatorUnavailable(
            f"process {pid} has no workers of its own: {error}",
            hint="name a program of yours on this host that has called something; one that uses an allocator is shown "
            "without --pid",
        ) from error


def channels_here() -> list[Message]:
    """The channels of this user's programs on this host, as their session processes tell; of those that don't, none.

    Each has the keys `client`, `lease`, `node`, `slot`, `medium` and `why` (004 section 3).
    """
    found: list[Message] = []
    for name in listed(os.getuid()):
        with suppress(OSError, RfaasError, ValueError):  # one that leaves, or of another version
            answer = msgpack.unpackb(_ask(name, {"m": "show", "what": "channels"}))
            found += [entry for entry in answer if isinstance(entry, dict)]
    return found


def _ask(name: str, question: Message) -> bytes:
    """What the session process of this address answers.

    Raises:
        OSError: it does not.
        AuthenticationFailed, ProtocolError: as `of_program`.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(ANSWER_S)
        sock.connect(name)
        if packets.peer(sock)[1] != os.getuid():
            raise AuthenticationFailed("the address of a session process is held by another user")
        packets.send(sock, packets.pack(question))
        return _answer(sock)


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
