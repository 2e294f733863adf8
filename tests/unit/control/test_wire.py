"""Messages survive the wire, whatever their values; nonsense is refused with words."""

import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfaas.control import messages as m
from rfaas.control import wire
from rfaas.control.proto import agents_pb2, leases_pb2
from rfaas_transport.errors import ProtocolError, VersionMismatch

from .strategies import any_of, messages

STREAMS = [
    (wire.FROM_AGENT, m.AgentMessage, agents_pb2.AgentMessage),
    (wire.TO_AGENT, m.AllocatorToAgent, agents_pb2.AllocatorToAgent),
    (wire.FROM_HOLDER, m.HolderMessage, leases_pb2.HolderMessage),
    (wire.TO_HOLDER, m.AllocatorToHolder, leases_pb2.AllocatorToHolder),
]


@pytest.mark.parametrize(("envelope", "union", "pb"), STREAMS)
def test_every_message_of_a_stream_survives_the_wire(envelope, union, pb):
    @settings(max_examples=200, deadline=None)
    @given(message=any_of(union), seq=st.integers(0, 2**64 - 1))
    def check(message, seq):
        sent = envelope.encode(message, seq, version=1).SerializeToString()
        received = pb.FromString(sent)
        assert (received.seq, received.version) == (seq, 1)
        assert envelope.decode(received) == message

    check()


@pytest.mark.parametrize(("envelope", "union", "pb"), STREAMS)
def test_a_stream_carries_every_message_of_its_union_and_no_other(envelope, union, pb):
    named = {field.message_type.name for field in pb.DESCRIPTOR.oneofs_by_name["body"].fields}
    assert named == {cls.__name__ for cls in typing.get_args(union)}


@pytest.mark.parametrize("cls", [m.Snapshot, m.JobsReport, m.Event])
def test_messages_without_an_envelope_survive_the_wire(cls):
    @settings(max_examples=100, deadline=None)
    @given(message=messages(cls))
    def check(message):
        pb = wire.to_pb(message)
        assert wire.from_pb(cls, type(pb).FromString(pb.SerializeToString())) == message

    check()


def test_a_message_of_defaults_is_not_taken_for_no_message():
    held_nothing = wire.TO_AGENT.encode(m.EndSlice(0), 1)
    assert wire.TO_AGENT.decode(held_nothing) == m.EndSlice(0)


def test_no_list_of_jobs_is_not_an_empty_list():
    assert wire.from_pb(m.JobsReport, wire.to_pb(m.JobsReport(alive=None))).alive is None
    assert wire.from_pb(m.JobsReport, wire.to_pb(m.JobsReport(alive=()))).alive == ()


def test_a_kind_of_a_newer_version_is_none():
    assert wire.FROM_AGENT.decode(agents_pb2.AgentMessage(seq=3)) is None


@pytest.mark.parametrize("size", [0, 1, 15, 17, 4096])
def test_an_id_of_another_size_is_refused(size):
    pb = agents_pb2.AgentMessage(accepted=agents_pb2.Accepted(lease_id=b"x" * size))
    with pytest.raises(ProtocolError, match="16 bytes"):
        wire.FROM_AGENT.decode(pb)


@pytest.mark.parametrize("state", ["", "active", "GRANTED", "ACTIVE "])
def test_a_state_that_an_agent_can_not_report_is_refused(state):
    pb = agents_pb2.AgentMessage(state_changed=agents_pb2.StateChanged(lease_id=b"x" * 16, state=state))
    with pytest.raises(ProtocolError, match="no such state"):
        wire.FROM_AGENT.decode(pb)


@given(data=st.binary(max_size=200))
def test_random_bytes_are_a_message_or_an_error_of_the_protocol(data):
    from google.protobuf.message import DecodeError

    try:
        message = wire.FROM_AGENT.decode(agents_pb2.AgentMessage.FromString(data))
    except (DecodeError, ProtocolError):
        return
    assert message is None or isinstance(message, typing.get_args(m.AgentMessage))


@pytest.mark.parametrize("theirs", [wire.PROTOCOL_VERSION, wire.PROTOCOL_VERSION + 1])
def test_a_version_beside_ours_is_accepted(theirs):
    wire.check_version(theirs)


@pytest.mark.parametrize("theirs", [0, wire.PROTOCOL_VERSION + 2, 2**32 - 1])
def test_a_version_further_apart_is_refused_with_both_in_the_text(theirs):
    with pytest.raises(VersionMismatch, match=rf"version {wire.PROTOCOL_VERSION}, the other {theirs or 'none'}"):
        wire.check_version(theirs)
