"""Policies for the number of workers, and what runs them; no clock, thread or executor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfaas.client.capacity import Capacity
from rfaas.steering import PATIENCE_S, Observation, Steering, follow_calls

COUNT = st.integers(0, 1000)
OBSERVATIONS = st.builds(
    Observation,
    queued=COUNT,
    running=COUNT,
    idle_s=st.floats(0, 100),
    capacity=st.builds(Capacity, wanted=COUNT, have=COUNT, idle=COUNT),
    throughput_per_s=st.floats(0, 1e6),
    busiest=COUNT,
)


def seen(queued=0, running=0, idle_s=0.0, wanted=0, throughput_per_s=0.0, busiest=0):
    return Observation(queued, running, idle_s, Capacity(wanted=wanted), throughput_per_s, busiest)


def test_before_any_call_has_ended_each_gets_a_worker():
    assert follow_calls(seen(queued=5, running=2)) == 7


def test_long_calls_get_a_worker_each():
    assert follow_calls(seen(queued=5, running=2, wanted=2, throughput_per_s=0.1)) == 7


def test_short_calls_get_as_many_as_have_the_queue_done_in_a_second():
    assert follow_calls(seen(queued=1000, running=2, wanted=2, throughput_per_s=200)) == 10  # 10 ms each


def test_calls_that_drain_by_themselves_bring_no_worker():
    assert follow_calls(seen(queued=100, running=2, wanted=2, throughput_per_s=200)) == 2


def test_what_nothing_needed_for_a_while_goes_down_to_what_was_used():
    assert follow_calls(seen(wanted=8, running=1, idle_s=PATIENCE_S - 0.1, busiest=3)) == 8
    assert follow_calls(seen(wanted=8, running=1, idle_s=PATIENCE_S, busiest=3)) == 3


@given(OBSERVATIONS)
def test_it_never_takes_a_worker_away_while_calls_wait_and_never_adds_one_while_none_does(observation):
    asked = follow_calls(observation)
    assert asked >= 0
    if observation.queued:
        assert asked >= observation.capacity.wanted
        assert asked <= max(observation.capacity.wanted, observation.running + observation.queued)
    else:
        assert asked <= observation.capacity.wanted


@given(OBSERVATIONS, COUNT)
def test_more_waiting_calls_never_ask_for_fewer_workers(observation, more):
    from dataclasses import replace

    if observation.queued:
        assert follow_calls(replace(observation, queued=observation.queued + more)) >= follow_calls(observation)


@given(st.lists(st.tuples(COUNT, COUNT, COUNT, st.floats(0, 3)), max_size=30), st.integers(0, 9), st.integers(0, 90))
def test_the_number_is_between_the_bounds_and_comes_down_to_the_least(steps, minimum, more):
    steering = Steering(minimum, minimum + more)
    now_s = n_ended = 0
    for queued, running, idle, pause_s in steps:
        now_s += pause_s
        n_ended += running
        capacity = Capacity(wanted=steering.target, queued=queued, running=running, idle=idle)
        assert minimum <= steering.step(capacity, n_ended, now_s) <= minimum + more
    steering.step(Capacity(wanted=steering.target, idle=1), n_ended, now_s)
    for _ in range(3):
        now_s += PATIENCE_S
        steering.step(Capacity(wanted=steering.target, idle=1), n_ended, now_s)
    assert steering.target == minimum


def test_a_policy_of_ones_own_sees_all_that_it_needs():
    said = []
    steering = Steering(0, 10, lambda observation: said.append(observation) or 3)
    steering.step(Capacity(wanted=2, running=2), 0, 100.0)
    steering.step(Capacity(wanted=2, running=1, idle=1), 50, 101.0)
    assert steering.step(Capacity(wanted=2, idle=2), 60, 102.0) == 3
    assert [(one.idle_s, one.throughput_per_s, one.busiest) for one in said] == [(0, 0, 2), (1, 50, 2), (2, 30, 2)]


@pytest.mark.parametrize("answer", [1.5, None, True, "3"])
def test_a_policy_that_answers_with_no_integer_changes_nothing(answer):
    steering = Steering(2, 10, lambda _: answer)
    with pytest.raises(TypeError, match="must answer with an integer"):
        steering.step(Capacity(), 0, 0.0)
    assert steering.target == 2
