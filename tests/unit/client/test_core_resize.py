"""The client's core: a number of workers that the program says, and leases that are given back; no I/O."""

import pytest
from unit.client.played import Client, info, none, only
from unit.client.test_core_behind import several, submit, taken

from rfaas.client.capacity import Capacity
from rfaas.client.effects import (
    Connect,
    Deliver,
    Dispatch,
    GiveBack,
    Recall,
    SendWant,
    TakeBack,
    TellGain,
    TellReclaim,
)
from rfaas.client.events import (
    ChannelOpened,
    Denied,
    LeaseEnded,
    LeaseGranted,
    Notice,
    Resize,
    SessionFailed,
    SessionLost,
    SessionUp,
    Shutdown,
)
from rfaas.client.records import Lease
from rfaas.client.target import DENIED_PAUSE_S, LOWER_WANT_AFTER_S
from rfaas_transport.errors import AllocatorUnavailable, ReasonCode


def lease(number, workers=1):
    return Lease(b"%16d" % number, number, 1, b"s" * 16, "unix:@a", "n1", workers, 10.0)


@pytest.fixture
def client():
    client = Client(embedded=False)
    client.step(Resize(4, 1))
    client.join()
    return client


def hold(client, *numbers, workers=1):
    """Leases with these numbers, whose first workers come on channels of the same."""
    for number in numbers:
        client.step(LeaseGranted(lease(number, workers)))
        client.worker(number, lease(number).lease)


def given_back(effects):
    return [int(effect.lease) for effect in effects if isinstance(effect, GiveBack)]


def test_a_resize_asks_for_workers_without_any_call():
    client = Client()
    only(client.step(Resize(3, 1)), Connect)
    want = only(client.join(), SendWant)
    assert (want.workers, want.lease_workers) == (3, 1)
    none(client.wait(LOWER_WANT_AFTER_S * 2), SendWant)  # it stands
    assert only(client.step(Resize(5, 2)), SendWant).workers == 5


def test_calls_beyond_the_number_do_not_ask_for_more(client):
    none([effect for _ in range(9) for effect in client.submit()[1]], SendWant)


def test_without_a_number_the_calls_decide_again(client):
    client.submit()
    assert only(client.step(Resize(None, 0)), SendWant).workers == 1
    assert only(client.submit()[1], SendWant).workers == 2


def test_idle_leases_are_given_back_at_once_after_the_new_target(client):
    hold(client, 1, 2, 3, 4)
    effects = client.step(Resize(1, 1))
    assert [type(effect) for effect in effects].count(GiveBack) == 3
    assert only(effects, SendWant).workers == 1
    assert client.core.capacity() == Capacity(wanted=1, have=1, ready=1, idle=1, returning=3)


def test_those_that_are_not_up_yet_go_first(client):
    hold(client, 1)
    client.step(LeaseGranted(lease(2)))
    assert given_back(client.step(Resize(1, 1))) == [2]


def test_a_busy_worker_ends_its_call_and_gets_no_other(client):
    hold(client, 1, 2)
    calls = [only(client.submit()[1], Dispatch) for _ in range(2)]
    none(client.step(Resize(0, 1)), GiveBack)
    waits, effects = client.submit()
    none(effects, Dispatch)
    effects = client.answer(calls[0].channel, calls[0].call_id)
    only(effects, Deliver)
    none(effects, Dispatch)
    assert given_back(effects) == [calls[0].channel]
    assert given_back(client.answer(calls[1].channel, calls[1].call_id)) == [calls[1].channel]
    assert not waits.resolved
    hold(client, 3)  # granted before the target was heard
    assert client.core.capacity().returning == 3


def test_who_ends_its_call_first_goes_and_who_was_to_go_stays(client):
    hold(client, 1, 2)
    first, second = (only(client.submit()[1], Dispatch) for _ in range(2))
    client.step(Resize(1, 1))
    leaving = next(iter(client.core._returns.leaving))
    staying = first if b"%16d" % first.channel != leaving else second
    assert given_back(client.answer(staying.channel, staying.call_id)) == [staying.channel]
    other = first if staying is second else second
    client.submit()
    assert only(client.answer(other.channel, other.call_id), Dispatch).channel == other.channel


