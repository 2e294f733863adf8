"""The client's core: calls that lie behind others at their worker, and how they are taken back; no I/O."""

from unit.client.played import IDEMPOTENT, Client, Frame, none, only

from rfaas.client.answers import TAKEN
from rfaas.client.behind import LONG_S, MOST_AT_ONCE
from rfaas.client.chores import Chores
from rfaas.client.core import ClientCore
from rfaas.client.effects import (
    Deliver,
    Dispatch,
    Fail,
    Lent,
    Requeued,
    SendInterrupt,
    Started,
    TakeBack,
    Withdrawn,
)
from rfaas.client.events import (
    Borrowed,
    Cancel,
    CancelOverdue,
    FrameArrived,
    Lend,
    Returned,
    Shutdown,
    Submit,
)
from rfaas.client.records import Call
from rfaas.config import CallSettings


def submit(client, follows=b"f", settings=None):
    call = Call(len(client.effects), "work", settings or CallSettings(), follows=follows)
    return call, client.step(Submit(call))


def taken(client, channel, call_id, credits=1):
    return client.step(FrameArrived(channel, Frame(TAKEN, call_id, credits=credits)))


def quick_worker(client, number=1):
    """A worker that has answered at once and was asked for more credits, which it gave; nothing runs there."""
    client.worker(number)
    first, _ = submit(client)
    second, _ = submit(client)
    assert only(client.answer(number, first.call_id), TakeBack).call_id == 0
    taken(client, number, 0, credits=7)
    client.answer(number, second.call_id)


def several(client, n, **more):
    """So many calls at the quick worker."""
    calls = []
    for _ in range(n):
        call, effects = submit(client, **more)
        assert only(effects, Dispatch).channel == 1
        calls.append(call)
    return calls


def test_a_worker_is_asked_for_more_credits_once_calls_wait_and_it_is_quick(client):
    client.worker(1)
    call, _ = submit(client)
    none(client.answer(1, call.call_id), TakeBack)  # nothing waits
    call, _ = submit(client)
    submit(client)
    client.wait(0.5)
    effects = client.answer(1, call.call_id)
    none(effects, TakeBack)  # it took long
    call = only(effects, Dispatch).call
    submit(client)
    submit(client)
    effects = client.answer(1, call.call_id)
    assert only(effects, TakeBack).call_id == 0
    none(client.answer(1, only(effects, Dispatch).call.call_id), TakeBack)  # asked already


def test_calls_lie_behind_others_up_to_a_number_and_run_in_order(client):
    quick_worker(client)
    calls = several(client, MOST_AT_ONCE)
    assert [call.behind for call in calls] == [False] + [True] * (MOST_AT_ONCE - 1)
    _, effects = submit(client)
    none(effects, Dispatch)
    effects = client.answer(1, calls[0].call_id)
    assert only(effects, Started).call is calls[1]
    assert only(effects, Dispatch).channel == 1
    assert not calls[1].behind


def test_idle_workers_come_first_and_the_rest_is_shared(client):
    quick_worker(client)
    client.worker(2)
    channels = [only(submit(client)[1], Dispatch).channel for _ in range(3)]
    assert sorted(channels) == [1, 1, 2]


def test_nothing_lies_behind_another_function_or_if_it_has_a_deadline_or_is_large(client):
    quick_worker(client)
    several(client, 1)
    none(submit(client, b"another")[1], Dispatch)


def test_large_calls_wait_in_the_queue(client):
    quick_worker(client)
    several(client, 1)
    none(submit(client, b"")[1], Dispatch)


def test_nothing_is_sent_behind_a_call_that_has_run_for_long(client):
    quick_worker(client)
    several(client, 1)
    client.wait(2 * LONG_S)
    none(submit(client)[1], Dispatch)


def test_what_lies_behind_a_long_call_goes_to_the_worker_that_becomes_idle(client):
    quick_worker(client)
    long_one, *short = several(client, 3)
    none(client.wait(10 * LONG_S), TakeBack)  # nobody else could run it
    asked = [effect for effect in client.worker(2) if isinstance(effect, TakeBack)]
    assert [effect.call_id for effect in asked] == [call.call_id for call in short]
    for call in short:
        call_id = call.call_id
        effects = taken(client, 1, call_id)
        if call is short[0]:
            assert only(effects, Dispatch).channel == 2
    assert short[1].queued
    only(client.answer(2, short[0].call_id), Deliver)
    assert not long_one.resolved


def test_it_is_taken_back_by_time_if_a_worker_idles_already(client):
    quick_worker(client)
    client.worker(2)
    several_channels = [only(submit(client)[1], Dispatch).channel for _ in range(4)]
    assert sorted(several_channels) == [1, 1, 1, 2]
    (there,) = [c for c in client.core._channels if c.info.number == 2]
    client.answer(2, next(iter(there.running)))
    effects = client.wait(2 * LONG_S)
    assert len([effect for effect in effects if isinstance(effect, TakeBack)]) == 2
    none(client.wait(1.0), TakeBack)  # once


