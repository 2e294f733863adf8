"""How functions, arguments, results and exceptions travel: manifests, cloudpickle, pickle 5 with buffers out of band.

Must not touch sockets, threads or the core. A client unpickles only what its own workers sent it.
Spec: docs/spec/001-invocation.md section 2 (DEFINE, CALL, RESULT) and section 4.
"""

from __future__ import annotations

import io
import pickle
import weakref
from collections import ChainMap
from collections.abc import Callable, Sequence
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, ClassVar, Final

import cloudpickle
import msgpack

from rfaas.client.applying import Chunk, apply
from rfaas_transport.errors import PayloadTooLarge, RemoteError, RfaasError, SerializationError
from rfaas_transport.frame import Status
from rfaas_transport.manifest import Manifest, digest, encode_manifest

PROTOCOL: Final = 5
INLINE_BLOB_BYTES: Final = 1 << 20  # a larger function is sent to those workers only that ask for it

Segments = list[Any]  # bytes and contiguous memoryviews


class Definition:
    """A function as workers know it.

    Attributes:
        identity: SHA-256 of `manifest`; two definitions of one identity are the same function.
        manifest: the map of docs/spec/001-invocation.md section 2, as msgpack.
        blob: the pickled function.
        digest: SHA-256 of `blob`.
    """

    __slots__ = ("__weakref__", "blob", "digest", "identity", "manifest")

    def __init__(self, blob: bytes) -> None:
        self.blob = blob
        self.digest = digest(blob)
        self.manifest = encode_manifest(Manifest(blobs=(self.digest,)))
        self.identity = digest(self.manifest)

    def segments(self) -> Segments:
        """The payload of DEFINE: the manifest, and the blob if it is small."""
        return [self.manifest, self.blob] if len(self.blob) <= INLINE_BLOB_BYTES else [self.manifest]


class FunctionCache:
    """Pickles each function object once.

    A function is pickled at its first call and never again while the object lives: closures and globals are those of
    that moment, as with a process that was forked then. A changed default, closure or global is seen after the function
    was defined anew (which makes another object). Keeps no function alive. Not thread-safe: the caller locks.
    """

    def __init__(self) -> None:
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
        if not _is_lasting(function):
            if self._apply is None:
                self._apply = Definition(_dump_function(apply))
            return self._apply, True
        known = self._by_id.get(id(function))
        if known is not None and known[0]() is function:
            return known[1], False
        definition = Definition(_dump_function(function))
        self._remember(function, definition)
        return definition, False

    def _remember(self, function: Callable[..., Any], definition: Definition) -> None:
        key, table = id(function), self._by_id

        def forget(reference: weakref.ref[Any]) -> None:
            # The id may belong to another function by now.
            if (entry := table.get(key)) is not None and entry[0] is reference:
                table.pop(key, None)

        table[key] = (weakref.ref(function, forget), definition)


def _is_lasting(function: Callable[..., Any]) -> bool:
    """True for plain functions, classes and builtins: one object, whose meaning doesn't change from call to call."""
    if isinstance(function, BuiltinFunctionType):  # methods of builtin objects are of this type too
        return isinstance(function.__self__, ModuleType)
    return isinstance(function, FunctionType | type | Chunk)


def _code_with_its_file(code: CodeType) -> tuple[Callable[..., CodeType], tuple[Any, ...]]:
    """Pickle code as cloudpickle does, with the name of its file."""
    make, args = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return make, tuple(code.co_filename if arg == "<dynamic-code>" else arg for arg in args)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is not typed
    """Keeps file names, which cloudpickle 3.1.3 drops: without them a remote traceback shows no line of the user's."""

    dispatch_table: ClassVar[Any] = ChainMap({CodeType: _code_with_its_file}, cloudpickle.Pickler.dispatch_table)


def _dump_by_value(value: object, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None) -> bytes:
    with io.BytesIO() as file:
        _Pickler(file, protocol=PROTOCOL, buffer_callback=buffer_callback).dump(value)
        return file.getvalue()


def _dump_function(function: Callable[..., Any]) -> bytes:
    try:
        return _dump_by_value(function)
    except Exception as error:  # pickling runs the user's __reduce__ and friends: anything may come
        raise SerializationError(f"the function {function!r} can't be pickled: {_one_line(error)}") from error


