"""Messages as maps, lists, texts, numbers and bytes, and back: what msgpack carries where there is no protobuf.

Only for what one installation says to itself, e.g. an embedded session process to `rfaas status`: a field that one side
lacks has its default, one that it does not know is ignored. No I/O.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from rfaas_transport.errors import ProtocolError

M = TypeVar("M")


def to_plain(message: Any) -> dict[str, Any]:  # noqa: ANN401 - any message of rfaas.control.messages
    """The fields of a message by name, all the way down."""
    return dataclasses.asdict(message)


def from_plain(cls: type[M], plain: object) -> M:
    """Rebuild a message.

    Raises:
        ProtocolError: it is no such message; nothing of it was used.
    """
    try:
        rebuilt: M = _rebuild(cls, plain)
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"this is no {cls.__name__}: {error}") from error
    return rebuilt


def _rebuild(hint: Any, plain: Any) -> Any:  # noqa: ANN401
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = next(arg for arg in args if arg is not types.NoneType)
        return None if plain is None else _rebuild(inner, plain)
    if origin is tuple:
        return tuple(_rebuild(args[0], value) for value in plain)
    if dataclasses.is_dataclass(hint):
        if not isinstance(plain, Mapping):
            raise TypeError(f"a map was expected, not {type(plain).__name__}")
        hints = typing.get_type_hints(hint)
        known = {field.name for field in dataclasses.fields(hint)} & plain.keys()
        return hint(**{name: _rebuild(hints[name], plain[name]) for name in known})  # type: ignore[operator]
    return plain
