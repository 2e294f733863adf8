"""What becomes of a call whose worker was ended for what it used: its error, and whether it runs again."""

import pytest
from unit.client.played import info

from rfaas.client.losses import Fate, judge, make_error
from rfaas.client.records import Call, Verdict
from rfaas.config import CallSettings
from rfaas_transport.errors import FunctionOOM, PoisonFunction, ReasonCode, WorkerLost

FIGURES = "it had 2.00 GiB of memory, and its limit was 1.00 GiB"


def a_call(**settings):
    call = Call(1, None, CallSettings(**settings))
    call.call_id = 5
    return call


def verdict(reason, last_started=5):
    return Verdict(reason, last_started=last_started, last_done=0, hint=FIGURES)


@pytest.mark.parametrize(
    ("reason", "kind", "remedy"),
    [
        (ReasonCode.MEMORY_LIMIT, FunctionOOM, "rfaas.Executor(memory="),
        (ReasonCode.MEMORY_EXHAUSTED, FunctionOOM, "max_workers"),
        (ReasonCode.PROCESS_LIMIT, WorkerLost, "agent.tasks_per_worker"),
    ],
)
def test_the_error_has_the_figures_and_a_remedy(reason, kind, remedy):
    call = a_call()
    assert judge(call, verdict(reason)) is Fate.FAIL
    error = make_error(call, verdict(reason), info(1))
    assert type(error) is kind
    assert (error.reason_code, error.may_have_run, error.phase) == (reason, True, "STARTED")
    assert FIGURES in error.message
    assert remedy in error.hint


@pytest.mark.parametrize("reason", [ReasonCode.MEMORY_LIMIT, ReasonCode.PROCESS_LIMIT])
def test_what_went_beyond_its_own_limit_would_do_so_again(reason):
    call = a_call(idempotent=True, retries=5)
    assert judge(call, verdict(reason)) is Fate.FAIL
    assert judge(call, verdict(reason, last_started=4)) is Fate.FREE


def test_a_machine_without_memory_is_a_loss_like_a_crash_and_three_are_poison():
    call = a_call(idempotent=True, retries=5)
    fates = [judge(call, verdict(ReasonCode.MEMORY_EXHAUSTED)) for _ in range(3)]
    assert fates == [Fate.LATER, Fate.LATER, Fate.FAIL]
    assert type(make_error(call, verdict(ReasonCode.MEMORY_EXHAUSTED), info(1))) is PoisonFunction
