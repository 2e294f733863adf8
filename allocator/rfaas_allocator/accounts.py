"""What each lease costs: opened with its grant, fed by its agent's reports, closed with its end, journalled each time.

Reports are cumulative and the highest number is the truth, so a repeated, late or re-sent one counts nothing twice.
Must not measure: agents do. Spec: docs/spec/002-lease.md section 9.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from rfaas.control.messages import Account, HolderId, LeaseId, LeaseTerms, Slice, Usage
from rfaas_allocator.events import AccountIs
from rfaas_allocator.policy import GIB, Prices

CLOSED_REMEMBERED: Final = 1000  # for reports that come after the end; the journal keeps more


class AccountBook:
    """Accounts of leases that live, and of those that ended last.

    Args:
        recovered: what the journal remembers of both.
        persist: makes one durable with the effects of this step.
        unix_s: what the clock on the wall says now, for people.
    """

    def __init__(
        self, recovered: Iterable[Account], persist: Callable[[AccountIs], None], unix_s: Callable[[], float]
    ) -> None:
        self._persist = persist
        self._unix_s = unix_s
        self._open: dict[LeaseId, Account] = {}
        self._closed: OrderedDict[LeaseId, Account] = OrderedDict()
        for account in recovered:
            if account.end_unix_s is None:
                self._open[account.lease_id] = account
            else:
                self._closed[account.lease_id] = account

    def open(self, terms: LeaseTerms, offer: Slice, holder_name: str) -> None:
        """A lease is granted, or found at its agent; one that is known keeps its beginning."""
        if terms.lease_id in self._open:
            return
        account = Account(
            lease_id=terms.lease_id,
            lease_seq=terms.lease_seq,
            holder=HolderId(terms.holder),
            holder_name=holder_name,
            uid=terms.uid,
            slice_id=terms.slice_id,
            node=offer.node,
            job_id=offer.job_id,
            workers=terms.workers,
            cores=terms.cores,
            memory_bytes=terms.memory_bytes,
            start_unix_s=self._unix_s(),
            shared_by=offer.shared_by,
        )
        self._open[terms.lease_id] = account
        self._persist(AccountIs(account))

    def hear(self, lease_id: LeaseId, usage: Usage) -> None:
        """Its agent says what it has cost so far; of a lease that nobody knows any more nothing is kept."""
        book: dict[LeaseId, Account] = self._open if lease_id in self._open else self._closed
        account = book.get(lease_id)
        if account is None:
            return
        highest = account.usage.highest(usage)
        if highest != account.usage:
            book[lease_id] = account = replace(account, usage=highest)
            self._persist(AccountIs(account))

    def close(self, lease_id: LeaseId, reason: str, reason_code: int) -> Usage:
        """The lease is FREE; return what it cost as far as anybody has said."""
        account = self._open.pop(lease_id, None)
        if account is None:
            return Usage()
        account = replace(account, end_unix_s=self._unix_s(), reason=reason, reason_code=int(reason_code))
        self._closed[lease_id] = account
        while len(self._closed) > CLOSED_REMEMBERED:
            self._closed.popitem(last=False)
        self._persist(AccountIs(account))
        return account.usage


def priced(account: Account, prices: Prices) -> Account:
    """The account with what it costs: cores and memory for the time allocated, and the payload both ways.

    What a job shared is its owner's credit, for the same cores, memory and time.
    """
    allocated_s = account.usage.allocated_ns / 1e9
    core_s, gib_s = allocated_s * account.cores, allocated_s * account.memory_bytes / GIB
    payload_bytes = account.usage.bytes_in + account.usage.bytes_out
    cost = prices.cost(core_s=core_s, gib_s=gib_s, payload_bytes=payload_bytes)
    credit = 0.0 if account.shared_by is None else prices.share_credit(core_s=core_s, gib_s=gib_s)
    return replace(account, cost=cost, credit=credit, currency=prices.currency)
