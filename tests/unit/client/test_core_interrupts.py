"""The client's core: calls that are interrupted, checkpoints, exceptions that cost a retry, notices passed on."""

import pytest
from unit.client.played import IDEMPOTENT, LEASE, Client, Frame, none, only

from rfaas.client.answers import CHECKPOINT, EXCEPTION, NOT_STARTED
from rfaas.client.call_book import INTERRUPT_WAIT_S
from rfaas.client.channel_ends import ASK_WAIT_S, FAREWELL_WAIT_S
from rfaas.client.effects import Deliver, Dispatch, Examine, Fail, Requeued, SendInterrupt, Withdrawn
from rfaas.client.events import (
    Cancel,
    ChannelEnded,
    Examined,
    FrameArrived,
    LeaseEnded,
    Notice,
    SendFailed,
    SessionLost,
    SessionUp,
)
from rfaas.config import CallSettings
from rfaas_transport.errors import (
    Cancelled,
    ChannelBroken,
    ConnectionLost,
    DeadlineExceeded,
    ReasonCode,
    Reclaimed,
    WorkerLost,
)

RETRY_ON = CallSettings(idempotent=True, retries=2, retry_on=(OSError,))


@pytest.fixture
def client():
    """A personal session with one worker."""
    client = Client(embedded=False)
    client.submit()
    client.join()
    client.worker(1)
    client.answer(1, 1)
    return client


def start(client, settings=None):
    """A call that worker 1 has got; the call and its number."""
    call, effects = client.submit(settings)
    return call, only(effects, Dispatch).call_id


def save(client, call_id, data, channel=1):
    frame = Frame(CHECKPOINT, call_id, credits=0)
    frame.segments = (memoryview(data),)
    return client.step(FrameArrived(channel, frame))


# --- interrupts -------------------------------------------------------------------------------------


def test_a_running_call_is_asked_for_and_ends_with_the_farewell(client):
    call, call_id = start(client)
    wish = only(client.step(Cancel(call, interrupt=True)), SendInterrupt)
    assert (wish.channel, wish.call_id) == (1, call_id)
    assert client.step(Cancel(call, interrupt=True)) == []  # once is enough
    error = only(client.farewell(1, call_id, ReasonCode.CALL_INTERRUPTED), Fail).error
    assert (type(error), error.may_have_run, error.phase) == (Cancelled, True, "STARTED")
    assert error.reason_code is ReasonCode.CALL_INTERRUPTED


@pytest.mark.parametrize("reason", [ReasonCode.WORKER_CRASHED, ReasonCode.SLURM_PREEMPT, ReasonCode.AGENT_LOST])
def test_whatever_ends_an_interrupted_call_it_is_cancelled_and_not_run_again(client, reason):
    call, call_id = start(client, CallSettings(idempotent=True, retries=5))
    client.step(Cancel(call, interrupt=True))
    effects = client.farewell(1, None if reason is ReasonCode.AGENT_LOST else call_id, reason)
    assert type(only(effects, Fail).error) is Cancelled
    none(client.wait(10.0), Dispatch)


def test_a_result_that_was_on_its_way_wins(client):
    call, call_id = start(client)
    client.step(Cancel(call, interrupt=True))
    only(client.answer(1, call_id), Deliver)
    none(client.farewell(1, call_id, ReasonCode.CALL_INTERRUPTED), Fail)
    none(client.wait(2 * INTERRUPT_WAIT_S), Fail)


@pytest.mark.parametrize("how", ["farewell", "given back", "send failed"])
def test_what_is_proven_not_started_is_withdrawn_and_never_sent_again(client, how):
    call, call_id = start(client)
    client.step(Cancel(call, interrupt=True))
    if how == "farewell":
        effects = client.farewell(1, call_id - 1)
    elif how == "given back":
        effects = client.answer(1, call_id, NOT_STARTED, credits=0)
    else:
        effects = client.step(SendFailed(1, call_id, ChannelBroken("reset"), broken=True))
    assert [type(effect) for effect in effects if isinstance(effect, Requeued | Withdrawn)] == [Requeued, Withdrawn]
    client.worker(2)
    none(client.effects[-3:], Dispatch)


