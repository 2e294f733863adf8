"""How functions, arguments, results and exceptions travel."""

import functools
import gc
import pickle
import threading

import cloudpickle
import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfaas.client.applying import Chunk, apply
from rfaas.client.serial import (
    INLINE_BLOB_BYTES,
    Definition,
    FunctionCache,
    as_serialization_error,
    dump_arguments,
    load_result,
)
from rfaas_transport.errors import PayloadTooLarge, RemoteError, SerializationError, WorkerLost
from rfaas_transport.frame import Status


def load_arguments(segments):
    """What a worker does with a CALL's payload, over memory of its own."""
    owned = [memoryview(bytearray(segment)) for segment in segments]
    return pickle.loads(owned[0], buffers=owned[1:])


def as_frame(value, protocol=5):
    """What a worker sends back for a value."""
    buffers = []
    data = cloudpickle.dumps(value, protocol=protocol, buffer_callback=buffers.append)
    return [memoryview(bytearray(data)), *(memoryview(bytearray(b.raw())) for b in buffers)]


def as_failure(error, traceback="Traceback …\n", pickled=None):
    about = {"type": type(error).__name__, "message": str(error), "traceback": traceback}
    pickled = cloudpickle.dumps(error) if pickled is None else pickled
    return [memoryview(msgpack.packb(about)), memoryview(pickled)]


# --- functions -------------------------------------------------------------------------------------


def make_adder(n):
    def adder(x):
        return x + n

    return adder


def test_a_definition_is_named_by_its_bytes():
    one, same, other = Definition(b"code"), Definition(b"code"), Definition(b"other")
    assert one.identity == same.identity != other.identity
    about = msgpack.unpackb(one.manifest)
    assert about == {"kind": "python", "abi": "pickle5", "isa": "any", "entry": "", "blobs": [one.digest]}


def test_a_large_function_is_not_sent_along():
    assert Definition(b"x" * INLINE_BLOB_BYTES).segments()[1:] != []
    assert Definition(b"x" * (INLINE_BLOB_BYTES + 1)).segments()[1:] == []


def test_a_function_is_pickled_once_and_a_changed_closure_is_not_seen():
    cache = FunctionCache()
    cell = [1]

    def function():
        return cell[0]

    first, _ = cache.define(function)
    cell[0] = 2
    second, _ = cache.define(function)
    assert first is second
    assert pickle.loads(second.blob)() == 1


def test_a_function_defined_anew_is_another():
    cache = FunctionCache()
    assert cache.define(make_adder(1))[0].identity != cache.define(make_adder(2))[0].identity


def test_code_keeps_the_name_of_its_file_for_tracebacks():
    """Inner functions and arguments too, and as pickled by the C pickler where code travels by value."""
    code = pickle.loads(FunctionCache().define(make_adder(1))[0].blob).__code__
    assert code.co_filename == __file__
    ((argument,), _) = load_arguments(dump_arguments((make_adder(1),), {}))
    assert argument.__code__.co_filename == __file__
    outer = pickle.loads(FunctionCache().define(lambda: lambda: 1)[0].blob)
    assert outer().__code__.co_filename == __file__


def test_the_cache_keeps_no_function_alive():
    cache = FunctionCache()
    function = make_adder(1)
    cache.define(function)
    assert len(cache._by_id) == 1
    del function
    gc.collect()
    assert len(cache._by_id) == 0


class Counter:
    def __init__(self):
        self.n = 0

    def value(self):
        return self.n

    def __call__(self):
        return self.n


@pytest.mark.parametrize("make", [lambda c: c.value, lambda c: c, lambda c: functools.partial(c.value)])
def test_what_may_change_between_calls_travels_as_an_argument(make):
    cache, counter = FunctionCache(), Counter()
    definition, applied = cache.define(make(counter))
    assert applied
    assert pickle.loads(definition.blob) is apply
    counter.n = 7
    function, args, kwargs = load_arguments(dump_arguments((make(counter), (), {}), {}))[0]
    assert apply(function, args, kwargs) == 7


