"""The client's core: each row of the delivery semantics, credits, queue, deadlines, targets, sessions; no I/O."""

import pytest

from rfaas.client.call_book import KILL_WAIT_S
from rfaas.client.channel_ends import END_WAIT_S, FAREWELL_WAIT_S, LOST_WAIT_S
from rfaas.client.core import ERROR, NOT_STARTED, RESULT, STALE, ClientCore
from rfaas.client.events import (
    Call,
    Cancel,
    ChannelEnded,
    ChannelInfo,
    ChannelOpened,
    ChannelsCondemned,
    CloseChannel,
    Connect,
    Deliver,
    Denied,
    Dispatch,
    Drained,
    Fail,
    FrameArrived,
    Lease,
    LeaseEnded,
    LeaseGranted,
    Notice,
    Queued,
    Requeued,
    SendFailed,
    SendWant,
    SessionFailed,
    SessionLost,
    SessionUp,
    Shutdown,
    Starving,
    Submit,
    Tick,
    Verdict,
    Withdrawn,
)
from rfaas.client.target import DENIED_PAUSE_S, LOWER_WANT_AFTER_S, STARVING_AFTER_S
from rfaas.config import RECLAIM_BUDGET, CallSettings
from rfaas_transport.errors import (
    AcquireTimeout,
    AgentLost,
    AllocatorUnavailable,
    Cancelled,
    ChannelBroken,
    ConnectionLost,
    DeadlineExceeded,
    EnvironmentFailed,
    LeaseDenied,
    NodeLost,
    PayloadTooLarge,
    PoisonFunction,
    ProtocolError,
    ReasonCode,
    Reclaimed,
    WorkerLost,
)

LEASE = b"l" * 16
HELLO = 96
IDEMPOTENT = CallSettings(idempotent=True)


class Frame:
    def __init__(self, kind=RESULT, call_id=0, status=0, credits=1, text=""):
        self.kind, self.call_id, self.status, self.credits, self.text = kind, call_id, status, credits, text
        self.segments = ()


def info(number, lease=LEASE):
    return ChannelInfo(number, lease, lease_seq=7, epoch=3, slot=number, generation=1, node="n1")


class Client:
    """A core with a clock, and with what it asked for sorted by kind."""

    def __init__(self, max_workers=8, acquire_timeout_s=None, embedded=True):
        self.core = ClientCore(max_workers, acquire_timeout_s, seed=1)
        self.now_s = 100.0
        self.embedded = embedded
        self.effects = []

    def step(self, event):
        effects = self.core.step(event, self.now_s)
        self.effects += effects
        return effects

    def wait(self, duration_s):
        """Let time pass, stopping wherever the core wants to."""
        end_s = self.now_s + duration_s
        effects = []
        while (due_s := self.core.next_due_s()) is not None and due_s <= end_s:
            self.now_s = max(self.now_s, due_s)
            effects += self.step(Tick())
        self.now_s = end_s
        return effects + self.step(Tick())

    def submit(self, settings=None):
        call = Call(len(self.effects), "work", settings or CallSettings())
        return call, self.step(Submit(call))

    def join(self):
        return self.step(SessionUp(self.embedded))

    def worker(self, number, lease=LEASE):
        """A worker comes up and says HELLO."""
        self.step(ChannelOpened(info(number, lease)))
        return self.step(FrameArrived(number, Frame(HELLO)))

    def answer(self, channel, call_id, status=0, credits=1):
        return self.step(FrameArrived(channel, Frame(RESULT, call_id, status, credits)))

    def farewell(self, channel, last_started, reason=ReasonCode.WORKER_CRASHED, last_done=0, ended=True, **more):
        """The worker's channel ends and its agent says why."""
        effects = self.step(ChannelEnded(channel)) if ended else []
        verdict = Verdict(reason, last_started=last_started, last_done=last_done, **more)
        return effects + self.step(ChannelsCondemned((channel,), verdict))


def only(effects, kind):
    found = [effect for effect in effects if isinstance(effect, kind)]
    assert len(found) == 1, f"{len(found)} {kind.__name__} in {effects}"
    return found[0]


def none(effects, kind):
    assert [effect for effect in effects if isinstance(effect, kind)] == []


@pytest.fixture
def client():
    client = Client()
    client.join()
    return client