def test_without_word_the_call_ends_all_the_same(client):
    call, _ = start(client)
    client.step(Cancel(call, interrupt=True))
    none(client.wait(INTERRUPT_WAIT_S - 0.01), Fail)
    error = only(client.wait(0.02), Fail).error
    assert (type(error), error.may_have_run, error.phase) == (Cancelled, True, "SENT")
    assert call.resolved


def test_a_new_session_process_is_asked_again_even_for_a_call_that_has_failed_meanwhile(client):
    call, call_id = start(client)
    client.step(SessionLost())
    none(client.step(Cancel(call, interrupt=True)), SendInterrupt)
    assert only(client.step(SessionUp(False)), SendInterrupt).call_id == call_id
    only(client.wait(INTERRUPT_WAIT_S), Fail)
    client.step(SessionLost())
    assert only(client.step(SessionUp(False)), SendInterrupt).call_id == call_id  # its worker is busy still
    client.answer(1, call_id)
    client.step(SessionLost())
    none(client.step(SessionUp(False)), SendInterrupt)


def test_a_call_that_waits_between_two_runs_is_cancelled_at_once(client):
    call, call_id = start(client, CallSettings(idempotent=True, retries=5))
    client.farewell(1, call_id)
    error = only(client.step(Cancel(call, interrupt=True)), Fail).error
    assert (type(error), error.may_have_run) == (Cancelled, True)


def test_interrupts_survive_a_step_that_was_broken_off(client):
    call, call_id = start(client)
    client.core.step(Cancel(call, interrupt=True), client.now_s)  # nobody carries it out
    effects = client.core.recover([call], {1: 0}, client.now_s, is_joining=False)
    assert only(effects, SendInterrupt).call_id == call_id


# --- a channel that breaks ---------------------------------------------------------------------------


def test_the_agent_is_asked_to_end_what_runs_on_a_channel_that_ended_without_a_word(client):
    _, call_id = start(client, CallSettings(idempotent=True, retries=1))
    none(client.step(ChannelEnded(1)), SendInterrupt)
    assert only(client.wait(ASK_WAIT_S), SendInterrupt).call_id == call_id
    client.farewell(1, call_id, ReasonCode.CALL_INTERRUPTED, ended=False)
    client.worker(2)
    assert only(client.wait(1.0), Dispatch).call.attempt == 1


def test_a_farewell_in_time_needs_no_question(client):
    _, call_id = start(client)
    assert type(only(client.farewell(1, call_id), Fail).error) is WorkerLost
    none(client.wait(FAREWELL_WAIT_S), SendInterrupt)


@pytest.mark.parametrize("reason", [ReasonCode.NONE, ReasonCode.CALL_INTERRUPTED])
def test_a_started_call_of_a_broken_channel_lost_its_connection(client, reason):
    _, call_id = start(client)
    error = only(client.farewell(1, call_id, reason, last_done=call_id), Fail).error
    assert (type(error), error.may_have_run, error.phase) == (ConnectionLost, True, "DONE")


def test_one_that_had_not_started_goes_elsewhere_for_free(client):
    call, call_id = start(client)
    client.farewell(1, call_id - 1, ReasonCode.NONE)
    assert only(client.worker(2), Dispatch).call is call
    assert client.core.counters["redispatched"] == 1


# --- checkpoints ------------------------------------------------------------------------------------


def test_the_last_checkpoint_is_in_the_error(client):
    _, call_id = start(client)
    save(client, call_id, b"one")
    save(client, call_id, b"two")
    error = only(client.farewell(1, call_id, ReasonCode.SLURM_PREEMPT), Fail).error
    assert (type(error), error.checkpoint) == (Reclaimed, b"two")


