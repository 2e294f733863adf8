"""T40: payloads of 0, 1, cap - 1, cap and cap + 1 bytes, there and back: exact, or refused before a byte is sent.

Channels of every medium, then results of a real worker. Spec: docs/spec/001-invocation.md §1, §4.
"""

import hashlib
import socket

import pytest

import rfaas
from rfaas.client.serial import dump_arguments
from rfaas_executors.calls import dumps
from rfaas_transport._core import Channel
from rfaas_transport.errors import ChannelBroken, PayloadTooLarge, ProtocolError
from rfaas_transport.frame import Kind, Status
from support import hostile
from support.agent_rig import AgentRig
from support.waiting import wait_until

CAP = 1 << 20
SIZES = (0, 1, CAP - 1, CAP)
TIMEOUT_S = 60


def pair(medium, left_bytes=CAP, right_bytes=CAP):
    """Two ends of a channel that take payloads of so many bytes."""
    if medium == "inproc":
        return Channel.pair(max_payload_bytes=left_bytes)
    if medium == "unix":
        ends = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            ends = socket.create_connection(server.getsockname()), server.accept()[0]
    limits = left_bytes, right_bytes
    return tuple(
        Channel.from_fd(end.detach(), max_payload_bytes=limit) for end, limit in zip(ends, limits, strict=True)
    )


def receive(sender, receiver):
    return wait_until(lambda: (sender.flush(), receiver.poll())[1], TIMEOUT_S, "a frame")


def pattern(size_bytes):
    """Bytes of which none can be missing or out of place unnoticed."""
    block = hashlib.sha256(str(size_bytes).encode()).digest()
    return (block * (size_bytes // 32 + 1))[:size_bytes]


@pytest.mark.parametrize("medium", ["inproc", "unix", "tcp"])
@pytest.mark.parametrize("size_bytes", SIZES)
def test_a_payload_within_the_cap_arrives_exactly(medium, size_bytes):
    here, there = pair(medium)
    data = pattern(size_bytes)
    here.send(Kind.RESULT, call_id=1, segments=[data] if data else [])
    frame = receive(here, there)
    assert b"".join(frame.segments) == data
    here.close()
    there.close()


@pytest.mark.parametrize("medium", ["inproc", "unix", "tcp"])
@pytest.mark.parametrize("parts", [1, 3], ids=["in one", "in parts"])
def test_one_byte_more_is_refused_before_anything_is_sent(medium, parts):
    here, there = pair(medium)
    data = pattern(CAP + 1)
    step = (CAP + parts) // parts
    with pytest.raises(PayloadTooLarge):
        here.send(Kind.RESULT, call_id=1, segments=[data[i : i + step] for i in range(0, CAP + 1, step)])
    here.send(Kind.RESULT, call_id=2, segments=[b"next"])
    frame = receive(here, there)
    assert (frame.call_id, bytes(frame.segments[0])) == (2, b"next"), "a byte of the refused one was sent"
    here.close()
    there.close()


@pytest.mark.parametrize("medium", ["unix", "tcp"])
def test_a_peer_that_sends_more_all_the_same_is_hung_up_on(medium):
    here, there = pair(medium, left_bytes=CAP + 1)
    here.send(Kind.RESULT, call_id=1, segments=[pattern(CAP + 1)])
    with pytest.raises((ProtocolError, ChannelBroken)):
        receive(here, there)
    here.close()
    there.close()


@pytest.fixture(scope="module")
def client():
    with AgentRig(cores=1) as rig:
        _, [client] = rig.session().start()
        assert client.run(hostile.pid)
        yield client


def result_bytes(size_bytes):
    """What a result of so many bytes of the user's takes."""
    return sum(memoryview(part).nbytes for part in dumps(bytes(size_bytes)))


@pytest.mark.parametrize("size_bytes", SIZES)
@pytest.mark.parametrize("room_bytes", [0, 1])
def test_a_result_that_fits_what_its_caller_takes_comes_whole(client, size_bytes, room_bytes):
    needed_bytes = result_bytes(size_bytes)
    client.call(hostile.payload, size_bytes, out_size=needed_bytes + room_bytes)
    assert client.result() == bytes(size_bytes)


@pytest.mark.parametrize("size_bytes", SIZES)
def test_a_result_that_is_one_byte_too_large_says_what_it_needs(client, size_bytes):
    needed_bytes = result_bytes(size_bytes)
    client.call(hostile.payload, size_bytes, out_size=needed_bytes - 1)
    frame = client.receive()
    assert (frame.kind, frame.status, frame.out_size, len(frame.segments)) == (
        Kind.RESULT,
        Status.TOO_LARGE,
        needed_bytes,
        0,
    )
    assert client.run(hostile.payload, 3) == bytes(3)


def arguments_of(size_bytes):
    """An argument with which a call of `size_of` takes so many bytes in all."""
    overhead_bytes = sum(memoryview(part).nbytes for part in dump_arguments((bytes(CAP // 2),), {})) - CAP // 2
    return bytes(size_bytes - overhead_bytes)


@pytest.fixture(scope="module")
def ex():
    with rfaas.Executor(1, allocator="embedded", payload_limit=CAP) as executor:
        executor.submit(hostile.ok).result(TIMEOUT_S)  # its processes are there before the first test
        yield executor


@pytest.mark.parametrize("size_bytes", [CAP // 2, CAP - 1, CAP])
def test_a_call_within_the_limit_is_exact(ex, size_bytes):
    data = arguments_of(size_bytes)
    assert ex.submit(hostile.size_of, data).result(TIMEOUT_S) == len(data)


def test_a_call_beyond_the_limit_is_never_sent(ex):
    before = ex.statistics()["answered"]
    error = ex.submit(hostile.size_of, arguments_of(CAP + 1)).exception(TIMEOUT_S)
    assert type(error) is PayloadTooLarge
    assert str(CAP) in error.message
    assert error.may_have_run is False
    assert ex.submit(hostile.size_of, b"abc").result(TIMEOUT_S) == 3
    assert ex.statistics()["answered"] == before + 1


@pytest.mark.parametrize("more", [0, 1])
def test_a_result_is_whole_up_to_the_limit_and_refused_beyond(ex, more):
    size_bytes = CAP - (result_bytes(CAP // 2) - CAP // 2) + more
    future = ex.submit(hostile.payload, size_bytes)
    if more:
        error = future.exception(TIMEOUT_S)
        assert (type(error), error.may_have_run, error.phase) == (PayloadTooLarge, True, "DONE")
    else:
        assert len(future.result(TIMEOUT_S)) == size_bytes


def raise_large(size_bytes):
    """Raise an exception that carries so many bytes."""
    error = ValueError("the very reason")
    error.data = bytes(size_bytes)
    raise error


def test_an_exception_that_is_too_large_says_what_it_was(ex):
    error = ex.submit(raise_large, 2 * CAP).exception(TIMEOUT_S)
    assert (type(error), error.may_have_run, error.phase) == (PayloadTooLarge, True, "DONE")
    assert "; it begins: ValueError: the very reason" in error.message
