"""A future's end and whoever waits for it: the end is seen once, by count or by word, never by both or neither."""

import pickle
import sys
import threading
from concurrent.futures import Future as StandardFuture
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from rfaas.client.futures import Future
from support.waiting import wait_until


def ending(future, value):
    """A thread that ends the future, once it has come as far as it can."""
    thread = threading.Thread(target=future._end, args=(value, None))
    thread.start()
    wait_until(lambda: future._result == value, 10)
    return thread


def test_who_holds_the_condition_does_not_see_an_end_that_it_will_be_told_of():
    future = Future()
    with future._condition:
        thread = ending(future, 7)
        assert future._state == "PENDING"
        assert not future.done()
    thread.join()
    assert future._state == "FINISHED"
    assert future.result() == 7


def test_wait_for_all_is_over_when_all_are():
    for first_ends in range(3):
        found = []
        futures = [Future() for _ in range(3)]
        others = [future for i, future in enumerate(futures) if i != first_ends]
        with futures[first_ends]._condition:  # `wait` comes while this one ends
            thread = ending(futures[first_ends], 1)
            waiter = threading.Thread(target=lambda found=found, futures=futures: found.append(wait(futures, 20)))
            waiter.start()
        thread.join()
        others[0]._end(2, None)
        assert not found
        others[1]._end(3, None)
        waiter.join()
        assert not found[0].not_done


def test_an_end_before_anybody_waits_needs_no_word():
    future = Future()
    future._end(3, None)
    assert not future.has_condition
    called = []
    future.add_done_callback(called.append)
    assert called == [future]
    assert not wait([future], 0).not_done


def test_a_future_is_one_of_the_standard_ones_and_can_t_be_pickled():
    future = Future()
    assert isinstance(future, StandardFuture)
    assert Future[int].__origin__ is Future
    with pytest.raises(TypeError, match="future"):
        pickle.dumps(future)


class Interrupting:
    """Raises a KeyboardInterrupt at the n-th line or return in the standard library's conditions."""

    def __init__(self, n):
        self.left = n

    def __call__(self, frame, event, _):
        if frame.f_code.co_filename != threading.__file__:
            return self
        if event in ("line", "return"):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


def test_an_interrupt_of_who_waits_never_keeps_the_lock():
    for n in range(1, 40):
        future, tracing = Future(), sys.gettrace()
        sys.settrace(Interrupting(n))
        try:
            with pytest.raises((KeyboardInterrupt, TimeoutError)):
                future.result(0.001)
        finally:
            sys.settrace(tracing)
        with ThreadPoolExecutor(1) as other:
            assert other.submit(future._condition.acquire, False).result(10), f"after an interrupt at line {n}"
