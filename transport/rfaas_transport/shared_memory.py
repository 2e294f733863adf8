"""How a connection between two processes of one node becomes a channel over shared memory.

The client makes the memory and sends it, with one byte, as the first thing on the connection; the worker takes it.
Nothing but bells goes over the connection afterwards. Spec: docs/spec/006-shared-memory.md section 6.
"""

from __future__ import annotations

import os
import socket
from typing import Final

from rfaas_transport._core import DEFAULT_ARENA_BYTES, Channel, pool_descriptor, shm_segment
from rfaas_transport.errors import ProtocolError

_HERE: Final = b"M"


def offer(descriptor: int, arena_bytes: int = DEFAULT_ARENA_BYTES) -> Channel:
    """Make memory, send it over a connected unix socket with nothing in it, and return our end; never blocks.

    Args:
        descriptor: of the socket; the channel's from then on. On any error it stays the caller's.
        arena_bytes: for large payloads, each way; only what is used takes memory.
    Raises:
        OSError: no memory or descriptor was left, or the peer is gone.
        ConfigError: it is no unix stream socket.
        MemoryError: no memory for the channel.
    """
    memory = shm_segment(arena_bytes)
    pool = pool_descriptor()  # the peer may read this process's arrays in place
    try:
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            sock.setblocking(False)
            socket.send_fds(sock, [_HERE], [memory] if pool < 0 else [memory, pool])
        return Channel.from_shm(descriptor, memory, 0)
    except BaseException:
        os.close(memory)
        raise
    finally:
        if pool >= 0:
            os.close(pool)


def accept(descriptor: int) -> Channel | None:
    """Take the memory that was sent over a connected unix socket, and return our end; never blocks.

    Args:
        descriptor: of the socket; the channel's from then on, unless there is none.
    Returns:
        None if nothing was sent yet.
    Raises: (the socket stays the caller's)
        ProtocolError: something else came, or this process had no descriptor left for it.
        ConfigError: what came is no sealed segment.
        OSError: the peer is gone.
        MemoryError: no memory for the channel.
    """
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        try:
            data, descriptors, _, _ = socket.recv_fds(sock, 1, 2, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
    if data == b"":
        raise ConnectionResetError("the client left before it had sent its memory")
    if data != _HERE or len(descriptors) not in (1, 2):
        for received in descriptors:
            os.close(received)
        raise ProtocolError("the client sent no memory for the channel")
    memory, *pools = descriptors
    try:
        return Channel.from_shm(descriptor, memory, 1, pool_fd=pools[0] if pools else -1)
    except BaseException:
        os.close(memory)
        raise
    finally:
        for pool in pools:
            os.close(pool)
