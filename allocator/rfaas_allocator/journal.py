"""What every journal promises: records of one writer, durable when `commit` returns, and all of them back at a start.

Must not know where they are kept; `journal_sqlite` keeps them in a file. Spec: docs/spec/002-lease.md section 7.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from rfaas.control.messages import Account
from rfaas_allocator.events import Record, Recovered
from rfaas_transport.errors import RfaasError


class JournalFailed(RfaasError, OSError):
    """The journal could not be made durable; the allocator must end: what it said last may be lost."""

    code = "journal"


class JournalFull(RfaasError, OSError):
    """There is no room for a commit: nothing of it is kept, nothing else is lost, and it may be tried again."""

    code = "journal-full"
    retriable = True


class Journal(Protocol):
    """Keeps records across the allocator's lives."""

    def load(self) -> Recovered:
        """All that was committed, once, before the first commit."""

    def commit(self, records: Iterable[Record]) -> int:
        """Make records durable together, in order; return the commit's number, which only rises.

        Raises:
            JournalFull: nothing of them is kept; nothing may be sent that depends on them until a later try succeeds.
            JournalFailed: nothing may be sent that depends on them; the allocator must end.
        """

    def storage_problem(self) -> str:
        """Why no new leases should be given, since the end of a lease may soon find no room; "" if there is room.

        Makes room for itself again where it can. May run beside `commit`, in another thread.
        """

    def accounts(self, after: tuple[int, bytes], limit: int) -> list[Account]:
        """Up to `limit` accounts of leases beyond `after`, a (lease_seq, lease id), in that order.

        Raises:
            JournalFailed: one can't be read.
        """

    def close(self) -> None:
        """Let go of the file; repeatable."""


class MemoryJournal:
    """For an allocator that lives and dies with its only user: nothing outlives the process."""

    def __init__(self) -> None:
        self._lsn = 0

    def load(self) -> Recovered:
        """Nothing."""
        return Recovered()

    def commit(self, records: Iterable[Record]) -> int:
        """Count the commit."""
        self._lsn += 1
        return self._lsn

    def storage_problem(self) -> str:
        """Memory is the process's own."""
        return ""

    def accounts(self, after: tuple[int, bytes], limit: int) -> list[Account]:
        """None: nobody is charged by an allocator of one program."""
        return []

    def close(self) -> None:
        """Nothing to let go of."""