@pytest.mark.parametrize("function", [len, dict, make_adder, pickle.dumps, Chunk(len)])
def test_what_does_not_change_travels_once(function):
    definition, applied = FunctionCache().define(function)
    assert not applied
    pickle.loads(definition.blob)


@pytest.mark.parametrize("wrong", [7, None, "len"])
def test_what_is_not_callable_is_refused(wrong):
    with pytest.raises(SerializationError, match="not callable"):
        FunctionCache().define(wrong)


def test_a_function_that_can_t_be_pickled_says_why():
    lock = threading.Lock()
    with pytest.raises(SerializationError, match="can't be pickled: TypeError") as caught:
        FunctionCache().define(lambda: lock)
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_chunk_calls_its_function_with_each_tuple():
    assert Chunk(divmod)([(7, 2), (9, 3)]) == [(3, 1), (3, 0)]


# --- arguments -------------------------------------------------------------------------------------


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    )
)
def test_plain_values_arrive_as_they_left(value):
    assert load_arguments(dump_arguments((value,), {"k": value})) == ((value,), {"k": value})


def test_an_array_travels_beside_the_pickle_without_a_copy_and_arrives_writable():
    array = np.arange(1000.0)
    segments = dump_arguments((array,), {})
    assert len(segments[0]) < 300
    assert np.shares_memory(np.frombuffer(segments[1]), array)
    ((arrived,), _) = load_arguments(segments)
    arrived[0] = 5.0
    assert array[0] == 0.0


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24).reshape(4, 6)[::2, ::3],
        np.asfortranarray(np.arange(24).reshape(4, 6)),
        np.arange(24)[::-1],
        np.empty((0, 3)),
        np.array(3.5),
        np.array(["a", "b"], dtype=object),
    ],
)
def test_arrays_of_every_layout_arrive_equal(array):
    ((arrived,), _) = load_arguments(dump_arguments((array,), {}))
    assert arrived.dtype == array.dtype
    assert np.array_equal(arrived, array)


class Strided:
    """An object of a user's own whose buffer is not contiguous."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Strided, (pickle.PickleBuffer(self.data),)


def test_a_buffer_that_is_not_contiguous_is_refused_as_by_pickle():
    with pytest.raises(SerializationError, match="non-contiguous"):
        dump_arguments((Strided(memoryview(b"abcdef")[::2]),), {})


def test_lambdas_and_local_classes_travel_inside_arguments():
    class Local:
        def double(self, x):
            return 2 * x

    ((function, instance), _) = load_arguments(dump_arguments((lambda x: x + 1, Local()), {}))
    assert function(1) == 2
    assert instance.double(4) == 8


def test_what_belongs_to_main_travels_by_value():
    """Workers have another `__main__`: the C pickler's reference would be found wrong only over there."""
    import __main__

    exec("class Planted:\n    def answer(self): return 42", __main__.__dict__)
    try:
        segments = dump_arguments((__main__.Planted(),), {})
    finally:
        del __main__.Planted
    ((instance,), _) = load_arguments(segments)
    assert instance.answer() == 42


def test_arguments_that_can_t_be_pickled_say_why():
    with pytest.raises(SerializationError, match="arguments can't be pickled"):
        dump_arguments((threading.Lock(),), {})


class Explosive:
    def __reduce__(self):
        raise RuntimeError("boom\nsecond line")


def test_an_error_of_the_user_s_own_pickling_is_the_cause():
    with pytest.raises(SerializationError, match=r"RuntimeError: boom; call.args\[0\] is of") as caught:
        dump_arguments((Explosive(),), {})
    assert isinstance(caught.value.__cause__, RuntimeError)


# --- results ---------------------------------------------------------------------------------------


def test_a_result_s_arrays_are_writable_views_of_the_frame():
    segments = as_frame({"a": np.arange(100)})
    result = load_result(Status.OK, segments)
    result["a"][0] = 77
    assert np.frombuffer(segments[1], dtype=np.int64)[0] == 77


