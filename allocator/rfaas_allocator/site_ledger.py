"""The site allocator's journal and accounts: every grant is durable before it is told, and what it cost outlives it.

Kept as the records that any allocator keeps (`journal_sqlite`): a grant that may be in use is a slice, with an account
of the same id, which its end closes. Must not decide. Spec: docs/spec/010-node-agent.md section 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from rfaas.control.messages import Account, Epoch, HolderId, InstanceId, LeaseId, LeaseSeq, Slice, SliceId, Usage
from rfaas.site.grant import Grant
from rfaas_allocator.accounts import priced
from rfaas_allocator.events import AccountIs, CounterIs, Record, SliceIs, SliceIsForgotten
from rfaas_allocator.journal import Journal
from rfaas_allocator.policy import Prices
from rfaas_allocator.site_book import USE_WITHIN_S, Closed, Opened
from rfaas_transport.errors import ConfigError

SEQUENCE: Final = "lease_seq"
NEVER_STARTED: Final = ("unused", "not-used")
"""Ends of grants that came to nothing, which cost nothing."""


class SiteLedger:
    """What is kept of grants.

    Args:
        journal: of this allocator alone.
        prices: applied when accounts are read.
    """

    def __init__(self, journal: Journal, prices: Prices) -> None:
        self._journal, self._prices = journal, prices
        self._accounts: dict[bytes, Account] = {}
        self._sequence = 0

    def recover(self) -> list[Grant]:
        """The grants that may be in use, once, before anything is kept.

        Raises:
            ConfigError: the journal is another allocator's, or damaged.
        """
        recovered = self._journal.load()
        self._sequence = recovered.counters.get(SEQUENCE, 0)
        self._accounts = {one.lease_id: one for one in recovered.accounts if one.end_unix_s is None}
        return [self._grant_of(record) for record in recovered.slices]

    def _grant_of(self, record: SliceIs) -> Grant:
        kept = record.slice
        account = self._accounts.get(kept.slice_id)
        if account is None or kept.end_in_s is None or not kept.outside_jobs:
            raise ConfigError(
                "the journal holds slices that no site's allocator granted", hint="give --state-dir one of its own"
            )
        return Grant(
            kept.slice_id,
            record.instance,
            issued_s=kept.submit_time_s,
            use_by_s=kept.submit_time_s + USE_WITHIN_S,
            ends_s=kept.submit_time_s + int(kept.end_in_s),
            memory_bytes=kept.memory_bytes,
            uid=account.uid,
            cores=kept.cores,
            node=kept.node,
        )

    def keep(self, changes: list[Opened | Closed]) -> None:
        """Make grants and their ends durable, together.

        Raises:
            JournalFull: there is no room; nothing of them is kept, and no grant among them may be told.
            JournalFailed: the process must end.
        """
        if not changes:
            return
        sequence, accounts = self._sequence, dict(self._accounts)
        records: list[Record] = []
        for change in changes:
            if isinstance(change, Opened):
                sequence += 1
                account = _opened(change.grant, sequence)
                accounts[change.grant.slice_id] = account
                records += [CounterIs(SEQUENCE, sequence), _slice_of(change.grant, sequence), AccountIs(account)]
            elif (found := accounts.pop(change.grant.slice_id, None)) is not None:
                records += [SliceIsForgotten(SliceId(change.grant.slice_id)), AccountIs(_closed(found, change))]
        self._journal.commit(records)
        self._sequence, self._accounts = sequence, accounts

    def storage_problem(self) -> str:
        """Why nothing more is to be granted: the end of a grant may soon find no room. "" if there is room."""
        return self._journal.storage_problem()

    def accounts(self, now_s: float, after: tuple[int, bytes], limit: int) -> Iterator[Account]:
        """Accounts beyond `after` with their price, those of grants in use as if they ended now.

        Raises:
            JournalFailed: one can't be read.
        """
        for account in self._journal.accounts(after, limit):
            if account.end_unix_s is None:
                allocated_ns = max(0, int((now_s - account.start_unix_s) * 1e9))
                account = replace(account, usage=Usage(allocated_ns=allocated_ns))
            yield priced(account, self._prices)

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()


def _opened(grant: Grant, sequence: int) -> Account:
    return Account(
        lease_id=LeaseId(grant.slice_id),
        lease_seq=LeaseSeq(sequence),
        holder=HolderId(grant.nonce),
        holder_name="site grant",
        uid=grant.uid,
        slice_id=SliceId(grant.slice_id),
        node=grant.node,
        job_id="",
        workers=0,
        cores=grant.cores,
        memory_bytes=grant.memory_bytes,
        start_unix_s=float(grant.issued_s),
    )


def _closed(account: Account, change: Closed) -> Account:
    lasted_s = 0.0 if change.reason in NEVER_STARTED else max(0.0, change.at_s - account.start_unix_s)
    usage = Usage(allocated_ns=int(lasted_s * 1e9))
    return replace(account, end_unix_s=float(change.at_s), reason=change.reason, usage=usage)


def _slice_of(grant: Grant, sequence: int) -> SliceIs:
    kept = Slice(
        SliceId(grant.slice_id),
        grant.node,
        grant.cores,
        grant.memory_bytes,
        "",
        key=f"site grant of uid {grant.uid}",
        end_in_s=float(grant.ends_s - grant.issued_s),
        submit_time_s=grant.issued_s,
        outside_jobs=True,
    )
    return SliceIs(kept, InstanceId(grant.nonce), Epoch(sequence))
