"""Few plain values are pickled by the ends of a hot call themselves: as pickle reads and writes them, or not at all."""

import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfaas.client._borrowing import dump_few, dump_one, load_few, load_one

SHORT = 255
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(-300, 300),
    st.floats(),
    st.text(max_size=300),
    st.text(st.characters(max_codepoint=127), max_size=300),
    st.binary(max_size=300),
)


def look(value):
    """What tells two values apart, NaN from NaN too."""
    return type(value), struct.pack(">d", value) if type(value) is float else value


@given(values)
def test_one_value_is_the_one_that_pickle_reads_and_reads_what_pickle_wrote(value):
    pickled = dump_one(value)
    if pickled is not None:
        assert look(pickle.loads(pickled)) == look(load_one(pickled)) == look(value)
    assert look(load_one(pickle.dumps(value, 5))) == look(value)


@given(st.lists(values, max_size=8))
def test_few_values_are_those_that_pickle_reads(given_values):
    args = tuple(given_values)
    pickled = dump_few(args)
    if pickled is not None:
        read, keywords = pickle.loads(pickled)
        assert keywords == {}
        assert [*map(look, read)] == [*map(look, load_few(pickled))] == [*map(look, args)]


@given(st.binary(max_size=40))
def test_any_bytes_are_read_as_pickle_reads_them_or_left_to_it(data):
    pickled = b"\x80\x05(" + data + b"t}\x86."
    try:
        few = load_few(pickled)
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError):
            pickle.loads(pickled)
        return
    if few is not None:
        read, keywords = pickle.loads(pickled)
        assert keywords == {}
        assert [*map(look, few)] == [*map(look, read)]


@pytest.mark.parametrize(
    "value",
    [0, 255, 256, -1, 65535, 65536, (1 << 31) - 1, 1 << 31, -(1 << 31), -(1 << 31) - 1, (1 << 63) - 1, -(1 << 63)],
)
def test_numbers_at_every_border(value):
    assert pickle.loads(dump_one(value)) == load_one(dump_one(value)) == value


@pytest.mark.parametrize("text", ["", "a", "x" * SHORT, b"", b"y" * SHORT])
def test_short_texts_and_bytes(text):
    assert pickle.loads(dump_one(text)) == load_one(dump_one(text)) == text


class Number(int):
    """Not plain."""


@pytest.mark.parametrize("value", [1 << 63, "é", "x" * (SHORT + 1), b"y" * (SHORT + 1), Number(1), 1j, (), [1]])
def test_the_rest_is_left_to_pickle(value):
    assert dump_one(value) is None
    assert dump_few((1, value)) is None


def test_an_object_that_stands_twice_is_left_to_pickle_which_keeps_it_one():
    text, data = "".join(["two", "fold"]), bytes([1, 2, 3])
    assert dump_few((text, 1, text)) is None
    assert dump_few((data, data)) is None
    assert load_few(dump_few((1, 1, None, None))) == (1, 1, None, None)


@pytest.mark.parametrize(
    "cut",
    [
        b"",
        b"\x80\x05.",
        b"\x80\x05(",
        b"\x80\x05(t}\x86",
        b"\x80\x05(K",
        b"\x80\x05(\x8c\xfft}\x86.",
        b"\x80\x05(Jt}\x86.",
    ],
)
def test_what_is_cut_is_left_to_pickle(cut):
    assert load_few(cut) is None
    with pytest.raises((pickle.UnpicklingError, EOFError, ValueError)):
        load_one(cut)
