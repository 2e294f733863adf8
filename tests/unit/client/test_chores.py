"""What a client has its workers do before their first call and after their last, without any I/O."""

import pytest

from rfaas.client.answers import ERROR, EXCEPTION, NOT_STARTED, RESULT, STALE
from rfaas.client.channel_ends import ASK_WAIT_S
from rfaas.client.chores import Chores
from rfaas.client.core import ClientCore
from rfaas.client.effects import (
    Broke,
    CloseChannel,
    Deliver,
    Dispatch,
    Drained,
    Examine,
    Fail,
    SendInterrupt,
    Withdrawn,
)
from rfaas.client.events import (
    Break,
    ChannelEnded,
    ChannelOpened,
    ChannelsCondemned,
    Examined,
    FrameArrived,
    SendFailed,
    SessionUp,
    Shutdown,
    Submit,
    Terminate,
    Tick,
)
from rfaas.client.records import Call, ChannelInfo, Verdict
from rfaas.config import CallSettings
from rfaas_transport.errors import ChannelBroken, ExecutorBroken, PayloadTooLarge, ReasonCode

HELLO = 96
LEASE = b"l" * 16


class Frame:
    def __init__(self, kind, call_id=0, status=0, credits=1):
        self.kind, self.call_id, self.status, self.credits, self.text, self.segments = (
            kind,
            call_id,
            status,
            credits,
            "",
            (),
        )


class Client:
    """A core with one session; the time stands still unless a test moves it."""

    def __init__(self, **chores):
        self.core = ClientCore(8, seed=1, chores=Chores(**chores))
        self.now_s = 100.0
        self.step(SessionUp(embedded=True))

    def step(self, event):
        return self.core.step(event, self.now_s)

    def submit(self, **settings):
        call = Call(1, "work", CallSettings(**settings))
        return call, self.step(Submit(call))

    def worker(self, number, slot=None, generation=1):
        info = ChannelInfo(number, LEASE, 7, 3, number if slot is None else slot, generation, "n1")
        self.step(ChannelOpened(info))
        return self.step(FrameArrived(number, Frame(HELLO)))

    def answer(self, channel, call_id, status=0, credits=1, kind=RESULT):
        return self.step(FrameArrived(channel, Frame(kind, call_id, status, credits)))

    def dies(self, channel, last_started, reason=ReasonCode.WORKER_CRASHED):
        effects = self.step(ChannelsCondemned((channel,), Verdict(reason, last_started=last_started)))
        self.now_s += 1.0
        return effects + self.step(Tick())


def sent(effects):
    """(channel, work) of what is dispatched."""
    return [(effect.channel, effect.call.work) for effect in effects if isinstance(effect, Dispatch)]


def of(effects, kind):
    return [effect for effect in effects if isinstance(effect, kind)]


@pytest.fixture
def client():
    return Client(initializer="init")


# --- the initializer ---------------------------------------------------------------------------------


def test_the_initializer_comes_first_and_the_call_when_it_is_over(client):
    client.submit()
    effects = client.worker(1)
    assert sent(effects) == [(1, "init")]
    assert sent(client.answer(1, of(effects, Dispatch)[0].call_id)) == [(1, "work")]


def test_a_worker_is_initialized_though_no_call_waits(client):
    effects = client.worker(1)
    assert sent(effects) == [(1, "init")]
    assert sent(client.answer(1, 1)) == []
    assert sent(client.submit()[1]) == [(1, "work")]


def test_a_second_channel_to_an_initialized_worker_needs_none(client):
    client.worker(1, slot=5)
    client.answer(1, 1)
    client.submit()
    assert sent(client.worker(2, slot=5)) == []
    client.submit()
    assert client.core.statistics()["running"] == 2
    assert sent(client.worker(3, slot=5, generation=2)) == [(3, "init")]


def test_chores_are_no_calls_of_the_user_s_in_the_counters(client):
    client.worker(1)
    numbers = client.core.statistics()
    assert (numbers["dispatched"], numbers["running"], numbers["submitted"]) == (0, 0, 0)


def test_shutdown_does_not_wait_for_an_initializer(client):
    client.worker(1)
    assert of(client.step(Shutdown()), Drained)


