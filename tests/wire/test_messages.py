"""Messages of the session connection: lengths, limits, and what is no message."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfaas_transport.errors import PayloadTooLarge, ProtocolError
from rfaas_transport.messages import MAX_DEPTH, MessageReader, decode, encode, pack

HEARTBEAT = {"m": "heartbeat", "leases": [bytes(range(16))]}
# u32 length 39, map of 2, "m": "heartbeat", "leases": list of one, 16 bytes.
HEARTBEAT_HEX = "27000000 82 a16d a9686561727462656174 a66c6561736573 91 c410" + bytes(range(16)).hex()


def test_a_message_has_these_bytes():
    assert pack(HEARTBEAT) == bytes.fromhex(HEARTBEAT_HEX)
    assert MessageReader().feed(bytes.fromhex(HEARTBEAT_HEX)) == [HEARTBEAT]


def test_messages_are_cut_wherever_the_stream_is():
    data = pack(HEARTBEAT) + pack({"m": "b"}) + pack(HEARTBEAT)
    reader = MessageReader()
    one_by_one = [message for i in range(len(data)) for message in reader.feed(data[i : i + 1])]
    assert one_by_one == MessageReader().feed(data) == [HEARTBEAT, {"m": "b"}, HEARTBEAT]
    assert reader.pending_bytes == 0


def test_wanted_bytes_lead_to_the_end_of_a_message_and_not_beyond():
    data = pack(HEARTBEAT) + b"what follows"
    reader, at, messages = MessageReader(), 0, []
    while not messages:
        step = reader.wanted_bytes
        messages = reader.feed(data[at : at + step])
        at += step
    assert data[at:] == b"what follows"


@pytest.mark.parametrize("length", [0, 1001, 2**32 - 1])
def test_a_length_out_of_range_is_refused_before_it_is_waited_for(length):
    reader = MessageReader(limit_bytes=1000)
    with pytest.raises(ProtocolError):
        reader.feed(length.to_bytes(4, "little"))
    with pytest.raises(ProtocolError):
        reader.feed(b"")


def nested(depth):
    value = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",  # never used by msgpack
        msgpack.packb([1]),
        msgpack.packb({"n": 1}),
        msgpack.packb({"m": 1}),
        msgpack.packb({"m": b"bytes"}),
        msgpack.packb({"m": "x", 1: 2}),
        msgpack.packb({"m": "x", b"k": 2}),
        msgpack.packb({"m": "x", "t": msgpack.Timestamp(1)}),
        msgpack.packb({"m": "x", "t": msgpack.ExtType(5, b"")}),
        msgpack.packb({"m": "x"}) + b"\0",
        msgpack.packb({"m": "x"})[:-1],
        b"\x82\xa1m\xa1x\xa1t\xa1\xff",  # text that is no UTF-8
        b"\xdf\xff\xff\xff\xff",  # a map of 4 Gi entries
        b"\x91" * 100_000,  # nesting deeper than any stack
        msgpack.packb({"m": "x", "deep": nested(MAX_DEPTH)}),
    ],
    ids=range(16),
)
def test_what_is_no_message_is_refused_with_the_one_error(body):
    with pytest.raises(ProtocolError):
        decode(body)


def test_nesting_is_allowed_up_to_the_limit():
    assert decode(msgpack.packb({"m": "x", "deep": nested(MAX_DEPTH - 1)}))["m"] == "x"


def test_a_message_above_the_limit_is_refused_on_both_sides():
    message = {"m": "x", "data": bytes(1000)}
    with pytest.raises(PayloadTooLarge):
        pack(message, limit_bytes=1000)
    with pytest.raises(ProtocolError):
        decode(encode(message), limit_bytes=1000)


@given(st.binary(max_size=300))
def test_random_bytes_are_messages_or_refused(data):
    reader = MessageReader()
    try:
        for message in reader.feed(data):
            assert isinstance(message["m"], str)
    except ProtocolError:
        pass
