"""Hypothesis strategies for the control messages, from their own type hints."""

import dataclasses
import types
import typing

from hypothesis import strategies as st

from rfaas.control import messages as m
from rfaas.control.lease import LeaseState

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
ID = st.binary(min_size=16, max_size=16)
U32_FIELDS = {"cores", "workers", "cores_per_worker", "uid", "shared_by", "missing", "reason_code", "free_cores"}
U32_FIELDS |= {"lease_workers"}


def _for_hint(hint, name):
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = next(arg for arg in args if arg is not types.NoneType)
        return st.none() | _for_hint(inner, name)
    if origin is tuple:
        return st.lists(_for_hint(args[0], "core_ids" if args[0] is int else name), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(st.text(max_size=8), U64, max_size=3)
    if dataclasses.is_dataclass(hint):
        return messages(hint)
    hint = getattr(hint, "__supertype__", hint)
    if hint is int:
        return U32 if name in U32_FIELDS or name == "core_ids" else U64
    return {
        bytes: ID,
        str: st.text(max_size=20),
        float: st.floats(allow_nan=False),
        bool: st.booleans(),
    }[hint]


def messages(cls):
    """Any value of a message class that the specification allows."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: _for_hint(hints[field.name], field.name) for field in dataclasses.fields(cls)}
    if cls is m.HeldLease:
        fields["state"] = st.sampled_from([state.name for state in LeaseState])
    if cls is m.StateChanged:
        fields["state"] = st.sampled_from(["ACTIVE", "DRAINING", "FENCED"])
    return st.builds(cls, **fields)


def any_of(union):
    """Any message of a union such as AgentMessage."""
    return st.one_of([messages(cls) for cls in typing.get_args(union)])
