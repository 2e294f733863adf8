"""How functions, arguments and results travel: manifests, cloudpickle, pickle 5 with buffers out of band.

Must not touch sockets, threads or the core. A client unpickles only what its own workers sent it.
Spec: docs/spec/001-invocation.md section 2 (DEFINE, CALL, RESULT) and section 4.
"""

from __future__ import annotations

import functools
import io
import pickle
import weakref
from collections import ChainMap
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType, ModuleType
from typing import Any, ClassVar, Final

import cloudpickle

from rfaas.client.applying import Adopting, Chunk, apply, cached_again
from rfaas.client.failures import load_failure, raised_there
from rfaas.client.shipping import Bundle
from rfaas.config import CallSettings
from rfaas.functions import ByteFunction, NativeFunction, RawFunction
from rfaas_transport import class_copies
from rfaas_transport._core import DEFAULT_MAX_PAYLOAD_BYTES
from rfaas_transport.array_memory import stand_ins
from rfaas_transport.errors import PayloadTooLarge, RfaasError, SerializationError
from rfaas_transport.frame import Status
from rfaas_transport.manifest import Manifest, digest, encode_manifest

PROTOCOL: Final = 5
INLINE_BLOB_BYTES: Final = 1 << 20  # a larger function is sent to those workers only that ask for it

# Flags of code objects as `inspect` names them, which takes long to import: GENERATOR, COROUTINE, ASYNC_GENERATOR.
_LAZY: Final = {
    0x20: (
        "a generator function",
        "return a list, submit lambda: list(...), or submit the parts one by one with `map`",
    ),
    0x80: ("a coroutine function", "submit a function that runs it: asyncio.run(...)"),
    0x200: ("an asynchronous generator function", "submit a function that collects its values in a list"),
}

_Cached: Final[type] = type(functools.lru_cache(len))

Segments = list[Any]  # bytes and contiguous memoryviews


class Definition:
    """A function as workers know it.

    Args:
        about: kind, ABI, instruction set and entry of its manifest; None: a function of Python.

    Attributes:
        identity: SHA-256 of `manifest`; two definitions of one identity are the same function.
        manifest: the map of docs/spec/001-invocation.md section 2, as msgpack.
        blob: the pickled function, or a shared library.
        digest: SHA-256 of `blob`.
        files: what comes along with it.
    """

    __slots__ = ("__weakref__", "_goes_along", "blob", "digest", "files", "identity", "manifest")

    def __init__(self, blob: bytes, files: Bundle | None = None, about: Manifest | None = None) -> None:
        self.blob = blob
        self.digest = digest(blob)
        self.files = files
        along = () if files is None else (files.digest,)
        about = about or Manifest()
        self._goes_along = len(blob) <= INLINE_BLOB_BYTES and about.kind != "native"
        self.manifest = encode_manifest(replace(about, blobs=(self.digest, *along)))
        self.identity = digest(self.manifest)

    def segments(self) -> Segments:
        """The payload of DEFINE: the manifest, and the blob if it is small.

        Files and shared libraries are asked for, once a node.
        """
        return [self.manifest, self.blob] if self._goes_along else [self.manifest]

    def find(self, name: bytes) -> bytes | None:
        """The blob of this digest, if it is one of this function's."""
        if name == self.digest:
            return self.blob
        return self.files.blob if self.files is not None and name == self.files.digest else None


