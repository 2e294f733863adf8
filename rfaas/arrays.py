"""`rfaas.empty` and its like: numpy arrays where functions on this node need no copy of them.

    x = rfaas.empty((1000, 1000))   # in a program: workers on this node read it in place
    x[...] = ...
    future = ex.submit(f, x)        # leave x alone until it is done

    def f(x):
        y = rfaas.empty_like(x)     # in a function: its result, not copied either
        np.sqrt(x, out=y)
        return y

Must import numpy only where an array is asked for. Rules and what is proven: docs/arrays.md; spec 006 section 7.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, Final, Literal

from rfaas_transport import array_memory
from rfaas_transport._core import pool_usage, set_pool_size
from rfaas_transport.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike

_CPU: Final = 1  # kDLCPU of DLPack


def _numpy() -> Any:  # noqa: ANN401 - a module
    try:
        import numpy
    except ImportError as error:
        raise ConfigError(
            "numpy is not installed in this environment, which arrays of rfaas need",
            hint="pip install numpy, or pass memoryviews",
        ) from error
    return numpy


def empty(shape: int | Sequence[int], dtype: DTypeLike = float, order: Literal["C", "F"] = "C") -> np.ndarray[Any, Any]:
    """Make an array, of undefined content, that need not be copied on its way to or from a function on the same node.

    In a program: workers there read it in place, and it arrives read-only. It is the program's again when the call is
    done; a change before that may be seen by the function. In a function: a result that lies in it goes to the caller
    without a copy, if the function has given up all else that refers to it.

    Small arrays (below 32 KiB), and all where there is no room, are made by `numpy.empty`; so is everything about the
    result that is not said here. Over tcp it is sent like any array.

    Args:
        shape: as for `numpy.empty`.
        dtype: anything but Python objects.
        order: "C" (rows together) or "F" (columns).

    Raises:
        ConfigError: numpy is not installed, or a setting is wrong.
        ValueError: elements of this type are Python objects.
        MemoryError: there is no memory for it.
    """
    numpy = _numpy()
    kind = numpy.dtype(dtype)
    if kind.hasobject:
        raise ValueError(f"rfaas.empty can't hold elements of type {kind}: Python objects are pickled one by one")
    sizes = _sizes(shape)
    size_bytes = math.prod(sizes) * kind.itemsize
    memory = None
    if all(size > 0 for size in sizes) and size_bytes <= sys.maxsize and order in ("C", "F"):
        memory = _memory(size_bytes)
    if memory is None:  # numpy says what is wrong with a shape or an order
        return numpy.empty(shape, kind, order)  # type: ignore[no-any-return]
    return numpy.ndarray(sizes, kind, buffer=memory, order=order)  # type: ignore[no-any-return]


def empty_like(prototype: Any, dtype: DTypeLike | None = None) -> np.ndarray[Any, Any]:  # noqa: ANN401 - as numpy's
    """`empty` with the shape of another array and, unless said otherwise, its type; Fortran order if that has it.

    Raises:
        As `empty`.
    """
    numpy = _numpy()
    given = numpy.asarray(prototype)
    is_fortran = given.flags.f_contiguous and not given.flags.c_contiguous
    return empty(given.shape, given.dtype if dtype is None else dtype, "F" if is_fortran else "C")


def from_dlpack(producer: Any) -> np.ndarray[Any, Any]:  # noqa: ANN401 - whatever has the two methods
    """See an array of another library (`__dlpack__`: torch, JAX, … on the host) as a numpy array; nothing is copied.

    Pass the result to a function to have it travel like any array; it arrives as a numpy array. Passed as they are,
    such objects are pickled as their own library does it.

    Raises:
        ConfigError: numpy is not installed.
        TypeError: it is no such object.
        ValueError: it lies in memory of a device, not of this host; move it first.
    """
    numpy = _numpy()
    where = getattr(producer, "__dlpack_device__", None)
    if where is None or not hasattr(producer, "__dlpack__"):
        raise TypeError(f"{type(producer).__name__!r} object is no array of a library with DLPack (no __dlpack__)")
    device = where()
    if int(device[0]) != _CPU:
        raise ValueError(f"the array lies on a device (DLPack type {int(device[0])}): move it to the host first")
    return numpy.from_dlpack(producer)  # type: ignore[no-any-return]


def _sizes(shape: int | Sequence[int]) -> tuple[int, ...]:
    try:
        return (index(shape),)  # type: ignore[arg-type]  # also of an array without dimensions
    except TypeError:
        return tuple(map(index, shape if isinstance(shape, Iterable) else (shape,)))


def _memory(size_bytes: int) -> Any:  # noqa: ANN401 - a buffer
    if not pool_usage()["size_bytes"]:
        from rfaas.settings import Settings

        set_pool_size(Settings.load().value("executor.array_memory") or 0)
    return array_memory.allocate(size_bytes)
