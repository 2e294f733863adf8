"""Messages as plain values, as msgpack carries them to `rfaas status --pid`."""

import msgpack
import pytest
from hypothesis import given
from unit.control.strategies import messages

from rfaas.control import messages as m
from rfaas.control.plain import from_plain, to_plain
from rfaas_transport.errors import ProtocolError


@given(messages(m.Snapshot))
def test_a_snapshot_comes_back_as_it_went(snapshot):
    assert from_plain(m.Snapshot, msgpack.unpackb(msgpack.packb(to_plain(snapshot)))) == snapshot


def test_what_a_newer_side_adds_is_ignored_and_what_an_older_one_lacks_is_a_default():
    assert from_plain(m.Host, {"name": "n1", "cores": 2, "memory_bytes": 3, "gpus": 8}) == m.Host("n1", 2, 3)


@pytest.mark.parametrize("plain", [None, [], 7, {}, {"alloc_epoch": 1, "slices": 5}, {"alloc_epoch": 1, "slices": [1]}])
def test_what_is_no_snapshot_is_refused(plain):
    with pytest.raises(ProtocolError, match="this is no Snapshot"):
        from_plain(m.Snapshot, plain)