class FunctionCache:
    """Pickles each function object once.

    A function is pickled at its first call and never again while the object lives: closures and globals are those of
    that moment, as with a process that was forked then. A changed default, closure or global is seen after the function
    was defined anew (which makes another object). Keeps no function alive. Not thread-safe: the caller locks.

    Args:
        adopting: functions adopt what an initializer of the main program left (rfaas.client.applying.Initializer).
        files: come along with each function.
    """

    def __init__(self, *, adopting: bool = False, files: Bundle | None = None) -> None:
        self._files = files
        self._adopting = adopting
        self._by_id: dict[int, tuple[weakref.ref[Any], Definition]] = {}
        self._apply: Definition | None = None

    def define(self, function: Callable[..., Any]) -> tuple[Definition, bool]:
        """Return the function's definition, and whether it is `apply`, which takes the function as first argument.

        Bound methods, partials and whatever can't be watched by a weak reference go through `apply`: they are made
        anew at every use and may change between two calls, so they travel like arguments, each time.

        Raises:
            SerializationError: it can't be pickled, or is no callable.
        """
        if not callable(function):
            raise SerializationError(f"{function!r} is not callable", hint="pass a function, then its arguments")
        known = self.known(function)
        if known is not None:
            return known, False
        if isinstance(function, ByteFunction):
            definition = self._define_bytes(function)
            self._remember(function, definition)
            return definition, False
        _refuse_lazy(function)
        if not _is_lasting(function):
            if self._apply is None:
                self._apply = Definition(_dump_function(apply), self._files)
            return self._apply, True
        pickled = _dump_function(Adopting(function) if self._adopting else function)
        definition = Definition(pickled, self._files)
        self._remember(function, definition)
        return definition, False

    def known(self, function: Callable[..., Any]) -> Definition | None:
        """The definition of a function that has one; needs no lock."""
        known = self._by_id.get(id(function))
        return known[1] if known is not None and known[0]() is function else None

    def _define_bytes(self, function: ByteFunction) -> Definition:
        if isinstance(function, NativeFunction):
            about = Manifest(kind="native", abi=function.abi, isa=function.isa, entry=function.symbol)
            return Definition(function.library, self._files, about)
        assert isinstance(function, RawFunction)
        _refuse_lazy(function.__wrapped__)
        pickled = _dump_function(self.as_argument(function.portable()))
        return Definition(pickled, self._files, Manifest(kind="raw"))

    def as_argument(self, function: Callable[..., Any]) -> Callable[..., Any] | Adopting:
        """What travels in a function's place as the first argument of `apply`."""
        return Adopting(function) if self._adopting else function

    def _remember(self, function: Callable[..., Any], definition: Definition) -> None:
        key, table = id(function), self._by_id

        def forget(reference: weakref.ref[Any]) -> None:
            # The id may belong to another function by now.
            if (entry := table.get(key)) is not None and entry[0] is reference:
                table.pop(key, None)

        table[key] = (weakref.ref(function, forget), definition)


def define_chore(
    function: Callable[..., Any], args: tuple[Any, ...], files: Bundle | None = None
) -> tuple[Definition, Segments]:
    """Pickle a function of ours with its arguments, to be sent to many workers.

    Raises:
        SerializationError: the user's part of it can't be pickled.
    """
    # Copied: buffers would be read when a worker comes, long after the caller may have changed them.
    segments: Segments = [bytes(segment) for segment in dump_arguments(args, {})]
    return Definition(_dump_function(function), files), segments


def _refuse_lazy(function: Callable[..., Any]) -> None:
    """Refuse functions whose call runs nothing, before anything is sent: what they return can't leave its process.

    Raises:
        SerializationError: it is a generator function or a coroutine function.
    """
    called = _called(function)
    code = getattr(called, "__code__", None)
    flags = code.co_flags if isinstance(code, CodeType) else 0
    for flag, (what, hint) in _LAZY.items():
        if flags & flag:
            name = getattr(called, "__qualname__", repr(called))
            raise SerializationError(f"{name} is {what}: calling it only makes an object that can't travel", hint=hint)


def _called(function: Any) -> Any:  # noqa: ANN401
    """The function that runs when this is called: inside partials, caches and chunks, or the `__call__` of an object.

    What other decorators made stays: a `contextmanager` wraps a generator function and returns none.
    """
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, _Cached):
            function = function.__wrapped__  # type: ignore[attr-defined]
        elif isinstance(function, Chunk):
            function = function.function
        else:
            break
    if isinstance(function, type) or not callable(function):
        return function
    call = type(function).__call__
    return call if isinstance(call, FunctionType) else function


