"""The client's core: queue, credits, results; no I/O."""

from unit.client.played import HELLO, Client, Frame, info, none, only

from rfaas.client.answers import ERROR
from rfaas.client.effects import Connect, Deliver, Dispatch, Fail, SendWant
from rfaas.client.events import ChannelOpened, FrameArrived, SendFailed
from rfaas_transport.errors import ChannelBroken, PayloadTooLarge, ProtocolError


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
