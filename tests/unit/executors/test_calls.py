"""One call without processes: functions by manifest, results, exceptions."""

import pickle
import sys

import cloudpickle
import msgpack
import numpy as np
import pytest

from rfaas_executors import calls
from rfaas_executors.calls import Functions, WorkerExit, dumps, failure
from rfaas_transport.errors import ProtocolError
from rfaas_transport.frame import Status
from rfaas_transport.manifest import Manifest, digest, encode_manifest


def learn(functions, function, along=True):
    blob = cloudpickle.dumps(function)
    defined = functions.define(encode_manifest(Manifest(blobs=(digest(blob),))), [blob] if along else [])
    return defined, blob


def arguments(*args, **keywords):
    return [memoryview(bytearray(pickle.dumps((args, keywords), protocol=5)))]


def test_a_function_is_unpickled_once_and_inside_its_first_call():
    class Counted:
        loads = 0

        def __reduce__(self):
            return (_load, ())

    def _load():
        Counted.loads += 1
        return lambda x: x * 2

    functions = Functions()
    defined, _ = learn(functions, Counted())
    assert Counted.loads == 0
    sys.modules[__name__].Counted = Counted
    for n in range(3):
        outcome = functions.run(defined, arguments(n))
        assert pickle.loads(outcome.segments[0]) == 2 * n


def test_a_manifest_without_its_blob_says_what_is_missing():
    functions = Functions()
    defined, blob = learn(functions, len, along=False)
    assert functions.missing(defined) == [digest(blob)]
    functions.add_blob(b"another")
    assert functions.missing(defined) == [digest(blob)]
    functions.add_blob(blob)
    assert functions.missing(defined) == []
    assert pickle.loads(functions.run(defined, arguments("abc")).segments[0]) == 3
    assert functions.missing(defined) == []


def test_what_is_no_manifest_is_refused():
    with pytest.raises(ProtocolError):
        Functions().define(b"nonsense", [])


@pytest.mark.parametrize("manifest", [Manifest(kind="native"), Manifest(abi="raw"), Manifest(blobs=())])
def test_functions_of_other_kinds_are_bad_functions(manifest):
    functions = Functions()
    defined = functions.define(encode_manifest(manifest), [])
    assert functions.run(defined, arguments()).status == Status.BAD_FUNCTION


def test_what_is_not_callable_is_a_bad_function():
    functions = Functions()
    defined, _ = learn(functions, 17)
    outcome = functions.run(defined, arguments())
    assert outcome.status == Status.BAD_FUNCTION
    assert "not callable" in msgpack.unpackb(outcome.segments[0])["message"]


def test_results_leave_their_buffers_where_they_are():
    array = np.arange(1000)
    head, buffer = dumps(array)
    assert np.shares_memory(np.frombuffer(buffer, dtype=array.dtype), array)
    assert np.array_equal(pickle.loads(head, buffers=[buffer]), array)


def test_arrays_that_are_not_contiguous_and_lambdas_can_be_returned():
    strided = np.arange(100).reshape(10, 10)[:, ::2]
    head, *buffers = dumps(strided)
    assert np.array_equal(pickle.loads(head, buffers=buffers), strided)
    head, *buffers = dumps(lambda: 5)
    assert pickle.loads(head, buffers=buffers)() == 5
    view = pickle.PickleBuffer(memoryview(bytearray(100))[::2])
    with pytest.raises(Exception, match="contiguous"):
        dumps(view)


@pytest.mark.parametrize(("code", "status"), [(None, 0), (0, 0), (3, 3), (259, 3), (-1, 255), ("bye", 1)])
def test_sys_exit_ends_the_worker_with_the_status_that_python_gives(code, status):
    functions = Functions()
    defined, _ = learn(functions, sys.exit)
    with pytest.raises(WorkerExit) as caught:
        functions.run(defined, arguments(code))
    assert caught.value.status == status


def test_an_exception_whose_text_can_not_be_made_is_described_all_the_same():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    outcome = failure(Status.EXCEPTION, Mute())
    said = msgpack.unpackb(outcome.segments[0])
    assert said["type"].endswith("Mute")
    assert "can't be made" in said["message"]


def test_a_failed_call_keeps_nothing_of_its_arguments():
    import weakref

    class Argument:
        pass

    argument = Argument()
    seen = weakref.ref(argument)

    def fails(kept=argument):
        raise ValueError(kept is None)

    functions = Functions()
    defined, _ = learn(functions, None)
    functions._callables[defined.identity] = fails, 0
    functions.run(defined, arguments())
    del argument, fails
    functions._callables.clear()
    assert seen() is None


def call(functions, function, *args):
    """Define, fetch if that is needed, and call, as a worker does."""
    defined, blob = learn(functions, function, along=False)
    fetched = functions.missing(defined)
    for name in fetched:
        assert name == digest(blob)
        functions.add_blob(blob)
    return pickle.loads(functions.run(defined, arguments(*args)).segments[0]), len(fetched)


def test_the_functions_used_last_are_kept_and_others_are_fetched_again(monkeypatch):
    monkeypatch.setattr(calls, "MOST_FUNCTIONS", 3)
    functions = Functions()
    many = [lambda n=n: n for n in range(4)]
    assert [call(functions, many[n]) for n in (0, 1, 2, 0, 3)] == [(0, 1), (1, 1), (2, 1), (0, 0), (3, 1)]
    assert [call(functions, many[n]) for n in (0, 3, 1, 2)] == [(0, 0), (3, 0), (1, 1), (2, 1)]
    assert len(functions._callables) == 3
    assert functions._blobs == {}


def test_functions_are_kept_up_to_so_many_bytes_and_always_the_last(monkeypatch):
    monkeypatch.setattr(calls, "MOST_BYTES", 250_000)
    functions = Functions()
    large = [lambda data=bytes([n]) * 100_000: data[0] for n in range(10)]
    for n, function in enumerate(large):
        assert call(functions, function) == (n, 1)
    assert len(functions._callables) == 2
    assert functions._size_bytes == sum(size for _, size in functions._callables.values()) <= 250_000
    huge = b"h" * 300_000
    for n_fetched in (1, 0):
        assert call(functions, lambda: len(huge)) == (300_000, n_fetched)
    assert len(functions._callables) == 1
    assert call(functions, large[9]) == (9, 1)


def test_a_function_that_can_not_be_unpickled_leaves_nothing_behind():
    functions = Functions()
    for n in range(3):
        defined, _ = learn(functions, n)
        assert functions.run(defined, arguments()).status == Status.BAD_FUNCTION
        assert len(functions.missing(defined)) == 1
    assert functions._blobs == {}


@pytest.mark.parametrize("module", ["pickle", "cloudpickle"])
def test_a_function_that_spoils_pickle_harms_no_other(module):
    def spoil(module):
        loaded = sys.modules[module]
        kept = loaded.loads, loaded.dumps
        loaded.loads = loaded.dumps = None
        return kept

    functions = Functions()
    defined, _ = learn(functions, spoil)
    other, _ = learn(functions, lambda n: (n, lambda: n))
    brought, module_ = arguments(4), sys.modules[module]
    kept = module_.loads, module_.dumps
    try:
        assert functions.run(defined, arguments(module)).status == Status.OK
        assert module_.loads is module_.dumps is None
        outcome = functions.run(other, brought)
    finally:
        module_.loads, module_.dumps = kept
    assert outcome.status == Status.OK
    assert cloudpickle.loads(outcome.segments[0])[0] == 4
