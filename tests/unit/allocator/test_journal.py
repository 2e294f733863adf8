"""The journal gives back what was committed, a prefix of it, or a refusal; never an empty start nobody asked for."""

import dataclasses
import json
import sqlite3
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfaas.control import messages as m
from rfaas.control.hosts import HostList
from rfaas_allocator.events import (
    AccountIs,
    CounterIs,
    HostsAre,
    LeaseIs,
    LeaseIsOver,
    PairIs,
    PairIsForgotten,
    Recovered,
    SliceIs,
    SliceIsForgotten,
    SliceIsOver,
)
from rfaas_allocator.journal import JournalFailed, MemoryJournal
from rfaas_allocator.journal_sqlite import APPLICATION_ID, RESERVE_NAME, SCHEMA_VERSION, SqliteJournal
from rfaas_allocator.reserve import RESERVE_BYTES
from rfaas_transport.errors import ConfigError

from .world import Disk

SLICES = [m.SliceId(bytes([number]) * 16) for number in range(3)]


def a_slice(number=0, epoch=1):
    about = m.Slice(SLICES[number], "n1", 4, 2**30, "unix:@a", key="job 7 on n1", job_id="7", grace_s=5.0)
    return SliceIs(about, m.InstanceId(b"i" * 16), m.Epoch(epoch))


def a_lease(number=0, seq=1, of=0, **about):
    terms = m.LeaseTerms(
        m.LeaseId(bytes([number]) * 16),
        m.LeaseSeq(seq),
        SLICES[of],
        m.Epoch(1),
        m.HolderId(b"h" * 16),
        1,
        2,
        1,
        99,
        10.0,
    )
    return LeaseIs(m.HeldLease(terms, (0, 1), "GRANTED"), **about)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.sqlite"


def reopened(path):
    journal = SqliteJournal(path)
    try:
        return journal.load()
    finally:
        journal.close()


def written(path, *batches):
    journal = SqliteJournal(path)
    journal.load()
    for batch in batches:
        journal.commit(batch)
    journal.close()


def same(recovered, disk):
    """Compare what a journal gave back with what should be there, whatever the order of the rows."""
    expected = disk.recovered()
    assert recovered.counters == expected.counters
    assert {r.slice.slice_id: r for r in recovered.slices} == disk.slices
    assert {r.held.terms.lease_id: r for r in recovered.leases} == disk.leases
    assert recovered.slices_over == list(disk.over)
    assert {(pair.host, pair.kind): pair for pair in recovered.pairs} == disk.pairs


def test_a_new_journal_remembers_nothing_and_is_private(path):
    assert reopened(path) == Recovered()
    assert path.stat().st_mode & 0o777 == 0o600
    reserve = path.with_name(RESERVE_NAME)
    assert {entry.name for entry in path.parent.iterdir()} == {path.name, reserve.name}
    assert (reserve.stat().st_mode & 0o777, reserve.stat().st_size) == (0o600, RESERVE_BYTES)


def test_every_kind_of_record_comes_back_as_it_was(path):
    lease = a_lease(reason="released", reason_code=6)
    pairs = [PairIs("lmp", "memory", 3, 1.7e9, 0.04), PairIs("lmp", "program a.py", 1, 1.8e9, 0.5)]
    written(path, [CounterIs("epoch", 7), a_slice(0), a_slice(1)], [lease, SliceIsOver(SLICES[1]), *pairs[::-1]])
    assert reopened(path) == Recovered({"epoch": 7}, [a_slice(0)], [SLICES[1]], [lease], pairs=pairs)


def test_of_pairs_the_last_word_counts(path):
    first, second = PairIs("lmp", "memory", 1, 100.5, 0.1), PairIs("lmp", "memory", 2, 200.5, 0.2)
    other = PairIs("lmpm", "emory", 1, 50.0, 0.1)  # the same letters, another pair
    written(path, [first, other], [second], [PairIsForgotten("lmpm", "emory"), PairIsForgotten("never", "was")])
    assert reopened(path).pairs == [second]


def test_a_pair_that_was_changed_behind_the_allocators_back_is_refused(path):
    written(path, [PairIs("lmp", "memory", 1, 100.5, 0.1)])
    db = sqlite3.connect(path)
    db.execute("UPDATE pairs SET body = CAST(replace(body, 'lmp', 'lmq') AS BLOB)")
    db.commit()
    db.close()
    with pytest.raises(ConfigError, match="checksum"):
        reopened(path)


