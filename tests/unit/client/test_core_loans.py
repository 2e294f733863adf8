"""The client's core: the channel that it lends to who invokes; no I/O."""

from unit.client.played import Client, none, only

from rfaas.client.effects import (
    CloseChannel,
    Deliver,
    Dispatch,
    Drained,
    Fail,
    Lent,
    Recall,
    SendWant,
    Withdrawn,
)
from rfaas.client.events import Borrowed, Lend, Returned, Shutdown, Submit, Terminate
from rfaas.client.loans import LENT_IDS
from rfaas.client.records import Call
from rfaas.config import CallSettings
from rfaas_transport.errors import ExecutorBroken


def lend(client):
    """An idle worker's channel on loan; the number before its first call."""
    client.worker(1)
    lent = only(client.step(Lend()), Lent)
    assert lent.channel == 1
    return lent.last_id_before


def test_there_is_one_loan_at_a_time(client):
    """Two threads may ask at once; a second loan would be forgotten, and its executor never end."""
    lend(client)
    client.worker(2)
    none(client.step(Lend()), Lent)
    client.step(Returned(1, 0))
    lent = [effect for effect in client.step(Lend()) if isinstance(effect, Lent)]
    assert {effect.channel for effect in lent} == {1, 2}
    assert abs(lent[0].last_id_before - lent[1].last_id_before) >= LENT_IDS


def test_all_idle_channels_are_lent_and_busy_ones_are_not(client):
    for number in (1, 2, 3):
        client.worker(number)
    _, effects = client.submit()
    busy = only(effects, Dispatch).channel
    lent = {effect.channel for effect in client.step(Lend()) if isinstance(effect, Lent)}
    assert lent == {1, 2, 3} - {busy}
    for number in lent:
        client.step(Returned(number, 0))
    assert len([effect for effect in client.step(Lend()) if isinstance(effect, Lent)]) == 2


def test_borrowed_calls_ask_for_workers_too():
    client = Client(max_workers=4)
    client.join()
    lend(client)
    assert only(client.step(Borrowed(3)), SendWant).workers == 3
    assert only(client.step(Borrowed(99)), SendWant).workers == 4


def test_nothing_is_lent_while_something_waits_or_nobody_idles(client):
    none(client.step(Lend()), Lent)
    client.worker(1)
    client.submit()
    none(client.step(Lend()), Lent)


def test_what_waits_has_the_channel_back(client):
    lend(client)
    call, effects = client.submit()
    only(effects, Recall)
    none(effects, Dispatch)
    dispatch = only(client.step(Returned(1, 3)), Dispatch)
    assert (dispatch.call, dispatch.channel) == (call, 1)
    statistics = client.core.statistics()
    assert (statistics["submitted"], statistics["answered"], statistics["dispatched"]) == (4, 3, 4)


def test_numbers_of_calls_never_come_twice(client):
    before = lend(client)
    client.step(Returned(1, 5))
    _, effects = client.submit()
    assert only(effects, Dispatch).call_id > before + 5


def test_a_call_in_flight_comes_back_with_its_channel_and_ends_like_any_other(client):
    before = lend(client)
    call = Call(9, "work", CallSettings(), call_id=before + 1)
    client.step(Returned(1, 0, (call,)))
    assert only(client.answer(1, before + 1), Deliver).call is call
    _, effects = client.submit()
    assert only(effects, Dispatch).channel == 1


def test_a_call_in_flight_is_lost_with_its_worker(client):
    before = lend(client)
    call = Call(9, "work", CallSettings(), call_id=before + 1)
    client.step(Returned(1, 0, (call,)))
    fail = only(client.farewell(1, last_started=before + 1), Fail)
    assert (fail.call, fail.error.may_have_run) == (call, True)


def test_a_call_in_flight_that_had_not_started_goes_elsewhere(client):
    before = lend(client)
    call = Call(9, "work", CallSettings(), call_id=before + 1)
    client.step(Returned(1, 0, (call,)))
    client.worker(2)
    assert only(client.farewell(1, last_started=before), Dispatch).channel == 2


def test_an_executor_ends_only_once_its_channel_is_back(client):
    lend(client)
    effects = client.step(Shutdown())
    only(effects, Recall)
    none(effects, Drained)
    only(client.step(Returned(1, 2)), Drained)


def test_calls_that_come_back_after_shutdown_are_cancelled_if_those_that_waited_were(client):
    lend(client)
    client.step(Shutdown(cancel_queued=True))
    call = Call(9, "work", CallSettings())
    effects = client.step(Submit(call))
    assert only(effects, Withdrawn).call is call
    none(effects, Drained)
    only(client.step(Returned(1, 2)), Drained)


def test_calls_that_come_back_after_shutdown_run_if_those_that_waited_did(client):
    lend(client)
    client.step(Shutdown())
    call = Call(9, "work", CallSettings())
    client.step(Submit(call))
    effects = client.step(Returned(1, 2))
    none(effects, Drained)
    dispatch = only(effects, Dispatch)
    assert dispatch.call is call
    effects = client.answer(1, dispatch.call_id)
    only(effects, Drained)


def test_termination_waits_for_the_channel_and_fails_what_is_in_flight(client):
    before = lend(client)
    none(client.step(Terminate()), CloseChannel)
    call = Call(9, "work", CallSettings(), call_id=before + 1)
    effects = client.step(Returned(1, 0, (call,)))
    assert only(effects, CloseChannel).channel == 1
    assert isinstance(only(effects, Fail).error, ExecutorBroken)
    only(effects, Drained)


def test_an_interrupted_step_does_not_make_a_channel_on_loan_idle():
    client = Client()
    client.join()
    lend(client)
    none(client.core.recover([], {1: 1}, client.now_s, is_joining=False), Dispatch)
    _, effects = client.submit()
    none(effects, Dispatch)
    only(client.step(Returned(1, 0)), Dispatch)