def _is_lasting(function: Callable[..., Any]) -> bool:
    """True for functions, also with a cache, classes and builtins: one object that means the same in every call."""
    if isinstance(function, BuiltinFunctionType):  # methods of builtin objects are of this type too
        return isinstance(function.__self__, ModuleType)
    return isinstance(function, FunctionType | type | Chunk | _Cached)


def _code_with_its_file(code: CodeType) -> tuple[Callable[..., CodeType], tuple[Any, ...]]:
    """Pickle code as cloudpickle does, with the name of its file."""
    make, args = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return make, tuple(code.co_filename if arg == "<dynamic-code>" else arg for arg in args)


def _cached_by_value(function: Any) -> Any:  # noqa: ANN401 - no name for the type of what lru_cache makes
    """Pickle a function with `lru_cache` as the one it wraps, where its name means nothing to a worker."""
    if function.__module__ == "__main__" or "<locals>" in function.__qualname__:
        return cached_again, (function.__wrapped__, function.cache_parameters())
    return function.__reduce__()


class _Pickler(class_copies.Pickler):
    """Keeps file names, which cloudpickle 3.1.3 drops: without them a remote traceback shows no line of the user's.

    Takes what it does not: functions with `lru_cache` by value, and what functions with `singledispatch` hold.
    """

    dispatch_table: ClassVar[Any] = ChainMap(
        {
            CodeType: _code_with_its_file,
            _Cached: _cached_by_value,
            MappingProxyType: lambda view: (MappingProxyType, (dict(view),)),
            weakref.WeakKeyDictionary: lambda table: (weakref.WeakKeyDictionary, (dict(table),)),
        },
        class_copies.Pickler.dispatch_table,
    )


def _dump_by_value(value: object, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None) -> bytes:
    with io.BytesIO() as file:
        _Pickler(file, protocol=PROTOCOL, buffer_callback=buffer_callback).dump(value)
        return file.getvalue()


def _dump_function(function: object) -> bytes:
    try:
        return _dump_by_value(function)
    except Exception as error:  # pickling runs the user's __reduce__ and friends: anything may come
        name = getattr(function, "__qualname__", None) or type(function).__qualname__
        raise _unpicklable(f"the function {function!r}", error, function, name) from error


def dump_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Segments:
    """Pickle a call's arguments: first the pickle, then its buffers, which are views of the caller's own memory.

    Contiguous arrays, large bytes, memoryviews and mmaps are not copied: the caller must leave them alone until the
    call was sent, and those in memory of `rfaas.empty` until it is done. What the C pickler can't do, or would only
    name as part of `__main__`, which workers don't have, cloudpickle ships by value.

    Raises:
        SerializationError: nothing was kept.
    """
    value = stand_ins(args, kwargs)
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = _dump_plain(value, buffers)
        if data is None:
            buffers.clear()
            data = _dump_by_value(value, buffers.append)
        return [data, *(buffer.raw() for buffer in buffers)]  # pickle takes contiguous ones only
    except Exception as error:  # as above: the user's code runs here
        raise _unpicklable("the arguments", error, _Arguments(args, kwargs), "call") from error