def test_a_journal_of_the_schema_without_pairs_is_taken_over(path):
    written(path, [CounterIs("epoch", 7), a_slice(0)], [a_lease()])
    db = sqlite3.connect(path)
    db.executescript("DROP TABLE pairs; PRAGMA user_version = 3;")
    db.close()
    assert reopened(path) == Recovered({"epoch": 7}, [a_slice(0)], [], [a_lease()])
    written(path, [PairIs("lmp", "memory", 1, 100.5, 0.1)])
    assert len(reopened(path).pairs) == 1


def test_what_is_over_does_not_come_back(path):
    written(path, [a_slice(0), a_slice(1), a_lease()], [LeaseIsOver(b"\0" * 16), SliceIsForgotten(SLICES[0])])
    assert reopened(path) == Recovered({}, [a_slice(1)])


def test_the_number_of_a_commit_rises_over_restarts(path):
    numbers = []
    for _ in range(3):
        journal = SqliteJournal(path)
        journal.load()
        numbers += [journal.commit([]), journal.commit([CounterIs("epoch", 1)])]
        journal.close()
    assert numbers == [1, 2, 3, 4, 5, 6]


def test_a_journal_in_memory_only_counts():
    journal = MemoryJournal()
    assert journal.load() == Recovered()
    assert [journal.commit([a_slice()]), journal.commit([])] == [1, 2]
    journal.close()


RECORDS = st.one_of(
    st.builds(CounterIs, st.sampled_from(["epoch", "lease_seq"]), st.integers(1, 2**62)),
    st.builds(a_slice, st.integers(0, 2), st.integers(1, 9)),
    st.builds(SliceIsOver, st.sampled_from(SLICES)),
    st.builds(a_lease, st.integers(0, 5), st.integers(1, 9), st.just(0), reason=st.sampled_from(["", "released"])),
    st.builds(LeaseIsOver, st.integers(0, 5).map(lambda number: m.LeaseId(bytes([number]) * 16))),
    st.builds(PairIs, st.sampled_from("ab"), st.just("memory"), st.integers(1, 9), st.integers(1, 9), st.just(0.5)),
    st.builds(PairIsForgotten, st.sampled_from("ab"), st.just("memory")),
)


@settings(max_examples=40)
@given(batches=st.lists(st.lists(RECORDS, max_size=5), max_size=6))
def test_any_sequence_of_records_means_what_it_means_in_memory(tmp_path_factory, batches):
    path = tmp_path_factory.mktemp("journal") / "journal.sqlite"
    disk = Disk(counters_rise=False)
    keep = [a_slice(0)]  # leases need their slice
    batches = [*([r for r in batch if r != SliceIsOver(SLICES[0])] for batch in batches), keep]
    written(path, *batches)
    for batch in batches:
        disk.commit(batch)
    same(reopened(path), disk)


# --- one writer ----------------------------------------------------------------------------------


def test_a_second_writer_is_refused_at_once_and_the_first_goes_on(path):
    first = SqliteJournal(path)
    first.load()
    with pytest.raises(ConfigError, match="another allocator holds") as refused:
        SqliteJournal(path)
    assert "RFAAS_STATE_DIR" in refused.value.hint
    first.commit([CounterIs("epoch", 1)])
    first.close()
    assert reopened(path).counters == {"epoch": 1}


def test_closing_lets_go_and_may_be_repeated(path):
    journal = SqliteJournal(path)
    journal.close()
    journal.close()
    reopened(path)


# --- damage (every byte of a torn tail: tests/system/test_journal_damage.py) ----------------------


def test_a_log_without_its_journal_is_refused(path):
    path.with_name("journal.sqlite-wal").write_bytes(b"what a killed allocator left")
    with pytest.raises(ConfigError, match=r"without journal\.sqlite") as refused:
        SqliteJournal(path)
    assert "squeue --me" in refused.value.hint
    assert not path.exists()


def test_an_empty_file_is_refused(path):
    path.touch()
    with pytest.raises(ConfigError, match="it is empty"):
        SqliteJournal(path)


def test_a_directory_is_refused(path):
    path.mkdir()
    with pytest.raises(ConfigError, match="can't be used"):
        SqliteJournal(path)


