"""Messages as protobuf and back: the only code that touches the stubs' fields.

A message and its protobuf twin have the same field names, so one loop converts them all. What it accepts is checked
here (ids of 16 bytes, known lease states), so that the cores never see nonsense. No I/O, no gRPC calls.
Spec: docs/spec/003-control.md, rfaas/control/proto/*.proto.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import Message

from rfaas.control import messages as m
from rfaas.control.lease import LeaseState
from rfaas.control.proto import admin_pb2, agents_pb2, common_pb2, leases_pb2, offers_pb2
from rfaas_transport.errors import ProtocolError, VersionMismatch

PROTOCOL_VERSION: Final = 1
"""What this code speaks; it talks to one version older and one newer."""

ID_BYTES: Final = 16

M = TypeVar("M")


def check_version(theirs: int) -> None:
    """Accept a peer that speaks our version or one beside it.

    Raises:
        VersionMismatch: both versions are in the text; nothing of the peer was believed.
    """
    if theirs < 1 or abs(theirs - PROTOCOL_VERSION) > 1:
        raise VersionMismatch(
            f"version-mismatch: this side speaks version {PROTOCOL_VERSION}, the other {theirs or 'none'}",
            hint="install versions of rfaas that lie no further apart than one",
        )


class Envelope(Generic[M]):
    """One direction of a stream: which messages it carries, and how each is put into the oneof `body`.

    Args:
        pb: the protobuf class of the envelope.
        bodies: the field of `body` for each message class.
    """

    def __init__(self, pb: type[Message], bodies: Mapping[type[Any], str]) -> None:
        self._pb: Any = pb
        self._field_of = dict(bodies)
        self._class_of = {name: cls for cls, name in bodies.items()}

    def encode(self, message: M, seq: int, version: int = 0) -> Any:  # noqa: ANN401 - a protobuf envelope
        """Wrap one message; `version` goes with the first of a stream only."""
        envelope = self._pb(seq=seq, version=version)
        _fill(getattr(envelope, self._field_of[type(message)]), message)
        return envelope

    def bare(self, seq: int, version: int = 0, *, ack: int = 0, ack_wanted: bool = False) -> Any:  # noqa: ANN401
        """An envelope without a message, for what streams say to each other."""
        return self._pb(seq=seq, version=version, ack=ack, ack_wanted=ack_wanted)

    def decode(self, envelope: Any) -> M | None:  # noqa: ANN401
        """Unwrap one message; None if there is none, or one of a kind that only a newer version knows.

        Raises:
            ProtocolError: a field breaks the specification; nothing of the message was used.
        """
        name = envelope.WhichOneof("body")
        if name is None:
            return None
        message: M = from_pb(self._class_of[name], getattr(envelope, name))
        return message


FROM_AGENT: Final[Envelope[m.AgentMessage]] = Envelope(
    agents_pb2.AgentMessage,
    {
        m.Register: "register",
        m.Accepted: "accepted",
        m.Refused: "refused",
        m.StateChanged: "state_changed",
        m.Freed: "freed",
        m.Ending: "ending",
        m.SliceEmpty: "slice_empty",
        m.UsageReport: "usage_report",
        m.WorkersSpawned: "workers_spawned",
        m.NeighbourReport: "neighbour_report",
    },
)
TO_AGENT: Final[Envelope[m.AllocatorToAgent]] = Envelope(
    agents_pb2.AllocatorToAgent,
    {m.Registered: "registered", m.Propose: "propose", m.EndLease: "end_lease", m.EndSlice: "end_slice"},
)
FROM_HOLDER: Final[Envelope[m.HolderMessage]] = Envelope(
    leases_pb2.HolderMessage,
    {m.HolderHello: "hello", m.Want: "want", m.ReleaseLease: "release_lease", m.HolderGone: "gone"},
)
TO_HOLDER: Final[Envelope[m.AllocatorToHolder]] = Envelope(
    leases_pb2.AllocatorToHolder,
    {m.Granted: "granted", m.Waiting: "waiting", m.Denied: "denied", m.Ended: "ended"},
)

_SINGLE: Final[Mapping[type[Any], type[Message]]] = {
    m.Snapshot: common_pb2.Snapshot,
    m.JobsReport: offers_pb2.JobsReport,
    m.Event: admin_pb2.Event,
    m.Account: admin_pb2.Account,
    m.Host: common_pb2.Host,
}


def to_pb(message: object) -> Any:  # noqa: ANN401
    """Protobuf of a message that travels without an envelope: Snapshot, JobsReport, Event, Account or Host."""
    pb = _SINGLE[type(message)]()
    _fill(pb, message)
    return pb


def from_pb(cls: type[M], pb: Any) -> M:  # noqa: ANN401
    """Rebuild a message of class `cls`.

    Raises:
        ProtocolError: a field breaks the specification.
    """
    values = {name: _FROM_PB[kind](pb, name, inner) for name, kind, inner in _plan(cls)}
    if values.get("state") not in _STATES.get(cls, (None, values.get("state"))):
        raise ProtocolError(f"{cls.__name__}: no such state: {values['state']!r}")
    return cls(**values)


_STATES: Final[Mapping[type[Any], frozenset[str]]] = {
    m.HeldLease: frozenset(state.name for state in LeaseState),
    m.StateChanged: frozenset({"ACTIVE", "DRAINING", "FENCED"}),
}


# --- one loop for all messages ------------------------------------------------------------------


_plans: Final[dict[type[Any], tuple[tuple[str, str, Any], ...]]] = {}


def _plan(cls: type[Any]) -> tuple[tuple[str, str, Any], ...]:
    """For each field of a message class: its name, how it travels, and the class inside it."""
    plan = _plans.get(cls)
    if plan is None:
        hints = typing.get_type_hints(cls)
        plan = tuple((field.name, *_kind(hints[field.name])) for field in dataclasses.fields(cls))
        _plans[cls] = plan
    return plan


def _kind(hint: Any) -> tuple[str, Any]:  # noqa: ANN401
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kind, inner = _kind(next(arg for arg in args if arg is not types.NoneType))
        return f"optional {kind}", inner
    if origin is tuple:
        kind, inner = _kind(args[0])
        return f"repeated {kind}", inner
    if origin is dict:
        return "map", None
    if dataclasses.is_dataclass(hint):
        return "message", hint
    if getattr(hint, "__supertype__", None) is bytes:
        return "id", None
    return "plain", None


def _fill(pb: Any, message: Any) -> None:  # noqa: ANN401
    pb.SetInParent()  # a message whose fields are all at their defaults is there nevertheless
    for name, kind, _ in _plan(type(message)):
        _TO_PB[kind](pb, name, getattr(message, name))


def _set(pb: Any, name: str, value: Any) -> None:  # noqa: ANN401
    setattr(pb, name, value)


def _set_optional(pb: Any, name: str, value: Any) -> None:  # noqa: ANN401
    if value is not None:
        setattr(pb, name, value)


def _set_message(pb: Any, name: str, value: Any) -> None:  # noqa: ANN401
    _fill(getattr(pb, name), value)


def _extend(pb: Any, name: str, values: Any) -> None:  # noqa: ANN401
    getattr(pb, name).extend(values)


def _extend_messages(pb: Any, name: str, values: Any) -> None:  # noqa: ANN401
    field = getattr(pb, name)
    for value in values:
        _fill(field.add(), value)


def _set_job_list(pb: Any, name: str, values: Any) -> None:  # noqa: ANN401
    # The one optional list (JobsReport.alive): protobuf needs a message around it to tell absent from empty.
    if values is not None:
        getattr(pb, name).SetInParent()
        _extend_messages(getattr(pb, name), "jobs", values)


def _update(pb: Any, name: str, values: Any) -> None:  # noqa: ANN401
    getattr(pb, name).update(values)


_TO_PB: Final[Mapping[str, Callable[[Any, str, Any], None]]] = {
    "plain": _set,
    "id": _set,
    "optional plain": _set_optional,
    "optional id": _set_optional,
    "message": _set_message,
    "repeated plain": _extend,
    "repeated id": _extend,
    "repeated message": _extend_messages,
    "optional repeated message": _set_job_list,
    "map": _update,
}


def _get(pb: Any, name: str, _inner: Any) -> Any:  # noqa: ANN401
    return getattr(pb, name)


def _get_optional(pb: Any, name: str, _inner: Any) -> Any:  # noqa: ANN401
    return getattr(pb, name) if pb.HasField(name) else None


def _checked_id(value: bytes, name: str) -> bytes:
    if len(value) != ID_BYTES:
        raise ProtocolError(f"{name}: an id has {ID_BYTES} bytes, not {len(value)}")
    return value


_FROM_PB: Final[Mapping[str, Callable[[Any, str, Any], Any]]] = {
    "plain": _get,
    "id": lambda pb, name, _: _checked_id(getattr(pb, name), name),
    "optional plain": _get_optional,
    "optional id": lambda pb, name, _: _checked_id(getattr(pb, name), name) if pb.HasField(name) else None,
    "message": lambda pb, name, inner: from_pb(inner, getattr(pb, name)),
    "repeated plain": lambda pb, name, _: tuple(getattr(pb, name)),
    "repeated id": lambda pb, name, _: tuple(_checked_id(value, name) for value in getattr(pb, name)),
    "repeated message": lambda pb, name, inner: tuple(from_pb(inner, value) for value in getattr(pb, name)),
    "optional repeated message": lambda pb, name, inner: (
        tuple(from_pb(inner, value) for value in getattr(pb, name).jobs) if pb.HasField(name) else None
    ),
    "map": lambda pb, name, _: dict(getattr(pb, name)),
}
