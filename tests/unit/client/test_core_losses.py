"""The client's core: each row of the delivery semantics (docs/spec/001-invocation.md section 5); no I/O."""

import pytest
from unit.client.played import LEASE, none, only, run_on

from rfaas.client.answers import NOT_STARTED, STALE
from rfaas.client.channel_ends import END_WAIT_S, FAREWELL_WAIT_S, LOST_WAIT_S
from rfaas.client.effects import CloseChannel, Deliver, Dispatch, Fail
from rfaas.client.events import ChannelEnded, ChannelsCondemned
from rfaas.client.records import Verdict
from rfaas.config import RECLAIM_BUDGET, CallSettings
from rfaas_transport.errors import (
    AgentLost,
    ConnectionLost,
    NodeLost,
    PoisonFunction,
    ReasonCode,
    Reclaimed,
    WorkerLost,
)


def test_a_call_proven_not_started_is_dispatched_again_at_once_and_for_free(running):
    client, call = running
    client.worker(2)
    effects = client.farewell(1, last_started=call.call_id - 1, reason=ReasonCode.SLURM_PREEMPT)
    dispatch = only(effects, Dispatch)
    assert (dispatch.channel, dispatch.call, call.attempt) == (2, call, 1)
    assert (call.retries_used, call.reclaims_used, call.may_have_run) == (0, 0, False)
    assert only(effects, CloseChannel).channel == 1


def test_proven_not_started_goes_before_what_was_submitted_later(running):
    client, call = running
    later, _ = client.submit()
    client.farewell(1, last_started=0)
    assert only(client.worker(2), Dispatch).call is call
    assert not later.resolved


def test_a_worker_that_gives_a_call_back_untouched_costs_nothing(running):
    client, call = running
    client.worker(2)
    dispatch = only(client.answer(1, call.call_id, status=NOT_STARTED, credits=0), Dispatch)
    assert (dispatch.channel, call.retries_used) == (2, 0)


def test_a_stale_worker_is_not_asked_again(running):
    client, call = running
    none(client.answer(1, call.call_id, status=STALE), Dispatch)
    assert only(client.worker(2), Dispatch).call is call


def test_a_call_started_on_reclaimed_cores_fails_with_all_that_is_known(running):
    client, call = running
    effects = client.farewell(1, last_started=call.call_id, reason=ReasonCode.SLURM_PREEMPT, grace_s=5.0)
    error = only(effects, Fail).error
    assert (type(error), error.may_have_run, error.retriable) == (Reclaimed, True, True)
    assert (error.phase, error.reason_code, error.grace_s) == ("STARTED", ReasonCode.SLURM_PREEMPT, 5.0)
    assert (error.node, error.lease_id, error.epoch, error.attempt) == ("n1", LEASE, 3, 0)


def test_an_idempotent_call_is_run_again_after_a_reclaim_without_retries(client):
    call = run_on(client, 1)
    client.farewell(1, last_started=call.call_id, reason=ReasonCode.SLURM_PREEMPT)
    assert only(client.worker(2), Dispatch).call is call
    assert (call.reclaims_used, call.retries_used, call.attempt) == (1, 0, 1)


def test_the_budget_of_reclaims_ends(client):
    call = run_on(client, 1)
    for channel in range(2, RECLAIM_BUDGET + 2):
        client.farewell(channel - 1, last_started=call.call_id, reason=ReasonCode.SLURM_PREEMPT)
        assert only(client.worker(channel), Dispatch).call is call
    effects = client.farewell(RECLAIM_BUDGET + 1, last_started=call.call_id, reason=ReasonCode.SLURM_PREEMPT)
    assert isinstance(only(effects, Fail).error, Reclaimed)


LOSSES = [
    (ReasonCode.WORKER_CRASHED, WorkerLost),
    (ReasonCode.WORKER_EXITED, WorkerLost),
    (ReasonCode.AGENT_LOST, AgentLost),
    (ReasonCode.NODE_DOWN, NodeLost),
    (ReasonCode.PARTITION, NodeLost),
]


