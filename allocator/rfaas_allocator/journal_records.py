"""Records of the journal as bytes and back: msgpack of the fields in their order.

A field that is added goes to a class's end, with a default: then older rows can still be read. No I/O.
Spec: docs/spec/002-lease.md section 7.
"""

from __future__ import annotations

import zlib
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final

import msgpack

from rfaas.control.hosts import HostList
from rfaas.control.messages import Account, HeldLease, Host, LeaseTerms, Slice, Usage
from rfaas_allocator.events import LeaseIs, PairIs, SliceIs


def checksum(key: bytes, body: bytes) -> int:
    """What is kept beside a row, so that a changed one is noticed."""
    return zlib.crc32(body, zlib.crc32(key))


def _names(cls: type[Any], *without: str) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls) if field.name not in without)


_slice_values: Final = attrgetter(*_names(Slice))
_terms_values: Final = attrgetter(*_names(LeaseTerms))
_usage_values: Final = attrgetter(*_names(Usage))
_host_values: Final = attrgetter(*_names(Host))
_pair_values: Final = attrgetter(*_names(PairIs))
_ACCOUNT: Final = _names(Account, "usage")
_account_values: Final = attrgetter(*_ACCOUNT)


def pack_slice(record: SliceIs) -> bytes:
    """A slice and its agent's epoch."""
    return _pack((_slice_values(record.slice), record.instance, record.epoch))


def pack_lease(record: LeaseIs) -> bytes:
    """A lease that holds cores."""
    held = record.held
    return _pack((_terms_values(held.terms), held.core_ids, held.state, record.reason, record.reason_code))


def pack_account(account: Account) -> bytes:
    """What a lease has cost."""
    return _pack((_account_values(account), _usage_values(account.usage)))


def pack_hosts(hosts: HostList) -> bytes:
    """The hosts that a source names."""
    return _pack(([_host_values(host) for host in hosts.hosts], hosts.complete))


def pack_pair(pair: PairIs) -> bytes:
    """A program and functions that are kept apart from it."""
    return _pack(_pair_values(pair))


def pair_key(host: str, kind: str) -> bytes:
    """The key of its row."""
    return _pack((host, kind))


def unpack_slice(body: bytes) -> SliceIs:
    """Raises: ValueError or TypeError, as all that follow: it is no such record."""
    about, instance, epoch = _unpack(body)
    return SliceIs(Slice(*about), instance, epoch)


def unpack_lease(body: bytes) -> LeaseIs:
    """As `unpack_slice`."""
    terms, core_ids, state, reason, reason_code = _unpack(body)
    return LeaseIs(HeldLease(LeaseTerms(*terms), tuple(core_ids), state), reason, reason_code)


def unpack_account(body: bytes) -> Account:
    """As `unpack_slice`."""
    about, usage = _unpack(body)
    return Account(**dict(zip(_ACCOUNT, about, strict=False)), usage=Usage(*usage))


def unpack_hosts(body: bytes) -> HostList:
    """As `unpack_slice`."""
    hosts, complete = _unpack(body)
    return HostList(tuple(Host(*host) for host in hosts), complete)


def unpack_pair(body: bytes) -> PairIs:
    """As `unpack_slice`."""
    return PairIs(*_unpack(body))


def _pack(values: tuple[Any, ...]) -> bytes:
    packed: bytes = msgpack.packb(values)
    return packed


def _unpack(body: bytes) -> Any:  # noqa: ANN401 - as many values as there were
    values = msgpack.unpackb(body)
    if not isinstance(values, list):
        raise TypeError(f"{type(values).__name__} is no record")
    return values