def test_a_call_that_comes_back_is_pending_again(client):
    quick_worker(client)
    _, behind = several(client, 2)
    client.step(Cancel(behind))
    client.step(CancelOverdue(behind))
    effects = taken(client, 1, behind.call_id)
    assert only(effects, Requeued).call is behind
    none(effects, Withdrawn)


def test_cancel_takes_back_and_only_the_workers_word_cancels(client):
    quick_worker(client)
    runs, behind = several(client, 2)
    effects = client.step(Cancel(behind))
    assert only(effects, TakeBack).call_id == behind.call_id
    none(effects, Withdrawn)
    assert behind.withdrawing
    assert only(taken(client, 1, behind.call_id), Withdrawn).call is behind
    none(client.step(Cancel(runs)), TakeBack)
    none(client.wait(0.001), Withdrawn)


def test_cancel_comes_too_late_if_the_call_starts(client):
    quick_worker(client)
    runs, behind = several(client, 2)
    client.step(Cancel(behind))
    assert only(client.answer(1, runs.call_id), Started).call is behind
    assert not behind.withdrawing
    only(client.answer(1, behind.call_id), Deliver)


def test_an_interrupt_asks_for_the_call_first_and_for_the_agent_if_it_starts(client):
    quick_worker(client)
    client.join()
    runs, behind = several(client, 2)
    effects = client.step(Cancel(behind, interrupt=True))
    only(effects, TakeBack)
    none(effects, SendInterrupt)
    assert only(client.answer(1, runs.call_id), SendInterrupt).call_id == behind.call_id


def test_an_interrupted_call_that_was_taken_back_never_ran(client):
    quick_worker(client)
    _, behind = several(client, 2)
    client.step(Cancel(behind, interrupt=True))
    assert only(taken(client, 1, behind.call_id), Withdrawn).call is behind


def test_of_the_calls_at_a_dead_worker_only_the_started_one_is_uncertain(client):
    quick_worker(client)
    runs, *behind = several(client, 4)
    effects = client.farewell(1, last_started=runs.call_id)
    assert only(effects, Fail).call is runs
    assert runs.may_have_run
    assert [call for call in client.core._calls.queue] == behind
    assert not any(call.may_have_run or call.behind for call in behind)


def test_without_a_word_all_of_them_may_have_run(client):
    quick_worker(client)
    calls = several(client, 3, settings=IDEMPOTENT)
    client.farewell(1, last_started=None)
    assert all(call.may_have_run and not call.behind for call in calls)


def test_shutdown_that_cancels_takes_back_what_has_not_started(client):
    quick_worker(client)
    runs, *behind = several(client, 3)
    effects = client.step(Shutdown(cancel_queued=True))
    assert len([effect for effect in effects if isinstance(effect, TakeBack)]) == 2
    for call in behind:
        assert only(taken(client, 1, call.call_id), Withdrawn).call is call
    only(client.answer(1, runs.call_id), Deliver)


def test_workers_with_a_number_of_calls_get_one_at_a_time():
    client = Client()
    client.core = ClientCore(8, None, seed=1, chores=Chores(max_calls=100))
    client.worker(1)
    call, _ = submit(client)
    submit(client)
    none(client.answer(1, call.call_id), TakeBack)


def test_a_worker_that_takes_no_further_call_is_sent_nothing_for_the_credits_that_it_gave(client):
    quick_worker(client)
    runs, _ = several(client, 2)
    client.answer(1, runs.call_id, credits=0)
    none(submit(client)[1], Dispatch)


def test_workers_whose_channels_are_on_loan_are_asked_once_calls_wait_there(client):
    client.worker(1)
    only(client.step(Lend()), Lent)
    none(client.step(Borrowed(1)), TakeBack)
    assert only(client.step(Borrowed(9)), TakeBack).call_id == 0
    none(client.step(Borrowed(20)), TakeBack)


def test_calls_that_come_back_from_a_loan_lie_behind_each_other(client):
    client.worker(1)
    last_id_before = only(client.step(Lend()), Lent).last_id_before
    client.step(Borrowed(9))
    calls = [Call(n, "work", CallSettings(), call_id=last_id_before + 10 + n, follows=b"f") for n in range(3)]
    client.step(Returned(1, 9, tuple(calls), credits=7))
    assert [call.behind for call in calls] == [False, True, True]
    (channel,) = client.core._channels
    assert channel.credits == 5
    effects = client.worker(2) + client.wait(10 * LONG_S)
    assert len([effect for effect in effects if isinstance(effect, TakeBack)]) == 2
    for call in calls[1:]:
        taken(client, 1, call.call_id)
    assert calls[1].channel == 2
    only(client.answer(1, calls[0].call_id), Deliver)
