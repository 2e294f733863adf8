"""Pairs of connected channels, one maker a medium, and what tests do with them.

A later medium joins the conformance suite by adding its maker to MEDIA (and to STREAMS if its other end can be a
plain socket).
"""

import os
import socket
from collections.abc import Callable

import pytest

from rfaas_transport import tls, verbs
from rfaas_transport._core import Channel, Frame, shm_segment
from rfaas_transport.errors import RfaasError
from support.soak import SOAK
from support.verbs_peer import peer_process
from support.waiting import wait_until

TIMEOUT_S = 20.0
IN_GUEST = bool(os.environ.get("RFAAS_RDMA_GUEST"))
"""The CPUs are emulated: what moves many bytes moves fewer, which go round the ring of a channel often enough."""


def tcp_sockets() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        dialled = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    return dialled, accepted


def _adopted(sockets: tuple[socket.socket, socket.socket], **options: int) -> tuple[Channel, Channel]:
    left, right = (Channel.from_fd(sock.detach(), **options) for sock in sockets)
    return left, right


def _over_memory(**options: int) -> tuple[Channel, Channel]:
    sockets, memory_fd = socket.socketpair(), shm_segment()
    copy_fd = os.dup(memory_fd)
    left = Channel.from_shm(sockets[0].detach(), memory_fd, 0, **options)
    return left, Channel.from_shm(sockets[1].detach(), copy_fd, 1, **options)


def _encrypted(**options: int) -> tuple[Channel, Channel]:
    """Two ends that have proved the key to each other."""
    key, (dialled, accepted) = os.urandom(32), tcp_sockets()
    left = Channel.from_fd(dialled.detach(), key=key, is_dialer=True, **options)
    right = Channel.from_fd(accepted.detach(), key=key, **options)
    for channel in (right, left, right):
        assert channel.wait(TIMEOUT_S)
        assert channel.poll() is None
    return left, right


def _over_rdma(**options: int) -> tuple[Channel, Channel]:
    """Two ends that are connected; on this machine, over any device."""
    device = os.environ.get("RFAAS_RDMA_DEVICE", "")
    left, right = (Channel.from_verbs(sock.detach(), device=device, **options) for sock in socket.socketpair())
    for channel in (right, left, right):
        assert channel.wait(TIMEOUT_S)
        assert channel.poll() is None
    return left, right


def _over_peer(**options: int) -> tuple[Channel, Channel]:
    """The C core to the left; pyverbs to the right, behind a socket at which a channel reads what it carries."""
    ours, theirs = socket.socketpair()
    near, far = socket.socketpair()
    peer = peer_process()
    number = peer.ask("bridge", theirs, far)
    left = Channel.from_verbs(ours.detach(), device=os.environ.get("RFAAS_RDMA_DEVICE", ""), **options)

    def is_open() -> bool:
        assert left.poll() is None
        return bool(peer.ask("bridge_is_open", number=number))

    wait_until(is_open, TIMEOUT_S)
    assert left.poll() is None
    return left, Channel.from_fd(near.detach(), **options)


MEDIA: dict[str, Callable[..., tuple[Channel, Channel]]] = {
    "inproc": Channel.pair,
    "tcp": lambda **options: _adopted(tcp_sockets(), **options),
    "unix": lambda **options: _adopted(socket.socketpair(), **options),
    "shm": _over_memory,
    **({"tls": _encrypted} if tls.is_built() else {}),
    **({"verbs": _over_rdma} if not verbs.why_not() else {}),
    # In a soak only: in the guest each takes minutes.
    **(
        {"verbs-pyverbs": _over_peer, "pyverbs-verbs": lambda **options: _over_peer(**options)[::-1]}
        if SOAK and not verbs.why_not()
        else {}
    ),
}
SAID = {"verbs-pyverbs": ["verbs", "unix"], "pyverbs-verbs": ["unix", "verbs"]}
# For parametrizing. Those over RDMA bear the mark of the ring that runs them where devices are: in a guest, as a rule,
# which would take seconds to make and leave out again what runs elsewhere.
EACH_MEDIUM = [
    pytest.param(name, marks=[pytest.mark.rdma] if "verbs" in name else [])
    for name in MEDIA
    if "verbs" in name or not IN_GUEST
]
STREAMS: dict[str, Callable[[], tuple[socket.socket, socket.socket]]] = {
    "tcp": tcp_sockets,
    "unix": socket.socketpair,
}


def receive(channel: Channel, timeout_s: float = TIMEOUT_S) -> Frame:
    """The next frame."""
    return wait_until(channel.poll, timeout_s, "a frame")


def receive_while_flushing(channel: Channel, sender: Channel, timeout_s: float = TIMEOUT_S) -> Frame:
    """The next frame of `channel`, with `sender` in this same thread sending what it has queued."""

    def poll() -> Frame | None:
        sender.flush()
        return channel.poll()

    return wait_until(poll, timeout_s, "a frame")


def drain(channel: Channel, timeout_s: float = TIMEOUT_S) -> tuple[list[Frame], RfaasError]:
    """All frames to the end of the channel, and the error that told it."""
    frames: list[Frame] = []

    def ended() -> RfaasError | None:
        try:
            while (frame := channel.poll()) is not None:
                frames.append(frame)
        except RfaasError as error:
            return error
        return None

    return frames, wait_until(ended, timeout_s, "the end of the channel")


def grant(giver: Channel, taker: Channel, credits: int = 1) -> None:
    """Let `taker` send `credits` credited frames to `giver`."""
    giver.send(97, credits=credits)
    assert receive(taker).credits == credits


def read_exactly(sock: socket.socket, size_bytes: int) -> bytes:
    """From a blocking socket; fails if the peer ends before."""
    data = b""
    while len(data) < size_bytes:
        piece = sock.recv(size_bytes - len(data))
        assert piece, f"the peer ended after {len(data)} of {size_bytes} bytes"
        data += piece
    return data
