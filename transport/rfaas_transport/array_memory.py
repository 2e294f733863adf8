"""Where arrays that will travel are best made, and how buffers that pickle would copy travel.

In a program: memory that workers on this node read in place. In a function: memory of the channel that its call came
on, so that its result need not be moved. Loaded by worker and client; must import neither numpy nor what they load.
Spec: docs/spec/006-shared-memory.md section 7.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from typing import TYPE_CHECKING, Any, Final

from rfaas_transport._core import Channel, lend_arena_to_numpy, pool_memory, serve_numpy

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

_plain_dumps: Final = pickle.dumps  # now: a function may replace what modules hold
WORTH_BYTES: Final = 1 << 15  # smaller payloads are copied into the rings in any case (006 section 2)

_serving: Channel | None = None
_lent = False
_modules: Final = sys.modules
_numpy_asked = False  # whether it puts what it makes into the arena of the channel that is served


def serve(channel: Channel | None, lent: bool = False) -> None:
    """Say on which channel the call came that runs now, None if none runs; `lent`: with arguments of the client's.

    Those lie in the client's memory and can only be read.
    """
    global _serving, _lent
    _serving, _lent = channel, lent
    if not _numpy_asked and channel is not None and channel.medium == "shm" and "numpy" in _modules:
        _ask_numpy()
    serve_numpy(channel)


def _ask_numpy() -> None:
    """Have numpy make arrays where results need not be copied, if the numpy of this environment can."""
    global _numpy_asked
    module = _modules.get("numpy._core._multiarray_umath") or _modules.get("numpy.core._multiarray_umath")
    api = getattr(module, "_ARRAY_API", None)
    if api is not None:  # else it is being imported
        _numpy_asked = True
        lend_arena_to_numpy(api)


def allocate(size_bytes: int) -> Buffer | None:
    """Memory for an array that will be an argument, or in a function its result.

    Returns:
        A writable buffer, aligned to a page, of undefined content, given back when its last view is gone. None: the
        array is small, or there is no room: any other memory does, at the cost of a copy.
    """
    if size_bytes < WORTH_BYTES:
        return None
    if _serving is None or _serving.medium == "verbs":  # there the pool is registered, and read by the peer's device
        return pool_memory(size_bytes)
    return _serving.array(size_bytes)


# --- buffers out of band ----------------------------------------------------------------------------
# Of bytes the C pickler makes a copy in the pickle, which is copied again; memoryviews and mmaps it refuses. Here they
# are pickled as a buffer out of band, with what makes them of it at the receiver. bytearray and array.array are left to
# pickle: a buffer of theirs that waits to be sent would forbid their owner to resize them.

_ATOMS: Final = frozenset((int, float, str, bool, type(None)))
_PLAIN: Final = _ATOMS | {tuple, list, dict, set}


def stand_in(value: Any) -> Any:  # noqa: ANN401
    """`value`, or what is to be pickled in its place so that its bytes are not copied on the way.

    Large bytes arrive as bytes, made by one copy at the receiver; memoryviews and mmaps as memoryviews over the
    receiver's own memory.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is bytes:
        return value if len(value) < WORTH_BYTES else _OutOfBand((bytes, (pickle.PickleBuffer(value),)))
    if kind is memoryview or (kind.__name__ == "mmap" and kind.__module__ == "mmap"):
        return _OutOfBand(reduce_memoryview(memoryview(value)))
    return value


def stand_in_alone(value: Any) -> Any:  # noqa: ANN401
    """The same of a value that is pickled with nothing that may refer to it too: of a numpy array as well.

    numpy's own pickling takes twice as long, most of it for the type of the elements.
    """
    if type(value).__name__ != "ndarray":
        return stand_in(value)
    reduced = _reduce_array(value)
    return value if reduced is None else _OutOfBand(reduced)


