"""The handshake over real sockets, in its three forms, and that it reads not one byte too many."""

import asyncio
import socket
import threading

import pytest

from rfaas_transport.errors import AuthenticationFailed, ChannelBroken, NotFound, ProtocolError
from rfaas_transport.handshake import Accepter, Dialer, accept, dial, handshake_blocking, handshake_socket

SECRET = bytes(range(32))
BEHIND = b"frames begin here"


def allow(role, params):
    return {"role": role, **params}


def refuse(role, params):
    raise NotFound("no such slot")


def run_pair(sockets, dialer_secret=SECRET, authorise=allow):
    """Both sides in one loop; what each side's handshake returned or raised."""
    for sock in sockets:
        sock.setblocking(False)

    async def both():
        return await asyncio.gather(
            handshake_socket(sockets[0], Dialer(dialer_secret, "data", {"slot": 3})),
            handshake_socket(sockets[1], Accepter(SECRET, authorise)),
            return_exceptions=True,
        )

    return asyncio.run(both())


def test_both_sides_are_done_with_one_key(sockets):
    dialer, accepter = run_pair(sockets)
    assert dialer.done
    assert accepter.done
    assert dialer.session_key == accepter.session_key
    assert dialer.peer_params == {"role": "data", "slot": 3}
    assert (accepter.role, accepter.peer_params) == ("data", {"slot": 3})


def test_what_follows_stays_in_the_socket(sockets):
    """The accepter's proof and its first frames may come in one piece; the descriptor goes to another process then."""
    left, right = sockets
    left.setblocking(False)
    right.setblocking(False)

    async def run():
        async def accepting():
            await handshake_socket(right, Accepter(SECRET, allow))
            right.send(BEHIND)

        dialler = asyncio.create_task(handshake_socket(left, Dialer(SECRET, "data", {})))
        await asyncio.gather(accepting(), dialler)
        return dialler.result()

    dialer = asyncio.run(run())
    assert dialer.leftover == b""
    left.settimeout(5)
    assert left.recv(100) == BEHIND


def test_a_dialer_that_sends_on_at_once_loses_nothing(sockets):
    left, right = sockets
    accepted = []
    thread = threading.Thread(target=lambda: accepted.append(handshake_blocking(right, Accepter(SECRET, allow))))
    thread.start()
    machine = Dialer(SECRET, "session", {})
    left.sendall(machine.start())
    while not machine.done:
        answer = machine.receive(left.recv(machine.wanted_bytes))
        left.sendall(answer + BEHIND if answer else b"")
    thread.join(10)
    assert accepted[0].leftover == b""
    assert right.recv(100) == BEHIND


@pytest.mark.parametrize("timeout_s", [None, 5.0])
def test_the_blocking_form_leaves_the_sockets_time_out_as_it_was(sockets, timeout_s):
    left, right = sockets
    left.settimeout(timeout_s)
    thread = threading.Thread(target=handshake_blocking, args=(right, Accepter(SECRET, allow)))
    thread.start()
    assert handshake_blocking(left, Dialer(SECRET, "session", {})).done
    assert left.gettimeout() == timeout_s
    thread.join(10)


def test_the_form_for_streams(sockets):
    left, right = sockets

    async def run():
        ours = await asyncio.open_connection(sock=left)
        theirs = await asyncio.open_connection(sock=right)
        dialer, accepter = await asyncio.gather(
            dial(*ours, SECRET, "session", {"pid": 1}), accept(*theirs, SECRET, allow)
        )
        theirs[1].write(BEHIND)
        behind = await ours[0].readexactly(len(BEHIND))
        for _, writer in (ours, theirs):
            writer.close()
            await writer.wait_closed()
        return dialer, accepter, behind

    dialer, accepter, behind = asyncio.run(run())
    assert (dialer.session_key, dialer.peer_params) == (accepter.session_key, {"role": "session", "pid": 1})
    assert behind == BEHIND


def test_another_secret_is_refused_on_both_sides(sockets):
    ours, theirs = run_pair(sockets, dialer_secret=bytes(32))
    assert isinstance(ours, AuthenticationFailed)
    assert isinstance(theirs, AuthenticationFailed)


def test_a_worker_that_is_not_there_is_not_found_on_both_sides(sockets):
    ours, theirs = run_pair(sockets, authorise=refuse)
    assert isinstance(ours, NotFound)
    assert "no such slot" in str(ours)
    assert isinstance(theirs, NotFound)


def loop_form(sock, machine, timeout_s):
    sock.setblocking(False)
    return asyncio.run(handshake_socket(sock, machine, timeout_s))


FORMS = {"loop": loop_form, "blocking": handshake_blocking}


@pytest.mark.parametrize("form", FORMS)
def test_a_silent_peer_is_given_up_in_time(sockets, form):
    with pytest.raises(ProtocolError, match="in time"):
        FORMS[form](sockets[0], Dialer(SECRET, "session", {}), timeout_s=0.05)


@pytest.mark.parametrize("form", FORMS)
def test_a_peer_that_hangs_up_is_a_broken_connection(sockets, form):
    sockets[1].close()
    with pytest.raises(ChannelBroken):
        FORMS[form](sockets[0], Dialer(SECRET, "session", {}), timeout_s=5.0)


@pytest.mark.parametrize("form", FORMS)
def test_a_stranger_is_told_and_turned_away(sockets, form):
    sockets[1].sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(ProtocolError):
        FORMS[form](sockets[0], Accepter(SECRET, allow), timeout_s=5.0)
    assert b"bad-message" in sockets[1].recv(4096)


def test_the_stranger_is_told_over_streams_too():
    left, right = socket.socketpair()

    async def run():
        reader, writer = await asyncio.open_connection(sock=left)
        right.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ProtocolError):
            await accept(reader, writer, SECRET, allow, timeout_s=5.0)
        writer.close()
        await writer.wait_closed()

    with right:
        asyncio.run(run())
        right.settimeout(5)
        assert b"bad-message" in right.recv(4096)
