"""Messages between agent, template and workers: one msgpack map a packet, descriptors beside it.

Must import nothing but the standard library, msgpack and `_process`: it is loaded in the user's own environment. These
sockets join processes of one user that start each other; nothing of a client is ever decoded here.

| from | m | other keys | descriptors |
| --- | --- | --- | --- |
| agent to template | fork | worker u, slot, generation, cpus [u...] or nil, data_bytes, node, output | those below |
| template to agent | ready | protocol, python [u, u, u], implementation, cloudpickle, pid | |
| template to agent | forked | worker u, pid, spawned (text: why it was not forked, or "") | pidfd |
| template to agent | exited | worker u, pid, exit_status, signal, leftovers u, cpu_ns u, hint (if it never ran) | |
| agent to worker | channel | channel, page_slot, lease_seq, epoch, lease, holder, medium, hot_for_s, key | connection |
| agent to worker | drain | kill_at_s (CLOCK_BOOTTIME; nil: not known) | |
| worker to agent | closed | channel u64, violated bool (absent: false; docs/spec/007-verbs.md section 5) | |
| worker to agent | deadlines | | |
| worker to agent | printed | channel u64, call_id u64: of the call that is over, all it printed is in the pipes | |

The descriptors of `fork` are the worker's: control end, state page and, with `output` "pipes" (else "" or "discard"),
stdout and stderr.
`key` is of medium "tls", else empty (docs/spec/004-session.md section 5).
`data_bytes` is what RLIMIT_DATA allows beyond what the worker has at its start (docs/spec/002-lease.md section 10).
`exited` is proof of death: the worker is reaped, its process group is empty and nothing it left to the template lives.
"""

from __future__ import annotations

import array
import os
import socket
from typing import Any, Final

import msgpack

PROTOCOL: Final = 1
"""Version of these messages; agent and template work together when theirs differ by one at most."""

PACKET_LIMIT_BYTES: Final = 256 * 1024
MAX_DESCRIPTORS: Final = 4

Message = dict[str, Any]


def pair() -> tuple[socket.socket, socket.socket]:
    """Make the two ends of a control connection; both close on exec."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in here, there:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * PACKET_LIMIT_BYTES)
    return here, there


def pack(message: Message) -> bytes:
    """Encode one message."""
    packet: bytes = msgpack.packb(message)
    return packet


def closed(channel: int, *, violated: bool = False) -> Message:
    """Tell the agent that a channel ended; `violated`: its client asked our device for what it has no key for."""
    return {"m": "closed", "channel": channel, **({"violated": True} if violated else {})}


def send(control: socket.socket, message: Message, descriptors: tuple[int, ...] = ()) -> None:
    """Send one message whole; the descriptors stay the caller's.

    Raises:
        BlockingIOError: the socket is non-blocking and full; nothing was sent.
        OSError: the peer is gone; nothing was sent.
    """
    send_packet(control, pack(message), descriptors)


def send_packet(control: socket.socket, packet: bytes, descriptors: tuple[int, ...] = ()) -> None:
    """`send` for a message that is encoded already."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    control.sendmsg([packet], rights, socket.MSG_NOSIGNAL)


def receive(control: socket.socket, *, block: bool = True) -> tuple[Message, list[int]] | None:
    """Receive one message with its descriptors, which are the caller's then; None at the peer's end.

    A process that has no descriptor left gets the message without any.

    Raises:
        BlockingIOError: nothing is there (and `block` is False or the socket is non-blocking).
        OSError: the peer is gone.
    """
    flags = socket.MSG_CMSG_CLOEXEC | (0 if block else socket.MSG_DONTWAIT)
    packet, ancillary, result, _ = control.recvmsg(
        PACKET_LIMIT_BYTES, socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize), flags
    )
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    if result & socket.MSG_CTRUNC:
        for descriptor in descriptors:
            os.close(descriptor)
        del descriptors[:]
    if not packet:
        return None
    return msgpack.unpackb(packet), list(descriptors)