@pytest.mark.parametrize(("kind", "status"), [(RESULT, 1), (RESULT, 2), (RESULT, 3), (ERROR, 35)])
def test_a_failed_initializer_breaks_the_executor(client, kind, status):
    call, _ = client.submit()
    client.worker(1)
    effects = client.answer(1, 1, status=status, kind=kind)
    (broke,) = of(effects, Broke)
    assert (sent(effects), of(effects, Fail), broke.info.number) == ([], [], 1)
    late, effects = client.submit()
    assert sent(effects) == []
    cause = ValueError("why")
    error = ExecutorBroken("told")
    error.__cause__ = cause
    effects = client.step(Break(error))
    assert {id(fail.call) for fail in of(effects, Fail)} == {id(call), id(late)}
    assert all(type(fail.error) is ExecutorBroken and fail.error.__cause__ is cause for fail in of(effects, Fail))
    assert len({id(fail.error) for fail in of(effects, Fail)}) == 2
    assert of(effects, Drained)


def test_what_runs_on_a_good_worker_ends_as_it_does_when_another_can_t_be_initialized(client):
    client.worker(1)
    client.answer(1, 1)
    running, effects = client.submit()
    call_id = of(effects, Dispatch)[0].call_id
    client.worker(2)
    assert of(client.answer(2, call_id + 1, status=1), Broke)
    assert of(client.step(Break(ExecutorBroken("told"))), Drained) == []
    effects = client.answer(1, call_id)
    assert [deliver.call for deliver in of(effects, Deliver)] == [running]
    assert of(effects, Drained)


def test_a_call_proven_not_started_after_the_break_fails_with_it(client):
    client.worker(1)
    client.answer(1, 1)
    call, effects = client.submit()
    client.worker(2)
    client.answer(2, 3, status=1)
    client.step(Break(ExecutorBroken("told")))
    effects = client.answer(1, 2, status=NOT_STARTED, credits=0)
    assert [(fail.call, type(fail.error), fail.error.may_have_run) for fail in of(effects, Fail)] == [
        (call, ExecutorBroken, False)
    ]


def test_the_third_worker_in_a_row_that_dies_in_it_breaks_the_executor(client):
    client.submit()
    for number in range(1, 4):
        assert sent(client.worker(number)) == [(number, "init")]
        broke = of(client.dies(number, last_started=number), Broke)
        assert len(broke) == (number == 3)
    assert "crash" in broke[0].error.message or "3 workers" in broke[0].error.message


def test_a_worker_that_comes_through_it_ends_the_count(client):
    for number in range(1, 3):
        client.worker(number)
        client.dies(number, last_started=number)
    client.worker(3)
    client.answer(3, 3)
    for number in range(4, 6):
        client.worker(number)
        assert of(client.dies(number, last_started=number), Broke) == []


@pytest.mark.parametrize("reason", [ReasonCode.SLURM_PREEMPT, ReasonCode.AGENT_LOST, ReasonCode.NODE_DOWN])
def test_workers_that_are_taken_away_in_it_count_for_nothing(client, reason):
    for number in range(1, 9):
        client.worker(number)
        assert of(client.dies(number, last_started=number, reason=reason), Broke) == []


@pytest.mark.parametrize("status", [STALE, NOT_STARTED])
def test_a_worker_that_gives_the_initializer_back_is_asked_nothing_more(client, status):
    client.submit()
    client.worker(1)
    effects = client.answer(1, 1, status=status)
    assert (sent(effects), of(effects, Broke)) == ([], [])
    assert sent(client.worker(2)) == [(2, "init")]


def test_a_broken_channel_breaks_no_executor_and_arguments_that_are_too_large_do(client):
    client.worker(1)
    assert of(client.step(SendFailed(1, 1, ChannelBroken("gone"), broken=True)), Broke) == []
    client.worker(2)
    effects = client.step(SendFailed(2, 2, PayloadTooLarge("huge"), broken=False))
    assert [type(broke.error) for broke in of(effects, Broke)] == [PayloadTooLarge]


# --- leaving after a number of calls -----------------------------------------------------------------


def test_a_worker_leaves_after_its_calls_and_the_next_comes():
    client = Client(leave="leave", max_calls=2)
    for _ in range(3):
        client.submit()
    assert sent(client.worker(1)) == [(1, "work")]
    assert sent(client.answer(1, 1)) == [(1, "work")]
    assert sent(client.answer(1, 2)) == [(1, "leave")]
    effects = client.dies(1, last_started=3, reason=ReasonCode.WORKER_EXITED)
    assert (of(effects, Fail), [close.channel for close in of(effects, CloseChannel)]) == ([], [1])
    assert sent(client.worker(2)) == [(2, "work")]


