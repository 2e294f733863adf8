"""An array of numbers is pickled by the ends of a hot call themselves: as pickle reads and writes it, or not at all."""

import copyreg
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rfaas.client._borrowing import (
    dump_few_with_array,
    dump_one_array,
    load_few_with_array,
    load_one_array,
)
from rfaas_transport import array_memory

NUMBERS = "?bBhHiIlLqQefdFD"

arrays = st.sampled_from(NUMBERS).flatmap(
    lambda char: hnp.arrays(char, hnp.array_shapes(min_dims=1, max_dims=8, max_side=4))
)
plain = st.one_of(st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 63) - 1), st.text("ab", max_size=9))


def assert_same(found, sent, memory):
    assert type(found) is np.ndarray
    assert (found.dtype, found.shape, found.strides) == (sent.dtype, sent.shape, sent.strides)
    assert found.tobytes() == sent.tobytes()
    assert found.flags.writeable
    assert found.size == 0 or np.shares_memory(found, np.frombuffer(memory, "u1"))


@settings(max_examples=40)
@given(arrays)
def test_a_result_is_the_one_that_pickle_reads_over_the_memory_that_it_came_in(sent):
    pickled, data = dump_one_array(sent)
    memory = bytearray(data)
    assert_same(load_one_array(pickled, memory), sent, memory)
    assert_same(pickle.loads(pickled, buffers=[memory]), sent, memory)


@settings(max_examples=40)
@given(st.lists(plain, max_size=2), arrays, st.lists(plain, max_size=2))
def test_arguments_are_those_that_pickle_reads(before, sent, behind):
    segments = dump_few_with_array((*before, sent, *behind))
    if segments is None:  # it knows how often a text occurs
        texts = [one for one in (*before, *behind) if type(one) is str]
        assert len(set(texts)) < len(texts)
        return
    pickled, data = segments
    memory = bytearray(data)
    by_pickle, keywords = pickle.loads(pickled, buffers=[memory])
    assert keywords == {}
    for found in (load_few_with_array(pickled, memory), by_pickle):
        place = len(before)
        assert_same(found[place], sent, memory)
        assert [*found[:place], *found[place + 1 :]] == [*before, *behind]


def others():
    class Own(np.ndarray):
        pass

    read_only = np.ones(3)
    read_only.flags.writeable = False
    yield read_only
    yield np.asfortranarray(np.ones((2, 3)))
    yield np.arange(24.0).reshape(4, 6)[:, ::2]
    yield np.array(3.0)
    yield np.empty((0, 3))
    yield np.ones((1,) * 9)
    yield np.arange(5, dtype=">i4")
    yield np.array(["a", "bc"])
    yield np.array([1, None], dtype=object)
    yield np.zeros(3, [("a", "i4"), ("b", "f8")])
    yield np.arange(4, dtype=np.dtype("f8", metadata={"unit": "m"}))
    yield np.longdouble([1, 2])
    yield np.arange(3.0).view(Own)
    yield np.float64(1)
    yield [np.ones(3)]


@pytest.mark.parametrize("value", list(others()), ids=lambda one: type(one).__name__)
def test_the_rest_is_left_to_pickle(value):
    assert dump_one_array(value) is None
    assert dump_few_with_array((1, value)) is None


def test_arguments_without_an_array_or_with_two_are_left_to_pickle():
    sent = np.ones(3)
    assert dump_few_with_array(()) is None
    assert dump_few_with_array((1, 2)) is None
    assert dump_few_with_array((sent, sent)) is None
    assert dump_few_with_array((sent, np.zeros(3))) is None
    assert dump_few_with_array((sent, *range(6))) is None


def test_how_a_program_pickles_arrays_is_respected(monkeypatch):
    monkeypatch.setitem(copyreg.dispatch_table, np.ndarray, lambda x: (list, (x.tolist(),)))
    assert dump_one_array(np.ones(3)) is None
    assert dump_few_with_array((np.ones(3),)) is None


def test_arrays_in_memory_of_the_caller_are_left_to_whoever_copies_them(monkeypatch):
    monkeypatch.setattr(array_memory, "_lent", True)
    assert dump_one_array(np.ones(3)) is None


def test_what_numpy_writes_is_read_by_pickle_only():
    (pickled, data) = array_memory.dumps(np.ones(3), (buffers := []).append), bytearray(24)
    assert len(buffers) == 1
    assert load_one_array(pickled, data) is None
    assert load_few_with_array(pickle.dumps(((1, 2), {}), 5), data) is None


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_damaged_pickle_is_read_as_pickle_reads_it_or_left_to_it(place, byte):
    pickled, data = dump_one_array(np.arange(6.0).reshape(2, 3))
    damaged = bytearray(pickled)
    damaged[place % len(damaged)] = byte
    try:
        found = load_one_array(bytes(damaged), bytearray(data))
    except (TypeError, ValueError):  # numpy's, of a shape that these bytes don't have
        with pytest.raises((TypeError, ValueError)):
            pickle.loads(damaged, buffers=[bytearray(data)])
        return
    if found is not None:
        assert_same(pickle.loads(damaged, buffers=[memory := bytearray(data)]), found, memory)


def test_a_cut_pickle_is_left_to_pickle():
    pickled, data = dump_one_array(np.arange(6.0).reshape(2, 3))
    few, _ = dump_few_with_array((1, np.arange(6.0)))
    for n in range(len(pickled)):
        assert load_one_array(pickled[:n], data) is None
    for n in range(len(few)):
        assert load_few_with_array(few[:n], data) is None
