"""The client's core: deadlines, cancellation, shutdown; no I/O."""

import pytest
from unit.client.played import none, only, run_on

from rfaas.client.call_book import KILL_WAIT_S
from rfaas.client.effects import Deliver, Dispatch, Drained, Fail, Requeued, Withdrawn
from rfaas.client.events import Cancel, Shutdown
from rfaas.config import CallSettings
from rfaas_transport.errors import Cancelled, DeadlineExceeded, ReasonCode

# --- deadlines -------------------------------------------------------------------------------------


def test_a_deadline_passes_in_the_queue(client):
    client.submit(CallSettings(call_timeout_s=2.0))
    none(client.wait(1.9), Fail)
    error = only(client.wait(0.2), Fail).error
    assert (type(error), error.phase, error.may_have_run) == (DeadlineExceeded, "QUEUED", False)
    none(client.worker(1), Dispatch)


def test_a_dispatch_carries_what_the_queue_left_of_the_deadline(client):
    client.submit(CallSettings(call_timeout_s=2.0))
    client.wait(0.5)
    assert only(client.worker(1), Dispatch).remaining_s == pytest.approx(1.5)


def test_the_agent_s_kill_is_a_deadline_exceeded_even_if_idempotent(client):
    call = run_on(client, 1, CallSettings(idempotent=True, retries=5, call_timeout_s=1.0))
    client.wait(1.1)
    error = only(client.farewell(1, last_started=call.call_id, reason=ReasonCode.CALL_TIMEOUT), Fail).error
    assert (type(error), error.phase, error.may_have_run) == (DeadlineExceeded, "STARTED", True)


def test_without_word_from_the_agent_the_deadline_holds_within_a_second(client):
    client.worker(1)
    client.submit(CallSettings(call_timeout_s=1.0))
    none(client.wait(1.0 + KILL_WAIT_S - 0.1), Fail)
    error = only(client.wait(0.15), Fail).error
    assert (type(error), error.may_have_run) == (DeadlineExceeded, True)


def test_a_deadline_survives_a_new_dispatch(client):
    call = run_on(client, 1, CallSettings(call_timeout_s=3.0))
    client.wait(1.0)
    client.worker(2)
    dispatch = only(client.farewell(1, last_started=0), Dispatch)
    assert (dispatch.call, dispatch.remaining_s) == (call, pytest.approx(2.0))


def test_a_deadline_between_two_runs_says_that_the_first_may_have_run(client):
    call = run_on(client, 1, CallSettings(idempotent=True, retries=5, call_timeout_s=1.0))
    client.farewell(1, last_started=call.call_id)
    error = only(client.wait(1.0), Fail).error
    assert (type(error), error.may_have_run) == (DeadlineExceeded, True)


def test_timers_of_calls_that_are_over_are_forgotten(client):
    client.worker(1)
    for _ in range(5_000):
        call, _ = client.submit(CallSettings(call_timeout_s=3600.0))
        client.answer(1, call.call_id)
    assert len(client.core._timers._heap) < 2_000


def test_a_result_after_the_deadline_reaches_nobody_and_frees_the_worker(client):
    client.worker(1)
    call, sent = client.submit(CallSettings(call_timeout_s=1.0))
    only(client.wait(2.0), Fail)
    none(client.answer(1, only(sent, Dispatch).call_id), Deliver)
    assert only(client.submit()[1], Dispatch).channel == 1
    assert call.resolved


# --- cancel, shutdown ------------------------------------------------------------------------------


def test_a_waiting_call_can_be_cancelled_and_never_runs(client):
    call, _ = client.submit()
    assert only(client.step(Cancel(call)), Withdrawn).call is call
    none(client.worker(1), Dispatch)
    none(client.step(Cancel(call)), Withdrawn)


def test_a_sent_call_can_t_be_cancelled(running):
    client, call = running
    none(client.step(Cancel(call)), Withdrawn)
    only(client.answer(1, call.call_id), Deliver)


def test_a_call_proven_not_started_can_be_cancelled_again(running):
    client, call = running
    assert only(client.farewell(1, last_started=0), Requeued).call is call
    only(client.step(Cancel(call)), Withdrawn)


def test_a_call_that_may_have_run_can_t_be_cancelled_as_if_it_had_not(client):
    call = run_on(client, 1)
    none(client.farewell(1, last_started=call.call_id, reason=ReasonCode.ADMIN), Requeued)
    none(client.step(Cancel(call)), Withdrawn)


def test_shutdown_waits_for_every_call(client):
    client.worker(1)
    first, sent = client.submit()
    client.submit()
    none(client.step(Shutdown()), Drained)
    again = client.answer(1, only(sent, Dispatch).call_id)
    none(again, Drained)
    only(client.answer(1, only(again, Dispatch).call_id), Drained)
    assert first.resolved


def test_shutdown_can_cancel_what_waits(running):
    client, call = running
    waiting, _ = client.submit()
    assert only(client.step(Shutdown(cancel_queued=True)), Withdrawn).call is waiting
    only(client.answer(1, call.call_id), Drained)


def test_shutdown_between_two_runs_is_an_error_that_says_so(client):
    call = run_on(client, 1, CallSettings(idempotent=True, retries=1))
    client.farewell(1, last_started=call.call_id)
    effects = client.step(Shutdown(cancel_queued=True))
    error = only(effects, Fail).error
    assert (type(error), error.may_have_run) == (Cancelled, True)
    only(effects, Drained)


def test_an_idle_client_is_drained_at_once_and_only_once(client):
    only(client.step(Shutdown()), Drained)
    none(client.step(Shutdown()), Drained)
