"""The neighbour guard, look by look: a host whose iterations take longer as workers run more, and what is done then."""

import random

import pytest

from rfaas_executors.guard_core import LEAST_SHARE, MOVES, GuardConfig, GuardCore, Judged, Look, Pace

LOOK_S = 0.1


class Host:
    """A host job on a made-up clock, its guard, and functions that never pause by themselves.

    `harm`: how much longer an iteration takes while workers run all the time; half of it at half the time.
    """

    def __init__(self, harm, *, iteration_s=0.004, noise=0.01, functions=1.0, **config):
        self.now_s = 1000.0
        self.core = GuardCore(GuardConfig(**config), self.now_s)
        self.harm, self.iteration_s, self.noise, self.functions = harm, iteration_s, noise, functions
        self.pace = 1.0
        self.steal = 0.0
        self.verdicts = []
        self.began_s = self.now_s
        self.random = random.Random(5)
        self.held_s = 0.0

    def one_s(self):
        harm = self.harm * self.pace * (self.functions > 0)
        return self.iteration_s * (1.0 + harm) * (1.0 + self.noise * self.random.uniform(-1, 1))

    def look(self):
        until_s, ended = self.now_s + LOOK_S, []
        while self.began_s + (length_s := self.one_s()) <= until_s:
            ended.append((self.began_s, self.began_s + length_s))
            self.began_s += length_s
        self.now_s = until_s
        if self.pace == 0.0:
            self.held_s += LOOK_S
        look = Look({"marks 1": tuple(ended[-30:])}, {}, self.functions, self.steal, "lmp")
        for effect in self.core.step(look, self.now_s):
            if isinstance(effect, Pace):
                self.pace = effect.share
            elif isinstance(effect, Judged):
                self.verdicts.append(effect.about)
        return self

    def run(self, seconds):
        for _ in range(round(seconds / LOOK_S)):
            self.look()
        return self

    def said(self):
        return [about.verdict for about in self.verdicts]


def test_a_host_that_feels_nothing_is_left_alone_and_costs_the_functions_a_few_percent():
    host = Host(harm=0.0).run(120)
    assert host.said() == ["watch"]
    assert host.pace == 1.0
    assert 0 < host.held_s < 0.06 * 120


def test_a_host_whose_iterations_outlast_every_probe_costs_nothing():
    host = Host(harm=0.0, iteration_s=3.0).run(120)
    assert host.held_s < 1.0  # one probe, before the first iteration ended


def test_without_functions_nothing_is_held():
    host = Host(harm=0.0, functions=0.0).run(30)
    assert host.held_s == 0.0
    assert host.said() == ["watch"]


def test_functions_that_slow_the_host_are_throttled_until_it_is_within_the_bound():
    host = Host(harm=0.08).run(60)
    assert "throttle" in host.said()
    assert not {"move", "leave"} & set(host.said())
    assert host.harm * host.core.share <= 0.04
    about = next(about for about in host.verdicts if about.verdict == "throttle")
    assert about.host == "lmp"
    assert about.watch == "marks 1"
    assert about.slowdown == pytest.approx(0.08, abs=0.01)


def test_functions_get_more_again_once_the_host_does_not_mind():
    host = Host(harm=0.2).run(10)
    assert host.core.share < 0.5
    host.harm = 0.0
    host.run(200)
    assert host.core.share == 1.0
    assert host.said()[-1] == "ease"


def test_what_throttling_does_not_help_is_moved_and_after_some_moves_the_slice_is_left():
    host = Host(harm=3.0).run(20)
    assert host.said().count("move") == 1
    moved = host.verdicts[-1]
    assert (moved.verdict, moved.closed_for_s) == ("move", 30.0)
    assert not host.core.open(host.now_s)
    host.run(120)
    assert host.said().count("move") == MOVES
    assert host.said()[-1] == "leave"
    assert host.verdicts[-1].closed_for_s == 120.0


@pytest.mark.parametrize(("act", "furthest"), [("off", set()), ("watch", {"watch"}), ("throttle", {"throttle"})])
def test_the_guard_goes_no_further_than_it_may(act, furthest):
    host = Host(harm=3.0, act=act).run(60)
    assert set(host.said()) <= {"watch", *furthest}
    if act == "throttle":
        assert host.core.share == LEAST_SHARE
    else:
        assert host.pace == 1.0
        assert host.held_s == 0.0


def test_noise_is_no_slowdown():
    host = Host(harm=0.0, noise=0.3).run(120)
    assert host.core.share > 0.5  # a false alarm is possible, and passes
    assert not {"move", "leave"} & set(host.said())


def test_time_that_a_hypervisor_took_says_nothing_about_functions():
    host = Host(harm=1.0)
    host.steal = 0.3
    host.run(30)
    assert host.core.share == 1.0


def test_a_tail_beyond_its_bound_is_enough():
    host = Host(harm=0.0)
    one_s = host.one_s
    host.one_s = lambda: one_s() * (1.5 if host.pace and host.random.random() < 0.03 else 1.0)
    host.run(90)
    assert "throttle" in host.said()
    assert any(about.tail > 0.3 for about in host.verdicts)


def test_another_program_is_met_without_prejudice():
    host = Host(harm=0.5).run(10)
    assert host.core.share < 1.0
    host.harm, step = 0.0, host.core.step
    host.core.step = lambda look, now_s: step(
        Look({"marks 2": look.iterations["marks 1"]}, {}, look.functions, 0.0, "hpcc"), now_s
    )
    host.look()
    assert host.core.share == 1.0
    assert "hpcc" in host.verdicts[-1].words


def test_a_stretch_of_the_run_queue_counts_like_an_iteration():
    core, now_s, share, held, words = GuardCore(GuardConfig(), 0.0), 0.0, 1.0, 0, []
    for _ in range(200):
        now_s += LOOK_S
        stretch = 1.0 + 0.1 * share + 0.001 * (held % 3)
        for effect in core.step(Look({}, {"run queue": stretch}, 1.0, 0.0, "a.out"), now_s):
            if isinstance(effect, Pace):
                share, held = effect.share, held + 1
            else:
                words.append(effect.about)
    assert next(about.watch for about in words if about.verdict == "throttle") == "run queue"


def test_after_stop_nobody_is_held_and_nothing_is_judged():
    host = Host(harm=3.0).run(5)
    assert host.core.stop() == [Pace(1.0)]
    before = len(host.verdicts)
    host.run(30)
    assert len(host.verdicts) == before
