"""Functions, arguments, results and exceptions that can't go over: each is refused, or stood in for, with a remedy."""

import functools
import os
import re
import sys
import threading

import pytest

import rfaas
from rfaas.client.applying import Chunk
from support import functions as f

TIMEOUT_S = 60


@pytest.fixture(scope="module")
def ex():
    with rfaas.Executor(1, allocator="embedded", payload_limit="1MiB") as executor:
        executor.submit(f.pid).result(TIMEOUT_S)  # it starts here, and not in the test that happens to be first
        yield executor


def error_of(ex, function, *args):
    error = ex.submit(function, *args).exception(TIMEOUT_S)
    assert isinstance(error, rfaas.RfaasError), error
    return error


def count(n):
    yield from range(n)


async def later(n):
    return n


async def stream(n):
    yield n


class Rows:
    def __call__(self, n):
        yield from range(n)

    def each(self, n):
        yield from range(n)


@pytest.mark.parametrize(
    ("function", "said", "remedy"),
    [
        (functools.partial(functools.partial(count)), "count is a generator function", "return a list"),
        (functools.lru_cache(count), "count is a generator function", "return a list"),
        (functools.partial(later), "later is a coroutine function", "asyncio.run"),
        (Rows(), "Rows.__call__ is a generator function", "return a list"),
        (functools.partial(Rows()), "Rows.__call__ is a generator function", "return a list"),
        (Rows().each, "Rows.each is a generator function", "return a list"),
        (Chunk(count), "count is a generator function", "return a list"),
        (count, "count is a generator function", "return a list"),
        (later, "later is a coroutine function", "asyncio.run"),
        (stream, "stream is an asynchronous generator function", "collects its values"),
    ],
)
def test_functions_whose_call_runs_nothing_are_refused_before_they_are_sent(ex, function, said, remedy):
    before = ex.statistics()["dispatched"]
    error = error_of(ex, function, 3)
    assert (type(error), error.may_have_run) == (rfaas.SerializationError, False)
    assert said in error.message
    assert remedy in error.hint
    assert ex.statistics()["dispatched"] == before


class Model:
    def __init__(self):
        self.weights = [1, 2]
        self.state = {"inner": [0, threading.Lock()]}


@pytest.mark.parametrize(
    ("make", "said", "remedy"),
    [
        (lambda: count(3), "result is of type generator", "return list(...) of it"),
        (lambda: map(abs, [1]) and (x for x in [1]), "result is of type generator", "return list(...) of it"),
        (
            lambda: {"rows": [1, open(os.devnull, "w")]},  # noqa: SIM115
            "result['rows'][1] is of type _io.TextIOWrapper",
            "pass its path",
        ),
        (lambda: [open(__file__)], "result[0] is of type _io.TextIOWrapper", "pass its path"),  # noqa: SIM115
        (Model, "result.state['inner'][1] is of type _thread.lock", "__getstate__"),
        (lambda: functools.partial(print, threading.Lock()), "is of type _thread.lock", "__getstate__"),
        (lambda: later(1), "result is of type coroutine", "asyncio.run"),
    ],
    ids=["generator", "generator expression", "file", "file for reading", "attribute", "partial", "coroutine"],
)
def test_a_result_that_can_t_be_pickled_names_the_part_and_the_remedy(ex, make, said, remedy):
    pid = ex.submit(f.pid).result(TIMEOUT_S)
    error = error_of(ex, make)
    assert (type(error), error.may_have_run, error.phase) == (rfaas.SerializationError, True, "DONE")
    assert said in error.message
    assert remedy in error.hint
    assert ex.submit(f.pid).result(TIMEOUT_S) == pid


def test_arguments_and_closures_that_can_t_be_pickled_name_the_part(ex):
    error = error_of(ex, f.echo, 1, Model())
    assert "call.args[1].state['inner'][1] is of type _thread.lock" in error.message
    with open(__file__) as file:
        error = error_of(ex, f.echo, [file])
    assert "call.args[0][0] is of type _io.TextIOWrapper" in error.message
    assert (error.hint, error.may_have_run) == ("pass its path, and open it inside the function", False)
    lock = threading.Lock()
    error = error_of(ex, lambda: lock)
    assert re.search(r"lock, which .*<lambda> uses is of type _thread.lock", error.message)


@pytest.mark.parametrize("over_bytes", [-1, 0, 1])
def test_t40_payloads_up_to_the_limit_pass_and_one_byte_more_does_not(ex, over_bytes):
    """T40: at 0, 1, limit - 1, limit, limit + 1 bytes, both ways; the worker stays."""
    from rfaas.client.serial import dump_arguments
    from rfaas_executors.calls import dumps

    limit_bytes = 1 << 20
    pid = ex.submit(f.pid).result(TIMEOUT_S)
    data = b"x" * limit_bytes
    overhead_in = sum(memoryview(part).nbytes for part in dump_arguments((data,), {})) - limit_bytes
    overhead_out = sum(memoryview(part).nbytes for part in dumps(data)) - limit_bytes
    arguments = b"x" * (limit_bytes - overhead_in + over_bytes)
    n_out = limit_bytes - overhead_out + over_bytes
    there, back = ex.submit(len, arguments), ex.submit(bytes, n_out)
    if over_bytes <= 0:
        assert (there.result(TIMEOUT_S), len(back.result(TIMEOUT_S))) == (len(arguments), n_out)
    else:
        refused, too_large = there.exception(TIMEOUT_S), back.exception(TIMEOUT_S)
        assert (type(refused), refused.may_have_run) == (rfaas.PayloadTooLarge, False)
        assert f"have {limit_bytes + 1} bytes, more than the payload_limit of {limit_bytes} bytes" in refused.message
        assert (type(too_large), too_large.may_have_run) == (rfaas.PayloadTooLarge, True)
        assert (
            f"the result of {limit_bytes + 1} bytes is larger than the payload_limit of {limit_bytes} bytes"
            in too_large.message
        )
    assert [ex.submit(f.echo, b"x" * n).result(TIMEOUT_S)[0][0] for n in (0, 1)] == [b"", b"x"]
    assert ex.submit(f.pid).result(TIMEOUT_S) == pid


def test_an_exception_whose_class_is_only_on_the_worker_has_a_stand_in(ex):
    def fail():
        import types

        module = types.ModuleType("only_there")
        exec("class Strange(Exception):\n    pass", module.__dict__)

        sys.modules["only_there"] = module
        raise module.Strange("deep", 7)

    error = error_of(ex, fail)
    assert type(error) is rfaas.RemoteError
    assert (error.remote_type, error.may_have_run, error.phase) == ("only_there.Strange", True, "DONE")
    assert "('deep', 7)" in error.message
    assert "in fail" in error.remote_traceback
    assert "raise module.Strange" in str(error.__cause__)


def test_an_exception_that_holds_what_can_t_travel_has_a_stand_in(ex):
    def fail():
        error = ValueError("with a lock")
        error.lock = threading.Lock()
        raise error

    error = error_of(ex, fail)
    assert (type(error), error.remote_type) == (rfaas.RemoteError, "ValueError")
    assert "with a lock" in error.message


def test_an_exception_that_can_t_be_unpickled_has_a_stand_in(ex):
    error = error_of(ex, f.raise_picky)
    assert (type(error), error.remote_type) == (rfaas.RemoteError, "support.functions.PickyError")
    assert "missing 1 required positional argument: 'two'" in error.message
    assert "__reduce__" in error.hint
