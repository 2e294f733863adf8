"""The interactive program of example 05 makes every call it should, and finds each that is lost or wrong."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import digits
from interactive import Outcome, Work, run, summary, workers_seen

PRICES = [Work(f"price {i}", abs, -i, i) for i in range(5)]
SCORES = [Work(f"score {i}", float, i, float(i)) for i in range(20)]


@pytest.fixture
def executor():
    with ThreadPoolExecutor(4) as executor:
        yield executor


def run_until(executor, n_calls, prices=PRICES, scores=SCORES):
    seen = []
    outcome = Outcome()
    run(executor, prices, scores, outcome, 4, enough=lambda: len(seen) >= n_calls, on_result=seen.append)
    return outcome


def test_prices_go_on_until_it_is_enough_and_the_search_is_finished_once(executor):
    outcome = run_until(executor, 100)
    made = [call.what for call in outcome.calls]
    assert outcome.problems == []
    assert sorted(what for what in made if what.startswith("score")) == sorted(work.what for work in SCORES)
    assert 100 <= len(made) <= 100 + 4
    assert {work.what for work in PRICES} <= set(made)


def test_a_search_that_is_not_done_when_it_is_enough_is_finished_all_the_same(executor):
    outcome = run_until(executor, 1)
    assert {work.what for work in SCORES} <= {call.what for call in outcome.calls}
    assert len(outcome.calls) <= len(SCORES) + 8


def test_a_wrong_value_and_a_failed_call_are_found(executor):
    bad = [Work("price wrong", abs, -1, 2), Work("price lost", len, 3, 3)]
    outcome = run_until(executor, 2, prices=bad, scores=[])
    found = set(outcome.problems)
    assert any(problem.startswith("price wrong on ") for problem in found)
    assert "price lost failed: TypeError: object of type 'int' has no len()" in found


class Counting(ThreadPoolExecutor):
    """Remembers how many calls were outstanding at most; none ends before three are."""

    def __init__(self):
        super().__init__(8)
        self.three = threading.Event()
        self.lock = threading.Lock()
        self.outstanding = self.most = 0

    def submit(self, function, /, *args):
        with self.lock:
            self.outstanding += 1
            self.most = max(self.most, self.outstanding)
        if self.most >= 3:
            self.three.set()
        future = super().submit(function, *args)
        future.add_done_callback(self.ended)
        return future

    def ended(self, future):
        with self.lock:
            self.outstanding -= 1


def test_as_many_calls_are_outstanding_as_asked_for_and_never_more():
    with Counting() as executor:
        work = [Work("price", lambda _: executor.three.wait(10), None, True)]
        outcome = Outcome()
        run(executor, work, [], outcome, in_flight=3, enough=lambda: len(outcome.calls) >= 50)
        assert executor.most == 3
        assert outcome.problems == []


def test_scores_are_kept_by_task_and_workers_are_counted_by_node(executor):
    task = digits.Task(1.0, 0.001, 0)
    outcome = Outcome()
    run(executor, PRICES, [Work("score", lambda task: 0.99, task, 0.99)], outcome, in_flight=1, enough=lambda: True)
    assert outcome.scores == {task: 0.99}
    assert summary(outcome).startswith("0 batches of prices and 1 scores, 0 problems; ")
    assert workers_seen(outcome, since_s=0.0) == {os.uname().nodename: 1}
    assert workers_seen(outcome, since_s=outcome.calls[-1].t1_s + 1.0) == {}
