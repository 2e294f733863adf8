"""Pickling of classes by value such that a process which has the class keeps its own: one object, its state untouched.

Cloudpickle finds a class again that it has sent or built before, but sets its state anew each time: an instance that
came back would reset its class to what the other process had. Here the receiver's copy stays as it is.

Both ends import this module: pickles name `build` and `fill`, so these names and their arguments are part of what
travels. Must import cloudpickle alone and what is below. Spec: docs/spec/001-invocation.md section 2.
"""

from __future__ import annotations

import io
import pickle
import sys
import threading
import uuid
import weakref
from collections import ChainMap
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import cloudpickle

from rfaas_transport.array_memory import reduce_lent, reduce_memoryview

_lock = threading.Lock()
_names: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()
_classes: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()
_filled: weakref.WeakSet[type] = weakref.WeakSet()


def build(name: str, make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """The class of this name that the process has, or an empty one, made now.

    Nothing is made where there is one: making a class runs its bases' `__init_subclass__`, which may keep a list.
    """
    with _lock:
        known = _classes.get(name)
    if known is not None:
        return known
    made = make(*args)  # runs the user's code: not under the lock
    with _lock:
        kept = _classes.setdefault(name, made)
        _names[kept] = name
    return kept


def fill(cls: type, state: tuple[Callable[[type, Any], object], Any]) -> None:
    """Give a class that was made by `build` its attributes, unless it has them: then it stays as it is."""
    if cls in _filled:
        return
    set_state, attributes = state
    set_state(cls, attributes)
    _filled.add(cls)  # only now: if that failed, the next copy tries again


def _keeping(cls: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """What cloudpickle makes of a class, with `build` and `fill` in the place of its own functions."""
    make, args, state, _, _, set_state = reduced
    with _lock:
        name = _names.get(cls)
        if name is None:
            name = _names[cls] = uuid.uuid4().hex
            _classes[name] = cls
        _filled.add(cls)
    return build, (name, make, _with_slots(cls, args)), (set_state, state), None, None, fill


def _with_slots(cls: type, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a class is made of, with its `__slots__`.

    Cloudpickle 3.1.3 sets them when the class is made, which is too late: its instances have a `__dict__` there, and
    can't come back.
    """
    slots = vars(cls).get("__slots__")
    if not isinstance(slots, str | tuple | list | dict) or len(args) != 6 or args[0] is not type(cls):
        return args  # an enum is made of other things
    if any(base is NamedTuple for base in args[2]):
        return args  # makes them itself
    return (*args[:3], {"__slots__": slots, **args[3]}, *args[4:])


def _open_file(file: io.TextIOWrapper) -> tuple[Any, ...]:
    """Refuse a text file, of which cloudpickle would send the whole content as an `io.StringIO`."""
    if file is sys.stdout or file is sys.stderr:
        made: tuple[Any, ...] = cloudpickle.Pickler.dispatch_table[io.TextIOWrapper](file)
        return made
    raise pickle.PicklingError(f"an open file can't leave its process ({getattr(file, 'name', '?')})")


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is not typed
    """Cloudpickle's, whose classes don't overwrite those of the receiver, and which refuses open files."""

    dispatch_table: ClassVar[Any] = ChainMap(
        {io.TextIOWrapper: _open_file, memoryview: reduce_memoryview}, cloudpickle.Pickler.dispatch_table
    )

    def reducer_override(self, obj: Any) -> Any:  # noqa: ANN401
        """Called by pickle for each object."""
        if (lent := reduce_lent(obj)) is not None:
            return lent
        reduced = super().reducer_override(obj)
        if isinstance(reduced, tuple) and len(reduced) == 6 and isinstance(obj, type):
            return _keeping(obj, reduced)
        return reduced


def dumps(value: object, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None) -> bytes:
    """Pickle by value (protocol 5) what has no name at the receiver.

    Raises:
        Exception: it can't be pickled; pickling runs the user's code, so that may be any.
    """
    with io.BytesIO() as file:
        Pickler(file, protocol=5, buffer_callback=buffer_callback).dump(value)
        return file.getvalue()