@pytest.mark.parametrize(("reason", "kind"), LOSSES)
def test_a_loss_after_the_start_fails_by_default(running, reason, kind):
    client, call = running
    error = only(client.farewell(1, last_started=call.call_id, reason=reason), Fail).error
    assert (type(error), error.may_have_run, error.reason_code) == (kind, True, reason)


@pytest.mark.parametrize(("reason", "kind"), LOSSES)
def test_a_loss_is_retried_with_a_pause_as_often_as_asked(client, reason, kind):
    call = run_on(client, 1, CallSettings(idempotent=True, retries=1))
    effects = client.farewell(1, last_started=call.call_id, reason=reason)
    none(effects, Fail)
    none(client.worker(2), Dispatch)
    assert only(client.wait(0.2), Dispatch).call is call
    error = only(client.farewell(2, last_started=call.call_id, reason=reason), Fail).error
    assert (type(error), error.attempt) == (kind, 1)


def test_the_signal_and_the_exit_status_are_named(running):
    client, call = running
    error = only(client.farewell(1, last_started=call.call_id, signal=11), Fail).error
    assert "signal 11" in str(error)


def test_a_call_that_ended_three_workers_is_poison(client):
    call = run_on(client, 1, CallSettings(idempotent=True, retries=9))
    for channel in (2, 3):
        client.farewell(channel - 1, last_started=call.call_id)
        client.worker(channel)
        assert only(client.wait(1.0), Dispatch).call is call
    error = only(client.farewell(3, last_started=call.call_id), Fail).error
    assert (type(error), error.retriable, call.kills) == (PoisonFunction, False, 3)


def test_a_call_that_was_done_but_whose_result_was_lost_may_have_run(running):
    client, call = running
    error = only(client.farewell(1, last_started=call.call_id, last_done=call.call_id), Fail).error
    assert (type(error), error.phase, error.may_have_run) == (WorkerLost, "DONE", True)


def test_a_broken_channel_without_farewell_is_connection_lost_after_two_seconds(running):
    client, _ = running
    client.step(ChannelEnded(1))
    none(client.wait(FAREWELL_WAIT_S - 0.1), Fail)
    error = only(client.wait(0.2), Fail).error
    assert (type(error), error.may_have_run, error.phase) == (ConnectionLost, True, "SENT")


def test_a_lost_connection_counts_as_a_retry(client):
    call = run_on(client, 1, CallSettings(idempotent=True, retries=1))
    client.step(ChannelEnded(1))
    client.worker(2)
    assert only(client.wait(FAREWELL_WAIT_S + 0.2), Dispatch).call is call
    assert call.retries_used == 1


def test_a_result_that_arrived_before_the_farewell_wins(running):
    client, call = running
    none(client.farewell(1, last_started=call.call_id, ended=False), Fail)
    only(client.answer(1, call.call_id, credits=0), Deliver)
    effects = client.step(ChannelEnded(1))
    none(effects, Fail)
    only(effects, CloseChannel)


def test_a_farewell_is_applied_though_the_channel_never_ends(running):
    client, call = running
    client.farewell(1, last_started=call.call_id, ended=False)
    effects = client.wait(END_WAIT_S)
    assert isinstance(only(effects, Fail).error, WorkerLost)
    only(effects, CloseChannel)


def test_a_lost_agent_fails_its_calls_soon_and_nothing_is_proven(running):
    client, _ = running
    client.step(ChannelsCondemned((1,), Verdict(ReasonCode.AGENT_LOST)))
    error = only(client.wait(LOST_WAIT_S), Fail).error
    assert (type(error), error.may_have_run, error.phase) == (AgentLost, True, "SENT")


def test_the_function_s_own_exception_is_delivered_and_not_retried(client):
    call = run_on(client, 1, CallSettings(idempotent=True, retries=5))
    effects = client.answer(1, call.call_id, status=1)
    assert only(effects, Deliver).frame.status == 1
    none(effects, Dispatch)