@pytest.fixture
def running(client):
    """A client with one call on channel 1."""
    client.worker(1)
    call, effects = client.submit()
    assert only(effects, Dispatch).channel == 1
    return client, call


def run_on(client, channel, settings=IDEMPOTENT):
    """Have a new worker on this channel run a new call."""
    client.worker(channel)
    call, effects = client.submit(settings)
    assert only(effects, Dispatch).channel == channel
    return call


# --- queue, credits, results ---------------------------------------------------------------------


def test_the_first_call_asks_for_a_session_and_then_for_a_worker():
    client = Client()
    _, effects = client.submit()
    assert only(effects, Connect).resume == ()
    none(effects, SendWant)
    assert only(client.join(), SendWant).workers == 1


def test_a_worker_gets_a_call_only_after_its_hello(client):
    call, _ = client.submit()
    none(client.step(ChannelOpened(info(1))), Dispatch)
    dispatch = only(client.step(FrameArrived(1, Frame(HELLO))), Dispatch)
    assert (dispatch.call, dispatch.channel, call.attempt) == (call, 1, 0)


def test_a_credit_is_one_call_and_a_result_brings_the_next(client):
    client.worker(1)
    first, sent = client.submit()
    second, waits = client.submit()
    none(waits, Dispatch)
    effects = client.answer(1, only(sent, Dispatch).call_id)
    deliver = only(effects, Deliver)
    assert (deliver.call, first.resolved) == (first, True)
    assert only(effects, Dispatch).call is second


def test_a_worker_that_takes_no_further_call_gets_none(running):
    client, call = running
    client.submit()
    none(client.answer(1, call.call_id, credits=0), Dispatch)


def test_a_short_call_goes_to_the_idle_worker_and_not_behind_a_long_one(client):
    client.worker(1)
    client.worker(2)
    _, long_one = client.submit()
    _, short_one = client.submit()
    assert {only(long_one, Dispatch).channel, only(short_one, Dispatch).channel} == {1, 2}


def test_calls_are_sent_in_the_order_of_their_submission(client):
    calls = [client.submit()[0] for _ in range(5)]
    effects = client.worker(1)
    seen = []
    for _ in calls:
        dispatch = only(effects, Dispatch)
        seen.append(dispatch.call)
        effects = client.answer(1, dispatch.call_id)
    assert seen == calls


def test_call_ids_rise_and_a_second_answer_reaches_nobody(running):
    client, call = running
    first_id = call.call_id
    client.answer(1, first_id)
    _, effects = client.submit()
    assert only(effects, Dispatch).call_id > first_id
    none(client.answer(1, first_id, credits=0), Deliver)
    assert client.core.statistics()["late_results"] == 1


def test_an_answer_to_another_channels_call_reaches_nobody(running):
    client, call = running
    client.worker(2)
    none(client.answer(2, call.call_id), Deliver)


def test_an_error_frame_fails_the_call_it_names(running):
    client, call = running
    effects = client.step(FrameArrived(1, Frame(ERROR, call.call_id, text="no such function", credits=1)))
    error = only(effects, Fail).error
    assert isinstance(error, ProtocolError)
    assert "no such function" in str(error)


def test_a_payload_that_is_too_large_fails_its_call_and_keeps_the_worker(running):
    client, call = running
    effects = client.step(SendFailed(1, call.call_id, PayloadTooLarge("4 GiB"), broken=False))
    error = only(effects, Fail).error
    assert (type(error), error.may_have_run) == (PayloadTooLarge, False)
    assert only(client.submit()[1], Dispatch).channel == 1


def test_a_call_that_met_a_broken_channel_goes_elsewhere(running):
    client, call = running
    client.worker(2)
    effects = client.step(SendFailed(1, call.call_id, ChannelBroken("reset"), broken=True))
    dispatch = only(effects, Dispatch)
    assert (dispatch.channel, dispatch.call, call.attempt) == (2, call, 0)


# --- the table of reliability: not started, reclaimed, lost, poisoned, late ------------------------


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


# --- notices and the standing target --------------------------------------------------------------


def test_after_a_notice_nothing_more_is_sent_there_and_the_running_call_may_end(running):
    client, call = running
    client.worker(2, lease=b"m" * 16)
    client.step(Notice(LEASE, (1,), ReasonCode.SLURM_PREEMPT, 5.0))
    only(client.answer(1, call.call_id), Deliver)
    assert only(client.submit()[1], Dispatch).channel == 2
    none(client.submit()[1], Dispatch)


