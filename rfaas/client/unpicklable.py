"""Finds the part of a value that can't be pickled, and says what to do about it.

Runs after pickling failed, at either end: must not raise, and gives up after SEARCH_S. Imported by nobody before that.
"""

from __future__ import annotations

import functools
import time
import types
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from rfaas_transport import class_copies

SEARCH_S: Final = 1.0  # parts are pickled one after the other, and may be large
DEPTH: Final = 12
PARTS: Final = 1000  # of one container that are looked at

_SAFE: Final = (str, bytes, bytearray, int, float, complex, bool, type(None), type(...))

_REMEDIES: Final = {
    "generator": "return list(...) of it, or submit the parts one by one with `map`",
    "async_generator": "collect its values inside the function and return a list",
    "coroutine": "run it inside the function: asyncio.run(...)",
    "map": "return list(...) of it",
    "filter": "return list(...) of it",
    "zip": "return list(...) of it",
    "module": "import it inside the function",
    "TextIOWrapper": "pass its path, and open it inside the function",
    "BufferedReader": "pass its path, and open it inside the function",
    "BufferedWriter": "pass its path, and open it inside the function",
    "BufferedRandom": "pass its path, and open it inside the function",
    "FileIO": "pass its path, and open it inside the function",
    "frame": "leave it out; an exception's text is enough",
    "traceback": "leave it out; an exception's text is enough",
}
_REMEDY: Final = "leave it out (`__getstate__`), or make it inside the function"


class Culprit(NamedTuple):
    """What can't be pickled.

    Attributes:
        where: `result['model'].lock`
        kind: name of its type.
        hint: what to do.
    """

    where: str
    kind: str
    hint: str

    def __str__(self) -> str:
        return f"{self.where} is of type {self.kind}"


def find(value: object, name: str) -> Culprit:
    """The innermost part of `value` that fails by itself.

    Args:
        name: of the whole, as the text begins: "result", "args", a function's name.
    """
    until_s = time.monotonic() + SEARCH_S
    where, part = name, value
    for _ in range(DEPTH):
        inner = next(((w, p) for w, p in _parts(part, where) if not _can_be_pickled(p, until_s)), None)
        if inner is None:
            break
        where, part = inner
    kind = type(part)
    remedy = _REMEDIES.get(kind.__name__, _REMEDY)
    return Culprit(
        where, kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}", remedy
    )


def _can_be_pickled(part: object, until_s: float) -> bool:
    if isinstance(part, _SAFE) or time.monotonic() > until_s:
        return True
    try:
        class_copies.dumps(part, lambda _: False)
    except Exception:
        return False
    return True


def _parts(value: Any, where: str) -> Iterator[tuple[str, object]]:  # noqa: ANN401
    try:
        for number, part in enumerate(_all_parts(value, where)):
            if number >= PARTS:
                return
            yield part
    except Exception:  # a user's __iter__ or property may raise; what was found so far counts
        return


def _all_parts(value: Any, where: str) -> Iterator[tuple[str, object]]:  # noqa: ANN401
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield f"{where}[{key!r}]", part
            yield f"key {key!r} of {where}", key
    elif isinstance(value, list | tuple):
        names = getattr(value, "_fields", ())
        for number, part in enumerate(value):
            yield (f"{where}.{names[number]}" if number < len(names) else f"{where}[{number}]"), part
    elif isinstance(value, set | frozenset):
        for part in value:
            yield f"a member of {where}", part
    elif isinstance(value, functools.partial):
        yield f"{where}.func", value.func
        yield from _all_parts(list(value.args), f"{where}.args")
        yield from _all_parts(value.keywords, f"{where}.keywords")
    elif isinstance(value, types.MethodType):
        yield f"{where}.__self__", value.__self__
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value, where)
    if isinstance(value, BaseException):
        yield from _all_parts(list(value.args), f"{where}.args")
    if not isinstance(value, type | types.ModuleType | types.FunctionType):
        for name, part in _attributes(value):
            yield f"{where}.{name}", part


def _of_function(function: types.FunctionType, where: str) -> Iterator[tuple[str, object]]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        yield f"{name}, which {where} uses", cell.cell_contents
    for name in code.co_names:
        if name in function.__globals__:
            yield f"{name}, which {where} uses", function.__globals__[name]
    for number, default in enumerate(function.__defaults__ or ()):
        yield f"default {number} of {where}", default


def _attributes(value: Any) -> Iterator[tuple[str, object]]:  # noqa: ANN401
    yield from dict(getattr(value, "__dict__", {})).items()
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                yield name, getattr(value, name)
