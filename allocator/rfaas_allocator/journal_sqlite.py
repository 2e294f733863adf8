"""The journal in a file: SQLite under one writer.

Any doubt about the file, the disk or the lock ends the allocator with a reason: it never starts empty because something
could not be read. No SQL but here, in `journal_batch` and in `journal_upgrade`. Spec: docs/spec/002-lease.md section 7.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from rfaas.control.messages import Account, SliceId
from rfaas_allocator.events import LeaseIs, PairIs, Record, Recovered
from rfaas_allocator.journal import JournalFailed, JournalFull
from rfaas_allocator.journal_batch import PUT_COUNTER, Batch, crc_of
from rfaas_allocator.journal_records import (
    checksum,
    pair_key,
    unpack_account,
    unpack_hosts,
    unpack_lease,
    unpack_pair,
    unpack_slice,
)
from rfaas_allocator.journal_upgrade import rewrite
from rfaas_allocator.reserve import Reserve
from rfaas_transport.errors import ConfigError

SCHEMA_VERSION: Final = 4
APPLICATION_ID: Final = 0x7266_6161  # "rfaa": so that another program's file is not taken for ours

TABLES: Final = {
    "counters": "CREATE TABLE counters ("
    "name TEXT PRIMARY KEY, value INTEGER NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID",
    "slices": "CREATE TABLE slices (id BLOB PRIMARY KEY, body BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID",
    "slices_over": "CREATE TABLE slices_over ("
    "number INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB UNIQUE NOT NULL, crc INTEGER NOT NULL)",
    # By seq first: what one commit adds lies together, so it writes few pages.
    "leases": "CREATE TABLE leases ("
    "seq INTEGER NOT NULL, id BLOB NOT NULL, body BLOB NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (seq, id)"
    ") WITHOUT ROWID",
    "accounts": "CREATE TABLE accounts (seq INTEGER NOT NULL, id BLOB NOT NULL, ended INTEGER NOT NULL, "
    "body BLOB NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (seq, id)) WITHOUT ROWID",
    "hosts": "CREATE TABLE hosts (source TEXT PRIMARY KEY, body BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID",
    "pairs": "CREATE TABLE pairs (key BLOB PRIMARY KEY, body BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID",
}
SCHEMA: Final = "; ".join(
    [f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {SCHEMA_VERSION}", *TABLES.values()]
)
RESERVE_NAME: Final = "journal.reserve"
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
        self._seq_of: dict[bytes, int] = {}  # of the leases that are in it, by id

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
                db.executescript(f"PRAGMA synchronous = FULL; BEGIN; {SCHEMA}; COMMIT;")
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
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version < SCHEMA_VERSION:
                rewrite(db, version, TABLES, SCHEMA_VERSION)
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:  # damaged names in SQLite's tables, records
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
                slices=[unpack_slice(body) for _, body in self._bodies("slices", "id")],
                slices_over=[SliceId(key) for _, key in self._rows("slices_over", "number, id")],
                leases=self._leases(),
                accounts=self._recent_accounts(),
                hosts={source: unpack_hosts(body) for source, body in self._bodies("hosts", "source")},
                pairs=self._pairs(),
            )
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            raise self._refusal(f"a record can't be read ({error})") from error
        known = {record.slice.slice_id for record in recovered.slices}
        if any(record.held.terms.slice_id not in known for record in recovered.leases):
            raise self._refusal("a lease has no slice")
        self._lsn = recovered.counters.pop("lsn", 0)
        self._seq_of = {record.held.terms.lease_id: record.held.terms.lease_seq for record in recovered.leases}
        return recovered

    def _rows(self, table: str, columns: str) -> Iterator[tuple[Any, Any]]:
        for first, second, crc in self._db.execute(f"SELECT {columns}, crc FROM {table} ORDER BY 1"):
            if crc_of(first if table != "slices_over" else 0, second) != crc:
                raise ValueError(f"checksum of {first!r} in {table}")
            yield first, second

    def _bodies(self, table: str, key: str) -> Iterator[tuple[Any, bytes]]:
        for first, body, crc in self._db.execute(f"SELECT {key}, body, crc FROM {table} ORDER BY 1"):
            if checksum(first.encode() if isinstance(first, str) else first, body) != crc:
                raise ValueError(f"checksum of {first!r} in {table}")
            yield first, body

    def _leases(self) -> list[LeaseIs]:
        found = []
        for seq, key, body, crc in self._db.execute("SELECT seq, id, body, crc FROM leases ORDER BY seq, id"):
            lease = unpack_lease(body)
            if checksum(key, body) != crc or (lease.held.terms.lease_seq, lease.held.terms.lease_id) != (seq, key):
                raise ValueError(f"checksum of {key!r} in leases")
            found.append(lease)
        return found

    def _pairs(self) -> list[PairIs]:
        """As the book would hold them: whose time apart ends last was learnt, or learnt again, last."""
        found = []
        for key, body in self._bodies("pairs", "key"):
            pair = unpack_pair(body)
            if pair_key(pair.host, pair.kind) != key:
                raise ValueError(f"key {key!r} in pairs")
            found.append(pair)
        return sorted(found, key=attrgetter("until_unix_s"))

    def _recent_accounts(self) -> list[Account]:
        """Of leases that live, and of those that ended last."""
        newest = f"SELECT id, body, crc FROM accounts WHERE ended ORDER BY seq DESC LIMIT {ACCOUNTS_LOADED}"
        ended = [_account_of(*row) for row in self._db.execute(newest)]
        living = self._db.execute("SELECT id, body, crc FROM accounts WHERE NOT ended")
        return [_account_of(*row) for row in living] + ended[::-1]

    def accounts(self, after: tuple[int, bytes], limit: int) -> list[Account]:
        """Up to `limit` accounts of leases beyond `after`, a (lease_seq, lease id), in that order.

        Raises:
            JournalFailed: a row can't be read.
        """
        rows = "SELECT id, body, crc FROM accounts WHERE (seq, id) > (?, ?) ORDER BY seq, id LIMIT ?"
        try:
            return [_account_of(*row) for row in self._db.execute(rows, (*after, limit))]
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            raise JournalFailed(f"accounts in {self._path} can't be read: {error}", hint="see to the disk") from error

    def commit(self, records: Iterable[Record]) -> int:
        """Write one transaction; it is on the disk when this returns. Errors: see `Journal`."""
        batch = Batch(records, self._seq_of)
        try:
            with self._lock:
                # A full disk refuses before anything is synced, so trying again is safe; more room is made each time.
                fits = self._fits(batch)
                if not (fits or self._after(self._shorten_log, batch) or self._after(self._give_up, batch)):
                    raise JournalFull(
                        f"there is no room for the journal {self._path} (ENOSPC)", hint="make room on its disk (df)"
                    )
        except sqlite3.Error as error:
            # After a failed fsync nobody knows what is on the disk, so it is not tried again.
            raise JournalFailed(
                f"the journal {self._path} can't be written: {error}",
                hint="see to the disk (df, dmesg), then start the allocator again: leases live on meanwhile",
            ) from error
        batch.note(self._seq_of)
        self._lsn += 1
        return self._lsn

    def _fits(self, batch: Batch) -> bool:
        """Commit; False if the disk is full, then nothing of it is kept."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            batch.write(self._db)
            self._db.execute(PUT_COUNTER, ("lsn", self._lsn + 1, crc_of("lsn", self._lsn + 1)))
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
                raise
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            return False
        return True

    def _after(self, make_room: Callable[[], bool], batch: Batch) -> bool:
        return make_room() and self._fits(batch)

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

    def close(self) -> None:
        """Write the log back into the file and let go of the lock."""
        self._db.close()


def _account_of(key: bytes, body: bytes, crc: int) -> Account:
    if checksum(key, body) != crc:
        raise ValueError(f"checksum of {key!r} in accounts")
    return unpack_account(body)
