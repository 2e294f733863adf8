"""Functions over bytes: `rfaas.raw` and `rfaas.native`. They take a buffer and give a buffer; nothing is pickled.

Submitted like any function, or called here, for tests. Must not know executors, and starts nothing.
Specification: docs/spec/001-invocation.md section 11; for people: docs/native.md.
"""

from __future__ import annotations

import functools
import operator
import os
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, overload

from rfaas.output_room import new_room
from rfaas_transport._core import DEFAULT_MAX_PAYLOAD_BYTES
from rfaas_transport.errors import ConfigError, FunctionError, PayloadTooLarge, SerializationError
from rfaas_transport.manifest import digest
from rfaas_transport.shared_library import describe

if TYPE_CHECKING:
    if sys.version_info >= (3, 12):
        from collections.abc import Buffer
    else:
        from typing_extensions import Buffer

    from rfaas.native_here import NativeHere

Abi = Literal["rfaas-1", "rfaas-0"]
ABIS: Final = ("rfaas-1", "rfaas-0")

_INPUT_HINT: Final = "pass one contiguous buffer: bytes, bytearray, memoryview, array.array, a numpy array"


class ByteArguments(NamedTuple):
    """One call of a function over bytes.

    Attributes:
        data: the input.
        capacity_bytes: room for the output; 0: as much as there is.
        out: the caller's buffer for it; None: a new one.
    """

    data: memoryview
    capacity_bytes: int
    out: memoryview | None


