"""The calls of a client: those that wait, and how each ends or waits again. Sans-IO, a part of `rfaas.client.core`.

Must not know channels, leases or the session process. Spec: docs/spec/001-invocation.md sections 5 and 6.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Final

from rfaas.client.call_queue import CallQueue
from rfaas.client.effects import Deliver, Effect, Fail, Requeued, Withdrawn
from rfaas.client.events import Examined
from rfaas.client.losses import Fate, charge_retry
from rfaas.client.records import Call, ChannelInfo, FrameLike
from rfaas.client.timers import Timers
from rfaas_transport.errors import Cancelled, DeadlineExceeded, ExecutorBroken, Phase, RfaasError

KILL_WAIT_S: Final = 0.9  # the agent kills an overdue call; without word of it the future fails within a second
INTERRUPT_WAIT_S: Final = 2.0  # the agent ends an interrupted call; without word of it the future fails by then
RETRY_PAUSE_S: Final = 0.05
RETRY_PAUSE_MAX_S: Final = 5.0


class CallBook:
    """Every call that is not resolved, and the queue of those that wait for a worker.

    Attributes:
        queue: what waits.
        outstanding: how many calls are not resolved.
        closing: no call comes any more.
        terminated: no call is dispatched again.
        drained: all are resolved, and that was said.

    Args:
        timers, counters: shared with the core.
        why_waiting: says why no worker is there, or nothing.
        seed: of the jitter between retries; None: random.
    """

    def __init__(
        self, timers: Timers, counters: dict[str, int], why_waiting: Callable[[], str], seed: int | None
    ) -> None:
        self.queue = CallQueue()
        self.outstanding = 0
        self.closing = self.terminated = self.drained = False
        self._timers = timers
        self._counters = counters
        self._why_waiting = why_waiting
        self._random = random.Random(seed)

    # --- waiting --------------------------------------------------------------------------------

    def admit(self, call: Call, now_s: float) -> None:
        """Take a new call."""
        call.submitted_at_s = now_s
        self._counters["submitted"] += 1
        self.outstanding += 1
        self._set_deadline(call)
        self.queue.add(call, front=False)

    def adopt(self, call: Call, now_s: float) -> None:
        """Take a call that was sent on a channel on loan."""
        call.submitted_at_s = now_s
        self._counters["submitted"] += 1
        self.outstanding += 1
        self._set_deadline(call)

    def waiting(self) -> list[Call]:
        """The calls that wait for a worker, or for the end of a pause."""
        return [call for call in [*self.queue, *self._timers.pending(self.on_pause_over)] if not call.resolved]

    def recover(self, unresolved: list[Call], running: set[int], now_s: float, out: list[Effect]) -> None:
        """Put the books in order after a step was broken off; `running` holds the ids of objects that are elsewhere."""
        pausing = {id(call) for call in self._timers.pending(self.on_pause_over)}
        self.queue.clear()
        self.outstanding = len(unresolved)
        for call in unresolved:
            if id(call) not in running | pausing:
                self._readmit(call, now_s, out)

    def _readmit(self, call: Call, now_s: float, out: list[Effect]) -> None:
        """Queue a call whose submit or dispatch was broken off; or whose termination was: then it may have run."""
        if self.terminated and (call.call_id or call.may_have_run):
            call.may_have_run = True
            message = "its worker was ended by its own executor"
            self.fail(call, unsent_error(ExecutorBroken, call, message, "SENT"), out)
            return
        if call.call_id and not call.may_have_run:
            out.append(Requeued(call))
        call.submitted_at_s = call.submitted_at_s or now_s
        call.examining = None
        self._set_deadline(call)
        self.queue.add(call, front=False)

    def dispatch_again(self, call: Call, out: list[Effect]) -> None:
        """Queue a call again that is proven not started; it costs nothing and goes first."""
        if call.interrupted:
            self._end_interrupted(call, out)
            return
        if call.withdrawing and not call.may_have_run:
            self.withdraw(call, out)
            return
        self._counters["redispatched"] += 1
        self.queue.add(call, front=True)
        if not call.may_have_run:
            out.append(Requeued(call))

    def pause(self, call: Call, now_s: float) -> None:
        """Let a call wait before it is dispatched again within `retries`."""
        call.call_id = 0
        call.behind = False
        pause_s = min(RETRY_PAUSE_MAX_S, RETRY_PAUSE_S * 2 ** (call.retries_used - 1))
        self._counters["retried"] += 1
        self._timers.add(now_s + pause_s * self._random.uniform(0.5, 1.5), self.on_pause_over, call)

    def on_pause_over(self, call: Call, now_s: float, out: list[Effect]) -> None:
        """The pause is over: it goes first."""
        if not call.resolved:
            self.queue.add(call, front=True)

    # --- ends -----------------------------------------------------------------------------------

    def deliver(self, call: Call, frame: FrameLike, info: ChannelInfo, out: list[Effect]) -> None:
        """Resolve a call with its answer."""
        self._counters["answered"] += 1
        self._resolve(call)
        out.append(Deliver(call, frame, info))

    def fail(self, call: Call, error: RfaasError, out: list[Effect]) -> None:
        """Resolve a call with an error, which gets what its function saved."""
        self._counters["failed"] += 1
        self._resolve(call)
        error.checkpoint = call.checkpoint
        out.append(Fail(call, error))

    def withdraw(self, call: Call, out: list[Effect]) -> None:
        """Resolve a call that never ran as cancelled."""
        self._counters["cancelled"] += 1
        self._resolve(call)
        out.append(Withdrawn(call))

    def cancel_waiting(self, out: list[Effect]) -> None:
        """End every call that waits."""
        for call in self.waiting():
            if call.may_have_run:
                self.fail(call, unsent_error(Cancelled, call, "cancelled by shutdown between two runs"), out)
            else:
                self.withdraw(call, out)

    def fail_waiting(self, error: RfaasError, out: list[Effect]) -> None:
        """Fail every call that waits, each with an error of its own."""
        for call in self.waiting():
            own = copy.copy(error)
            own.__cause__ = error.__cause__
            own.may_have_run, own.attempt, own.phase = call.may_have_run, call.attempt, "QUEUED"
            self.fail(call, own, out)

    def _resolve(self, call: Call) -> None:
        assert not call.resolved
        self.queue.remove(call)
        call.resolved = True
        call.behind = False
        self.outstanding -= 1

    def on_examined(self, event: Examined, now_s: float, out: list[Effect]) -> None:
        """The function's exception costs a retry, or is the answer."""
        call = event.call
        if call.resolved or call.examining is not event.frame:  # by its deadline; or it was queued by a recovery
            return
        call.examining = None
        if event.again and not self.terminated and charge_retry(call) is Fate.LATER:
            self.pause(call, now_s)
        else:
            self.deliver(call, event.frame, event.info, out)

    # --- deadlines and interrupts ---------------------------------------------------------------

    def _set_deadline(self, call: Call) -> None:
        timeout_s = call.settings.call_timeout_s
        if timeout_s is not None:
            call.deadline_s = call.submitted_at_s + timeout_s
            self._timers.add(call.deadline_s, self._on_deadline, call)
            self._timers.drop_stale(_is_stale, self.outstanding)

    def _on_deadline(self, call: Call, now_s: float, out: list[Effect]) -> None:
        if call.resolved:
            return
        assert call.deadline_s is not None
        timeout_s = call.settings.call_timeout_s
        if call.call_id == 0:
            again = " again" if call.may_have_run else ""
            message = f"call_timeout_s={timeout_s} passed before a worker could take the call{again}"
            why = self._why_waiting()
            self.fail(call, unsent_error(DeadlineExceeded, call, message + (f" ({why})" if why else "")), out)
        elif now_s < call.deadline_s + KILL_WAIT_S:
            self._timers.add(call.deadline_s + KILL_WAIT_S, self._on_deadline, call)
        else:  # its agent should have killed the worker and said so
            call.may_have_run = True
            message = f"call_timeout_s={timeout_s} passed, and no word came from the agent"
            self.fail(call, unsent_error(DeadlineExceeded, call, message, phase="SENT"), out)

    def cancel(self, call: Call, interrupt: bool, now_s: float, out: list[Effect]) -> bool:
        """End a call that waits; with `interrupt` also one that may run. True: its agent is to be asked for that."""
        if call.resolved:
            return False
        if call.queued and not call.may_have_run:
            self.withdraw(call, out)
        elif interrupt and call.call_id == 0:  # it ran before, and waits to run again
            self.fail(call, unsent_error(Cancelled, call, "cancelled between two runs"), out)
        elif interrupt and not call.interrupted:
            call.interrupted = True
            self._timers.add(now_s + INTERRUPT_WAIT_S, self._on_interrupt_overdue, call)
            return True
        return False

    def _on_interrupt_overdue(self, call: Call, now_s: float, out: list[Effect]) -> None:
        if not call.resolved:
            call.may_have_run = True
            message = "cancelled while it ran, and no word came from the agent: it may run on"
            self.fail(call, unsent_error(Cancelled, call, message, phase="SENT"), out)

    def _end_interrupted(self, call: Call, out: list[Effect]) -> None:
        """Resolve an interrupted call that is proven not started."""
        if call.resolved:
            return
        if call.may_have_run:
            self.fail(call, unsent_error(Cancelled, call, "cancelled between two runs"), out)
        else:
            out.append(Requeued(call))
            self.withdraw(call, out)


def unsent_error(
    kind: type[RfaasError], call: Call, message: str, phase: Phase = "QUEUED", hint: str = ""
) -> RfaasError:
    """An error of a call that nobody has, or of which nobody knows."""
    return kind(message, may_have_run=call.may_have_run, phase=phase, attempt=call.attempt, hint=hint)


def _is_stale(handler: Callable[..., None], subject: object) -> bool:
    return isinstance(subject, Call) and subject.resolved
