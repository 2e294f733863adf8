"""The records of one commit as rows: what a later record of the same commit replaces is never written.

Must not begin or end transactions (journal_sqlite). Spec: docs/spec/002-lease.md section 7.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from typing import Final

from rfaas.control.hosts import HostList
from rfaas.control.messages import Account, SliceId
from rfaas_allocator.events import (
    AccountIs,
    CounterIs,
    HostsAre,
    LeaseIs,
    LeaseIsOver,
    PairIs,
    PairIsForgotten,
    Record,
    SliceIs,
    SliceIsForgotten,
    SliceIsOver,
)
from rfaas_allocator.journal_records import (
    checksum,
    pack_account,
    pack_hosts,
    pack_lease,
    pack_pair,
    pack_slice,
    pair_key,
)

SLICES_OVER_KEPT: Final = 10_000
ACCOUNTS_KEPT: Final = 200_000  # leases proposed since: about 60 MB

PUT_COUNTER: Final = "INSERT OR REPLACE INTO counters VALUES (?, ?, ?)"
PUT_SLICE: Final = "INSERT OR REPLACE INTO slices VALUES (?, ?, ?)"
PUT_LEASE: Final = "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)"
PUT_ACCOUNT: Final = "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?)"
PUT_HOSTS: Final = "INSERT OR REPLACE INTO hosts VALUES (?, ?, ?)"
PUT_PAIR: Final = "INSERT OR REPLACE INTO pairs VALUES (?, ?, ?)"
DROP_PAIR: Final = "DELETE FROM pairs WHERE key = ?"
DROP_LEASE: Final = "DELETE FROM leases WHERE seq = ? AND id = ?"
DROP_ACCOUNTS: Final = "DELETE FROM accounts WHERE seq <= ? AND ended"


def crc_of(*values: object) -> int:
    """The checksum of a row whose columns are plain."""
    return zlib.crc32(repr(values).encode())


class Batch:
    """What one commit changes, each row once; it may be written again if a try found no room.

    Args:
        records: in order.
        seq_of: the leases that are in the journal, by id.
    """

    def __init__(self, records: Iterable[Record], seq_of: Mapping[bytes, int]) -> None:
        self._counters: dict[str, int] = {}
        self._slices: dict[SliceId, SliceIs | None] = {}
        self._over: dict[SliceId, None] = {}
        self._leases: dict[bytes, LeaseIs | None] = {}
        self._accounts: dict[bytes, Account] = {}
        self._hosts: dict[str, HostList] = {}
        self._pairs: dict[bytes, PairIs | None] = {}
        for record in records:
            self._take(record)
        self._before = {key: seq_of[key] for key in self._leases if key in seq_of}

    def _take(self, record: Record) -> None:
        match record:
            case LeaseIs():
                self._leases[record.held.terms.lease_id] = record
            case LeaseIsOver():
                self._leases[record.lease_id] = None
            case AccountIs():
                self._accounts[record.account.lease_id] = record.account
            case CounterIs():
                self._counters[record.name] = record.value
            case SliceIs():
                self._slices[record.slice.slice_id] = record
            case SliceIsOver():
                self._slices[record.slice_id] = None
                self._over.pop(record.slice_id, None)  # the order is that of the last time
                self._over[record.slice_id] = None
            case SliceIsForgotten():
                self._slices[record.slice_id] = None
            case HostsAre():
                self._hosts[record.source] = record.hosts
            case PairIs():
                self._pairs[pair_key(record.host, record.kind)] = record
            case PairIsForgotten():
                self._pairs[pair_key(record.host, record.kind)] = None

    def note(self, seq_of: dict[bytes, int]) -> None:
        """It is durable: the leases that are in the journal from now on."""
        for key, lease in self._leases.items():
            if lease is None:
                seq_of.pop(key, None)
            else:
                seq_of[key] = lease.held.terms.lease_seq

    def write(self, db: sqlite3.Connection) -> None:
        """Write all rows, within the caller's transaction."""
        counters = [(name, value, crc_of(name, value)) for name, value in self._counters.items()]
        db.executemany(PUT_COUNTER, counters)
        self._write_slices(db)
        self._write_leases(db)
        self._write_accounts(db)
        for source, hosts in self._hosts.items():
            body = pack_hosts(hosts)
            db.execute(PUT_HOSTS, (source, body, checksum(source.encode(), body)))
        for key, pair in self._pairs.items():
            if pair is None:
                db.execute(DROP_PAIR, (key,))
            else:
                body = pack_pair(pair)
                db.execute(PUT_PAIR, (key, body, checksum(key, body)))

    def _write_slices(self, db: sqlite3.Connection) -> None:
        gone = [(key,) for key, record in self._slices.items() if record is None]
        db.executemany("DELETE FROM slices WHERE id = ?", gone)
        packed = [(key, pack_slice(record)) for key, record in self._slices.items() if record is not None]
        db.executemany(PUT_SLICE, [(key, body, checksum(key, body)) for key, body in packed])
        number = 0
        for key in self._over:
            row = (key, crc_of(0, key))
            number = db.execute("INSERT OR REPLACE INTO slices_over (id, crc) VALUES (?, ?)", row).lastrowid or 0
        if number:
            db.execute("DELETE FROM slices_over WHERE number <= ?", (number - SLICES_OVER_KEPT,))

    def _write_leases(self, db: sqlite3.Connection) -> None:
        rows, gone = [], []
        for key, lease in self._leases.items():
            seq = None if lease is None else lease.held.terms.lease_seq
            if key in self._before and self._before[key] != seq:
                gone.append((self._before[key], key))
            if lease is not None:
                body = pack_lease(lease)
                rows.append((seq, key, body, checksum(key, body)))
        db.executemany(DROP_LEASE, gone)
        db.executemany(PUT_LEASE, rows)

    def _write_accounts(self, db: sqlite3.Connection) -> None:
        rows, newest = [], 0
        for key, account in self._accounts.items():
            ended, body = account.end_unix_s is not None, pack_account(account)
            rows.append((account.lease_seq, key, ended, body, checksum(key, body)))
            newest = max(newest, account.lease_seq) if ended else newest
        db.executemany(PUT_ACCOUNT, rows)
        if newest > ACCOUNTS_KEPT:
            db.execute(DROP_ACCOUNTS, (newest - ACCOUNTS_KEPT,))
