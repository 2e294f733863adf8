"""What spec 007 puts on the wire against its vectors, read and written by both codecs: Python's and the C core's."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.c_build import ROOT, CBuild, core_file
from support.vectors import load, raw
from support.verbs_messages import (
    ADDRESS,
    CONNECTED,
    MESSAGE_BYTES,
    REFUSED,
    Address,
    Place,
    Word,
    address_message,
    address_of,
    encode,
    kind_of,
    places_message,
    places_of,
    text_of,
    word_from,
    word_of,
)

VECTORS = load("verbs")
MESSAGES = {vector["name"]: vector for vector in VECTORS["messages"]}
REFUSED_MESSAGES = {vector["name"]: vector for vector in VECTORS["refused"]}
WORDS = {vector["name"]: vector for vector in VECTORS["words"]}
PLACES = {vector["name"]: vector for vector in VECTORS["places"]}
IN_ORDER = ("ring_address", "ring_bytes", "rkey", "queue_pair", "packet_sequence", "lid", "mtu", "is_ethernet", "reads")


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """Asks the C core's codec: lines in, as many lines out."""
    sources = [core_file("verbs_setup.c"), core_file("verbs_place.c"), ROOT / "tests/wire/verbs_codec.c"]
    program = CBuild(tmp_path_factory.mktemp("codec"), sources).link("verbs_codec")

    def ask(*lines):
        done = subprocess.run([program], input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        answers = done.stdout.splitlines()
        assert len(answers) == len(lines)
        return answers

    return ask


def address_in(vector):
    return Address(**vector["address"] | {"gid": bytes.fromhex(vector["address"]["gid"])})


def content(vector):
    """What a vector holds, as verbs_codec.c says it."""
    if vector["kind"] == ADDRESS:
        address = vector["address"]
        return " ".join(["1", *(str(address[name]) for name in IN_ORDER), address["gid"]])
    return f"{vector['kind']} {vector.get('text', '')}"


# ---- messages ----


@pytest.mark.parametrize("name", MESSAGES)
def test_python_reads_and_writes_the_message(name):
    vector, message = MESSAGES[name], raw(MESSAGES[name])
    assert kind_of(message) == vector["kind"]
    if vector["kind"] == ADDRESS:
        assert address_of(message) == address_in(vector)
        assert address_message(address_in(vector)) == message
    elif vector["kind"] == REFUSED:
        assert text_of(message) == vector["text"]
        assert encode(REFUSED, vector["text"].encode()) == message
    else:
        assert encode(CONNECTED) == message


def test_c_reads_and_writes_the_messages(codec):
    reads = [f"read {raw(vector).hex()}" for vector in MESSAGES.values()]
    words = ["address", "connected", "refused"]
    writes = [f"{words[vector['kind'] - 1]} {content(vector)[2:]}" for vector in MESSAGES.values()]
    answers = codec(*reads, *writes)
    assert answers[: len(reads)] == [content(vector) for vector in MESSAGES.values()]
    assert answers[len(reads) :] == [raw(vector).hex() for vector in MESSAGES.values()]


def test_both_refuse_what_is_no_message(codec):
    for answer, (name, vector) in zip(
        codec(*(f"read {raw(vector).hex()}" for vector in REFUSED_MESSAGES.values())),
        REFUSED_MESSAGES.items(),
        strict=True,
    ):
        assert answer.startswith("no: "), name
        with pytest.raises(ValueError, match=r"no message|range"):
            address_of(raw(vector))


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_cut_off_at_any_length_is_none(name):
    message = raw(MESSAGES[name])
    for size_bytes in range(MESSAGE_BYTES):
        with pytest.raises(ValueError, match=f"a message of {size_bytes} bytes"):
            kind_of(message[:size_bytes])
    with pytest.raises(ValueError, match="a message of 193 bytes"):
        kind_of(message + b"\0")


def test_both_agree_on_any_bytes(codec):
    """Of one vector with a byte changed, each in turn: whoever reads it, reads the same."""
    changed = []
    for at in range(64):
        message = bytearray(raw(MESSAGES["address-roce"]))
        message[at] ^= 0xFF
        changed.append(bytes(message))
    for message, answer in zip(changed, codec(*(f"read {message.hex()}" for message in changed)), strict=True):
        try:
            address = address_of(message)
        except ValueError:
            assert answer.startswith("no: "), message.hex()
            continue
        fields = address._asdict()
        assert answer == " ".join(["1", *(str(fields[field]) for field in IN_ORDER), address.gid.hex()])


# ---- words ----


@pytest.mark.parametrize("name", WORDS)
def test_python_reads_and_writes_the_word(name):
    vector = WORDS[name]
    word = Word(vector["size_bytes"], vector["freed_slots"], vector["is_end"], vector["is_places"])
    assert word_from(int.from_bytes(bytes.fromhex(vector["bytes"]), "big")) == word
    assert word_of(word).to_bytes(4, "big").hex() == vector["bytes"]


def test_c_reads_and_writes_the_words(codec):
    names = ("size_bytes", "freed_slots", "is_end", "is_places")
    parts = [" ".join(str(int(word[name])) for name in names) for word in WORDS.values()]
    answers = codec(*(f"word {line}" for line in parts), *(f"split {word['bytes']}" for word in WORDS.values()))
    assert answers[: len(parts)] == [word["bytes"] for word in WORDS.values()]
    assert answers[len(parts) :] == parts


@given(st.integers(0, 2**32 - 1))
def test_every_word_has_one_reading(number):
    assert word_of(word_from(number)) == number


# ---- places ----


def places_in(vector):
    return [Place(**place) for place in vector["places"]]


@pytest.mark.parametrize("name", PLACES)
def test_python_reads_and_writes_the_places(name):
    assert places_of(raw(PLACES[name])) == places_in(PLACES[name])
    assert places_message(places_in(PLACES[name])) == raw(PLACES[name])


def test_c_reads_and_writes_the_places(codec):
    bytes_of = {place: places_message([place]).hex() for vector in PLACES.values() for place in places_in(vector)}
    written = codec(*(f"place {' '.join(map(str, place))}" for place in bytes_of))
    read = codec(*(f"whereabouts {data}" for data in bytes_of.values()))
    assert written == list(bytes_of.values())
    assert read == [" ".join(map(str, place)) for place in bytes_of]


@pytest.mark.parametrize("size_bytes", [0, 1, 31, 33, 9 * 32])
def test_what_is_no_number_of_places_is_none(size_bytes):
    with pytest.raises(ValueError, match="places of"):
        places_of(bytes(size_bytes))
