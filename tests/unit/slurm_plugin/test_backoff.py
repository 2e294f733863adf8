"""Pauses of the harvester when Slurm fails."""

import random

import pytest

from rfaas_slurm_plugin.harvest.backoff import LONGEST_PING_S, Backoff


@pytest.fixture
def backoff():
    return Backoff(10.0, random.Random(1))


def test_a_cycle_has_ten_percent_of_jitter(backoff):
    pauses = [backoff.after_success() for _ in range(200)]
    assert 9.0 <= min(pauses) < 9.5
    assert 10.5 < max(pauses) <= 11.0
    assert not backoff.must_ping


def test_a_slurmctld_that_does_not_answer_is_pinged_soon_and_at_least_every_three_seconds(backoff):
    pauses = [backoff.after_no_answer() for _ in range(100)]
    assert backoff.must_ping
    assert pauses[0] <= 0.5
    assert max(pauses) <= LONGEST_PING_S
    assert min(pauses[5:]) >= LONGEST_PING_S / 2
    assert len({round(pause, 3) for pause in pauses[5:]}) > 50  # jitter: not all harvesters at once


def test_one_that_answers_but_is_overloaded_is_left_alone_for_longer_each_time(backoff):
    pauses = [backoff.after_failed_query() for _ in range(10)]
    assert backoff.must_ping
    assert 10.0 <= pauses[0] <= 20.0
    assert all(40.0 <= pause <= 80.0 for pause in pauses[3:])


def test_a_success_forgets_all(backoff):
    backoff.after_no_answer()
    backoff.after_failed_query()
    backoff.after_success()
    assert not backoff.must_ping
    assert backoff.after_no_answer() <= 0.5