def stand_ins(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same of a call's arguments."""
    n_large = sum([type(one) not in _ATOMS for one in (*args, *kwargs.values())])
    replace = stand_in_alone if n_large == 1 else stand_in  # f(x, [x]) is to get one array, not two
    return tuple(map(replace, args)), {name: replace(one) for name, one in kwargs.items()}


_numbers: dict[str, Any] = {}  # numpy's own types of elements, by their characters; filled with the first array


def _reduce_array(value: Any) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:  # noqa: ANN401
    """What pickle is to make of a numpy array of numbers; None: what numpy says of it."""
    numpy: Any = _modules.get("numpy")
    if numpy is None or type(value) is not numpy.ndarray or _lent or numpy.ndarray in copyreg.dispatch_table:
        return None
    if not _numbers:
        _numbers.update((char, numpy.dtype(char)) for char in "?bBhHiIlLqQefdFD")
    char: str = value.dtype.char
    if _numbers.get(char) is not value.dtype:
        return None
    flags = value.flags
    order = "C" if flags.c_contiguous else "F" if flags.f_contiguous else ""
    if not order or not value.size or not value.ndim:
        return None
    return _array, (char, value.shape, order, pickle.PickleBuffer(value))


def _array(kind: str, shape: tuple[int, ...], order: Any, data: Any) -> Any:  # noqa: ANN401 - of numpy
    """A numpy array over bytes; runs at the receiver, which finds it by its name."""
    from numpy import ndarray

    return ndarray(shape, kind, data, 0, None, order)


def reduce_memoryview(view: memoryview[Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """What pickle is to make of a memoryview: one of the same format and shape, writable if this one is.

    Raises:
        TypeError: its elements are no single numbers.
    """
    form: Any = view.format.removeprefix("@")
    if len(form) != 1 or form == "P":
        raise TypeError(f"a memoryview of format {view.format!r} can't travel: pass its cast to bytes, .cast('B')")
    shape = () if view.shape is None else view.shape
    if not view.nbytes:
        return _shaped, (b"", form, shape)
    if not view.c_contiguous:
        data = bytes(view) if view.readonly else bytearray(view)
        view = memoryview(data).cast("B").cast(form, shape)
    if view.ndim == 1 and form == "B":
        return memoryview, (pickle.PickleBuffer(view),)
    return _shaped, (pickle.PickleBuffer(view.cast("B")), form, shape)


def _shaped(data: Buffer, form: Any, shape: tuple[int, ...]) -> memoryview[Any]:  # noqa: ANN401 - one of many literals
    """A memoryview of bytes seen otherwise; runs at the receiver, which finds it by its name."""
    view: memoryview[Any] = memoryview(data)
    return view.cast(form) if 0 in shape else view.cast(form, shape)  # memoryview casts to no empty shape but one


# --- results ----------------------------------------------------------------------------------------


def reduce_lent(value: Any) -> Any:  # noqa: ANN401
    """What pickle is to make of an array in the client's memory that a function returns: one that is the caller's own.

    Returns:
        None if it is no such array; else what its own pickling says of a writable copy, in memory that is handed over.
    """
    if not _lent or _serving is None or type(value).__name__ != "ndarray" or value.flags.writeable:
        return None
    if not (value.flags.c_contiguous or value.flags.f_contiguous) or value.dtype.hasobject or not value.nbytes:
        return None
    if not _serving.borrows(memoryview(pickle.PickleBuffer(value).raw())):
        return None
    memory = allocate(value.nbytes)
    order = "C" if value.flags.c_contiguous else "F"
    if memory is None:
        return value.copy(order).__reduce_ex__(5)
    copy = type(value)(value.shape, value.dtype, buffer=memory, order=order)
    copy[...] = value
    return copy.__reduce_ex__(5)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:  # noqa: ANN401
        reduced = reduce_lent(value)
        return NotImplemented if reduced is None else reduced


def dumps(value: object, buffer_callback: Callable[[pickle.PickleBuffer], object]) -> bytes:
    """Pickle a result (protocol 5) with the C pickler, as `pickle.dumps`.

    Raises:
        Exception: whatever pickling raises.
    """
    if not _lent:
        return _plain_dumps(value, protocol=5, buffer_callback=buffer_callback)
    with io.BytesIO() as file:
        _Pickler(file, protocol=5, buffer_callback=buffer_callback).dump(value)
        return file.getvalue()


class _OutOfBand:
    """Is pickled as something else."""

    __slots__ = ("reduced",)

    def __init__(self, reduced: tuple[Callable[..., Any], tuple[Any, ...]]) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.reduced
