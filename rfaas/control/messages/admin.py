"""What the allocator tells people, as `admin.proto` does."""

from __future__ import annotations

from dataclasses import dataclass

from rfaas.control.messages.common import NO_USAGE, HolderId, LeaseId, LeaseSeq, SliceId, Usage


@dataclass(frozen=True, slots=True)
class Account:
    """One lease and what it cost. Times are seconds since 1970, for people; durations come from the agent's clock.

    `end_unix_s`: None while it lives. `cost` is by the prices that the allocator has now, in `currency`, and so is
    `credit`, which is that of the user `shared_by` whose job shared the slice (None: it was not shared).
    """

    lease_id: LeaseId
    lease_seq: LeaseSeq
    holder: HolderId
    holder_name: str
    uid: int
    slice_id: SliceId
    node: str
    job_id: str
    workers: int
    cores: int
    memory_bytes: int
    start_unix_s: float
    end_unix_s: float | None = None
    reason: str = ""
    reason_code: int = 0
    usage: Usage = NO_USAGE
    cost: float = 0.0
    currency: str = ""
    shared_by: int | None = None
    credit: float = 0.0


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, as `Admin.Watch` tells it. `seq` rises, also across restarts of the allocator.

    kind: a word of `rfaas.control.eventlog.EVENTS`, or `gap`: events before this one are not kept any more.
    """

    seq: int
    kind: str
    slice_id: SliceId | None = None
    lease_id: LeaseId | None = None
    holder: HolderId | None = None
    node: str = ""
    text: str = ""