def test_another_schema_is_refused_with_both_numbers(path):
    written(path, [a_slice()])
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(ConfigError, match=f"has schema {SCHEMA_VERSION + 1}, this rfaas knows {SCHEMA_VERSION}"):
        SqliteJournal(path)


def test_a_lease_without_its_slice_is_refused(path):
    written(path, [a_slice(0), a_lease(of=1)])
    with pytest.raises(ConfigError, match="a lease has no slice"):
        reopened(path)


def test_a_row_that_was_changed_behind_the_allocators_back_is_refused(path):
    written(path, [CounterIs("epoch", 9)])
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("UPDATE counters SET value = 1 WHERE name = 'epoch'")
    db.close()
    with pytest.raises(ConfigError, match="checksum"):
        reopened(path)


def test_a_record_of_nonsense_with_a_right_checksum_is_refused(path):
    written(path, [a_slice()])
    key = b"k" * 16
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("INSERT INTO leases VALUES (1, ?, ?, ?)", (key, b"\x80", zlib.crc32(b"\x80", zlib.crc32(key))))
    db.close()
    with pytest.raises(ConfigError, match="can't be read"):
        reopened(path)


def test_a_commit_that_fails_says_so_and_leaves_what_was_there(path):
    journal = SqliteJournal(path)
    journal.load()
    journal.commit([CounterIs("epoch", 1)])
    journal.close()
    broken = SqliteJournal(path)
    broken.load()
    broken.close()
    with pytest.raises(JournalFailed) as failed:  # a closed file stands for a disk that is gone
        broken.commit([CounterIs("epoch", 2)])
    assert "start the allocator again" in failed.value.hint
    assert reopened(path).counters == {"epoch": 1}


# --- accounts and hosts --------------------------------------------------------------------------


def an_account(seq, ended=True):
    usage = m.Usage(allocated_ns=seq * 10**9, calls=3, bytes_out=2**40)
    key = seq.to_bytes(16, "big")
    end = 99.5 if ended else None
    return m.Account(key, seq, b"h" * 16, "a.py", 7, SLICES[0], "n1", "17", 2, 4, 2**30, 1.5, end, "released", 6, usage)


def test_accounts_outlive_their_leases_and_are_read_in_order_and_in_parts(path):
    accounts = [an_account(seq) for seq in (3, 1, 2)] + [an_account(4, ended=False)]
    written(path, [AccountIs(account) for account in accounts])
    journal = SqliteJournal(path)
    in_order = sorted(accounts, key=lambda account: account.lease_seq)
    assert sorted(journal.load().accounts, key=lambda account: account.lease_seq) == in_order
    first = journal.accounts((-1, b""), 3)
    assert first + journal.accounts((first[-1].lease_seq, first[-1].lease_id), 3) == in_order
    journal.close()


def test_an_account_is_replaced_not_added(path):
    written(path, [AccountIs(an_account(1, ended=False))], [AccountIs(an_account(1))])
    assert reopened(path).accounts == [an_account(1)]


def test_only_so_many_accounts_are_kept_but_all_of_leases_that_live(path, monkeypatch):
    monkeypatch.setattr("rfaas_allocator.journal_batch.ACCOUNTS_KEPT", 5)
    written(path, [AccountIs(an_account(seq, ended=seq != 2)) for seq in range(1, 11)])
    assert sorted(account.lease_seq for account in reopened(path).accounts) == [2, 6, 7, 8, 9, 10]


def test_hosts_come_back_by_source(path):
    hosts = HostList((m.Host("n1", 4, 2**30, "file"),), True)
    written(path, [HostsAre("file", HostList()), HostsAre("slurm", HostList())], [HostsAre("file", hosts)])
    assert reopened(path).hosts == {"file": hosts, "slurm": HostList()}


OLD_TABLES = """
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE slices (id BLOB PRIMARY KEY, body TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE slices_over (number INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB UNIQUE NOT NULL, crc INTEGER NOT NULL);
    CREATE TABLE leases (id BLOB PRIMARY KEY, body TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
"""
OLD_TABLES_2 = """
    CREATE TABLE accounts (
        seq INTEGER NOT NULL, id BLOB NOT NULL, ended INTEGER NOT NULL, body TEXT NOT NULL, crc INTEGER NOT NULL,
        PRIMARY KEY (seq, id)
    ) WITHOUT ROWID;
    CREATE TABLE hosts (source TEXT PRIMARY KEY, body TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
"""
OLD_HOSTS = HostList((m.Host("n1", 4, 2**30, "file"),), True)


