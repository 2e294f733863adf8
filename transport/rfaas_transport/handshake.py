"""The handshake of session and data connections, over sockets: asyncio streams, non-blocking or blocking sockets.

Reads exactly the bytes of the handshake and not one more, so that the descriptor can be handed over afterwards.
The machines are in handshake_machine.py. Must not close anything: the caller closes what it opened.
Spec: docs/spec/004-session.md section 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from rfaas_transport.errors import ChannelBroken, ProtocolError, RfaasError
from rfaas_transport.handshake_machine import AUTH_SECRET, TIMEOUT_S, Accepter, Authorise, Dialer

if TYPE_CHECKING:
    from rfaas_transport.munge import Decoded
    from rfaas_transport.munge_handshake import MungeAccepter, MungeDialer

__all__ = ["Accepter", "Dialer", "accept", "dial", "handshake_blocking", "handshake_socket", "handshake_streams"]

Machine = TypeVar("Machine", bound="Dialer | Accepter")

_ENDED = "the peer closed the connection in the middle of the handshake"
_LATE = "the peer did not finish the handshake in time"


async def handshake_socket(sock: socket.socket, machine: Machine, timeout_s: float = TIMEOUT_S) -> Machine:
    """Run `machine` over a connected non-blocking socket; return it, done.

    Raises:
        What `receive` of the machine raises, after telling the peer; ChannelBroken: the peer hung up;
        ProtocolError: it took longer than `timeout_s`. The socket stays open and is the caller's to close.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            if hello := machine.start():
                await loop.sock_sendall(sock, hello)
            while wanted_bytes := machine.wanted_bytes:
                data = await loop.sock_recv(sock, wanted_bytes)
                if not data:
                    raise ChannelBroken(_ENDED)
                if answer := await _with_munge(machine, machine.receive(data)):
                    await loop.sock_sendall(sock, answer)
    except TimeoutError as error:
        raise ProtocolError(_LATE) from error
    except RfaasError:
        with contextlib.suppress(OSError):
            sock.send(machine.last_words)  # fits in the socket's buffer or is not worth waiting for
        raise
    except OSError as error:
        raise ChannelBroken(f"{_ENDED}: {error}") from error
    return machine


async def handshake_streams(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, machine: Machine, timeout_s: float = TIMEOUT_S
) -> Machine:
    """Run `machine` over asyncio streams; return it, done. Raises as `handshake_socket`."""
    try:
        async with asyncio.timeout(timeout_s):
            writer.write(machine.start())
            while wanted_bytes := machine.wanted_bytes:
                writer.write(await _with_munge(machine, machine.receive(await reader.readexactly(wanted_bytes))))
            await writer.drain()
    except TimeoutError as error:
        raise ProtocolError(_LATE) from error
    except RfaasError:
        writer.write(machine.last_words)
        raise
    except (OSError, asyncio.IncompleteReadError) as error:
        raise ChannelBroken(_ENDED) from error
    return machine


class _Question:
    """What a machine wants to know of munged."""

    def __init__(self, machine: MungeDialer | MungeAccepter) -> None:
        self._machine = machine

    def ask(self) -> str | Decoded | RfaasError:
        """Ask munged, which blocks."""
        from rfaas_transport.munge import Munge
        from rfaas_transport.munge_handshake import carry_out

        assert self._machine.request is not None
        try:
            return carry_out(self._machine.request, self._machine.munge or Munge())
        except RfaasError as error:  # no libmunge
            return error

    def take(self, answer: str | Decoded | RfaasError) -> bytes:
        """Tell the machine."""
        return self._machine.answered(answer)


def _question(machine: Dialer | Accepter) -> _Question | None:
    if machine.auth == AUTH_SECRET:
        return None  # without loading what munge needs
    from rfaas_transport.munge_handshake import MungeAccepter, MungeDialer

    return _Question(machine) if isinstance(machine, MungeDialer | MungeAccepter) and machine.request else None


async def _with_munge(machine: Dialer | Accepter, said: bytes) -> bytes:
    """What to send, after munged was asked what the machine wants to know; in a thread, since the loop must go on."""
    while (due := _question(machine)) is not None:
        said += due.take(await asyncio.to_thread(due.ask))
    return said


async def dial(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    secret: bytes,
    role: str,
    params: Mapping[str, Any],
    timeout_s: float = TIMEOUT_S,
) -> Dialer:
    """Be the dialer on asyncio streams; raises as `handshake_socket`."""
    return await handshake_streams(reader, writer, Dialer(secret, role, params), timeout_s)


async def accept(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    secret: bytes,
    authorise: Authorise,
    timeout_s: float = TIMEOUT_S,
) -> Accepter:
    """Be the accepter on asyncio streams; raises as `handshake_socket`."""
    return await handshake_streams(reader, writer, Accepter(secret, authorise), timeout_s)


def handshake_blocking(sock: socket.socket, machine: Machine, timeout_s: float = TIMEOUT_S) -> Machine:
    """Run `machine` over a connected blocking socket; return it, done. The socket's time-out is as before afterwards.

    Raises as `handshake_socket`.
    """
    before_s = sock.gettimeout()
    deadline_s = time.monotonic() + timeout_s
    try:
        sock.settimeout(timeout_s)
        sock.sendall(machine.start())
        while wanted_bytes := machine.wanted_bytes:
            sock.settimeout(max(deadline_s - time.monotonic(), 0.001))
            data = sock.recv(wanted_bytes)
            if not data:
                raise ChannelBroken(_ENDED)
            answer = machine.receive(data)
            while (due := _question(machine)) is not None:
                answer += due.take(due.ask())
            if answer:  # an empty send finds out too soon that the peer has left
                sock.sendall(answer)
    except TimeoutError as error:
        raise ProtocolError(_LATE) from error
    except RfaasError:
        with contextlib.suppress(OSError):
            sock.send(machine.last_words)
        raise
    except OSError as error:
        raise ChannelBroken(f"{_ENDED}: {error}") from error
    finally:
        sock.settimeout(before_s)
    return machine
