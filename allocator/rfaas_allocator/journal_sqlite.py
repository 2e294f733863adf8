"""The journal in a file: SQLite under one writer.

Any doubt about the file, the disk or the lock ends the allocator with a reason: it never starts empty because something
could not be read. No SQL outside this file. Spec: docs/spec/002-lease.md section 7.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from rfaas.control.hosts import HostList
from rfaas.control.messages import Account, Epoch, HeldLease, Host, InstanceId, LeaseTerms, Slice, SliceId, Usage
from rfaas_allocator.events import (
    AccountIs,
    CounterIs,
    HostsAre,
    LeaseIs,
    LeaseIsOver,
    Record,
    Recovered,
    SliceIs,
    SliceIsForgotten,
    SliceIsOver,
)
from rfaas_allocator.journal import JournalFailed, JournalFull
from rfaas_allocator.reserve import Reserve
from rfaas_transport.errors import ConfigError

SCHEMA_VERSION: Final = 2
APPLICATION_ID: Final = 0x7266_6161  # "rfaa": so that another program's file is not taken for ours

SINCE_2: Final = f"""
    PRAGMA user_version = {SCHEMA_VERSION};
    CREATE TABLE accounts (
        seq INTEGER NOT NULL, id BLOB NOT NULL, ended INTEGER NOT NULL, body TEXT NOT NULL, crc INTEGER NOT NULL,
        PRIMARY KEY (seq, id)
    ) WITHOUT ROWID;
    CREATE TABLE hosts (source TEXT PRIMARY KEY, body TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
"""
SCHEMA: Final = f"""
    PRAGMA application_id = {APPLICATION_ID};
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE slices (id BLOB PRIMARY KEY, body TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE slices_over (number INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB UNIQUE NOT NULL, crc INTEGER NOT NULL);
    CREATE TABLE leases (id BLOB PRIMARY KEY, body TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
    {SINCE_2}
"""
SLICES_OVER_KEPT: Final = 10_000
RESERVE_NAME: Final = "journal.reserve"
ACCOUNTS_KEPT: Final = 200_000  # leases proposed since: about 200 MB
ACCOUNTS_LOADED: Final = 1000  # of leases that ended, for reports that come late


class SqliteJournal:
    """A journal in a file of the state directory; one writer at a time.

    Args:
        path: of the file; its directory exists and is private. It is made if nothing is there.
    Raises:
        ConfigError: another allocator holds it, the file system can't lock, or the file is not a whole journal. Nothing
            was changed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            self._create()
        self._db = self._open()
        self._reserve = Reserve(path.with_name(RESERVE_NAME))
        self._lock = threading.Lock()  # a commit gives the reserve up while another thread may make it
        self._lsn = 0

    # --- opening ---------------------------------------------------------------------------------

    def _create(self) -> None:
        """Make an empty journal beside its place and move it there whole: a journal's file is never empty."""
        leftover = self._path.with_name(self._path.name + "-wal")
        if leftover.exists():
            raise self._refusal(f"{leftover} is there without {self._path.name}")
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        try:
            with contextlib.closing(sqlite3.connect(fresh, isolation_level=None)) as db:
                db.executescript(f"PRAGMA synchronous = FULL; BEGIN; {SCHEMA} COMMIT;")
        except sqlite3.Error as error:
            fresh.unlink(missing_ok=True)
            raise self._no_way(error) from error
        fresh.rename(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)  # the name too must outlive a power cut
        finally:
            os.close(directory)

    def _open(self) -> sqlite3.Connection:
        if not self._path.is_file() or self._path.stat().st_size == 0:
            raise self._refusal("it is empty, or no file")
        # check_same_thread: commits run in a thread of their own, one at a time.
        db = sqlite3.connect(self._path, isolation_level=None, timeout=0, check_same_thread=False)
        try:
            # Exclusive before WAL: SQLite then needs no shared memory, which network file systems lack.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._check(db)
            (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise self._refusal(f"the file system does not allow a write-ahead log ({mode})")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN IMMEDIATE")  # takes the lock, which then stays
            db.execute("COMMIT")
            if db.execute("PRAGMA user_version").fetchone() == (1,):
                db.executescript(f"BEGIN IMMEDIATE; {SINCE_2} COMMIT;")
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: damaged names in SQLite's own tables
            db.close()
            raise self._no_way(error) from error
        except BaseException:
            db.close()
            raise
        return db

    def _check(self, db: sqlite3.Connection) -> None:
        (application_id,) = db.execute("PRAGMA application_id").fetchone()
        if application_id != APPLICATION_ID:
            raise self._refusal("it is no journal of rfaas")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if not 1 <= version <= SCHEMA_VERSION:
            raise ConfigError(
                f"the journal {self._path} has schema {version}, this rfaas knows {SCHEMA_VERSION}",
                hint="start the version of rfaas that wrote it, or name another state directory",
            )
        (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise self._refusal(str(verdict))

    def _no_way(self, error: Exception) -> ConfigError:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            return ConfigError(f"the disk of the journal {self._path} is full (ENOSPC)", hint="make room on it (df)")
        if "locked" in str(error) or "busy" in str(error):
            return ConfigError(
                f"another allocator holds {self._path}, or its file system can't lock ({error})",
                hint="use the allocator that runs (`rfaas status`); if none does, name a state directory on a local "
                "disk with RFAAS_STATE_DIR",
            )
        return self._refusal(str(error))

    def _refusal(self, why: str) -> ConfigError:
        return ConfigError(
            f"the journal {self._path} can't be used: {why}",
            hint="if no agent runs any more (`squeue --me`), move journal.sqlite* away and start again; "
            "while agents run they hold cores that only this journal knows",
        )

    # --- use -------------------------------------------------------------------------------------

    def load(self) -> Recovered:
        """All that was committed.

        Raises:
            ConfigError: a record is damaged; nothing is used of the whole.
        """
        try:
            recovered = Recovered(
                counters={name: value for name, value in self._rows("counters", "name, value")},
                slices=[_slice_of(body) for _, body in self._rows("slices", "id, body")],
                slices_over=[SliceId(key) for _, key in self._rows("slices_over", "number, id")],
                leases=[_lease_of(body) for _, body in self._rows("leases", "id, body")],
                accounts=self._recent_accounts(),
                hosts={source: _hosts_of(body) for source, body in self._rows("hosts", "source, body")},
            )
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            raise self._refusal(f"a record can't be read ({error})") from error
        known = {record.slice.slice_id for record in recovered.slices}
        if any(record.held.terms.slice_id not in known for record in recovered.leases):
            raise self._refusal("a lease has no slice")
        self._lsn = recovered.counters.pop("lsn", 0)
        return recovered

    def _rows(self, table: str, columns: str) -> Iterator[tuple[Any, Any]]:
        for first, second, crc in self._db.execute(f"SELECT {columns}, crc FROM {table} ORDER BY 1"):
            if _crc(first if table != "slices_over" else 0, second) != crc:
                raise ValueError(f"checksum of {first!r} in {table}")
            yield first, second

    def _recent_accounts(self) -> list[Account]:
        """Of leases that live, and of those that ended last."""
        newest = f"SELECT id, body, crc FROM accounts WHERE ended ORDER BY seq DESC LIMIT {ACCOUNTS_LOADED}"
        ended = [_account_of(key, body, crc) for key, body, crc in self._db.execute(newest)]
        living = self._db.execute("SELECT id, body, crc FROM accounts WHERE NOT ended")
        return [_account_of(key, body, crc) for key, body, crc in living] + ended[::-1]

    def accounts(self, after: tuple[int, bytes], limit: int) -> list[Account]:
        """Up to `limit` accounts of leases beyond `after`, a (lease_seq, lease id), in that order.

        Raises:
            JournalFailed: a row can't be read.
        """
        rows = "SELECT id, body, crc FROM accounts WHERE (seq, id) > (?, ?) ORDER BY seq, id LIMIT ?"
        try:
            return [_account_of(key, body, crc) for key, body, crc in self._db.execute(rows, (*after, limit))]
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            raise JournalFailed(f"accounts in {self._path} can't be read: {error}", hint="see to the disk") from error

    def commit(self, records: Iterable[Record]) -> int:
        """Write one transaction; it is on the disk when this returns. Errors: see `Journal`."""
        kept = list(records)
        try:
            with self._lock:
                # A full disk refuses before anything is synced, so trying again is safe; more room is made each time.
                if not (self._fits(kept) or self._after(self._shorten_log, kept) or self._after(self._give_up, kept)):
                    raise JournalFull(
                        f"there is no room for the journal {self._path} (ENOSPC)", hint="make room on its disk (df)"
                    )
        except sqlite3.Error as error:
            # After a failed fsync nobody knows what is on the disk, so it is not tried again.
            raise JournalFailed(
                f"the journal {self._path} can't be written: {error}",
                hint="see to the disk (df, dmesg), then start the allocator again: leases live on meanwhile",
            ) from error
        self._lsn += 1
        return self._lsn

    def _fits(self, records: list[Record]) -> bool:
        """Commit; False if the disk is full, then nothing of it is kept."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for record in records:
                self._write(record)
            self._put_counter("lsn", self._lsn + 1)
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
                raise
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            return False
        return True

    def _after(self, make_room: Callable[[], bool], records: list[Record]) -> bool:
        return make_room() and self._fits(records)

    def _shorten_log(self) -> bool:
        """Write the log back into the file and cut it off; False if even that finds no room."""
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
                raise
            return False
        return True

    def _give_up(self) -> bool:
        return self._reserve.give_up()

    def storage_problem(self) -> str:
        """Why no new leases should be given; see `Journal`."""
        with self._lock:
            return self._reserve.problem()

    def _write(self, record: Record) -> None:
        db = self._db
        match record:
            case CounterIs():
                self._put_counter(record.name, record.value)
            case SliceIs():
                key, body = record.slice.slice_id, _text(record)
                db.execute("INSERT OR REPLACE INTO slices VALUES (?, ?, ?)", (key, body, _crc(key, body)))
            case SliceIsOver():
                key = record.slice_id
                db.execute("DELETE FROM slices WHERE id = ?", (key,))
                row = (key, _crc(0, key))
                number = db.execute("INSERT OR REPLACE INTO slices_over (id, crc) VALUES (?, ?)", row).lastrowid or 0
                db.execute("DELETE FROM slices_over WHERE number <= ?", (number - SLICES_OVER_KEPT,))
            case SliceIsForgotten():
                db.execute("DELETE FROM slices WHERE id = ?", (record.slice_id,))
            case LeaseIs():
                lease_key, body = record.held.terms.lease_id, _text(record)
                db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", (lease_key, body, _crc(lease_key, body)))
            case LeaseIsOver():
                db.execute("DELETE FROM leases WHERE id = ?", (record.lease_id,))
            case AccountIs():
                self._write_account(record.account)
            case HostsAre():
                body = _text(record.hosts)
                crc = _crc(record.source, body)
                db.execute("INSERT OR REPLACE INTO hosts VALUES (?, ?, ?)", (record.source, body, crc))

    def _write_account(self, account: Account) -> None:
        ended, body = account.end_unix_s is not None, _text(account)
        row = (account.lease_seq, account.lease_id, ended, body, _crc(account.lease_id, body))
        self._db.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?)", row)
        if ended:
            old = account.lease_seq - ACCOUNTS_KEPT
            self._db.execute("DELETE FROM accounts WHERE seq <= ? AND ended", (old,))

    def _put_counter(self, name: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO counters VALUES (?, ?, ?)", (name, value, _crc(name, value)))

    def close(self) -> None:
        """Write the log back into the file and let go of the lock."""
        self._db.close()


# --- records as text -----------------------------------------------------------------------------


def _crc(*values: object) -> int:
    return zlib.crc32(repr(values).encode())


def _plain(value: object) -> object:
    """What JSON makes of a record's parts; `dataclasses.asdict` copies each deeply, which took a third of a grant."""
    if isinstance(value, bytes):
        return value.hex()
    names = type(value).__dataclass_fields__  # type: ignore[attr-defined]  # anything else is a TypeError's
    if isinstance(value, LeaseTerms) and not value.kind:
        return {
            name: getattr(value, name) for name in names if name != "kind"
        }  # so that the version before can read it
    return {name: getattr(value, name) for name in names}


_encoder: Final = json.JSONEncoder(default=_plain, sort_keys=True)


def _text(record: SliceIs | LeaseIs | Account | HostList) -> str:
    return _encoder.encode(record)


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
    return LeaseIs(
        held=HeldLease(terms, tuple(held["core_ids"]), held["state"]),
        reason=about["reason"],
        reason_code=about["reason_code"],
    )


def _account_of(key: bytes, body: str, crc: int) -> Account:
    if _crc(key, body) != crc:
        raise ValueError(f"checksum of {key!r} in accounts")
    about = _bytes(json.loads(body), "lease_id", "holder", "slice_id")
    return Account(**{**about, "usage": Usage(**about["usage"])})


def _hosts_of(body: str) -> HostList:
    about = json.loads(body)
    return HostList(tuple(Host(**host) for host in about["hosts"]), about["complete"])
