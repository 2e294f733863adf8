"""Journals of schemas 1 and 2, whose records are JSON, and 3, which has no pairs: rewritten when they are first opened.

All of it is one transaction: a journal that can't be read whole stays as it is. Spec: docs/spec/002-lease.md section 7.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable
from typing import Any, Final

from rfaas.control.hosts import HostList
from rfaas.control.messages import Account, Epoch, HeldLease, Host, InstanceId, LeaseTerms, Slice, Usage
from rfaas_allocator.events import LeaseIs, SliceIs
from rfaas_allocator.journal_records import checksum, pack_account, pack_hosts, pack_lease, pack_slice


def rewrite(db: sqlite3.Connection, version: int, tables: dict[str, str], latest: int) -> None:
    """Bring a journal of `version` to the `latest` schema.

    Args:
        db: holds the lock, in autocommit mode.
        version: 1 to 3.
        tables: statement that makes each table of the latest schema, by name.
        latest: its number.
    Raises:
        sqlite3.Error, ValueError, KeyError, TypeError: the journal is as it was.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        for name, rewritten in _REWRITTEN.items() if version < 3 else ():
            old = version > 1 or name in ("slices", "leases")
            if old:
                db.execute(f"ALTER TABLE {name} RENAME TO old_{name}")
            db.execute(tables[name])
            if old:
                rewritten(db)
                db.execute(f"DROP TABLE old_{name}")
        db.execute(tables["pairs"])
        db.execute(f"PRAGMA user_version = {latest}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def _slices(db: sqlite3.Connection) -> None:
    for key, body in _rows(db, "slices", "id"):
        packed = pack_slice(_slice_of(body))
        db.execute("INSERT INTO slices VALUES (?, ?, ?)", (key, packed, checksum(key, packed)))


def _leases(db: sqlite3.Connection) -> None:
    for key, body in _rows(db, "leases", "id"):
        lease = _lease_of(body)
        packed = pack_lease(lease)
        row = (lease.held.terms.lease_seq, key, packed, checksum(key, packed))
        db.execute("INSERT INTO leases VALUES (?, ?, ?, ?)", row)


def _accounts(db: sqlite3.Connection) -> None:
    for key, body in _rows(db, "accounts", "id"):
        account = _account_of(body)
        packed = pack_account(account)
        row = (account.lease_seq, key, account.end_unix_s is not None, packed, checksum(key, packed))
        db.execute("INSERT INTO accounts VALUES (?, ?, ?, ?, ?)", row)


def _hosts(db: sqlite3.Connection) -> None:
    for source, body in _rows(db, "hosts", "source"):
        packed = pack_hosts(_hosts_of(body))
        db.execute("INSERT INTO hosts VALUES (?, ?, ?)", (source, packed, checksum(source.encode(), packed)))


_REWRITTEN: Final[dict[str, Callable[[sqlite3.Connection], None]]] = {
    "slices": _slices,
    "leases": _leases,
    "accounts": _accounts,
    "hosts": _hosts,
}


def _rows(db: sqlite3.Connection, table: str, key: str) -> Any:  # noqa: ANN401 - pairs of key and body
    for first, body, crc in db.execute(f"SELECT {key}, body, crc FROM old_{table}"):
        if zlib.crc32(repr((first, body)).encode()) != crc:
            raise ValueError(f"checksum of {first!r} in {table}")
        yield first, body


def _bytes(about: dict[str, Any], *names: str) -> dict[str, Any]:
    return {**about, **{name: bytes.fromhex(about[name]) for name in names}}


def _slice_of(body: str) -> SliceIs:
    about = json.loads(body)
    return SliceIs(
        slice=Slice(**_bytes(about["slice"], "slice_id")),
        instance=InstanceId(bytes.fromhex(about["instance"])),
        epoch=Epoch(about["epoch"]),
    )


def _lease_of(body: str) -> LeaseIs:
    about = json.loads(body)
    held = about["held"]
    terms = LeaseTerms(**_bytes(held["terms"], "lease_id", "slice_id", "holder"))
    lease = HeldLease(terms, tuple(held["core_ids"]), held["state"])
    return LeaseIs(lease, about["reason"], about["reason_code"])


def _account_of(body: str) -> Account:
    about = _bytes(json.loads(body), "lease_id", "holder", "slice_id")
    return Account(**{**about, "usage": Usage(**about["usage"])})


def _hosts_of(body: str) -> HostList:
    about = json.loads(body)
    return HostList(tuple(Host(**host) for host in about["hosts"]), about["complete"])
