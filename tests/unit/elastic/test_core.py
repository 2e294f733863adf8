"""All ranks decide the same at the same iteration, whoever heard the notice and when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfaas.elastic.core import Core, Decision, State, Word
from rfaas.elastic.interval import daly_s, young_s
from rfaas_transport.errors import ConfigError


def core(**changed):
    return Core(0.0, **{"look_every_s": 0.05, "every": None, "interval_s": 10.0, "mtbf_s": 3600.0, **changed})


def run(cores, heard, n_iterations, iteration_s):
    """Let all ranks iterate, each by a clock of its own; returns what each decided at each boundary."""
    told = [[] for _ in cores]
    said = []
    for iteration in range(1, n_iterations + 1):
        now = [iteration * iteration_s * (1 + rank / 10) for rank in range(len(cores))]
        if any(one.must_collect(iteration) for one in cores):
            assert all(one.must_collect(iteration) for one in cores)
            word = Word(*(max(numbers) for numbers in zip(*(word.numbers() for word in said), strict=True)))
            decisions = [one.collected(word) for one in cores]
        else:
            decisions = [one.at(iteration) for one in cores]
        for rank, one in enumerate(cores):
            told[rank].append(decisions[rank])
            if decisions[rank] is Decision.CHECKPOINT:
                one.saved(iteration, now[rank], 0.01)
        words = [one.ask(iteration, now[rank], heard(rank, iteration, now[rank])) for rank, one in enumerate(cores)]
        if any(words):
            assert all(words)
            said = words
        if decisions[0] is Decision.STOP:
            break
    return told


@given(st.integers(1, 5), st.data())
def test_a_notice_at_one_rank_stops_all_at_the_same_iteration_soon(n_ranks, data):
    who = data.draw(st.integers(0, n_ranks - 1))
    when = data.draw(st.integers(1, 200))
    iteration_s = data.draw(st.sampled_from([0.0001, 0.001, 0.01, 1.0]))
    cores = [core() for _ in range(n_ranks)]
    told = run(cores, lambda rank, i, now: now - 0.1 if rank == who and i >= when else None, 3000, iteration_s)
    assert all(decisions == told[0] for decisions in told)
    assert told[0][-1] is Decision.STOP
    assert all(one.state is State.ENDED for one in cores)
    # strides shrink with the slowest rank's iterations: two of them, and the first which is 1
    assert len(told[0]) - when <= 2 * max(1, round(0.05 / iteration_s)) + 1


def test_without_notice_reductions_get_as_rare_as_was_asked():
    one = core()
    asked = []
    for iteration in range(1, 201):
        if one.must_collect(iteration):
            one.collected(Word(iteration_s=0.005))
        if one.ask(iteration, iteration * 0.005, None):
            asked.append(iteration)
    assert one.stride == 10
    assert asked[:3] == [1, 2, 12]
    assert len(asked) == 21


def test_by_iterations_all_save_without_asking_each_other():
    one = core(every=7)
    at = [i for i in range(1, 30) if one.at(i) is Decision.CHECKPOINT and not one.saved(i, float(i), 0.1)]
    assert at == [7, 14, 21, 28]
    word = one.ask(30, 1e9, None)
    assert word is not None
    assert word.due == 0


def test_by_time_one_slow_clock_is_enough():
    told = run([core(interval_s=1.0) for _ in range(3)], lambda *_: None, 400, 0.01)
    assert all(decisions == told[0] for decisions in told)
    assert told[0].count(Decision.CHECKPOINT) in (3, 4)


def test_the_interval_follows_what_a_checkpoint_took():
    one = core(interval_s=None, mtbf_s=3600.0)
    assert one.interval_s == 1.0
    one.saved(1, 1.0, 2.0)
    assert one.interval_s == pytest.approx(daly_s(2.0, 3600.0))


def test_nothing_is_collected_that_was_not_asked():
    with pytest.raises(RuntimeError, match="nothing was asked"):
        core().collected(Word())


def test_the_interval_is_that_of_the_paper():
    assert young_s(2.0, 10_000.0) == pytest.approx(200.0)
    # sqrt(2 C M) (1 + sqrt(C / 2M) / 3 + (C / 2M) / 9) - C
    assert daly_s(2.0, 10_000.0) == pytest.approx(200.0 * (1 + 0.01 / 3 + 0.0001 / 9) - 2.0)
    assert daly_s(50.0, 20.0) == 20.0
    assert daly_s(0.0, 20.0) == 0.0


@given(st.floats(0.01, 100.0), st.floats(1.0, 1e6))
def test_no_other_interval_costs_noticeably_less(checkpoint_s, mtbf_s):
    """Daly's own model of the whole run's time, equation 20: M exp(R/M) (exp((t + C)/M) - 1) / t."""
    from math import expm1

    if checkpoint_s > mtbf_s / 10:
        return

    def cost(interval_s):
        return mtbf_s * expm1((interval_s + checkpoint_s) / mtbf_s) / interval_s

    best = daly_s(checkpoint_s, mtbf_s)
    assert all(cost(best) <= cost(best * factor) * 1.001 for factor in (0.5, 0.8, 0.9, 1.1, 1.25, 2.0))


@pytest.mark.parametrize(("checkpoint_s", "mtbf_s"), [(-1.0, 1.0), (1.0, 0.0), (float("nan"), 1.0)])
def test_senseless_times_are_refused(checkpoint_s, mtbf_s):
    with pytest.raises(ConfigError, match="no interval"):
        daly_s(checkpoint_s, mtbf_s)