def test_the_target_is_the_number_of_calls_up_to_the_ceiling():
    client = Client(max_workers=3)
    client.submit()
    client.submit()
    assert only(client.join(), SendWant).workers == 2
    assert only(client.submit()[1], SendWant).workers == 3
    none(client.submit()[1], SendWant)


def test_the_target_does_not_fall_while_calls_end(client):
    for _ in range(3):
        client.submit()
    sent = only(client.worker(1), Dispatch)
    none(client.answer(1, sent.call_id), SendWant)


def test_the_target_falls_after_a_while_without_waiting_calls(client):
    client.worker(1)
    client.worker(2)
    calls = [client.submit()[0] for _ in range(2)]
    for call, channel in zip(calls, (2, 1), strict=True):
        client.answer(channel, call.call_id)
    none(client.wait(LOWER_WANT_AFTER_S - 0.1), SendWant)
    assert only(client.wait(0.2), SendWant).workers == 1


def test_a_denial_fails_what_waits_and_the_next_call_asks_anew(client):
    client.submit()
    error = only(client.step(Denied("lease-denied", "the largest node has 64 GiB")), Fail).error
    assert (type(error), error.phase, error.hint) == (LeaseDenied, "QUEUED", "the largest node has 64 GiB")
    assert only(client.submit()[1], SendWant).workers == 1


def test_an_environment_that_can_t_start_is_named(client):
    client.submit()
    error = only(client.step(Denied("environment-failed", "No module named 'x'")), Fail).error
    assert type(error) is EnvironmentFailed


def test_a_denial_fails_nothing_while_workers_serve(client):
    """One node that lacks the user's modules says nothing about the others; more are asked for later."""
    client.worker(1)
    client.submit()
    client.submit()
    effects = client.step(Denied("environment-failed", "No module named 'x'"))
    none(effects, Fail)
    none(effects, SendWant)
    none(client.wait(DENIED_PAUSE_S - 0.1), SendWant)
    assert only(client.wait(0.2), SendWant).workers == 2


def test_after_a_denial_workers_are_asked_for_when_the_last_one_goes(client):
    client.worker(1)
    running, _ = client.submit()
    waiting, _ = client.submit()
    client.step(Denied("environment-failed", "No module named 'x'"))
    effects = client.step(ChannelsCondemned((1,), Verdict(ReasonCode.WORKER_CRASHED, last_started=running.call_id)))
    assert only(effects, SendWant).workers == 2
    fails = [e for e in client.step(Denied("environment-failed", "No module named 'x'")) if isinstance(e, Fail)]
    assert [type(e.error) for e in fails if e.call is waiting] == [EnvironmentFailed]


def test_each_failed_call_has_an_error_of_its_own(client):
    client.submit()
    client.submit()
    first, second = (e.error for e in client.step(Denied("quota", "")) if isinstance(e, Fail))
    assert first is not second


def test_calls_that_wait_long_without_any_worker_are_said_to_once_with_the_reason(client):
    client.submit()
    client.submit()
    client.step(Queued("all that is here is leased", "2 more asked for"))
    none(client.wait(STARVING_AFTER_S - 0.1), Starving)
    said = only(client.wait(0.2), Starving)
    assert (said.n_calls, said.why) == (2, "all that is here is leased: 2 more asked for")
    none(client.wait(10 * STARVING_AFTER_S), Starving)
    client.worker(1)
    none(client.wait(2 * STARVING_AFTER_S), Starving)


def test_without_any_worker_a_call_fails_after_acquire_timeout_and_says_why():
    client = Client(acquire_timeout_s=5.0)
    client.join()
    client.submit()
    client.step(Queued("all 8 cores are leased", "wait, or lower max_workers"))
    none(client.wait(4.9), Fail)
    client.submit()
    error = only(client.wait(0.2), Fail).error
    assert isinstance(error, AcquireTimeout)
    assert "all 8 cores are leased" in str(error)
    none(client.wait(4.5), Fail)
    only(client.wait(0.5), Fail)


def test_a_busy_worker_is_capacity():
    client = Client(acquire_timeout_s=5.0)
    client.join()
    client.worker(1)
    client.submit()
    client.submit()
    none(client.wait(60.0), Fail)