def old_text(record):
    """A record as versions before wrote it."""
    about = dataclasses.asdict(record)
    if isinstance(record, LeaseIs):
        del about["held"]["terms"]["kind"]
    return json.dumps(about, default=bytes.hex, sort_keys=True)


def old_crc(*values):
    return zlib.crc32(repr(values).encode())


def old_journal(path, version, lease):
    """A file of schema 1 or 2 with one record of each kind."""
    path.touch(0o600)
    db = sqlite3.connect(path)
    db.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version}; {OLD_TABLES}")
    db.execute("INSERT INTO counters VALUES ('epoch', 7, ?)", (old_crc("epoch", 7),))
    db.execute("INSERT INTO slices_over (id, crc) VALUES (?, ?)", (SLICES[1], old_crc(0, SLICES[1])))
    for table, key, record in (("slices", SLICES[0], a_slice(0)), ("leases", lease.held.terms.lease_id, lease)):
        body = old_text(record)
        db.execute(f"INSERT INTO {table} VALUES (?, ?, ?)", (key, body, old_crc(key, body)))
    if version == 2:
        db.executescript(OLD_TABLES_2)
        key, body = an_account(1).lease_id, old_text(an_account(1))
        db.execute("INSERT INTO accounts VALUES (1, ?, 1, ?, ?)", (key, body, old_crc(key, body)))
        body = old_text(OLD_HOSTS)
        db.execute("INSERT INTO hosts VALUES ('file', ?, ?)", (body, old_crc("file", body)))
    db.commit()
    db.close()


@pytest.mark.parametrize("version", [1, 2])
def test_a_journal_of_a_version_before_is_taken_over_with_all_that_is_in_it(path, version):
    lease = a_lease(number=3, seq=9, reason="released", reason_code=6)
    old_journal(path, version, lease)
    accounts, hosts = ([an_account(1)], {"file": OLD_HOSTS}) if version == 2 else ([], {})
    expected = Recovered({"epoch": 7}, [a_slice(0)], [SLICES[1]], [lease], accounts, hosts)
    assert [reopened(path), reopened(path)] == [expected, expected]
    written(path, [AccountIs(an_account(2)), LeaseIsOver(lease.held.terms.lease_id)])
    assert (reopened(path).accounts, reopened(path).leases) == ([*accounts, an_account(2)], [])


def test_a_damaged_journal_of_a_version_before_is_refused_and_stays_as_it_was(path):
    old_journal(path, 2, a_lease())
    db = sqlite3.connect(path)
    db.execute("UPDATE accounts SET body = replace(body, '17', '18')")
    db.commit()
    db.close()
    for _ in range(2):
        with pytest.raises(ConfigError, match="checksum"):
            SqliteJournal(path)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (2,)
    assert db.execute("SELECT count(*) FROM leases").fetchone() == (1,)
    db.close()


def test_what_a_commit_replaces_itself_is_written_once_and_means_the_same(path):
    journal = SqliteJournal(path)
    journal.load()
    journal.commit(
        [a_slice(), a_lease(), LeaseIsOver(b"\0" * 16), a_lease(1), CounterIs("epoch", 1), CounterIs("epoch", 2)]
    )
    journal.commit([a_lease(1, seq=2), a_lease(1, seq=3)])
    journal.commit([SliceIsOver(SLICES[1]), a_slice(1), SliceIsOver(SLICES[2]), SliceIsOver(SLICES[1])])
    journal.close()
    assert reopened(path) == Recovered({"epoch": 2}, [a_slice()], [SLICES[2], SLICES[1]], [a_lease(1, seq=3)])


def test_an_account_that_was_changed_behind_the_allocators_back_is_refused(path):
    written(path, [AccountIs(an_account(1))])
    db = sqlite3.connect(path)
    db.execute("UPDATE accounts SET body = CAST(replace(body, '17', '18') AS BLOB)")
    db.commit()
    db.close()
    with pytest.raises(ConfigError, match="checksum"):
        reopened(path)
