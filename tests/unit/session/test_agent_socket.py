"""The connection to an agent: its last words are read, whatever was sent to it meanwhile."""

import asyncio
import socket

import pytest

from rfaas.session.agent_socket import AgentSocket

WORDS = b"why I leave " * 1000


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        there, _ = listener.accept()
    return here, there


@pytest.fixture(params=[socket.socketpair, tcp_pair], ids=["unix", "tcp"])
def ends(request):
    here, there = request.param()
    here.setblocking(False)
    with here, there:
        yield here, there


async def all_of(connection):
    """What comes until the end, and how it ended."""
    words = b""
    try:
        while data := await connection.receive(4096):
            words += data
    except OSError as error:
        return words, error
    return words, None


def test_last_words_are_read_although_nobody_hears_us_any_more(ends):
    here, there = ends

    async def said():
        connection = AgentSocket(here)
        there.sendall(WORDS)
        there.close()
        for _ in range(10):  # TCP tells at the second, once the first was refused
            connection.send(b"heartbeat")
            await asyncio.sleep(0.01)
        heard = await asyncio.wait_for(all_of(connection), 5)
        connection.close()
        return heard

    words, error = asyncio.run(said())
    assert words == WORDS
    assert isinstance(error, BrokenPipeError | ConnectionResetError)


def test_a_good_end_is_no_error(ends):
    here, there = ends

    async def said():
        connection = AgentSocket(here)
        reading = asyncio.create_task(all_of(connection))
        await asyncio.sleep(0.01)
        there.sendall(WORDS)
        there.close()
        heard = await asyncio.wait_for(reading, 5)
        connection.close()
        return heard

    assert asyncio.run(said()) == (WORDS, None)


def test_what_the_kernel_does_not_take_is_sent_later_and_in_order(ends):
    here, there = ends
    much = bytes(range(256)) * 100_000

    def drain():
        got = b""
        while len(got) < len(much) + 3:
            got += there.recv(1 << 20)
        return got

    async def sent():
        connection = AgentSocket(here)
        connection.send(much)
        connection.send(b"end")
        got = await asyncio.wait_for(asyncio.to_thread(drain), 30)
        await asyncio.wait_for(connection.flush(), 5)
        connection.close()
        return got

    assert asyncio.run(sent()) == much + b"end"


@pytest.mark.parametrize("ends", [socket.socketpair], ids=["unix"], indirect=True)  # TCP does not tell
def test_who_lives_but_reads_no_more_ends_it(ends):
    here, there = ends

    async def said():
        connection = AgentSocket(here)
        there.sendall(WORDS)
        there.shutdown(socket.SHUT_RD)
        connection.send(b"heartbeat")
        heard = await asyncio.wait_for(all_of(connection), 5)
        connection.close()
        return heard

    words, error = asyncio.run(said())
    assert (words, type(error)) == (WORDS, BrokenPipeError)