def test_a_result_that_can_t_be_unpickled_is_a_serialization_error():
    with pytest.raises(SerializationError, match="result can't be unpickled") as caught:
        load_result(Status.OK, [memoryview(b"nonsense")])
    assert caught.value.may_have_run


def test_an_empty_result_frame_is_a_serialization_error():
    with pytest.raises(SerializationError):
        load_result(Status.OK, [])


def test_a_result_that_is_too_large_says_so():
    with pytest.raises(PayloadTooLarge) as caught:
        load_result(Status.TOO_LARGE, [])
    assert caught.value.may_have_run


def test_an_exception_that_is_too_large_keeps_type_and_text():
    with pytest.raises(
        PayloadTooLarge, match=r"the exception of 9000 bytes .* payload_limit of 7 .*ValueError: bad"
    ) as caught:
        load_result(Status.TOO_LARGE, [memoryview(msgpack.packb({"type": "ValueError", "message": "bad"}))], 9000, 7)
    assert caught.value.may_have_run


@pytest.mark.parametrize(
    "error", [ValueError("bad"), KeyError("k"), KeyboardInterrupt(), WorkerLost("inner", node="n")]
)
def test_an_exception_is_raised_as_itself_with_the_remote_traceback_as_its_cause(error):
    with pytest.raises(type(error)) as caught:
        load_result(Status.EXCEPTION, as_failure(error, "Traceback: there\n"))
    assert caught.value.args == error.args
    assert "Traceback: there" in str(caught.value.__cause__)


class Picky(Exception):
    """Can be pickled and not unpickled."""

    def __init__(self, a, b):
        super().__init__(a)


@pytest.mark.parametrize(
    ("pickled", "why", "remedy"),
    [
        (b"", "the worker can't pickle it", "locks"),
        (b"nonsense", "it can't be unpickled: UnpicklingError", "__reduce__"),
        (pickle.dumps("no exception"), "it came as str", "__reduce__"),
        (
            pickle.dumps(Picky("bad", 1)),
            "it can't be unpickled: TypeError: Picky.__init__() missing 1 required positional argument: 'b'",
            "__reduce__",
        ),
        (b"cno_such_module\nWrong\n.", "ModuleNotFoundError: No module named 'no_such_module'", "can import"),
    ],
    ids=["empty", "nonsense", "string", "init", "module"],
)
def test_an_exception_that_can_t_be_rebuilt_is_named_with_the_reason_and_the_remedy(pickled, why, remedy):
    with pytest.raises(RemoteError, match="ValueError: bad") as caught:
        load_result(Status.EXCEPTION, as_failure(ValueError("bad"), "Traceback: there\n", pickled))
    assert (caught.value.remote_type, caught.value.remote_traceback) == ("ValueError", "Traceback: there\n")
    assert why in caught.value.message
    assert remedy in caught.value.hint


@pytest.mark.parametrize(
    ("status", "what", "ran"),
    [
        (Status.BAD_FUNCTION, "function", False),
        (Status.BAD_ARGUMENTS, "arguments", False),
        (Status.BAD_RESULT, "result", True),
    ],
)
def test_what_the_worker_could_not_pickle_or_unpickle_is_a_serialization_error(status, what, ran):
    error = ModuleNotFoundError("No module named 'x'")
    with pytest.raises(SerializationError, match=f"the {what}.*could not.*No module named 'x'") as caught:
        load_result(status, as_failure(error))
    assert caught.value.may_have_run is ran


@pytest.mark.parametrize("segments", [[], [memoryview(b"\xc1")], [memoryview(msgpack.packb({}))]])
def test_a_report_that_can_t_be_read_is_a_serialization_error(segments):
    with pytest.raises(SerializationError):
        load_result(Status.EXCEPTION, segments)


def test_only_foreign_errors_are_wrapped():
    own = SerializationError("own")
    assert as_serialization_error(own) is own
    assert isinstance(as_serialization_error(RecursionError("deep")), SerializationError)
