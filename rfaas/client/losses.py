"""What becomes of a call whose worker will not answer: the error it gets, or another dispatch within its budgets.

Pure: no I/O, no clock. Spec: docs/spec/001-invocation.md sections 5 and 6.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from rfaas.client.records import Call, ChannelInfo, Verdict
from rfaas.config import RECLAIM_BUDGET
from rfaas_transport.errors import (
    AgentLost,
    Cancelled,
    ConnectionLost,
    DeadlineExceeded,
    FunctionOOM,
    NodeLost,
    Phase,
    PoisonFunction,
    ReasonCode,
    Reclaimed,
    RfaasError,
    WorkerLost,
)

POISON_KILLS: Final = 3  # as Dask's allowed-failures: two coincidences happen, three hardly


class Fate(Enum):
    """What to do with a call whose channel was condemned."""

    FREE = "free"  # proven not started: dispatch again, at no cost
    AT_ONCE = "at once"  # paid from the budget of reclaims
    LATER = "later"  # paid from `retries`, after a pause
    FAIL = "fail"


_WORKER_DIED: Final = frozenset({ReasonCode.WORKER_CRASHED, ReasonCode.WORKER_EXITED})
_BEYOND_LIMIT: Final = frozenset({ReasonCode.MEMORY_LIMIT, ReasonCode.PROCESS_LIMIT})
_CONNECTION_ENDED: Final = frozenset({ReasonCode.NONE, ReasonCode.CALL_INTERRUPTED})
_LOST: Final[dict[int, type[RfaasError]]] = {
    ReasonCode.AGENT_LOST: AgentLost,
    ReasonCode.NODE_DOWN: NodeLost,
    ReasonCode.PARTITION: NodeLost,
    ReasonCode.MEMORY_LIMIT: FunctionOOM,
    ReasonCode.MEMORY_EXHAUSTED: FunctionOOM,
    ReasonCode.PROCESS_LIMIT: WorkerLost,
}


def error_class(verdict: Verdict) -> type[RfaasError]:
    """Name the error that a verdict means for a call that may have run, and that nobody wanted to end."""
    if verdict.silent or verdict.reason_code in _CONNECTION_ENDED:
        return ConnectionLost
    if verdict.reason_code == ReasonCode.CALL_TIMEOUT:
        return DeadlineExceeded
    if verdict.reason_code in _WORKER_DIED:
        return WorkerLost
    return _LOST.get(verdict.reason_code, Reclaimed)


def judge(call: Call, verdict: Verdict) -> Fate:
    """Decide about one call of a condemned channel, and charge its budgets."""
    if verdict.last_started is not None and call.call_id > verdict.last_started:
        return Fate.FREE
    kind = error_class(verdict)
    if call.interrupted or not call.settings.idempotent or kind is DeadlineExceeded:
        return Fate.FAIL
    if verdict.reason_code in _BEYOND_LIMIT:  # it would be again
        return Fate.FAIL
    if kind is Reclaimed:
        call.reclaims_used += 1
        return Fate.AT_ONCE if call.reclaims_used <= RECLAIM_BUDGET else Fate.FAIL
    if issubclass(kind, WorkerLost):
        call.kills += 1
        if call.kills >= POISON_KILLS:
            return Fate.FAIL
    return charge_retry(call)


def charge_retry(call: Call) -> Fate:
    """Take one from `retries`."""
    call.retries_used += 1
    return Fate.LATER if call.retries_used <= call.settings.retries else Fate.FAIL


def make_error(call: Call, verdict: Verdict, info: ChannelInfo, broke: str = "") -> RfaasError:
    """Build the error of a call that judge() lets fail; `broke`: how its channel broke, as far as this side saw it."""
    kind = error_class(verdict)
    if issubclass(kind, WorkerLost) and call.kills >= POISON_KILLS:
        kind = PoisonFunction
    if call.interrupted:
        kind = Cancelled
    try:
        reason_code = ReasonCode(verdict.reason_code)
    except ValueError:  # a newer agent's reason; the error stays true without it
        reason_code = ReasonCode.NONE
    return kind(
        _message(kind, call, verdict, reason_code, info) + (f" ({broke})" if broke and kind is ConnectionLost else ""),
        may_have_run=True,
        phase=_phase(call, verdict),
        reason_code=reason_code,
        node=info.node,
        lease_id=info.lease,
        epoch=info.epoch,
        attempt=call.attempt,
        grace_s=verdict.grace_s,
        hint=_REMEDIES.get(reason_code) or _HINTS.get(kind, ""),
    )


def _phase(call: Call, verdict: Verdict) -> Phase:
    if verdict.last_started is None:
        return "SENT"
    return "DONE" if call.call_id <= verdict.last_done else "STARTED"


def _message(kind: type[RfaasError], call: Call, verdict: Verdict, reason: ReasonCode, info: ChannelInfo) -> str:
    where = f"on {info.node or 'an unnamed node'}"
    if kind is DeadlineExceeded:
        return f"call_timeout_s={call.settings.call_timeout_s} passed while the call ran {where}; its worker was killed"
    if kind is Reclaimed:
        grace = "" if verdict.grace_s is None else f", after {verdict.grace_s:g} s of grace"
        return f"the cores {where} went back to their owner while the call ran ({reason.text}{grace})"
    if kind is Cancelled:
        return f"the call was cancelled {where} after it had started ({reason.text})"
    if kind is ConnectionLost:
        if not verdict.silent:
            return f"the connection to the worker {where} broke before the result came"
        return f"the connection to the worker {where} broke, and nobody could say what became of the call"
    if kind is AgentLost:
        return f"the agent {where} died, and its workers with it" + (f" ({verdict.hint})" if verdict.hint else "")
    if kind is NodeLost:
        return f"the node is lost ({reason.text}): {info.node}"
    how = _how_it_ended(verdict)
    if kind is FunctionOOM:
        return f"the worker {where} was killed during the call: {how}"
    if kind is PoisonFunction:
        return f"the call ended {call.kills} workers, the last {where} ({how}); it is not dispatched again"
    return f"the worker {where} died during the call ({how})"


def _how_it_ended(verdict: Verdict) -> str:
    if verdict.hint:
        return verdict.hint
    if verdict.signal:
        return f"signal {verdict.signal}"
    if verdict.exit_status is not None:
        return f"exit status {verdict.exit_status}"
    return "no exit status known"


_REMEDIES: Final[dict[ReasonCode, str]] = {
    ReasonCode.MEMORY_LIMIT: "ask for more, at first twice that: rfaas.Executor(memory=…), or let each call use less",
    ReasonCode.MEMORY_EXHAUSTED: "run fewer workers at a time (max_workers), or say what each needs (memory)",
    ReasonCode.PROCESS_LIMIT: "start fewer processes and threads, or raise `agent.tasks_per_worker`",
}
_HINTS: Final[dict[type[RfaasError], str]] = {
    Reclaimed: "pass idempotent=True if the function may run twice: then it is dispatched again by itself",
    PoisonFunction: "look for a crash or for memory exhaustion in the function",
}
