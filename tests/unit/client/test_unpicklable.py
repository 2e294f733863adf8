"""Finding the part of a value that can't be pickled: the innermost one, by a path that a user can read."""

import collections
import functools
import threading
import types

import pytest

from rfaas.client.unpicklable import find

LOCK = threading.Lock()
Row = collections.namedtuple("Row", "key lock")


class Slotted:
    __slots__ = ("lock",)

    def __init__(self):
        self.lock = LOCK


class Explosive:
    def __reduce__(self):
        raise RuntimeError("boom")


class Hostile(dict):
    def items(self):
        raise RuntimeError("no items here")


def uses_global():
    return LOCK


def closure():
    inside = {"deep": [LOCK]}
    return lambda: inside


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (LOCK, "result"),
        ([1, [2, LOCK]], "result[1][1]"),
        ({"a": {"b": LOCK}}, "result['a']['b']"),
        ({LOCK: 1}, "key <"),
        ({1, LOCK}, "a member of result"),
        (Slotted(), "result.lock"),
        (Row(1, LOCK), "result.lock"),
        (types.SimpleNamespace(x=types.SimpleNamespace(y=LOCK)), "result.x.y"),
        (functools.partial(print, 1, end=LOCK), "result.keywords['end']"),
        (ValueError("x", LOCK), "result.args[1]"),
        (closure(), "inside, which result uses['deep'][0]"),
        (Slotted().__init__, "result.__self__.lock"),
    ],
)
def test_the_path_leads_to_the_innermost_part(value, where):
    culprit = find(value, "result")
    assert culprit.where.startswith(where)
    assert culprit.kind == "_thread.lock"


def test_an_object_whose_own_pickling_fails_is_the_culprit_itself():
    culprit = find({"a": Explosive()}, "result")
    assert (culprit.where, culprit.kind.rpartition(".")[2]) == ("result['a']", "Explosive")


def test_a_value_that_can_t_be_looked_into_is_the_culprit_itself():
    culprit = find(Hostile(a=LOCK), "result")
    assert culprit.where == "result"


def test_a_value_that_contains_itself_comes_to_an_end():
    value = []
    value += [value, LOCK]
    assert "_thread.lock" in str(find(value, "result")) or find(value, "result").where.startswith("result[0]")


def test_the_remedy_fits_the_kind():
    assert "list(...)" in find((n for n in ()), "result").hint
