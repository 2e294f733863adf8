"""The bytes of docs/spec/007-verbs.md, written from that document alone: set-up messages, words, places.

On the standard library alone: the peer over pyverbs (tests/rdma/peer) runs on the system's Python.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

MESSAGE_BYTES = 192
MAGIC = b"rfaas007"
VERSION = 1
ADDRESS, CONNECTED, REFUSED = 1, 2, 3
TEXT_BYTES_MAX = 159
SLOTS, SLOT_BYTES = 256, 1024
RING_BYTES = SLOTS * SLOT_BYTES
PIECE_BYTES_MAX = 66_560
RECEIVES = 320
_HEAD = struct.Struct("<8sBB6x")
READS_MAX = 16
PLACES_MAX = 8
LEND_BYTES = 131_072
_BODY = struct.Struct("<QIIII16sHBBB")
_PLACE = struct.Struct("<QQII8x")
PLACE_BYTES = _PLACE.size


class Address(NamedTuple):
    ring_address: int
    ring_bytes: int
    rkey: int
    queue_pair: int
    packet_sequence: int
    gid: bytes
    lid: int
    mtu: int
    is_ethernet: int
    reads: int = 0


class Word(NamedTuple):
    size_bytes: int
    freed_slots: int = 0
    is_end: bool = False
    is_places: bool = False


class Place(NamedTuple):
    address: int
    size_bytes: int
    rkey: int
    segment: int


def encode(kind: int, body: bytes = b"", *, magic: bytes = MAGIC, version: int = VERSION) -> bytes:
    return (_HEAD.pack(magic, kind, version) + body).ljust(MESSAGE_BYTES, b"\0")


def address_message(address: Address) -> bytes:
    return encode(ADDRESS, _BODY.pack(*address))


def kind_of(message: bytes) -> int:
    if len(message) != MESSAGE_BYTES:
        raise ValueError(f"a message of {len(message)} bytes")
    magic, kind, version = _HEAD.unpack_from(message)
    if magic != MAGIC or version != VERSION or kind not in (ADDRESS, CONNECTED, REFUSED):
        raise ValueError(f"no message of this specification: {magic!r}, version {version}, kind {kind}")
    return int(kind)


def address_of(message: bytes) -> Address:
    if kind_of(message) != ADDRESS:
        raise ValueError("not an ADDRESS")
    address = Address(*_BODY.unpack_from(message, _HEAD.size))
    is_in_range = address.is_ethernet <= 1 and address.reads <= READS_MAX
    if max(address.queue_pair, address.packet_sequence) >> 24 or not 1 <= address.mtu <= 5 or not is_in_range:
        raise ValueError(f"a field is out of range: {address}")
    return address


def text_of(message: bytes) -> str:
    if kind_of(message) != REFUSED:
        raise ValueError("not a REFUSED")
    return message[_HEAD.size :][:TEXT_BYTES_MAX].split(b"\0")[0].decode()


def word_of(word: Word) -> int:
    return word.size_bytes | word.freed_slots << 17 | word.is_places << 30 | word.is_end << 31


def word_from(number: int) -> Word:
    return Word(number & 0x1FFFF, number >> 17 & 0x1FFF, bool(number >> 31), bool(number >> 30 & 1))


def slots_of(size_bytes: int) -> int:
    return -(-size_bytes // SLOT_BYTES)


def places_message(places: Sequence[Place]) -> bytes:
    return b"".join(_PLACE.pack(*place) for place in places)


def places_of(data: bytes) -> list[Place]:
    if not data or len(data) % PLACE_BYTES or len(data) > PLACES_MAX * PLACE_BYTES:
        raise ValueError(f"places of {len(data)} bytes")
    return [Place(*fields) for fields in _PLACE.iter_unpack(data)]
