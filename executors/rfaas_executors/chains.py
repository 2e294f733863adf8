"""The exceptions behind a function's exception: causes, contexts, notes, members of groups, for a RESULT's segments.

Pickle keeps none of the links between exceptions. Must not raise: the call failed already, and that is what matters.
Spec: docs/spec/001-invocation.md section 2 (RESULT, status EXCEPTION).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

MAX_EXCEPTIONS = 64  # a retry loop may leave thousands, one the context of the next
MAX_BYTES = 1 << 20  # of all their pickles; beyond, the text stands for them

# The interpreter's own getters: a class may put a property of its own in their place, which may raise.
TRACEBACK, CAUSE, CONTEXT, SUPPRESS_CONTEXT = (
    BaseException.__dict__[name].__get__
    for name in ("__traceback__", "__cause__", "__context__", "__suppress_context__")
)

Pickle = Callable[[BaseException], bytes]
Describe = Callable[[BaseException], dict[str, str]]


def links(error: BaseException, pickle: Pickle, describe: Describe) -> list[bytes]:
    """Segments 2… of a RESULT: how the exceptions hang together, then their pickles; none if there is nothing to say.

    Args:
        pickle: gives no bytes for what can't be pickled.
        describe: `type` and `message` of an exception, for where its pickle is of no use.
    """
    found = _walk(error)
    numbers = {id(exception): number for number, exception in enumerate(found)}
    inside = _members(found, numbers)
    nodes: list[dict[str, Any]] = []
    pickles: list[bytes] = []
    room = MAX_BYTES
    for number, exception in enumerate(found):
        node: dict[str, Any] = {
            "cause": numbers.get(id(CAUSE(exception))),
            "context": numbers.get(id(CONTEXT(exception))),
            "suppress": SUPPRESS_CONTEXT(exception),
            "notes": _notes(exception),
        }
        if number in inside:
            node["in"] = inside[number]
        elif number:
            data = pickle(exception)
            data = data if len(data) <= room else b""
            room -= len(data)
            node |= {"segment": 3 + len(pickles), **describe(exception)}
            pickles.append(data)
        nodes.append(node)
    if len(nodes) == 1 and not nodes[0]["notes"] and not nodes[0]["suppress"]:
        return []
    return [msgpack.packb(nodes, unicode_errors="replace"), *pickles]


def _walk(error: BaseException) -> list[BaseException]:
    """The exceptions that can be reached from one, it first; the nearest ones if they are many."""
    found, known = [error], {id(error)}
    for exception in found:  # grows while it is read
        for other in (CAUSE(exception), CONTEXT(exception), *_group(exception)):
            if other is not None and id(other) not in known and len(found) < MAX_EXCEPTIONS:
                known.add(id(other))
                found.append(other)
    return found


def _group(exception: BaseException) -> tuple[BaseException, ...]:
    return exception.exceptions if isinstance(exception, BaseExceptionGroup) else ()


def _members(found: list[BaseException], numbers: dict[int, int]) -> dict[int, tuple[int, int]]:
    """Where exceptions are that travel inside a group's own pickle: number of the group, place in it."""
    inside: dict[int, tuple[int, int]] = {}
    for number, exception in enumerate(found):
        for place, member in enumerate(_group(exception)):
            of_member = numbers.get(id(member), 0)
            if of_member > number:  # found through this group, or after it: no circle
                inside.setdefault(of_member, (number, place))
    return inside


def _notes(exception: BaseException) -> list[str]:
    try:
        notes = getattr(exception, "__notes__", None)
    except BaseException:  # of the user's making
        return []
    return [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []
