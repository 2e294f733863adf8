"""What holders say, through their session processes, turned into changes of the ledger.

Must not choose whom to serve (core). Wants live only as long as their link: holders say them again after a break.
Spec: docs/spec/002-lease.md sections 5, 7.
"""

from __future__ import annotations

import logging
from typing import Final

from rfaas.control.lease import LeaseEvent, LeaseState
from rfaas.control.messages import (
    MEMORY,
    Denied,
    Ended,
    HolderGone,
    HolderHello,
    HolderId,
    HolderMessage,
    LeaseId,
    ReleaseLease,
    Want,
)
from rfaas_allocator.entries import HolderEntry, LeaseEntry, WantEntry
from rfaas_allocator.events import Happened, LinkId
from rfaas_allocator.ledger import Ledger
from rfaas_allocator.policy import Policy
from rfaas_transport.errors import ReasonCode

logger = logging.getLogger(__name__)

U32_MAX: Final = 2**32 - 1
REGION_BYTES_MAX: Final = 2**50  # docs/spec/008-memory.md section 1
I63_MAX: Final = 2**63 - 1  # what a journal and a C client can hold
GIVEN_BACK: Final = frozenset({LeaseState.GRANTED, LeaseState.ACTIVE, LeaseState.DRAINING})


class HolderDesk:
    """Serves holders."""

    def __init__(self, ledger: Ledger, policy: Policy) -> None:
        self._ledger = ledger
        self._policy = policy
        self._inventory = ledger.inventory

    def said(self, link: LinkId, message: HolderMessage) -> None:
        """Take one message of a holder; what it wants is what its newest link says, whichever is read first."""
        known = self._inventory.holders.get(message.holder)
        match message:
            case HolderHello() | Want() if known is not None and link < known.link:
                logger.warning("message on a replaced link ignored holder=%s", message.holder.hex())
            case HolderHello():
                self._hello(link, message)
            case _ if known is None:
                logger.warning("message without a hello ignored holder=%s", message.holder.hex())
            case Want():
                self._want(message)
            case ReleaseLease():
                self._release(message)
            case HolderGone():
                self._gone(message)

    def link_broke(self, link: LinkId) -> None:
        """A session process can't be reached: what its holders hold stands, what they want is forgotten."""
        for entry in [entry for entry in self._inventory.holders.values() if entry.link == link]:
            self._forget_wants(entry.holder)
            del self._inventory.holders[entry.holder]

    # --- messages --------------------------------------------------------------------------------

    def _hello(self, link: LinkId, message: HolderHello) -> None:
        known = self._inventory.holders.get(message.holder)
        if known is not None and known.link != link:
            self._forget_wants(message.holder)  # they came with the old link
        held = frozenset(message.held)
        self._inventory.holders[message.holder] = HolderEntry(message.holder, message.name, message.uid, link, held)
        self._ledger.changed = True
        leases = {entry.terms.lease_id: entry for entry in self._inventory.leases_of(message.holder)}
        for lease_id in sorted(held - leases.keys()):
            # It was told of it, so it was durable, so it is FREE.
            self._ledger.tell_holder(
                message.holder, Ended(message.holder, LeaseId(lease_id), "lost", ReasonCode.AGENT_LOST)
            )
        for lease_id, entry in leases.items():
            if lease_id not in held and entry.lease.state in GIVEN_BACK:
                self._ledger.grant(entry)  # the word of it was lost with a link

    def _want(self, message: Want) -> None:
        key = (message.holder, message.request)
        denial = self._denial(message)
        if denial:
            self.deny(key, *denial)
            return
        if message.workers == 0:
            self._drop_want(key)
            return
        entry = self._inventory.wants.get(key)
        if entry is None or entry.want != message:
            self._note_request(message)
        self._inventory.set_want(key, message)
        self._ledger.changed = True
        self._cancel_surplus(key)

    def _denial(self, want: Want) -> tuple[str, str] | None:
        """Code and hint if this can never be served whatever comes, as far as the request itself tells."""
        if want.kind not in ("", MEMORY):
            return "not-supported", f"requests of kind {want.kind!r} are not served: ask for workers, or for memory"
        impossible = _impossible(want) or (want.workers and self._policy.larger_than_machine(WantEntry(want).single))
        if impossible:
            return "lease-denied", impossible
        quota = self._policy.quota_of(self._inventory.holders[want.holder].uid)
        beyond = quota.never(WantEntry(want).single) if want.workers else ""
        return ("quota", beyond) if beyond else None

    def deny(self, key: tuple[HolderId, int], code: str, hint: str) -> None:
        """Say that a request can never be served, and forget it."""
        self._drop_want(key)
        self._ledger.tell_holder(key[0], Denied(*key, code, hint))

    def _note_request(self, want: Want) -> None:
        fields: dict[str, object] = {
            "request": want.request,
            "workers": want.workers,
            "cores_per_worker": want.cores_per_worker,
            "mem_per_worker": want.memory_bytes_per_worker,
        }
        self._ledger.emit(Happened("request", holder=want.holder, fields=fields))

    def _release(self, message: ReleaseLease) -> None:
        entry = self._inventory.leases.get(message.lease_id)
        if entry is None:
            self._ledger.tell_holder(
                message.holder, Ended(message.holder, message.lease_id, "released", message.reason_code)
            )
        elif entry.terms.holder != message.holder:
            logger.warning("release by a stranger refused lease=%s", message.lease_id.hex())
        else:
            self._give_back(entry, message.reason_code)

    def _gone(self, message: HolderGone) -> None:
        self._forget_wants(message.holder)
        for entry in self._inventory.leases_of(message.holder):
            self._give_back(entry, message.reason_code)
        del self._inventory.holders[message.holder]

    # --- wants and leases ------------------------------------------------------------------------

    def _give_back(self, entry: LeaseEntry, reason_code: int) -> None:
        if entry.lease.state is LeaseState.REQUESTED:
            self._ledger.cancel(entry)
        elif entry.lease.state in GIVEN_BACK:
            self._ledger.end(entry, LeaseEvent.RELEASE, reason_code=reason_code)

    def _forget_wants(self, holder: HolderId) -> None:
        for key in self._inventory.wants_of(holder):
            self._drop_want(key)

    def _drop_want(self, key: tuple[HolderId, int]) -> None:
        if self._inventory.drop_want(key):
            self._ledger.changed = True
        self._cancel_surplus(key)

    def _cancel_surplus(self, key: tuple[HolderId, int]) -> None:
        """Cancel proposals beyond the target, the youngest first; what is granted stays (002 section 5)."""
        for entry in reversed(self._inventory.pending(key)):
            if self._inventory.missing(key) + entry.terms.workers > 0:
                break
            self._ledger.cancel(entry)


def _impossible(want: Want) -> str:
    """Why no slice could ever serve this; empty if one might."""
    if want.kind == MEMORY and (want.workers not in (0, 1) or want.cores_per_worker):
        return (
            f"{want.workers} regions with {want.cores_per_worker} cores: ask for one region of memory, without a core"
        )
    if want.kind == MEMORY and not 1 <= want.memory_bytes_per_worker <= REGION_BYTES_MAX:
        return f"{want.memory_bytes_per_worker} bytes: ask for 1 to {REGION_BYTES_MAX}"
    if want.kind == MEMORY:
        return ""
    if not 0 <= want.workers <= U32_MAX:
        return f"{want.workers} workers: ask for 1 to {U32_MAX}"
    if not 1 <= want.cores_per_worker <= U32_MAX:
        return f"{want.cores_per_worker} cores a worker: ask for 1 to {U32_MAX}"
    if not 1 <= want.memory_bytes_per_worker <= I63_MAX:
        return f"{want.memory_bytes_per_worker} bytes a worker: ask for 1 to {I63_MAX}"
    if not 0 <= want.lease_workers <= U32_MAX:
        return f"{want.lease_workers} workers a lease: ask for 1 to {U32_MAX}, or 0 for any number"
    return ""