def test_growing_keeps_who_was_about_to_go(client):
    hold(client, 1, 2)
    sent = [only(client.submit()[1], Dispatch) for _ in range(2)]
    client.step(Resize(0, 1))
    client.step(Resize(2, 1))
    client.submit()
    effects = client.answer(sent[0].channel, sent[0].call_id)
    none(effects, GiveBack)
    assert only(effects, Dispatch).channel == sent[0].channel


def test_shutdown_lifts_a_target_of_none_for_the_calls_that_wait_and_no_other(client):
    hold(client, 1)
    client.step(Resize(0, 1))
    client.submit()
    assert only(client.step(Shutdown(False)), SendWant).workers == 1


def test_a_lease_larger_than_what_is_too_much_stays(client):
    hold(client, 1, workers=3)
    none(client.step(Resize(1, 1)), GiveBack)
    assert given_back(client.step(Resize(0, 1))) == [1]


def test_channels_on_loan_are_called_back_first(client):
    from rfaas.client.events import Lend, Returned

    hold(client, 1)
    client.step(Lend())
    effects = client.step(Resize(0, 1))
    only(effects, Recall)
    none(effects, GiveBack)
    assert given_back(client.step(Returned(1, 0, credits=0))) == [1]


def test_what_is_given_back_is_said_to_each_new_session_process_and_never_used_again(client):
    hold(client, 1, 2)
    client.step(Resize(1, 1))
    gone = next(iter(client.core._returns._returned))
    channel = int(gone)
    effects = client.step(SessionLost())
    assert gone in [entry[0].lease for entry in only(effects, Connect).resume]
    assert given_back(client.step(SessionUp(embedded=False))) == [channel]
    client.step(Resize(2, 1))
    assert given_back(client.step(LeaseGranted(lease(channel)))) == [channel]
    client.step(ChannelOpened(info(9, gone)))
    client.worker(9, gone)
    sent = [effect.channel for _ in range(2) for effect in client.submit()[1] if isinstance(effect, Dispatch)]
    assert sent == [3 - channel]
    client.step(LeaseEnded(gone))
    assert client.core.capacity().returning == 0
    client.step(LeaseGranted(lease(channel)))  # by an allocator that had not heard of its end
    assert client.core.capacity().have == 1


def test_gains_are_told_once_a_lease_and_reclaims_only_of_leases_that_were_to_stay(client):
    client.step(LeaseGranted(lease(1, 2)))
    assert only(client.worker(1, lease(1).lease), TellGain).lease.workers == 2
    none(client.worker(2, lease(1).lease), TellGain)
    only(client.step(Notice(lease(1).lease, (1, 2), ReasonCode.SLURM_PREEMPT, 5.0)), TellReclaim)
    assert client.core.capacity().in_notice == 2
    hold(client, 3)
    client.step(Resize(0, 1))
    none(client.step(Notice(lease(3).lease, (3,), ReasonCode.SLURM_PREEMPT, 5.0)), TellReclaim)


def test_a_denial_is_not_asked_again_at_once(client):
    none(client.step(Denied("quota", "")), SendWant)
    assert client.core.capacity().wanted == 4
    assert "quota" in client.core.capacity().why
    assert only(client.wait(DENIED_PAUSE_S + 0.1), SendWant).workers == 4


def test_without_a_session_process_it_is_tried_again_after_a_pause():
    client = Client()
    client.step(Resize(1, 1))
    none(client.step(SessionFailed(AllocatorUnavailable("no"))), Connect)
    only(client.wait(3.0), Connect)


def test_shut_down_it_asks_for_nothing():
    client = Client()
    client.step(Resize(1, 1))
    client.join()
    client.step(Shutdown())
    none(client.step(SessionLost()), Connect)


def test_calls_behind_others_move_to_who_stays(client):
    hold(client, 1)
    quick = [only(submit(client)[1], Dispatch), submit(client)[0]]
    client.answer(1, quick[0].call_id)
    taken(client, 1, 0, credits=7)
    client.answer(1, quick[1].call_id)
    runs, behind = several(client, 2)
    effects = client.step(Resize(0, 1))
    assert only(effects, TakeBack).call_id == behind.call_id
    none(effects, GiveBack)
    none(taken(client, 1, behind.call_id), Dispatch)
    assert given_back(client.answer(1, runs.call_id)) == [1]
    client.step(Resize(1, 1))
    client.step(LeaseGranted(lease(2)))
    assert only(client.worker(2, lease(2).lease), Dispatch).call is behind
