"""Callbacks of `Executor.on_reclaim`: in a thread of their own, one after the other, whatever they do."""

import logging
import threading

import pytest

from rfaas.client.events import Notice
from rfaas.client.reclaims import ReclaimNotice, Reclaims
from rfaas_transport.errors import ReasonCode
from support.waiting import wait_until

LEASE = b"l" * 16


def notice(reason=1):
    return Notice(LEASE, (1, 2), reason, 5.0, "n1", (3, 4))


@pytest.fixture
def reclaims():
    reclaims = Reclaims()
    yield reclaims
    reclaims.close()
    if reclaims._thread is not None:
        reclaims._thread.join(5)
        assert not reclaims._thread.is_alive()


def test_a_callback_gets_what_goes_back_in_another_thread(reclaims):
    got = []
    reclaims.subscribe(lambda about: got.append((about, threading.current_thread().name)))
    reclaims.tell(notice())
    wait_until(lambda: got, 5)
    assert got == [(ReclaimNotice("n1", (3, 4), 5.0, ReasonCode.SLURM_PREEMPT, LEASE), "rfaas-notices")]


def test_a_reason_of_the_future_is_none_of_ours(reclaims):
    got = []
    reclaims.subscribe(got.append)
    reclaims.tell(notice(reason=999))
    wait_until(lambda: got, 5)
    assert got[0].reason_code is ReasonCode.NONE


def test_without_callbacks_there_is_no_thread(reclaims):
    reclaims.tell(notice())
    assert reclaims._thread is None


def test_one_that_raises_is_logged_and_the_others_are_called(reclaims, caplog):
    got = []

    def broken(about):
        raise ValueError("a broken callback")

    reclaims.subscribe(broken)
    reclaims.subscribe(got.append)
    with caplog.at_level(logging.ERROR):
        reclaims.tell(notice())
        wait_until(lambda: got, 5)
    assert "a broken callback" in caplog.text


def test_a_slow_one_delays_nobody_who_tells(reclaims):
    gate, got = threading.Event(), []
    reclaims.subscribe(lambda about: gate.wait(5))
    reclaims.subscribe(got.append)
    for _ in range(3):
        reclaims.tell(notice())  # returns at once
    assert got == []
    gate.set()
    wait_until(lambda: len(got) == 3, 5)


def test_a_cancelled_one_is_called_no_more(reclaims):
    got, other = [], []
    subscription = reclaims.subscribe(got.append)
    reclaims.subscribe(other.append)
    subscription.cancel()
    subscription.cancel()
    reclaims.tell(notice())
    wait_until(lambda: other, 5)
    assert got == []


def test_what_is_no_function_is_refused(reclaims):
    with pytest.raises(TypeError, match="one argument"):
        reclaims.subscribe("print")