class ByteFunction:
    """A function that takes a buffer and writes its output to another: made by `rfaas.raw` and `rfaas.native` only.

    `ex.submit(f, data)`, `ex.invoke(f, data)`, `ex.map(f, pieces)`, `await ex.asubmit(f, data)`, or `f(data)` to run it
    here. `data` is anything with the buffer protocol, contiguous, b"" if left out; it is read when the call is sent, so
    leave it alone until the call is done. The result is a `memoryview` of the output's bytes: writable, the caller's
    own, over the memory that received it; bytes(result) copies it. With `out=buffer` the output is written there
    instead, when it has arrived whole, and the result is how many bytes it has. Nothing else is written to `out`, and
    nothing unless the call succeeds.
    """

    out_size: int | None = None

    @overload
    def __call__(self, data: Buffer = ..., /, *, out: None = ..., out_size: int | None = ...) -> memoryview: ...
    @overload
    def __call__(self, data: Buffer = ..., /, *, out: Buffer, out_size: int | None = ...) -> int: ...
    def __call__(
        self, data: Buffer = b"", /, *, out: Buffer | None = None, out_size: int | None = None
    ) -> memoryview | int:
        """Run the function in this process.

        Args:
            data: the input.
            out: where the output goes; its size is the capacity. None: a new buffer.
            out_size: the capacity in bytes: how much the function may write. None: the function's own, or else as much
                as a channel takes (4 GiB; only what is written to takes memory).

        Returns:
            A writable memoryview; with `out` the number of bytes.

        Raises:
            FunctionError: a compiled function returned another value than 0.
            PayloadTooLarge: the output is larger than its capacity; `out` may have been written to.
            SerializationError: the arguments are no such buffers, or the function returned what it may not.
            BaseException: what a raw function raised.
        """
        arguments = self.pack((data,), {"out": out, "out_size": out_size})
        capacity_bytes = arguments.capacity_bytes or DEFAULT_MAX_PAYLOAD_BYTES
        output = self._run_here(arguments.data, capacity_bytes, bounded=bool(arguments.capacity_bytes))
        if arguments.out is None:
            return output
        arguments.out[: len(output)] = output
        return len(output)

    def pack(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ByteArguments:
        """Check the arguments of a call.

        Raises:
            SerializationError, ConfigError: they are wrong.
        """
        try:
            if len(args) == 1 and not kwargs:
                return ByteArguments(_bytes_of(args[0]), self.out_size or 0, None)
            return _pack(self.out_size, *args, **kwargs)
        except (TypeError, BufferError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise SerializationError(f"{self!r} can't take these arguments: {error}", hint=_INPUT_HINT) from error

    def _run_here(self, data: memoryview, capacity_bytes: int, *, bounded: bool) -> memoryview:
        raise NotImplementedError


def _pack(
    own_size: int | None, data: Buffer = b"", /, *, out: Buffer | None = None, out_size: int | None = None
) -> ByteArguments:
    given = _bytes_of(data)
    capacity_bytes = own_size or 0 if out_size is None else check_out_size(out_size)
    if out is None:
        return ByteArguments(given, capacity_bytes, None)
    room = _bytes_of(out)
    if room.readonly:
        raise TypeError(f"out is read-only ({type(out).__name__})")
    if not room.nbytes:
        raise ValueError("out has no room at all")
    return ByteArguments(given, min(capacity_bytes or room.nbytes, room.nbytes), room)


def _bytes_of(buffer: Buffer) -> memoryview:
    """The bytes of a buffer of any type and shape.

    Raises:
        TypeError, BufferError: it is none, not contiguous, or its elements are Python objects.
    """
    if type(buffer) in (bytes, bytearray):
        return memoryview(buffer)
    view = memoryview(buffer)
    if "O" in view.format and "O" in re.sub(":[^:]*:", "", view.format):  # names of fields stand between colons
        raise TypeError("its elements are Python objects, whose addresses mean nothing elsewhere")
    return pickle.PickleBuffer(view).raw()


def check_out_size(out_size: int) -> int:
    """Refuse a capacity that is none.

    Raises:
        ConfigError: it is no whole number from 1 to 4 GiB.
    """
    try:
        n_bytes = operator.index(out_size)
    except TypeError:
        n_bytes = 0
    if not 0 < n_bytes <= DEFAULT_MAX_PAYLOAD_BYTES:
        raise ConfigError(
            f"out_size={out_size!r} is no number of bytes from 1 to {DEFAULT_MAX_PAYLOAD_BYTES}",
            hint="say how much the function may write at most, or leave it out",
        )
    return n_bytes


def too_small(needed_bytes: int, capacity_bytes: int) -> PayloadTooLarge:
    """The error of a function whose output is larger than its capacity."""
    return PayloadTooLarge(
        f"the output takes {needed_bytes} bytes, and there was room for {capacity_bytes}",
        may_have_run=True,
        phase="DONE",
        hint=f"ask for more: out_size={needed_bytes}, or a larger `out`",
    )


# --- raw functions ------------------------------------------------------------------------------


class RawFunction(ByteFunction):
    """A function of Python over bytes; see `rfaas.raw`."""

    __wrapped__: Callable[[memoryview, memoryview], int]

    def __init__(self, function: Callable[[memoryview, memoryview], int], out_size: int | None = None) -> None:
        if not callable(function):
            raise ConfigError(
                f"rfaas.raw: {function!r} is no function", hint="write @rfaas.raw or @rfaas.raw(out_size=…)"
            )
        self.out_size = None if out_size is None else check_out_size(out_size)
        functools.update_wrapper(self, function)

    def _run_here(self, data: memoryview, capacity_bytes: int, *, bounded: bool) -> memoryview:
        room = memoryview(new_room(capacity_bytes))
        returned = self.__wrapped__(data.toreadonly(), room)
        try:
            n_bytes = operator.index(returned)
            if n_bytes < 0:
                raise TypeError(f"a raw function can't have written {n_bytes} bytes")
        except TypeError as error:
            text = f"a raw function returns how many bytes it wrote to its output: {error}"
            raise SerializationError(text, may_have_run=True, phase="DONE") from None
        if n_bytes > capacity_bytes:
            raise too_small(n_bytes, capacity_bytes)
        return memoryview(bytearray(room[:n_bytes]))

    def portable(self) -> Callable[..., Any]:
        """What is pickled for a worker: it becomes the decorated function there."""
        return _Inside(self) if self._has_a_name() else self.__wrapped__

    def _has_a_name(self) -> bool:
        """True if a worker finds it in a module."""
        name: str | None = getattr(self, "__module__", None)
        if name is None or name == "__main__" or name in _modules_by_value():
            return False
        try:
            return operator.attrgetter(self.__qualname__)(sys.modules[name]) is self  # type: ignore[attr-defined]
        except (KeyError, AttributeError):
            return False

    def __reduce__(self) -> str | tuple[Any, ...]:
        if self._has_a_name():
            return self.__qualname__  # type: ignore[attr-defined,no-any-return]
        return RawFunction, (self.__wrapped__, self.out_size)

    def __repr__(self) -> str:
        return f"<rfaas.raw function {getattr(self, '__qualname__', self.__wrapped__)}>"


class _Inside:
    """Stands for the function inside of a RawFunction that has a name; the module's own name means the outer one."""

    def __init__(self, raw: RawFunction) -> None:
        self.raw = raw

    def __call__(self, *args: Any) -> int:  # noqa: ANN401
        """As the function."""
        return self.raw.__wrapped__(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.raw, "__wrapped__")


def _modules_by_value() -> set[str]:
    cloudpickle = sys.modules.get("cloudpickle")
    return cloudpickle.list_registry_pickle_by_value() if cloudpickle is not None else set()


@overload
def raw(function: Callable[[memoryview, memoryview], int], /) -> RawFunction: ...
@overload
def raw(*, out_size: int | None = ...) -> Callable[[Callable[[memoryview, memoryview], int]], RawFunction]: ...
def raw(
    function: Callable[[memoryview, memoryview], int] | None = None, /, *, out_size: int | None = None
) -> RawFunction | Callable[[Callable[[memoryview, memoryview], int]], RawFunction]:
    """Make a function of Python take bytes and give bytes, without pickling either.

        @rfaas.raw
        def double(inp: memoryview, out: memoryview) -> int:
            np.multiply(np.frombuffer(inp, "f8"), 2, out=np.frombuffer(out[:len(inp)], "f8"))
            return len(inp)

        result = ex.invoke(double, np.arange(10.0))   # a memoryview of 80 bytes

    `inp` is the input, read-only, `out` the room for the output, as long as its capacity; what it holds at first is not
    specified. The function returns how many bytes it wrote, from the start of `out`. Both views are its own only while
    it runs. See `ByteFunction` for how it is called, docs/native.md for more.

    Args:
        function: the function.
        out_size: the most bytes that it writes; None: as many as a channel takes. A call may name another.

    Raises:
        ConfigError: it is no function, or `out_size` is no such number.
    """
    if function is not None:
        return RawFunction(function)
    size = None if out_size is None else check_out_size(out_size)
    return lambda function: RawFunction(function, size)


# --- compiled functions -------------------------------------------------------------------------


class NativeFunction(ByteFunction):
    """A function of a shared library; see `rfaas.native`.

    Attributes:
        library: its bytes.
        symbol, abi, isa: as in `rfaas.native`.
    """

    def __init__(self, library: bytes, symbol: str, abi: Abi, isa: str, out_size: int | None, name: str) -> None:
        self.library = library
        self.symbol = symbol
        self.abi = abi
        self.isa = isa
        self.out_size = out_size
        self._name = name
        self._here: NativeHere | None = None

    def _run_here(self, data: memoryview, capacity_bytes: int, *, bounded: bool) -> memoryview:
        if self._here is None:
            from rfaas.native_here import NativeHere  # only now: loads ctypes

            self._here = NativeHere(self.library, self.symbol, self.abi)
        returned, n_bytes, room = self._here.call(data, capacity_bytes)
        if returned != 0:
            raise FunctionError(returned, may_have_run=True, phase="DONE")
        if n_bytes == capacity_bytes and not bounded and self.abi != "rfaas-0":
            raise SerializationError("the function did not set *out_size to the bytes that it wrote", may_have_run=True)
        if n_bytes > capacity_bytes:
            raise too_small(n_bytes, capacity_bytes)
        return memoryview(bytearray(room[:n_bytes]))

    def __reduce__(self) -> tuple[Any, ...]:
        return NativeFunction, (self.library, self.symbol, self.abi, self.isa, self.out_size, self._name)

    def __repr__(self) -> str:
        return f"<rfaas.native function {self.symbol} of {self._name}>"


def native(
    library: str | os.PathLike[str],
    symbol: str,
    *,
    out_size: int | None = None,
    abi: Abi = "rfaas-1",
    isa: str | None = None,
) -> NativeFunction:
    """Make a function of a shared library, in C or anything like it, one that can be submitted.

        f = rfaas.native("libkernel.so", "scale", out_size=8 << 20)
        result = ex.invoke(f, array)                # a memoryview
        n_bytes = ex.invoke(f, array, out=result)   # written to a buffer of the caller's

    The library's bytes are read here and now, and brought to each node once; what it is linked with must be there. Its
    form is that of rfaas_function.h (`rfaas.get_include()`): `int32_t scale(const void *in, uint64_t in_size,
    void *out, uint64_t *out_size, const rfaas_ctx *ctx)`. Another value than 0 raises FunctionError. No Python runs in
    between. A function that crashes ends its worker, with WorkerLost, which says why if it went beyond its output.

    Args:
        library: path of the file; "libkernel.so" is the one in the working directory, nothing is searched.
        symbol: the function's name.
        out_size: the most bytes that it writes; None: as many as a channel takes. A call may name another.
        abi: "rfaas-1"; "rfaas-0": `uint32_t scale(void *args, uint32_t size, void *res)`, which returns the bytes
            that it wrote.
        isa: what its nodes must have, "x86-64-v3" for instance; None: what the file says, "x86-64", "aarch64", …

    Raises:
        ConfigError: no such file, it is no shared library, it has no such symbol, or an argument is wrong.
    """
    path = Path(os.path.expanduser(os.fspath(library)))
    if abi not in ABIS:
        raise ConfigError(f"rfaas.native: there is no ABI {abi!r}", hint=f"one of {', '.join(ABIS)}")
    try:
        data = path.read_bytes()
        about = describe(data)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"rfaas.native: {path} can't be used: {reason}",
            hint="name the file of a shared library, built by cc -shared -fPIC -o libNAME.so",
        ) from error
    if not isinstance(symbol, str) or not symbol or "\0" in symbol:
        raise ConfigError(f"rfaas.native: {symbol!r} is no name of a function")
    if about.symbols is not None and symbol not in about.symbols:
        raise ConfigError(
            f"rfaas.native: {path} has no symbol {symbol!r} of a function",
            hint=f'look with nm -D {path}: it may be static, hidden, a variable, or C++ without extern "C"',
        )
    size = None if out_size is None else check_out_size(out_size)
    return NativeFunction(data, symbol, abi, isa or about.isa, size, f"{path.name} {digest(data).hex()[:8]}")


def get_include() -> str:
    """The directory of `rfaas_function.h`, for compilers: cc -I$(python -c 'import rfaas; print(rfaas.get_include())').

    Raises:
        ConfigError: this installation has none.
    """
    import rfaas

    for place in rfaas.__path__:
        if (found := Path(place, "include")).joinpath("rfaas_function.h").is_file():
            return str(found)
    source = Path(__file__).parent.parent / "transport" / "include"  # of an editable installation
    if (source / "rfaas_function.h").is_file():
        return str(source)
    raise ConfigError("this installation of rfaas has no headers", hint="install rfaas from its wheel")
