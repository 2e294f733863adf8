"""What stands behind an exception, from the worker's segments to the caller's objects, without processes."""

import dataclasses

import msgpack
import pytest

from rfaas.client.failures import RemoteTraceback, load_failure
from rfaas_executors.calls import failure
from rfaas_executors.chains import MAX_EXCEPTIONS
from rfaas_transport.errors import RemoteError
from rfaas_transport.frame import Status
from support import pool_functions as p


def travel(error):
    """The exception as the caller gets it, and the segments on the wire."""
    segments = [memoryview(bytes(segment)) for segment in failure(Status.EXCEPTION, error).segments]
    return load_failure(Status.EXCEPTION, segments), segments


def raised_by(function):
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("it raises")


def test_a_lonely_exception_takes_no_more_bytes_than_before():
    told, segments = travel(ValueError("alone"))
    assert (len(segments), told.args, told.__context__) == (2, ("alone",), None)
    assert type(told.__cause__) is RemoteTraceback
    assert told.__cause__.__cause__ is None


def test_cause_context_and_notes_survive():
    told, _ = travel(raised_by(p.raise_chain))
    cause = told.__cause__.__cause__
    assert (type(told), told.__notes__) == (ValueError, ["a note"])
    assert (type(cause), cause.args, cause.__notes__) == (KeyError, ("missing",), ["looked in an empty dict"])
    assert told.__context__ is cause
    assert (type(cause.__context__), cause.__context__.errno) == (FileNotFoundError, 2)
    assert cause.__suppress_context__ is False


def test_from_none_stays_from_none():
    told, _ = travel(raised_by(p.raise_from_none))
    assert told.__cause__.__cause__ is None
    assert (told.__suppress_context__, told.__context__.args) == (True, ("hidden",))


def test_members_of_groups_keep_their_causes():
    told, _ = travel(raised_by(p.raise_group_of_chains))
    assert [(type(m), m.args, type(m.__cause__), m.__cause__.args) for m in told.exceptions] == [
        (ValueError, (n,), KeyError, (n,)) for n in range(2)
    ]


def test_a_cause_that_can_t_travel_is_named_in_its_place():
    told, segments = travel(raised_by(p.raise_chain_with_a_local_class))
    stand_in = told.__cause__.__cause__
    assert (type(told), type(stand_in)) == (ValueError, RemoteError)
    assert stand_in.remote_type.endswith("LocalError")
    assert "can't travel" in str(stand_in)
    assert segments[3].nbytes == 0


def test_an_error_that_can_t_travel_keeps_what_stands_behind_it():
    class Stuck(Exception):
        def __reduce__(self):
            raise TypeError("never")

    error = Stuck("here")
    error.__cause__ = KeyError("k")
    told, _ = travel(error)
    assert (type(told), type(told.__cause__.__cause__)) == (RemoteError, KeyError)


def test_notes_survive_a_reduce_that_forgets_them():
    class Forgetful(Exception):
        def __reduce__(self):
            return (ValueError, ("another",))

    error = Forgetful()
    error.add_note("kept")
    told, _ = travel(error)
    assert (type(told), told.__notes__) == (ValueError, ["kept"])


def test_a_circle_and_a_long_row_of_exceptions_travel():
    one, two = ValueError(1), ValueError(2)
    one.__cause__, two.__cause__ = two, one
    told, _ = travel(one)
    assert told.__cause__.__cause__.args == (2,)
    row = error = ValueError(0)
    for n in range(1000):
        error.__context__ = ValueError(n)
        error = error.__context__
    told, segments = travel(row)
    assert len(msgpack.unpackb(segments[2])) == MAX_EXCEPTIONS
    assert told.__context__.__context__.args == (1,)


def test_large_exceptions_behind_the_first_are_named_only():
    error = ValueError("small")
    error.__context__ = ValueError(b"x" * (2 << 20))
    told, segments = travel(error)
    assert sum(segment.nbytes for segment in segments[3:]) == 0
    assert type(told.__context__) is RemoteError


@pytest.mark.parametrize(
    "links",
    [
        b"\xc1",
        msgpack.packb(7),
        msgpack.packb([]),
        msgpack.packb([{}]),
        msgpack.packb([{"cause": 9, "context": None, "suppress": False, "notes": []}]),
        msgpack.packb([{"cause": None, "context": None, "suppress": False, "notes": []}, {"segment": 99}]),
        msgpack.packb([{"cause": None, "context": None, "suppress": False, "notes": []}, {"in": [5, 0]}]),
    ],
)
def test_links_that_make_no_sense_are_left_out(links):
    _, segments = travel(ValueError("itself"))
    told = load_failure(Status.EXCEPTION, [*segments, memoryview(links)])
    assert (type(told), told.args, type(told.__cause__)) == (ValueError, ("itself",), RemoteTraceback)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    key: str


class RefusesAttributes(Exception):
    def __setattr__(self, name, value):
        raise AttributeError(name)


class FailingLinks(Exception):
    __cause__ = __context__ = __traceback__ = __notes__ = property(lambda self: 1 / 0)

    def with_traceback(self, trace):
        raise AttributeError


@pytest.mark.parametrize("kind", [Frozen, RefusesAttributes, FailingLinks])
def test_an_exception_that_refuses_to_be_touched_comes_all_the_same(kind):
    def fails():
        try:
            raise KeyError("behind")
        except KeyError as error:
            raise kind("k") from error

    error = raised_by(fails)
    told, segments = travel(error)
    assert BaseException.__dict__["__traceback__"].__get__(error) is None
    assert kind.__qualname__ in msgpack.unpackb(segments[0])["traceback"]
    assert type(told) is kind or (type(told) is RemoteError and kind.__qualname__ in str(told))
    cause = BaseException.__dict__["__cause__"].__get__(told)
    assert type(cause) is RemoteTraceback
    assert (type(cause.__cause__), cause.__cause__.args) == (KeyError, ("behind",))
