"""The client's core: session processes that come and go; no I/O."""

from unit.client.played import LEASE, Client, Frame, info, none, only

from rfaas.client.channel_ends import END_WAIT_S
from rfaas.client.effects import Connect, Deliver, Dispatch, Fail, SendWant
from rfaas.client.events import (
    ChannelEnded,
    ChannelsCondemned,
    FrameArrived,
    LeaseEnded,
    LeaseGranted,
    SessionFailed,
    SessionLost,
)
from rfaas.client.records import Lease, Verdict
from rfaas_transport.errors import AgentLost, AllocatorUnavailable, ReasonCode


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