def dump_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Segments:
    """Pickle a call's arguments: first the pickle, then its buffers, which are views of the caller's own memory.

    Contiguous arrays are not copied: the caller must leave them alone until the call was sent. What the C pickler can't
    do, or would only name as part of `__main__`, which workers don't have, cloudpickle ships by value.

    Raises:
        SerializationError: nothing was kept.
    """
    value = (args, kwargs)
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = _dump_plain(value, buffers)
        if data is None:
            buffers.clear()
            data = _dump_by_value(value, buffers.append)
        return [data, *(buffer.raw() for buffer in buffers)]  # pickle takes contiguous ones only
    except Exception as error:  # as above: the user's code runs here
        raise SerializationError(f"the arguments can't be pickled: {_one_line(error)}") from error


def _dump_plain(value: object, buffers: list[pickle.PickleBuffer]) -> bytes | None:
    """Pickle with the C pickler; None where only cloudpickle does it right."""
    if cloudpickle.list_registry_pickle_by_value():
        return None
    try:
        data = pickle.dumps(value, protocol=PROTOCOL, buffer_callback=buffers.append)
    except (pickle.PicklingError, AttributeError, TypeError):  # lambdas, local classes; what pickle says of them
        return None
    return None if b"__main__" in data else data


# --- results ------------------------------------------------------------------------------------


class _RemoteTraceback(Exception):
    """Carries the text of a traceback made elsewhere, as in concurrent.futures.process."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def load_result(status: int, segments: Sequence[memoryview]) -> Any:  # noqa: ANN401
    """Rebuild what a RESULT frame brought.

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
            raise SerializationError(
                f"the result can't be unpickled: {_one_line(error)}", may_have_run=True, phase="DONE"
            ) from error
    if status == Status.TOO_LARGE:
        raise PayloadTooLarge("the result is larger than a channel takes", may_have_run=True, phase="DONE")
    raise _load_failure(status, segments)


_WHAT_WAS_BAD: Final[dict[int, str]] = {
    Status.BAD_FUNCTION: "the function could not be unpickled or imported by the worker",
    Status.BAD_ARGUMENTS: "the arguments could not be unpickled by the worker",
    Status.BAD_RESULT: "the result could not be pickled by the worker",
}


def _load_failure(status: int, segments: Sequence[memoryview]) -> BaseException:
    try:
        about = msgpack.unpackb(segments[0])
        kind, message, traceback = str(about["type"]), str(about["message"]), str(about["traceback"])
    except (ValueError, TypeError, KeyError, IndexError, msgpack.UnpackException) as error:
        return SerializationError(f"the worker's report of a failure can't be read: {error}", may_have_run=True)
    if status != Status.EXCEPTION:
        ran = status == Status.BAD_RESULT
        text = f"{_WHAT_WAS_BAD.get(status, f'the call failed with status {status}')}: {kind}: {message}"
        failure: BaseException = SerializationError(text, may_have_run=ran, phase="DONE" if ran else "STARTED")
    else:
        failure = _rebuild(segments, kind, message, traceback)
    failure.__cause__ = _RemoteTraceback(traceback)
    return failure


def _rebuild(segments: Sequence[memoryview], kind: str, message: str, traceback: str) -> BaseException:
    """The function's own exception, or RemoteError in its place."""
    if len(segments) > 1 and segments[1].nbytes:
        try:
            failure = pickle.loads(segments[1])
        except Exception:  # its class can't be imported here, or its __init__ takes other arguments
            failure = None
        if isinstance(failure, BaseException):
            return failure
    remote = RemoteError(f"{kind}: {message}", may_have_run=True, phase="DONE")
    remote.remote_type, remote.remote_traceback = kind, traceback
    return remote


def as_serialization_error(error: BaseException) -> RfaasError:
    """An RfaasError as it is, anything else wrapped: what a future gets when a call can't even be packed."""
    if isinstance(error, RfaasError):
        return error
    wrapped = SerializationError(f"the call can't be pickled: {_one_line(error)}")
    wrapped.__cause__ = error
    return wrapped


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
