"""How many workers a client asks for, and how long its calls wait without any. Sans-IO, a part of `rfaas.client.core`.

Spec: docs/spec/002-lease.md section 5 (standing requests).
"""

from __future__ import annotations

from typing import Final

from rfaas.client.call_book import CallBook, unsent_error
from rfaas.client.channel_table import ChannelTable
from rfaas.client.effects import Effect, SendWant, Starving
from rfaas.client.events import Denied, Queued
from rfaas.client.timers import Timers
from rfaas_transport.errors import AcquireTimeout, ConfigError, EnvironmentFailed, LeaseDenied, ReasonCode, RfaasError

LOWER_WANT_AFTER_S: Final = 5.0  # without a waiting call, nothing is worth asking for again after a reclaim
STARVING_AFTER_S: Final = 10.0  # a job that waits so long for its first worker may well be one that waits in vain
DENIED_PAUSE_S: Final = 5.0  # while workers serve, more of them are not asked for so soon after a denial


class Target:
    """The standing target.

    Attributes:
        want: workers that are asked for.
        fixed: workers that the program said; None: as many as its calls need.
        lease_workers: of one lease at most; 0: any number.
        why_waiting: why there are not as many, for people; empty if nobody said so.

    Args:
        max_workers: ceiling.
        acquire_timeout_s: how long a call may wait while there is no worker; None: for ever.
        channels, timers: shared with the core.
    """

    def __init__(
        self, max_workers: int, acquire_timeout_s: float | None, channels: ChannelTable, timers: Timers
    ) -> None:
        self.want = 0
        self.fixed: int | None = None
        self.lease_workers = 0
        self.why_waiting = ""
        self._why_more = ""
        self._max_workers = max_workers
        self._acquire_timeout_s = acquire_timeout_s
        self._channels = channels
        self._timers = timers
        self.n_borrowed = 0  # calls on channels on loan
        self._calls: CallBook
        self._told = (0, 0)
        self._content_until_s = 0.0  # with the workers that serve, if there are any
        self._nothing_waits_since_s: float | None = None
        self._starved_since_s: float | None = None

    def watch(self, calls: CallBook) -> None:
        """Follow what these calls need."""
        self._calls = calls

    def update(self, now_s: float) -> None:
        """Follow the calls after a step, or what the program said."""
        if self.fixed is not None:
            if now_s >= self._content_until_s or (self._calls.queue and not self._channels.any_serving()):
                self.want = self.fixed
        elif now_s >= self._content_until_s or not self._channels.any_serving():
            self.want = max(self.want, min(self._max_workers, self._calls.outstanding + self.n_borrowed))
        self._watch_for_quiet(now_s)
        self._watch_for_starving(now_s)

    def resize(self, workers: int | None, lease_workers: int) -> None:
        """Want so many from now on; None: as many as the calls need."""
        self.fixed, self.lease_workers = workers, lease_workers
        self._content_until_s = 0.0  # somebody asks anew
        needed = min(self._max_workers, self._calls.outstanding + self.n_borrowed)
        self.want = needed if workers is None else workers
        self.why_waiting, self._why_more = "resize(0) wants no worker" if workers == 0 else "", ""

    def untold(self) -> SendWant | None:
        """The target, if it is another than the one that was told last; it counts as told then."""
        told, self._told = self._told, (self.want, self.lease_workers if self.want else 0)
        return None if told == self._told else SendWant(*self._told)

    def tell_again(self) -> None:
        """Whoever was told may have forgotten."""
        self._told = (0, 0)

    def drop(self) -> None:
        """Want nothing, until calls need something."""
        self.want = 0

    # --- what the session process says -----------------------------------------------------------

    def on_granted(self) -> None:
        """A lease came: nobody has to be told why not."""
        self.why_waiting = self._why_more = ""

    def on_queued(self, event: Queued, now_s: float, out: list[Effect]) -> None:
        """Nothing is free now."""
        self.why_waiting, self._why_more = event.reason, f": {event.hint}" if event.hint else ""

    def on_denied(self, event: Denied, now_s: float, out: list[Effect]) -> None:
        """What was asked for is never given; the session process dropped the target with its answer."""
        self.want, self._told = 0, (0, 0)
        serving = self._channels.any_serving()
        if not serving:
            self._calls.fail_waiting(_denial(event), out)
        if serving or self.fixed is not None:  # one node without the user's modules says nothing about the others
            self.why_waiting, self._why_more = f"more workers were denied ({event.code})", f": {event.hint}"
            self._content_until_s = now_s + DENIED_PAUSE_S
            self._timers.add(self._content_until_s, self._on_content_no_more, None)

    def _on_content_no_more(self, _: None, now_s: float, out: list[Effect]) -> None:
        """The end of this step asks for workers again."""

    # --- time -----------------------------------------------------------------------------------

    def _watch_for_quiet(self, now_s: float) -> None:
        """Lower the target when nothing has waited for a while: it takes no worker away, but asks for no new one."""
        if self._calls.queue or self.want <= 1 or self.fixed is not None:
            self._nothing_waits_since_s = None
        elif self._nothing_waits_since_s is None:
            self._nothing_waits_since_s = now_s
            self._timers.add(now_s + LOWER_WANT_AFTER_S, self._on_quiet, now_s)

    def _on_quiet(self, since_s: float, now_s: float, out: list[Effect]) -> None:
        if self._nothing_waits_since_s == since_s and self.fixed is None:
            self._nothing_waits_since_s = None
            self.want = min(self.want, max(1, self._calls.outstanding + self.n_borrowed))

    def _watch_for_starving(self, now_s: float) -> None:
        if not self._calls.queue or self._channels.any_serving():
            self._starved_since_s = None
        elif self._starved_since_s is None:
            self._starved_since_s = now_s
            self._timers.add(now_s + STARVING_AFTER_S, self._on_starving, now_s)
            if self._acquire_timeout_s is not None:
                self._timers.add(now_s + self._acquire_timeout_s, self._on_starved, now_s)

    def _on_starving(self, since_s: float, now_s: float, out: list[Effect]) -> None:
        if self._starved_since_s == since_s:
            out.append(Starving(len(self._calls.queue), f"{self.why_waiting}{self._why_more}"))

    def _on_starved(self, since_s: float, now_s: float, out: list[Effect]) -> None:
        if self._starved_since_s != since_s or self._acquire_timeout_s is None:
            return
        for call in self._calls.queue:
            if call.resolved:
                continue
            due_s = max(call.submitted_at_s, since_s) + self._acquire_timeout_s
            if due_s > now_s:
                self._timers.add(due_s, self._on_starved, since_s)
                break
            message = f"no worker came within acquire_timeout_s={self._acquire_timeout_s}"
            message += f" ({self.why_waiting}{self._why_more})" if self.why_waiting else ""
            hint = "wait longer, or ask for less: fewer cores or less memory a worker; see `rfaas explain`"
            self._calls.fail(call, unsent_error(AcquireTimeout, call, message, hint=hint), out)


def _denial(event: Denied) -> RfaasError:
    if event.code == EnvironmentFailed.code:  # the hint is what the interpreter said
        message = f"this program's interpreter and modules could not be started for its functions: {event.hint}"
        return EnvironmentFailed(message, hint="they must be reachable from where functions run")
    if event.code == "verbs-unavailable":
        return ConfigError(event.hint, hint='leave transport at "auto", or see what `rfaas doctor` says on both hosts')
    code = ReasonCode.QUOTA if event.code == "quota" else ReasonCode.NONE
    return LeaseDenied(f"no lease is given ({event.code})", hint=event.hint, reason_code=code)
