"""The messages that set an RDMA connection up, written from docs/spec/007-verbs.md alone: beside the C of the core."""

import struct
from typing import NamedTuple

MESSAGE_BYTES = 192
MAGIC = b"rfaas007"
VERSION = 1
ADDRESS, CONNECTED, REFUSED = 1, 2, 3
RING_BYTES = 262_144
_HEAD = struct.Struct("<8sBB6x")
_BODY = struct.Struct("<QIIII16sHBB")


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


def encode(kind: int, body: bytes = b"", *, magic: bytes = MAGIC, version: int = VERSION) -> bytes:
    return (_HEAD.pack(magic, kind, version) + body).ljust(MESSAGE_BYTES, b"\0")


def address_message(address: Address) -> bytes:
    return encode(ADDRESS, _BODY.pack(*address))


def kind_of(message: bytes) -> int:
    magic, kind, version = _HEAD.unpack_from(message)
    assert (len(message), magic, version) == (MESSAGE_BYTES, MAGIC, VERSION)
    return kind


def address_of(message: bytes) -> Address:
    assert kind_of(message) == ADDRESS
    return Address(*_BODY.unpack_from(message, _HEAD.size))


def text_of(message: bytes) -> str:
    assert kind_of(message) == REFUSED
    return message[_HEAD.size :].split(b"\0")[0].decode()
