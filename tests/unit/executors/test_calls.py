"""One call without processes: functions by manifest, results, exceptions."""

import pickle
import sys

import cloudpickle
import msgpack
import numpy as np
import pytest

from rfaas_executors.calls import Functions, WorkerExit, dumps, failure
from rfaas_transport.errors import ProtocolError
from rfaas_transport.frame import Status
from rfaas_transport.manifest import Manifest, digest, encode_manifest


def learn(functions, function, along=True):
    blob = cloudpickle.dumps(function)
    identity = functions.define(encode_manifest(Manifest(blobs=(digest(blob),))), [blob] if along else [])
    return identity, blob


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
    identity, _ = learn(functions, Counted())
    assert Counted.loads == 0
    sys.modules[__name__].Counted = Counted
    for n in range(3):
        outcome = functions.run(identity, arguments(n))
        assert pickle.loads(outcome.segments[0]) == 2 * n


def test_a_manifest_without_its_blob_says_what_is_missing():
    functions = Functions()
    identity, blob = learn(functions, len, along=False)
    assert functions.missing(identity) == [digest(blob)]
    functions.add_blob(b"another")
    assert functions.missing(identity) == [digest(blob)]
    functions.add_blob(blob)
    assert functions.missing(identity) == []
    assert pickle.loads(functions.run(identity, arguments("abc")).segments[0]) == 3
    assert functions.missing(identity) == []


def test_what_is_no_manifest_is_refused():
    with pytest.raises(ProtocolError):
        Functions().define(b"nonsense", [])


@pytest.mark.parametrize("manifest", [Manifest(kind="native"), Manifest(abi="raw"), Manifest(blobs=())])
def test_functions_of_other_kinds_are_bad_functions(manifest):
    functions = Functions()
    identity = functions.define(encode_manifest(manifest), [])
    assert functions.run(identity, arguments()).status == Status.BAD_FUNCTION


def test_what_is_not_callable_is_a_bad_function():
    functions = Functions()
    identity, _ = learn(functions, 17)
    outcome = functions.run(identity, arguments())
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
    identity, _ = learn(functions, sys.exit)
    with pytest.raises(WorkerExit) as caught:
        functions.run(identity, arguments(code))
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
    identity, _ = learn(functions, None)
    functions._callables[identity] = fails
    functions.run(identity, arguments())
    del argument, fails
    functions._callables.clear()
    assert seen() is None