def test_a_worker_at_its_last_call_is_capacity_and_is_told_to_leave_once():
    client = Client(initializer="init", leave="leave", max_calls=1)
    client.worker(1)
    client.answer(1, 1)
    client.submit()
    assert client.core.statistics()["workers"] == 1
    assert sent(client.answer(1, 2)) == [(1, "leave")]
    assert sent(client.step(FrameArrived(1, Frame(97)))) == []
    assert sent(client.submit()[1]) == []


# --- terminate ---------------------------------------------------------------------------------------


def test_terminate_cancels_what_was_not_sent_and_fails_the_rest(client):
    client.worker(1)
    client.answer(1, 1)
    running, _ = client.submit(idempotent=True, retries=5)
    waiting, _ = client.submit()
    client.worker(2)  # in its initializer
    effects = client.step(Terminate())
    assert [withdrawn.call for withdrawn in of(effects, Withdrawn)] == [waiting]
    (fail,) = of(effects, Fail)
    assert (fail.call, type(fail.error), fail.error.may_have_run, fail.error.phase) == (
        running,
        ExecutorBroken,
        True,
        "SENT",
    )
    assert {close.channel for close in of(effects, CloseChannel)} == {1, 2}
    assert of(effects, Drained)
    assert client.dies(1, last_started=2) == []


def test_terminate_of_an_idle_client_is_a_shutdown(client):
    assert of(client.step(Terminate()), Drained)
    assert client.step(Terminate()) == []


def test_terminate_ends_a_call_whose_exception_is_examined_with_that_exception():
    client = Client()
    client.worker(1)
    call, _ = client.submit(idempotent=True, retries=3, retry_on=(OSError,))
    (question,) = of(client.answer(1, 1, status=EXCEPTION), Examine)
    assert of(client.step(Terminate()), Drained) == []
    effects = client.step(Examined(call, question.frame, question.info, again=True))
    assert [(deliver.call, deliver.frame) for deliver in of(effects, Deliver)] == [(call, question.frame)]
    assert of(effects, Drained)


def test_a_terminate_that_was_broken_off_sends_nothing_again(client, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    client.worker(1)
    client.answer(1, 1)
    running, _ = client.submit()
    waiting, _ = client.submit()
    monkeypatch.setattr(client.core._calls, "fail", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.step(Terminate())
    monkeypatch.undo()
    unresolved = [call for call in (running, waiting) if not call.resolved]
    effects = client.core.recover(unresolved, {}, client.now_s, is_joining=False)
    assert (sent(effects), running in unresolved) == ([], True)
    (fail,) = of(effects, Fail)
    assert (fail.call, type(fail.error), fail.error.may_have_run) == (running, ExecutorBroken, True)
    assert of(effects, Drained)


def test_a_call_that_pauses_before_its_retry_fails_with_the_break():
    client = Client(initializer="init")
    client.worker(1)
    client.answer(1, 1)
    call, _ = client.submit(idempotent=True, retries=3, retry_on=(OSError,))
    (question,) = of(client.answer(1, 2, status=EXCEPTION), Examine)
    client.step(Break(ExecutorBroken("told")))
    effects = client.step(Examined(call, question.frame, question.info, again=True))
    assert [(type(fail.error), fail.error.may_have_run) for fail in of(effects, Fail)] == [(ExecutorBroken, True)]


def test_the_agent_is_asked_about_a_chore_whose_channel_broke_alone(client):
    client.submit()
    assert sent(client.worker(1)) == [(1, "init")]
    client.step(ChannelEnded(1))
    client.now_s += ASK_WAIT_S
    assert [(ask.channel, ask.call_id) for ask in of(client.step(Tick()), SendInterrupt)] == [(1, 1)]
    effects = client.dies(1, last_started=1, reason=ReasonCode.CALL_INTERRUPTED)
    assert (of(effects, Broke), [close.channel for close in of(effects, CloseChannel)]) == ([], [1])
    assert sent(client.worker(2)) == [(2, "init")]


def test_a_chore_that_was_noted_and_not_sent_is_sent_after_a_recovery(client):
    assert sent(client.worker(1)) == [(1, "init")]
    effects = client.core.recover([], {1: 1}, client.now_s, is_joining=False)  # the credit is there: nothing was sent
    assert sent(effects) == [(1, "init")]
    assert sent(client.core.recover([], {1: 0}, client.now_s, is_joining=False)) == []
