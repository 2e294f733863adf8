"""What becomes of a borrowed region: `step(event, now_s) -> effects`, without I/O, clock or lock.

One state at a time (`Stage`); at most one lease has the content. A lease that goes back to its owner is left in the way
that the program asked for: lost, moved to the next lender, or spilled to a file. Spec: docs/spec/008-memory.md
section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from rfaas.client.events import (
    ChannelOpened,
    ChannelsCondemned,
    Denied,
    LeaseEnded,
    LeaseGranted,
    Notice,
    Queued,
    SessionFailed,
    SessionLost,
    SessionUp,
)
from rfaas.client.records import Lease, Verdict
from rfaas.memory import events as on
from rfaas_transport.errors import AcquireTimeout, ConfigError, LeaseDenied, MemoryLost, ReasonCode, RfaasError

REDIAL_WAIT_S: Final = 2.5  # a channel that ended alone is dialled again sooner; a dead lender is reported sooner
RDMA_WAIT_S: Final = 10.0  # what a port may be down once the device has given up, where nothing but RDMA will do
REJOIN_EVERY_S: Final = 1.0
LOSE, MOVE, SPILL = "lose", "move", "spill"


class Stage(Enum):
    """Where a region is.

    WAITING: no lender yet. SERVING: one has it. LEAVING: it goes back to its owner. SPILLED: in a file. LOST, CLOSED:
    the end.
    """

    WAITING = "waiting"
    SERVING = "serving"
    LEAVING = "leaving"
    SPILLED = "spilled"
    LOST = "lost"
    CLOSED = "closed"


@dataclass(slots=True)
class _Lent:
    """One lease. `channel`: that is open to it; `ended`: the number of the last one, whose farewell may still come;
    `notice`: it goes back to its owner."""

    lease: Lease
    channel: ChannelOpened | None = None
    ended: int = 0
    notice: Notice | None = None

    @property
    def number(self) -> int:
        """Of its channel; 0: none is open."""
        return 0 if self.channel is None else self.channel.info.number


class MemoryCore:
    """Decides for one region. Not thread-safe.

    Args:
        when_reclaimed: "lose", "move" or "spill".
        rdma_only: no other medium may reach a lender.
        acquire_timeout_s: how long to wait for the first lender; None: for ever.
        now_s: the clock of all steps, at the start.
    """

    def __init__(
        self, when_reclaimed: str, acquire_timeout_s: float | None, now_s: float, *, rdma_only: bool = False
    ) -> None:
        self.stage = Stage.WAITING
        self._when_reclaimed = self._asked = when_reclaimed  # the first changes once that has failed for good
        self._redial_wait_s = RDMA_WAIT_S if rdma_only else REDIAL_WAIT_S
        self._give_up_at_s = None if acquire_timeout_s is None else now_s + acquire_timeout_s
        self._leases: dict[bytes, _Lent] = {}
        self._current: _Lent | None = None  # who has the content
        self._copying_to: _Lent | None = None
        self._is_copying = False
        self._is_in_use = False  # there may be content
        self._target = 1
        self._session_up = self._embedded = False
        self._rejoin_at_s: float | None = None
        self._channel_due_s: float | None = None  # by when the content's channel must be back
        self._away_since_s: float | None = None  # when its last channel that served had ended
        self._cant_open = ""  # why this process could not make the last channel to the content
        self._why = ""  # the last word about why nothing comes
        self._now_s = now_s
        self._out: list[on.Effect] = []

    def step(self, event: on.Event, now_s: float) -> list[on.Effect]:
        """Take one event and return what to do about it, in order."""
        self._now_s, self._out = now_s, []
        if self.stage is not Stage.CLOSED:
            self._on(event)
            self._on_time()
        elif isinstance(event, ChannelOpened):
            self._do(on.Drop(event.info.number))
        return self._out

    @property
    def wake_at_s(self) -> float | None:
        """When a Tick is due; None: only another event changes anything."""
        patience_s = self._give_up_at_s if self.stage is Stage.WAITING else None
        due = [patience_s, self._rejoin_at_s, self._channel_due_s]
        return min((moment_s for moment_s in due if moment_s is not None), default=None)

    @property
    def node(self) -> str:
        """Where the content is; empty: with no lender."""
        has_it = self.stage in (Stage.SERVING, Stage.LEAVING)
        return self._current.lease.node if self._current is not None and has_it else ""

    @property
    def lease_id(self) -> bytes:
        """The lease of the content; empty: there is none."""
        return self._current.lease.lease if self._current is not None else b""

    def start(self) -> list[on.Effect]:
        """The first effects."""
        return [on.Join()]

    def _do(self, effect: on.Effect) -> None:
        self._out.append(effect)

    def _on(self, event: on.Event) -> None:
        match event:
            case SessionUp(embedded):
                self._session_up, self._embedded, self._rejoin_at_s = True, embedded, None
                self._do(on.SayWant(self._target, keep=True))
            case SessionFailed(error):
                self._on_no_session(error)
            case SessionLost():
                self._on_session_lost()
            case LeaseGranted(lease):
                self._on_granted(lease)
            case ChannelOpened():
                self._on_channel(event)
            case Notice():
                self._on_notice(event)
            case ChannelsCondemned(channels, verdict):
                self._on_condemned(channels, verdict)
            case LeaseEnded(lease_id, reason_code):
                self._on_ended(lease_id, reason_code)
            case on.ChannelFailed(number):
                self._on_channel_gone(number)
            case on.Unusable(number, why):
                self._on_unusable(number, why)
            case on.OpenFailed(why):
                self._on_open_failed(why)
            case on.Reached():
                self._is_in_use = True
            case on.CopyEnded():
                self._on_copied(event)
            case Queued(reason):
                self._why = reason
                if self._channel_due_s is not None:
                    self._cant_open = reason
            case Denied(code, hint):
                self._on_denied(code, hint)
            case on.CloseAsked():
                self.stage, self._target = Stage.CLOSED, 0
                self._do(on.SayWant(0))
                self._do(on.Leave())

    def _on_time(self) -> None:
        now_s = self._now_s
        if self.stage is Stage.WAITING and self._give_up_at_s is not None and now_s >= self._give_up_at_s:
            why = self._why or "nobody said why"
            error = AcquireTimeout(f"no lender of memory within acquire_timeout_s: {why}", hint="see `rfaas explain`")
            self._end(error)
        if self._rejoin_at_s is not None and now_s >= self._rejoin_at_s:
            self._rejoin_at_s = None
            self._do(self._join_again())
        if self._channel_due_s is not None and now_s >= self._channel_due_s:
            self._lose(Verdict(reason_code=ReasonCode.NONE, hint=self._cant_open, silent=not self._cant_open))

    # --- the session --------------------------------------------------------------------------------------------

    def _on_no_session(self, error: RfaasError) -> None:
        if self.stage is Stage.WAITING:
            self._end(error)
        elif self.stage in (Stage.SERVING, Stage.LEAVING):
            self._rejoin_at_s = self._now_s + REJOIN_EVERY_S  # a channel may serve on meanwhile

    def _on_session_lost(self) -> None:
        self._session_up = False
        if self.stage is Stage.WAITING:
            self._leases.clear()
            self._do(self._join_again())
        elif self.stage in (Stage.SERVING, Stage.LEAVING) and self._embedded:
            self._lose(
                Verdict(reason_code=ReasonCode.AGENT_LOST, hint="the session process ended, and the lender in it")
            )
        elif self.stage in (Stage.SERVING, Stage.LEAVING):
            self._do(self._join_again())

    def _join_again(self) -> on.Join:
        return on.Join(tuple((lent.lease, lent.channel) for lent in self._leases.values()))

    # --- leases and channels ------------------------------------------------------------------------------------

    def _on_granted(self, lease: Lease) -> None:
        if self._target == 0:
            self._do(on.GiveBack(lease.lease))
        else:
            self._leases.setdefault(lease.lease, _Lent(lease))

    def _on_channel(self, opened: ChannelOpened) -> None:
        lent = self._leases.get(opened.info.lease)
        if lent is None:
            self._do(on.Drop(opened.info.number))
            return
        if lent.channel is not None:
            self._do(on.Drop(lent.number))
        lent.channel = opened
        if self.stage is Stage.WAITING:
            self._current, self.stage, self._why = lent, Stage.SERVING, ""
            self._do(on.Use(opened.info.number))
            if lent.notice is not None:
                self._leave(lent, lent.notice)
        elif lent is self._current:
            self._channel_due_s = None
            if not self._begin_copy():
                self._do(on.Use(opened.info.number))
        else:
            self._begin_copy()

    def _on_open_failed(self, why: str) -> None:
        """The lender goes on offering channels: a program that waits for its first one would do so for ever."""
        text = f"no channel to a lender can be made in this process: {why}"
        if self.stage is Stage.WAITING:
            self._end(ConfigError(text, hint="see its limits (ulimit -a: -n, -f, -v), and `rfaas doctor`"))
        elif self._channel_due_s is not None:
            self._cant_open = text

    def _begin_copy(self) -> bool:
        """Copy the content away, if that is wanted, possible and not under way; True: reads and writes wait."""
        source = self._current
        if source is None or self.stage is not Stage.LEAVING or self._is_copying or source.channel is None:
            return self._is_copying
        if self._when_reclaimed == SPILL:
            self._copying_to, to = None, 0
        elif self._when_reclaimed == MOVE:
            ready = (lent for lent in self._leases.values() if lent is not source and lent.channel is not None)
            self._copying_to = next(ready, None)
            if self._copying_to is None:
                return False
            to = self._copying_to.number
        else:
            return False
        self._is_copying = True
        self._do(on.Hold())
        self._do(on.Copy(source.number, to))
        return True

    def _on_copied(self, event: on.CopyEnded) -> None:
        self._is_copying = False
        target, self._copying_to = self._copying_to, None
        if self.stage is not Stage.LEAVING or self._current is None:
            return
        moved = event.to == 0 or (target is not None and target.lease.lease in self._leases)
        if event.problem or not moved:
            self._why = event.problem or "the lender that it was moved to was lost"
            if self._current.channel is not None:
                self._do(on.Use(self._current.number))
            if target is not None and target.number == event.to:
                self._forget(target)  # another one may come in time
            if self._when_reclaimed == SPILL and self._current.channel is not None:
                self._when_reclaimed = LOSE  # a disk that is full stays so; the program may still read what it needs
            return
        self._channel_due_s = None
        if event.to == 0:
            self.stage, self._target = Stage.SPILLED, 0
            self._do(on.Use(0))
            self._forget(self._current)
            self._current = None
        elif target is not None:
            old, self._current, self.stage = self._current, target, Stage.SERVING
            if target.channel is not None:
                self._do(on.Use(target.number))
            else:
                self._channel_due_s = self._now_s + self._redial_wait_s
            self._forget(old)
            if target.notice is not None:
                self._leave(target, target.notice)

    def _forget(self, lent: _Lent) -> None:
        """Give a lease back, with its channel."""
        if self._leases.pop(lent.lease.lease, None) is not None:
            if lent.channel is not None:
                self._do(on.Drop(lent.number))
            self._do(on.GiveBack(lent.lease.lease))

    # --- the way to the end -------------------------------------------------------------------------------------

    def _on_notice(self, notice: Notice) -> None:
        lent = self._leases.get(notice.lease)
        if lent is None:
            return
        if lent.notice is None and lent is self._current and self.stage is Stage.SERVING:
            self._leave(lent, notice)
        lent.notice = notice

    def _leave(self, lent: _Lent, notice: Notice) -> None:
        lent.notice, self.stage = notice, Stage.LEAVING
        if self._when_reclaimed != MOVE:
            self._target = 0
            self._do(on.SayWant(0, keep=True))
        self._do(on.Tell(notice))
        self._begin_copy()

    def _on_channel_gone(self, number: int) -> None:
        """Whether the lender lives is yet to be heard."""
        for lent in self._leases.values():
            if number and lent.number == number:
                lent.channel, lent.ended = None, number
                self._do(on.Drop(number))
                if lent is self._current and self._channel_due_s is None:
                    self._away_since_s, self._cant_open = self._now_s, ""
                    self._channel_due_s = self._now_s + self._redial_wait_s
                    self._do(on.Hold())

    def _on_unusable(self, number: int, why: str) -> None:
        """No longer than one that is away for good may be dialled again and again, and never serve."""
        away_since_s = self._away_since_s
        is_current = self._current is not None and number and self._current.number == number
        self._on_channel_gone(number)
        if is_current:
            self._away_since_s = self._now_s if away_since_s is None else away_since_s
            self._channel_due_s = self._away_since_s + self._redial_wait_s
            self._cant_open = f"RDMA to it could not be set up again: {why}"

    def _on_condemned(self, channels: tuple[int, ...], verdict: Verdict) -> None:
        for number in channels:
            lent = next((lent for lent in self._leases.values() if number in (lent.number, lent.ended)), None)
            if lent is None:
                continue
            if verdict.reason_code == ReasonCode.NONE:
                self._on_channel_gone(number)
            else:
                self._lost(lent, verdict)

    def _on_ended(self, lease_id: bytes, reason_code: int) -> None:
        lent = self._leases.get(lease_id)
        if lent is not None:
            self._lost(lent, Verdict(reason_code=reason_code if lent.notice is None else lent.notice.reason_code))

    def _lost(self, lent: _Lent, verdict: Verdict) -> None:
        """A lender has the region no more."""
        if lent is self._current:
            self._lose(verdict)
            return
        self._leases.pop(lent.lease.lease, None)
        if lent.channel is not None:
            self._do(on.Drop(lent.number))

    def _on_denied(self, code: str, hint: str) -> None:
        self._why = hint
        has_none = self.stage is Stage.SERVING and self._current is not None and self._current.channel is None
        if code == "verbs-unavailable" and has_none and self._is_in_use:
            self._lose(Verdict(reason_code=ReasonCode.NONE, hint=hint))
        elif code == "verbs-unavailable" and (has_none or self.stage is Stage.WAITING):
            remedy = 'leave transport at "auto", or see what `rfaas doctor` says on both hosts'
            self._end(ConfigError(hint, hint=remedy))
        elif self.stage is Stage.WAITING:
            reason = ReasonCode.QUOTA if code == "quota" else ReasonCode.NONE
            self._end(
                LeaseDenied(f"the lease of memory was denied: {hint}", reason_code=reason, hint=_REMEDY.get(code, ""))
            )

    def _lose(self, verdict: Verdict) -> None:
        """The content is gone."""
        assert self._current is not None
        lease, notice = self._current.lease, self._current.notice
        code = verdict.reason_code if verdict.reason_code in set(ReasonCode) else ReasonCode.NONE
        if notice is not None and notice.reason_code in set(ReasonCode):
            code = notice.reason_code
        error = MemoryLost(
            self._story(verdict, notice),
            reason_code=code,
            node=lease.node,
            lease_id=lease.lease,
            epoch=lease.epoch,
            grace_s=None if notice is None else notice.grace_s,
            hint=self._hint(notice),
        )
        self._end(error)

    def _story(self, verdict: Verdict, notice: Notice | None) -> str:
        assert self._current is not None
        where = f"memory on {self._current.lease.node or 'an unnamed node'}"
        if notice is not None:
            tried = f"; it could not be kept: {self._why or 'there was no time'}"
            return f"{where} went back to its owner{'' if self._asked == LOSE else tried}"
        if verdict.silent:
            return f"{where} is lost: its channel ended and nobody says what became of it"
        known = verdict.reason_code in set(ReasonCode) and verdict.reason_code != ReasonCode.NONE
        text = ReasonCode(verdict.reason_code).text if known else "its lease ended"
        return f"{where} is lost: {verdict.hint or text}"

    def _hint(self, notice: Notice | None) -> str:
        if notice is None:
            return "what can't be computed again belongs into a file too: docs/memory.md"
        if self._asked == LOSE:
            return 'when_reclaimed="spill" or "move" keeps it'
        return "a longer grace, or a smaller region, gives it the time"

    def _end(self, error: RfaasError) -> None:
        self.stage, self._target = Stage.LOST, 0
        self._give_up_at_s = self._rejoin_at_s = self._channel_due_s = None
        self._do(on.Fail(error))
        for lent in self._leases.values():
            if lent.channel is not None:
                self._do(on.Drop(lent.number))
        self._leases.clear()
        self._current = None
        if self._session_up:
            self._do(on.SayWant(0))


_REMEDY: Final = {
    "quota": "ask for less, or wait for your other leases to end",
    "lease-denied": "ask for less",
    "not-supported": "the allocator is of an older version: `rfaas down`, then `rfaas up`",
}
