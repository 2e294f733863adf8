"""`RemoteArray`: a numpy-like view of borrowed memory. What is selected travels, and nothing else.

Loads numpy, so it is loaded when the first array is made. Decides nothing: it turns selections into ranges of bytes.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rfaas.remote_memory import RemoteMemory


class RemoteArray:
    """An array in C order in a part of a RemoteMemory; made by `RemoteMemory.array`.

    `field[10]`, `field[2:5, ::2]` read into a new numpy array, `field[10] = plane` writes, with numpy's rules for
    integers, slices, `...` and broadcasting. Lists and masks don't select: read, then select here. Neighbouring bytes
    travel together, many pieces at once; a selection of many small pieces costs a request each.

    Attributes:
        shape, dtype, ndim, size, nbytes: as of a numpy array.
        offset: in the memory, in bytes.
    """

    def __init__(self, memory: RemoteMemory, shape: int | Sequence[int], dtype: Any, offset: int) -> None:  # noqa: ANN401
        self.dtype = np.dtype(dtype)
        if self.dtype.hasobject:
            raise TypeError(f"an array of {self.dtype} has Python objects in it, which mean nothing elsewhere")
        if self.dtype.itemsize == 0:
            raise TypeError(f"elements of {self.dtype!r} have no size: give one, as in 'S8'")
        lengths = (shape,) if isinstance(shape, int | np.integer) else shape
        self.shape = tuple(operator.index(length) for length in lengths)
        if any(length < 0 for length in self.shape):
            raise ValueError(f"shape {self.shape} has a negative length")
        self.offset = operator.index(offset)  # numpy's integers wrap around
        self.size = 1
        for length in self.shape:
            self.size *= length
        self.nbytes = self.size * self.dtype.itemsize
        if self.offset < 0 or self.offset + self.nbytes > memory.size_bytes:
            raise ValueError(
                f"an array of {self.nbytes} bytes at {offset} does not fit a memory of {memory.size_bytes} bytes"
            )
        self._memory = memory

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without a dimension")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<RemoteArray {self.shape} {self.dtype} in {self._memory!r}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:  # noqa: ANN401
        if copy is False:
            raise ValueError("what lies on another node can't be had without a copy")
        whole = np.asarray(self[...])
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401 - a scalar or an array, as numpy
        ranges, dropped = _select(key, self.shape)
        found = np.empty(tuple(len(one) for one in ranges), self.dtype)
        self._memory.readv(list(self._pieces(ranges, found)))
        return found.reshape([len(one) for one, drop in zip(ranges, dropped, strict=True) if not drop])[()]

    def __setitem__(self, key: Any, value: Any) -> None:  # noqa: ANN401 - whatever numpy can broadcast
        ranges, dropped = _select(key, self.shape)
        kept = [len(one) for one, drop in zip(ranges, dropped, strict=True) if not drop]
        values = np.broadcast_to(np.asarray(value, self.dtype), kept)
        given = np.ascontiguousarray(values).reshape(tuple(len(one) for one in ranges))
        self._memory.writev(list(self._pieces(ranges, given)))

    def readinto(self, out: np.ndarray[Any, Any], key: Any = ...) -> None:  # noqa: ANN401
        """Read a selection into an array of yours, which is C-contiguous and has its dtype and shape: no copy is made.

        Raises:
            ValueError: it has others; nothing was read.
        """
        ranges, dropped = _select(key, self.shape)
        kept = tuple(len(one) for one, drop in zip(ranges, dropped, strict=True) if not drop)
        if out.dtype != self.dtype or out.shape != kept or not out.flags.c_contiguous:
            raise ValueError(f"out is {out.dtype} {out.shape}; it must be C-contiguous {self.dtype} {kept}")
        self._memory.readv(list(self._pieces(ranges, out.reshape(tuple(len(one) for one in ranges)))))

    def _pieces(self, ranges: list[range], local: np.ndarray[Any, Any]) -> Iterator[tuple[int, Any]]:
        """(offset, bytes of `local`) of each run of neighbouring elements, in order."""
        if local.size == 0:
            return
        n_inner = 1  # elements in a run
        first_whole = len(ranges)
        while first_whole and _is_whole(ranges[first_whole - 1], self.shape[first_whole - 1]):
            first_whole -= 1
            n_inner *= self.shape[first_whole]
        if first_whole and ranges[first_whole - 1].step == 1:  # a part of it, without gaps
            first_whole -= 1
            n_inner *= len(ranges[first_whole])
            starts: list[range] = [*ranges[:first_whole], ranges[first_whole][:1]]
        else:
            starts = ranges[:first_whole]
        strides = [self.dtype.itemsize] * self.ndim
        for axis in range(self.ndim - 2, -1, -1):
            strides[axis] = strides[axis + 1] * self.shape[axis + 1]
        run_bytes = n_inner * self.dtype.itemsize
        flat = local.reshape(-1).view("u1")
        for number, index in enumerate(itertools.product(*starts)):
            at = self.offset + sum(i * stride for i, stride in zip(index, strides, strict=False))
            yield at, flat[number * run_bytes : (number + 1) * run_bytes]


def _is_whole(one: range, length: int) -> bool:
    return one == range(length)


def _select(key: Any, shape: tuple[int, ...]) -> tuple[list[range], list[bool]]:  # noqa: ANN401
    """For each axis the indices that are selected, and whether the axis goes away.

    Raises:
        IndexError: as numpy's.
        TypeError: it is no integer, slice or `...`.
    """
    keys = list(key) if isinstance(key, tuple) else [key]
    if sum(one is Ellipsis for one in keys) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    if Ellipsis not in [one for one in keys if one is Ellipsis]:
        keys.append(Ellipsis)
    at = next(i for i, one in enumerate(keys) if one is Ellipsis)
    n_missing = len(shape) - (len(keys) - 1)
    if n_missing < 0:
        raise IndexError(f"too many indices: the array has {len(shape)} dimensions, {len(keys) - 1} were indexed")
    keys[at : at + 1] = [slice(None)] * n_missing
    selected = [_axis(one, length, axis) for axis, (one, length) in enumerate(zip(keys, shape, strict=True))]
    return [one for one, _ in selected], [drop for _, drop in selected]


def _axis(key: Any, length: int, axis: int) -> tuple[range, bool]:  # noqa: ANN401
    if isinstance(key, slice):
        return range(length)[key], False
    if isinstance(key, bool | np.bool_) or not hasattr(key, "__index__") or getattr(key, "ndim", 0) != 0:
        raise TypeError(
            f"a remote array is indexed by integers, slices and ..., not by a {type(key).__name__}:"
            " read, then select here"
        )
    index = operator.index(key)
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of bounds for axis {axis} with size {length}")
    index %= length
    return range(index, index + 1), True