class _Arguments:
    """Arguments by the names that an error gives them: `call.args[0]`, `call.kwargs['x']`."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args = args
        self.kwargs = kwargs


def _unpicklable(what: str, error: BaseException, value: object, name: str) -> SerializationError:
    """The error that says which part of a value was to blame."""
    from rfaas.client.unpicklable import find

    culprit = find(value, name)
    return SerializationError(f"{what} can't be pickled: {_one_line(error)}; {culprit}", hint=culprit.hint)


def _dump_plain(value: object, buffers: list[pickle.PickleBuffer]) -> bytes | None:
    """Pickle with the C pickler; None where only cloudpickle does it right."""
    if cloudpickle.list_registry_pickle_by_value():
        return None
    try:
        data = pickle.dumps(value, protocol=PROTOCOL, buffer_callback=buffers.append)
    except (pickle.PicklingError, AttributeError, TypeError):  # lambdas, local classes; what pickle says of them
        return None
    return None if b"__main__" in data else data


MOST_FOLLOWING_BYTES: Final = (
    32 << 10
)  # of a call that may lie behind another: it is moved before it is known where it runs


def follows(definition: Definition, segments: Segments, settings: CallSettings) -> bytes:
    """The function, if a call of it may lie behind others of it at a worker: a small one without a deadline."""
    if settings.call_timeout_s is not None or len(segments) != 1:
        return b""
    return definition.identity if memoryview(segments[0]).nbytes <= MOST_FOLLOWING_BYTES else b""


def check_size(segments: Segments, limit_bytes: int) -> None:
    """Refuse arguments that are larger than a call may bring.

    Raises:
        PayloadTooLarge: nothing was sent.
    """
    size_bytes = sum(memoryview(segment).nbytes for segment in segments)
    if size_bytes > limit_bytes:
        raise PayloadTooLarge(
            f"the arguments have {size_bytes} bytes, more than the payload_limit of {limit_bytes} bytes",
            phase="QUEUED",
            hint="pass the path of a file, or raise payload_limit",
        )


# --- results ------------------------------------------------------------------------------------


def load_result(status: int, segments: Sequence[memoryview], needed_bytes: int = 0, limit_bytes: int = 0) -> Any:  # noqa: ANN401
    """Rebuild what a RESULT frame brought.

    Args:
        needed_bytes: the frame's `out_size`: what a result that was too large would have taken.
        limit_bytes: what this executor takes.

    Arrays are views of the frame's own memory: nothing is copied, they may be written to and keep it alive.

    Returns:
        The value.

    Raises:
        BaseException: what the function raised, itself, with the remote traceback as its cause.
        RemoteError: the same, where the exception can't be rebuilt here.
        SerializationError: function, arguments or result could not be pickled or unpickled.
        PayloadTooLarge: the result exceeds the limit.
    """
    if status == Status.OK:
        try:
            return pickle.loads(segments[0], buffers=segments[1:])
        except Exception as error:  # unpickling runs the user's code
            raise unpicklable_result(error) from error
    if status == Status.TOO_LARGE:
        sizes = f" of {needed_bytes} bytes" if needed_bytes else ""
        limit = (
            f"payload_limit of {limit_bytes} bytes"
            if limit_bytes
            else f"{DEFAULT_MAX_PAYLOAD_BYTES} bytes of a channel"
        )
        raised = raised_there(segments)
        what = f"the exception{sizes} that the function raised" if raised else f"the result{sizes}"
        raise PayloadTooLarge(
            f"{what} is larger than the {limit}" + (f"; it begins: {raised}" if raised else ""),
            may_have_run=True,
            phase="DONE",
            hint=(
                "raise one that carries less" if raised else "return less, or write it to a file and return the path"
            ),
        )
    raise load_failure(status, segments)


def unpicklable_result(error: BaseException | None) -> SerializationError:
    """What is raised where a result arrived and unpickling it failed."""
    told = SerializationError(f"the result can't be unpickled: {_one_line(error)}", may_have_run=True, phase="DONE")
    told.__cause__ = error
    return told


def as_serialization_error(error: BaseException) -> RfaasError:
    """An RfaasError as it is, anything else wrapped: what a future gets when a call can't even be packed."""
    if isinstance(error, RfaasError):
        return error
    wrapped = SerializationError(f"the call can't be pickled: {_one_line(error)}")
    wrapped.__cause__ = error
    return wrapped


def _one_line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