def test_it_goes_along_with_the_next_dispatch_under_the_first_ones_name(client):
    call, call_id = start(client, IDEMPOTENT)
    save(client, call_id, b"one")
    client.farewell(1, call_id, ReasonCode.SLURM_PREEMPT)
    dispatch = only(client.worker(2), Dispatch)
    assert (dispatch.call.checkpoint, dispatch.call.first_call_id) == (b"one", call_id)
    assert dispatch.call_id != call_id
    assert call.attempt == 1


def test_a_checkpoint_of_an_earlier_dispatch_reaches_nobody(client):
    call, call_id = start(client, IDEMPOTENT)
    client.farewell(1, call_id, ReasonCode.SLURM_PREEMPT)
    client.worker(2)
    save(client, call_id, b"late", channel=1)
    save(client, call_id, b"late", channel=2)
    assert call.checkpoint is None


def test_errors_of_the_queue_have_it_too(client):
    call, call_id = start(client, CallSettings(idempotent=True, call_timeout_s=3.0))
    save(client, call_id, b"half")
    client.farewell(1, call_id, ReasonCode.SLURM_PREEMPT)
    error = only(client.wait(3.0), Fail).error
    assert (type(error), error.checkpoint, error.may_have_run) == (DeadlineExceeded, b"half", True)
    assert "again" in str(error)
    assert call.resolved


# --- exceptions that cost a retry ---------------------------------------------------------------------


def test_an_exception_is_shown_before_it_is_delivered_and_costs_a_retry(client):
    call, call_id = start(client, RETRY_ON)
    for _ in range(2):
        question = only(client.answer(1, call_id, EXCEPTION), Examine)
        assert not call.resolved
        none(client.step(Examined(call, question.frame, question.info, True)), Deliver)
        call_id = only(client.wait(1.0), Dispatch).call_id
    question = only(client.answer(1, call_id, EXCEPTION), Examine)
    only(client.step(Examined(call, question.frame, question.info, True)), Deliver)  # the budget is spent
    assert client.core.counters["retried"] == 2


def test_another_exception_is_the_result(client):
    call, call_id = start(client, RETRY_ON)
    question = only(client.answer(1, call_id, EXCEPTION), Examine)
    assert only(client.step(Examined(call, question.frame, question.info, False)), Deliver).frame is question.frame
    assert client.step(Examined(call, question.frame, question.info, True)) == []


def test_an_interrupted_call_s_exception_is_its_result(client):
    call, call_id = start(client, RETRY_ON)
    client.step(Cancel(call, interrupt=True))
    only(client.answer(1, call_id, EXCEPTION), Deliver)


def test_a_deadline_or_a_cancel_while_the_exception_is_looked_at_decides(client):
    timed = CallSettings(idempotent=True, retries=2, retry_on=(OSError,), call_timeout_s=1.0)
    for settings in timed, RETRY_ON:
        call, call_id = start(client, settings)
        question = only(client.answer(1, call_id, EXCEPTION), Examine)
        effects = client.wait(1.0) if settings is timed else client.step(Cancel(call, interrupt=True))
        assert only(effects, Fail).error.may_have_run
        assert client.step(Examined(call, question.frame, question.info, True)) == []


def test_a_recovery_meanwhile_makes_the_answer_void(client):
    call, call_id = start(client, RETRY_ON)
    question = only(client.answer(1, call_id, EXCEPTION), Examine)
    effects = client.core.recover([call], {1: 1}, client.now_s, is_joining=False)
    assert only(effects, Dispatch).call is call
    assert client.step(Examined(call, question.frame, question.info, True)) == []


# --- notices ----------------------------------------------------------------------------------------


def test_a_notice_is_passed_on_once_a_lease(client):
    notice = Notice(LEASE, (1,), ReasonCode.SLURM_PREEMPT, 5.0, "n1", (3,))
    (told,) = client.step(notice)
    assert told.notice is notice
    assert client.step(Notice(LEASE, (1,), ReasonCode.SLURM_PREEMPT, 5.0, "n1", (3,))) == []
    client.step(LeaseEnded(LEASE))
    assert len(client.step(notice)) == 1
