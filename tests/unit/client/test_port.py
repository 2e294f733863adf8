"""Which functions a client announces on a channel, and for how long, with the real channel."""

import pytest

from rfaas.client import port
from rfaas.client.records import ChannelInfo
from rfaas.client.serial import Definition
from rfaas_transport._core import Channel
from rfaas_transport.frame import Kind, Status
from support.waiting import wait_until

INFO = ChannelInfo(number=7, lease=b"l", lease_seq=1, epoch=1, slot=2, generation=1, node="n1")


@pytest.fixture
def both():
    mine, worker = Channel.pair()
    yield port.Port(INFO, mine, 1), worker
    mine.close()
    worker.close()


def receive(channel):
    return wait_until(channel.poll, 5, "a frame")


def fetch(both, definition):
    """The status of what a worker gets that asks for a function's blob, and its bytes."""
    announced, worker = both
    worker.send(Kind.FETCH, call_id=1, segments=[definition.digest])
    announced.answer_fetch(receive(announced.channel))
    frame = receive(worker)
    while frame.kind == Kind.DEFINE:
        frame = receive(worker)
    assert frame.kind == Kind.BLOB
    return frame.status, b"".join(frame.segments)


def test_functions_unused_for_longest_give_their_index_to_the_next(both, monkeypatch):
    monkeypatch.setattr(port, "FUNCTIONS_PER_CHANNEL", 3)
    one, two, three, four = (Definition(bytes([n])) for n in range(4))
    assert [both[0].announce(each) for each in (one, two, three, one, four, one)] == [0, 1, 2, 0, 1, 0]
    assert fetch(both, one) == (Status.OK, one.blob)
    assert fetch(both, two) == (Status.NOT_FOUND, b"")
    assert both[0].announce(two) == 2  # three was unused for longest


def test_functions_are_held_up_to_so_many_bytes_and_always_the_last(both, monkeypatch):
    monkeypatch.setattr(port, "FUNCTION_BYTES_PER_CHANNEL", 250)
    small = [Definition(bytes([n]) * 100) for n in range(4)]
    assert [both[0].announce(each) for each in small] == [0, 1, 0, 1]
    assert [fetch(both, each)[0] == Status.OK for each in small] == [False, False, True, True]
    large = Definition(b"l" * 300)
    index = both[0].announce(large)
    assert both[0].announce(large) == index
    assert fetch(both, large) == (Status.OK, large.blob)
    assert [fetch(both, each)[0] for each in small] == [Status.NOT_FOUND] * 4
    assert {both[0].announce(each) for each in small[:2]} == {0, 1}
