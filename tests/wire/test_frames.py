"""Frames against their vectors, read and written by both codecs: plain Python and the C core behind a channel."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfaas_transport._core import MAX_SEGMENTS, MAX_TEXT_BYTES, Channel, crc32c
from rfaas_transport.errors import ChannelBroken, PayloadTooLarge, ProtocolError
from rfaas_transport.frame import Decoder, ExtensionType, Frame, Header, Kind, Status, encode
from support.media import receive
from support.vectors import load, raw

VECTORS = load("frames")
FRAMES = {vector["name"]: vector for vector in VECTORS["frames"]}
ANSWERED = {vector["name"]: vector for vector in VECTORS["answered"]}
REFUSED = {vector["name"]: vector for vector in VECTORS["refused"]}
WRITABLE = [name for name, vector in FRAMES.items() if not vector["extensions"]]


def frame_of(vector):
    return Frame(
        Header(**vector["header"]),
        tuple(bytes.fromhex(segment) for segment in vector["segments"]),
        vector["text"],
        tuple((extension_type, bytes.fromhex(data)) for extension_type, data in vector["extensions"]),
    )


def sent_fields(header):
    return {name: value for name, value in vars(header).items() if name not in ("kind", "flags", "in_size")}


@pytest.fixture
def channel_and_socket():
    """A channel with a plain socket at the other end, and a credit each way."""
    left, right = socket.socketpair()
    right.settimeout(5)
    with Channel.from_fd(left.detach()) as channel, right:
        channel.send(Kind.CREDIT, credits=1)
        right.recv(64)
        right.sendall(b"".join(encode(Header(kind=Kind.CREDIT, credits=1))))
        receive(channel)
        yield channel, right


def assert_same(received, expected):
    header = expected.header
    for field in vars(header):
        assert getattr(received, field) == getattr(header, field), field
    assert tuple(bytes(segment) for segment in received.segments) == expected.segments
    assert received.text == expected.text


# ---- plain Python ----


@pytest.mark.parametrize("name", [*FRAMES, *ANSWERED])
def test_python_writes_the_vector(name):
    frame = frame_of({**FRAMES, **ANSWERED}[name])
    assert (
        b"".join(encode(frame.header, frame.segments, frame.text, frame.extensions)).hex()
        == raw({**FRAMES, **ANSWERED}[name]).hex()
    )


@pytest.mark.parametrize("name", [*FRAMES, *ANSWERED])
def test_python_reads_the_vector_one_byte_at_a_time_and_with_what_follows(name):
    vector = {**FRAMES, **ANSWERED}[name]
    data, expected = raw(vector), frame_of(vector)
    decoder = Decoder()
    for i in range(len(data) - 1):
        assert decoder.feed(data[i : i + 1]) == []
        assert decoder.pending_bytes == i + 1
    assert decoder.feed(data[-1:] + data + data[:10]) == [expected, expected]
    assert decoder.pending_bytes == 10


@pytest.mark.parametrize("name", REFUSED)
def test_python_refuses_what_is_no_frame_and_says_why(name):
    decoder = Decoder()
    filler = bytes(8 * 8192)  # a wrong length must not make a reader wait for ever
    with pytest.raises(ProtocolError, match=REFUSED[name]["refused_because"].rstrip("s").replace("crc", "checksum")):
        decoder.feed(raw(REFUSED[name]) + filler)
    with pytest.raises(ProtocolError):
        decoder.feed(b"")


# ---- the C core ----


@pytest.mark.parametrize("name", WRITABLE)
def test_the_core_writes_the_vector(name, channel_and_socket):
    channel, sock = channel_and_socket
    expected, frame = raw(FRAMES[name]), frame_of(FRAMES[name])
    assert channel.send(frame.header.kind, text=frame.text, segments=frame.segments, **sent_fields(frame.header))
    assert sock.recv(len(expected) + 1).hex() == expected.hex()


@pytest.mark.parametrize("name", [name for name in FRAMES if name != "bye"])
def test_the_core_reads_the_vector_one_byte_at_a_time_and_with_what_follows(name, channel_and_socket):
    channel, sock = channel_and_socket
    data = raw(FRAMES[name])
    channel.send(Kind.CREDIT, credits=2)
    for i in range(len(data) - 1):
        sock.send(data[i : i + 1])
        assert channel.poll() is None
    sock.sendall(data[-1:] + data + data[:10])
    assert_same(channel.poll(), frame_of(FRAMES[name]))
    assert_same(channel.poll(), frame_of(FRAMES[name]))
    assert channel.poll() is None


@pytest.mark.parametrize("name", ANSWERED)
def test_the_core_answers_what_it_does_not_understand_and_stays_up(name, channel_and_socket):
    channel, sock = channel_and_socket
    sock.sendall(raw(ANSWERED[name]) + raw(FRAMES["result"]))
    assert channel.poll().kind == Kind.RESULT
    (answer,) = Decoder().feed(sock.recv(4096))
    assert answer.header.kind == Kind.ERROR
    assert answer.header.status == ANSWERED[name]["answer_status"]
    assert answer.header.call_id == ANSWERED[name]["header"]["call_id"]
    assert "not known here" in answer.text


@pytest.mark.parametrize("name", REFUSED)
def test_the_core_refuses_what_is_no_frame(name, channel_and_socket):
    channel, sock = channel_and_socket
    sock.sendall(raw(FRAMES["credit"]) + raw(REFUSED[name]) + bytes(8 * 8192))
    assert channel.poll().kind == Kind.CREDIT
    for _ in range(2):
        with pytest.raises(ChannelBroken):
            channel.poll()


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_cut_off_at_any_byte_breaks_the_channel(name):
    data = raw(FRAMES[name])
    for length in range(1, len(data)):
        left, right = socket.socketpair()
        with Channel.from_fd(left.detach()) as channel:
            right.sendall(data[:length])
            assert channel.poll() is None
            right.close()
            with pytest.raises(ChannelBroken, match="middle of a frame"):
                channel.poll()


# ---- damage ----

DAMAGED = b"".join(encode(Header(kind=Kind.RESULT, call_id=7, credits=1), [b"ab", b"c"], "text"))
DAMAGED_HEAD_BITS = 8 * (len(DAMAGED) - 3)


def flipped(bit):
    data = bytearray(DAMAGED)
    data[bit // 8] ^= 1 << bit % 8
    return bytes(data) + bytes(8 * 8192)


def test_python_refuses_a_head_with_any_bit_flipped():
    for bit in range(DAMAGED_HEAD_BITS):
        with pytest.raises(ProtocolError):
            Decoder().feed(flipped(bit))


def test_the_core_refuses_a_head_with_any_bit_flipped():
    for bit in range(DAMAGED_HEAD_BITS):
        left, right = socket.socketpair()
        with Channel.from_fd(left.detach()) as channel, right:
            right.sendall(flipped(bit))
            with pytest.raises(ChannelBroken):
                channel.poll()


@given(st.binary(max_size=400))
def test_random_bytes_end_in_a_typed_error_or_wait_for_more(data):
    left, right = socket.socketpair()
    with Channel.from_fd(left.detach()) as channel, right:
        right.sendall(data)
        verdicts = []
        for feed in (lambda: Decoder().feed(data), channel.poll):
            try:
                feed()
                verdicts.append("waits")
            except (ProtocolError, ChannelBroken):
                verdicts.append("refused")
    assert len(set(verdicts)) == 1


def with_true_crc(head):
    blanked = head[:8] + bytes(4) + head[12:]
    return head[:8] + crc32c(blanked).to_bytes(4, "little") + head[12:]


words = st.integers(0, 40).map(lambda value: value.to_bytes(8, "little"))
extension_starts = st.tuples(st.sampled_from([0x8001, 2, 3, 4, 7, 0x8003]), st.just(0), st.integers(0, 24)).map(
    lambda start: struct.pack("<HHI", *start)
)


@given(st.lists(extension_starts | words, max_size=8), st.integers(0, 30), st.sampled_from([Kind.RESULT, 200]))
def test_extensions_of_any_shape_are_judged_alike_by_both(pieces, in_size, kind):
    extensions = b"".join(pieces)
    start = struct.pack("<BBBBHHIHHQQQQQQ", 1, kind, 0, 0, 8 + len(pieces), 0, 0, 0, 0, 5, 0, 0, 0, in_size, 0)
    data = with_true_crc(start + extensions) + bytes(in_size)
    try:
        (expected,) = Decoder().feed(data)
    except ProtocolError:
        expected = None
    left, right = socket.socketpair()
    with Channel.from_fd(left.detach()) as channel, right:
        right.sendall(data)
        if expected is None:
            with pytest.raises(ChannelBroken):
                channel.poll()
        elif expected.unknown_extension or kind != Kind.RESULT:
            assert channel.poll() is None
            (answer,) = Decoder().feed(right.recv(4096))
            assert answer.header.status in (Status.UNKNOWN_KIND, Status.UNKNOWN_EXTENSION)
        else:
            assert_same(channel.poll(), expected)


# ---- properties ----

fields = {
    "attempt": 2**8,
    "status": 2**16,
    "function": 2**16,
    "credits": 2**16,
    "call_id": 2**64,
    "lease_seq": 2**64,
    "epoch": 2**64,
    "deadline_ns": 2**64,
    "out_size": 2**64,
    "invocation": 2**64,
}
headers = st.fixed_dictionaries({name: st.integers(0, bound - 1) for name, bound in fields.items()})
uncredited = st.sampled_from([kind for kind in Kind if not Kind.is_credited(kind) and kind != Kind.BYE])


@given(uncredited, headers, st.lists(st.binary(max_size=40), max_size=12), st.text(max_size=40))
def test_what_one_codec_writes_the_other_reads(kind, header, segments, text):
    left, right = socket.socketpair()
    expected = Frame(Header(kind=kind, in_size=sum(map(len, segments)), **header), tuple(segments), text)
    with Channel.from_fd(left.detach()) as channel, right:
        data = b"".join(encode(expected.header, segments, text))
        right.sendall(data)
        assert_same(channel.poll(), expected)
        channel.send(kind, text=text, segments=segments, **header)
        assert right.recv(len(data) + 1) == data
        assert Decoder().feed(data) == [expected]


# ---- limits ----


def test_a_frame_holds_as_many_segments_as_promised_and_a_full_text_beside(channel_and_socket):
    channel, sock = channel_and_socket
    segments, text = [b"x"] * MAX_SEGMENTS, "t" * MAX_TEXT_BYTES
    channel.send(Kind.ERROR, segments=segments, text=text)
    (frame,) = Decoder().feed(sock.recv(1 << 20))
    assert frame.segments == tuple(segments)
    assert frame.text == text
    sock.sendall(b"".join(encode(frame.header, segments, text)))
    assert_same(receive(channel), frame)


@pytest.mark.parametrize("count", [MAX_SEGMENTS + 1])
def test_more_segments_are_refused_before_anything_is_sent(count, channel_and_socket):
    channel, sock = channel_and_socket
    with pytest.raises(PayloadTooLarge):
        channel.send(Kind.RESULT, segments=[b""] * count)
    with pytest.raises(PayloadTooLarge):
        encode(Header(kind=Kind.RESULT), [b""] * count)
    channel.send(Kind.BYE)
    assert Decoder().feed(sock.recv(4096))[0].header.kind == Kind.BYE


def test_a_long_text_is_cut_between_two_characters(channel_and_socket):
    channel, sock = channel_and_socket
    channel.send(Kind.ERROR, status=Status.BAD_FRAME, text="a" + "ö" * MAX_TEXT_BYTES)
    (frame,) = Decoder().feed(sock.recv(1 << 16))
    assert frame.text == "a" + "ö" * ((MAX_TEXT_BYTES - 1) // 2)


def test_a_payload_above_the_limit_is_refused_from_its_head_alone():
    head = encode(Header(kind=Kind.RESULT), [bytes(1001)])[0]
    with pytest.raises(ProtocolError, match="limit"):
        Decoder(max_payload_bytes=1000).feed(head)
    assert Decoder(max_payload_bytes=1001).feed(head) == []


def test_text_that_is_no_utf8_is_shown_with_replacements(channel_and_socket):
    channel, sock = channel_and_socket
    data = b"".join(encode(Header(kind=Kind.ERROR), extensions=[(ExtensionType.TEXT, b"a\xffb")]))
    sock.sendall(data)
    assert channel.poll().text == "a\ufffdb"
    assert Decoder().feed(data)[0].text == "a\ufffdb"
