"""A journal torn or flipped at any byte of its tail gives back a prefix of what was committed, or is refused."""

import shutil
from pathlib import Path

import pytest

from rfaas.control import messages as m
from rfaas.control.hosts import HostList
from rfaas_allocator import reserve
from rfaas_allocator.events import AccountIs, CounterIs, HostsAre, LeaseIs, PairIs, SliceIs
from rfaas_allocator.journal_sqlite import SqliteJournal
from rfaas_transport.errors import ConfigError
from support.leftovers import name_in_shared_memory

TAIL_BYTES = 4096
SLICE = m.SliceId(b"s" * 16)


def commits():
    """Five batches as an allocator would commit them."""
    about = m.Slice(SLICE, "n1", 8, 2**30, "unix:@a", job_id="7")
    for number in range(1, 6):
        terms = m.LeaseTerms(
            m.LeaseId(bytes([number]) * 16),
            m.LeaseSeq(number),
            SLICE,
            m.Epoch(1),
            m.HolderId(b"h" * 16),
            1,
            1,
            1,
            9,
            10.0,
        )
        held = m.HeldLease(terms, (number,), "GRANTED")
        account = m.Account(
            terms.lease_id,
            terms.lease_seq,
            terms.holder,
            "a.py",
            0,
            SLICE,
            "n1",
            "7",
            1,
            1,
            9,
            1.5,
            usage=m.Usage(number),
        )
        hosts = HostList((m.Host("n1", 8, number, "file"),), True)
        slice_is = SliceIs(about, m.InstanceId(b"i" * 16), m.Epoch(1))
        pair = PairIs("lmp", "memory", number, 1e9, 0.1)
        named = HostsAre("file", hosts)
        yield [CounterIs("lease_seq", number), slice_is, LeaseIs(held), AccountIs(account), named, pair]


def outcome(path):
    """How many of the batches a start on this journal finds; None if it is refused, with a remedy."""
    try:
        journal = SqliteJournal(path)
    except ConfigError as error:
        return None if error.hint else "no remedy"
    try:
        found = journal.load()
    except ConfigError as error:
        return None if error.hint else "no remedy"
    finally:
        journal.close()
    count = found.counters.get("lease_seq", 0)
    batches = list(commits())[:count]
    assert [lease.held.terms.lease_seq for lease in found.leases] == list(range(1, count + 1))
    assert found.leases == [batch[2] for batch in batches]
    assert found.slices == [batch[1] for batch in batches][-1:]
    assert found.accounts == [batch[3].account for batch in batches]
    assert list(found.hosts.values()) == [batch[4].hosts for batch in batches][-1:]
    assert found.pairs == [batch[5] for batch in batches][-1:]
    return count


@pytest.fixture
def quick_dir():
    """A directory in memory: thousands of journals are opened here, each with its fsyncs."""
    directory = Path("/dev/shm", name_in_shared_memory("journal"))
    directory.mkdir(mode=0o700)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def killed(quick_dir):
    """The files of a journal as a killed allocator leaves them: the log is not written back."""
    journal = SqliteJournal(quick_dir / "journal.sqlite")
    journal.load()
    for batch in commits():
        journal.commit(batch)
    files = {path.name: path.read_bytes() for path in quick_dir.glob("journal.sqlite*")}
    journal.close()
    assert files.keys() == {"journal.sqlite", "journal.sqlite-wal"}
    return files


@pytest.fixture
def closed(quick_dir):
    """The files of a journal that was closed in good order."""
    journal = SqliteJournal(quick_dir / "journal.sqlite")
    journal.load()
    for batch in commits():
        journal.commit(batch)
    journal.close()
    return {path.name: path.read_bytes() for path in quick_dir.iterdir()}


def cut(content, offset):
    return content[:offset]


def flip(content, offset):
    return content[:offset] + bytes([content[offset] ^ 0xFF]) + content[offset + 1 :]


@pytest.fixture(autouse=True)
def _small_reserve(monkeypatch):
    """Thousands of journals are opened here, and what the reserve is for is tested elsewhere."""
    monkeypatch.setattr(reserve, "RESERVE_BYTES", 4096)


def outcomes(directory, files, damaged, damage, offsets):
    """What starts find on copies of `files`, the damaged one of them damaged at each offset."""
    for offset in offsets:
        for path in directory.iterdir():
            path.unlink()
        for name, content in files.items():
            (directory / name).write_bytes(damage(content, offset) if name == damaged else content)
        yield outcome(directory / "journal.sqlite")


def test_what_a_killed_allocator_committed_is_all_there(quick_dir, killed):
    assert list(outcomes(quick_dir, killed, None, cut, [0])) == [5]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [cut, flip])
def test_a_log_torn_anywhere_in_its_tail_gives_a_prefix_or_is_refused(quick_dir, killed, damage):
    size = len(killed["journal.sqlite-wal"])
    found = list(outcomes(quick_dir, killed, "journal.sqlite-wal", damage, range(size - TAIL_BYTES, size)))
    assert len(found) == TAIL_BYTES
    assert set(found) <= {0, 1, 2, 3, 4, None}  # the last commit is gone, and nothing else is wrong
    assert 4 in found  # a torn tail does not lose what was whole


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_file_damaged_anywhere_gives_what_was_there_or_is_refused(quick_dir, closed, damage):
    size = len(closed["journal.sqlite"])
    found = set(outcomes(quick_dir, closed, "journal.sqlite", damage, range(0, size, 61)))
    assert found <= {5, None}
    assert None in found
    if damage is cut:
        assert found == {None}
