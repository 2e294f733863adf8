"""Numpy arrays that travel by a shorter pickle than numpy's arrive as numpy's would."""

import copyreg
import pickle

import numpy as np
import pytest

from rfaas.client.serial import dump_arguments
from rfaas_transport import array_memory

NUMBERS = "?bBhHiIlLqQefdFD"


def travelled(*args, **kwargs):
    segments = dump_arguments(args, kwargs)
    # Receivers' memory is their own and writable.
    (args, kwargs) = pickle.loads(segments[0], buffers=[bytearray(segment) for segment in segments[1:]])
    return args, kwargs, len(segments) - 1


def is_ours(value):
    return array_memory.stand_in_alone(value) is not value


def assert_same(found, sent):
    assert type(found) is type(sent)
    assert (found.dtype, found.shape, found.strides) == (sent.dtype, sent.shape, sent.strides)
    assert found.flags.aligned
    assert found.tobytes() == sent.tobytes()


@pytest.mark.parametrize("char", NUMBERS)
@pytest.mark.parametrize("order", "CF")
def test_numbers_arrive_as_they_were(char, order):
    sent = np.arange(24).reshape(2, 3, 4).astype(char).copy(order)
    assert is_ours(sent)
    (found,), _, n_buffers = travelled(sent)
    assert_same(found, sent)
    assert (n_buffers, found.flags.writeable) == (1, True)
    found[0, 0, 0] = 1


def other_arrays():
    class Own(np.ndarray):
        pass

    yield np.arange(24.0).reshape(4, 6)[:, ::2]
    yield np.array(3.0)
    yield np.empty((0, 3))
    yield np.arange(5, dtype=">i4")
    yield np.array(["a", "bc"])
    yield np.array([1, None], dtype=object)
    yield np.zeros(3, [("a", "i4"), ("b", "f8")])
    yield np.array(["2026-11-26"], "M8[D]")
    yield np.arange(4, dtype=np.dtype("f8", metadata={"unit": "m"}))
    yield np.longdouble([1, 2])
    yield np.arange(3.0).view(Own)
    yield np.ma.masked_array([1.0, 2.0], [True, False])


@pytest.mark.parametrize("sent", list(other_arrays()), ids=lambda one: f"{type(one).__name__} {one.dtype} {one.shape}")
def test_all_others_are_left_to_numpy(sent):
    assert not is_ours(sent)


def test_one_array_passed_twice_arrives_as_one():
    x = np.ones(5)
    for args in ((x, x), (x, [x]), ([x, x],)):
        found, _, n_buffers = travelled(*args)
        first, second = found if len(found) == 2 else found[0]
        assert (second[0] if isinstance(second, list) else second) is first
        assert n_buffers == 1
    found, kwargs, _ = travelled(x, y=x)
    assert kwargs["y"] is found[0]
    (number,), kwargs, _ = travelled(1, y=x)
    assert (number, kwargs["y"].sum()) == (1, 5)


def test_how_a_program_pickles_arrays_is_respected(monkeypatch):
    monkeypatch.setitem(copyreg.dispatch_table, np.ndarray, lambda x: (list, (x.tolist(),)))
    (found,), _, _ = travelled(np.ones(3))
    assert found == [1.0, 1.0, 1.0]


def test_an_array_that_can_only_be_read_arrives_as_pickle_has_it():
    sent = np.ones(5)
    sent.flags.writeable = False
    assert_same(travelled(sent)[0][0], sent)