# --- the session process --------------------------------------------------------------------------


def lease(**changes):
    return Lease(
        **{
            "lease": LEASE,
            "lease_seq": 7,
            "epoch": 3,
            "slice": b"s" * 16,
            "address": "unix:@a",
            "node": "n1",
            "workers": 1,
            "ttl_s": 10.0,
            **changes,
        }
    )


def test_a_session_process_that_can_t_be_reached_fails_what_waits_and_is_tried_again():
    client = Client()
    client.submit()
    error = only(client.step(SessionFailed(AllocatorUnavailable("no python"))), Fail).error
    assert (type(error), error.phase) == (AllocatorUnavailable, "QUEUED")
    only(client.submit()[1], Connect)


def test_an_embedded_session_s_death_loses_its_workers_and_waiting_calls_go_on(running):
    client, _ = running
    waiting, _ = client.submit()
    effects = client.step(SessionLost())
    only(effects, Connect)
    none(effects, Fail)
    error = only(client.wait(END_WAIT_S), Fail).error
    assert (type(error), error.may_have_run) == (AgentLost, True)
    assert only(client.join(), SendWant).workers == 2  # the other call was not settled yet
    assert only(client.worker(2), Dispatch).call is waiting


def test_a_result_that_the_dead_session_s_worker_had_sent_still_counts(running):
    client, call = running
    client.step(SessionLost())
    only(client.answer(1, call.call_id), Deliver)
    none(client.step(ChannelEnded(1)), Fail)


def test_an_idle_embedded_client_starts_a_new_session_only_with_the_next_call(client):
    client.worker(1)
    none(client.step(SessionLost()), Connect)
    only(client.submit()[1], Connect)


def test_a_personal_session_s_death_leaves_calls_running_and_leases_are_resumed():
    client = Client(embedded=False)
    client.join()
    client.step(LeaseGranted(lease()))
    client.worker(1)
    call, _ = client.submit()
    connect = only(client.step(SessionLost()), Connect)
    assert connect.resume == ((lease(), (info(1),)),)
    only(client.answer(1, call.call_id), Deliver)
    assert only(client.join(), SendWant).workers == 1


def test_a_lease_that_ended_is_not_resumed():
    client = Client(embedded=False)
    client.join()
    client.step(LeaseGranted(lease()))
    client.step(LeaseEnded(LEASE))
    none(client.step(SessionLost()), Connect)


def test_while_calls_run_on_leases_the_session_is_tried_again():
    client = Client(embedded=False)
    client.join()
    client.step(LeaseGranted(lease()))
    client.worker(1)
    call, _ = client.submit()
    client.step(SessionLost())
    effects = client.step(SessionFailed(AllocatorUnavailable("down")))
    none(effects, Fail)
    only(client.wait(1.0), Connect)
    only(client.answer(1, call.call_id), Deliver)


def test_what_waits_behind_living_workers_does_not_fail_with_the_session_process():
    client = Client(max_workers=1, embedded=False)
    client.join()
    client.step(LeaseGranted(lease()))
    client.worker(1)
    call, _ = client.submit()
    waiting, _ = client.submit()
    client.step(SessionLost())
    effects = client.step(SessionFailed(AllocatorUnavailable("it ended without a word")))
    none(effects, Fail)
    none(effects, Connect)  # at once it would fail as fast, without end
    assert only(client.answer(1, call.call_id), Dispatch).call is waiting
    only(client.wait(1.0), Connect)


def test_a_call_on_leases_that_nobody_renews_looks_for_a_session_process():
    client = Client(embedded=False)
    client.join()
    client.step(LeaseGranted(lease()))
    client.worker(1)
    call, _ = client.submit()
    client.step(SessionLost())
    client.step(SessionFailed(AllocatorUnavailable("down")))
    client.answer(1, call.call_id)
    none(client.wait(1.0), Connect)  # nothing to be renewed for
    only(client.submit()[1], Connect)


def test_frames_and_verdicts_of_unknown_channels_are_passed_over(client):
    assert client.step(FrameArrived(99, Frame())) == []
    assert client.step(ChannelEnded(99)) == []
    assert client.step(ChannelsCondemned((99,), Verdict(ReasonCode.AGENT_LOST))) == []
