"""The client's core: notices and the standing target; no I/O."""

from unit.client.played import LEASE, Client, none, only

from rfaas.client.effects import Deliver, Dispatch, Fail, SendWant, Starving
from rfaas.client.events import ChannelsCondemned, Denied, Notice, Queued
from rfaas.client.records import Verdict
from rfaas.client.target import DENIED_PAUSE_S, LOWER_WANT_AFTER_S, STARVING_AFTER_S
from rfaas_transport.errors import AcquireTimeout, ConfigError, EnvironmentFailed, LeaseDenied, ReasonCode


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


def test_a_medium_that_can_t_be_had_is_a_mistake_of_the_configuration():
    client = Client()
    client.submit()
    denied = Denied("verbs-unavailable", "RDMA to the workers on n1 can't be had: no device")
    error = only(client.step(denied), Fail).error
    assert (type(error), error.phase, error.may_have_run) == (ConfigError, "QUEUED", False)
    assert "n1" in error.message
    assert "auto" in error.hint


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
