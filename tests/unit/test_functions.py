"""Functions over bytes without an executor: made, refused, called here, pickled."""

import pickle
import struct
import sys
import types

import cloudpickle
import numpy as np
import pytest

import rfaas
from rfaas.client.byte_results import Room
from rfaas.client.serial import FunctionCache, load_result
from rfaas.functions import NativeFunction, RawFunction
from rfaas.output_room import new_room
from rfaas_transport.frame import Status
from rfaas_transport.manifest import decode_manifest, digest
from rfaas_transport.shared_library import this_isa
from support.kernels import kernels


@rfaas.raw(out_size=100)
def reverse(inp, out):
    """Turn it round."""
    out[: len(inp)] = bytes(inp)[::-1]
    return len(inp)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "libkernels.so"
    path.write_bytes(kernels())
    return path


def test_a_raw_function_looks_like_the_one_it_was_made_of_and_runs_here():
    assert (reverse.__name__, reverse.__doc__, reverse.out_size) == ("reverse", "Turn it round.", 100)
    assert reverse.__wrapped__(memoryview(b"abc"), memoryview(bytearray(3))) == 3
    result = reverse(b"abc")
    assert (bytes(result), result.readonly) == (b"cba", False)
    assert reverse() == b""
    with pytest.raises(rfaas.PayloadTooLarge, match="takes 5 bytes, and there was room for 4"):
        rfaas.raw(lambda inp, out: 5)(out_size=4)
    with pytest.raises(rfaas.ConfigError, match="is no function"):
        rfaas.raw(3)


@pytest.mark.parametrize("dtype", [object, [("n", "i4"), ("kept", object)], (object, 2)], ids=["plain", "field", "sub"])
def test_arrays_of_python_objects_are_no_buffers(path, dtype):
    objects = np.zeros(3, dtype)
    for function in reverse, rfaas.native(path, "echo"):
        for arguments in ((objects,), {}), ((b"abc",), {"out": objects}):
            with pytest.raises(rfaas.SerializationError, match="are Python objects"):
                function.pack(*arguments)


def test_a_field_may_have_any_name(path):
    named = np.zeros(3, [("OO", "i4"), ("O", "f8")])
    assert rfaas.native(path, "echo")(named) == named.tobytes()


def test_a_room_of_gigabytes_takes_what_is_written_to():
    room = memoryview(new_room(1 << 32))
    room[-1] = 1
    assert room.nbytes == 1 << 32
    with pytest.raises(MemoryError, match="can't be mapped"):
        new_room(1 << 60)


def test_a_compiled_function_runs_here(path):
    echo = rfaas.native(path, "echo")
    assert echo(b"abc") == b"abc"
    assert (echo.isa, echo.abi, echo.symbol) == (this_isa(), "rfaas-1", "echo")
    assert struct.unpack("QQQ", rfaas.native(path, "pointers")(b"")) == (0, 0, 0)
    with pytest.raises(rfaas.FunctionError) as told:
        rfaas.native(path, "fail")(struct.pack("i", -3))
    assert told.value.value == -3
    with pytest.raises(rfaas.PayloadTooLarge):
        echo(bytes(11), out_size=10)
    with pytest.raises(rfaas.SerializationError, match=r"did not set \*out_size"):
        rfaas.native(path, "fill")()
    assert rfaas.native(path, "old_echo", abi="rfaas-0")(b"abc") == b"abc"


def test_both_are_pickled_by_value_or_by_the_name_that_a_module_has_for_them(path, monkeypatch):
    echo = pickle.loads(pickle.dumps(rfaas.native(path, "echo", out_size=9)))
    assert (type(echo), echo.out_size, bytes(echo(b"x"))) == (NativeFunction, 9, b"x")
    local = cloudpickle.loads(cloudpickle.dumps(rfaas.raw(lambda inp, out: 0)))
    assert type(local) is RawFunction
    module = types.ModuleType("a_module_of_raw_functions")
    exec("import rfaas\n@rfaas.raw\ndef named(inp, out):\n    return 0\n", vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert b"a_module_of_raw_functions" in pickle.dumps(module.named)
    assert pickle.loads(pickle.dumps(module.named)) is module.named
    assert pickle.loads(cloudpickle.dumps(module.named.portable())) is module.named.__wrapped__
    module.named, old = None, module.named  # the name means something else by now
    assert cloudpickle.loads(cloudpickle.dumps(old.portable()))(b"", bytearray()) == 0


def test_their_definitions_say_what_they_are_and_a_library_never_goes_along(path):
    cache = FunctionCache()
    native = rfaas.native(path, "echo")
    definition, applied = cache.define(native)
    manifest = decode_manifest(definition.manifest)
    assert (manifest.kind, manifest.abi, manifest.isa, manifest.entry) == ("native", "rfaas-1", this_isa(), "echo")
    assert (manifest.blobs, applied, definition.segments()) == ((digest(kernels()),), False, [definition.manifest])
    assert cache.known(native) is definition
    definition, _ = cache.define(reverse)
    manifest = decode_manifest(definition.manifest)
    assert (manifest.kind, manifest.abi, manifest.entry) == ("raw", "pickle5", "")
    assert definition.segments()[1] == definition.blob
    assert cache.known(len) is None


def test_a_capacity_is_the_least_of_what_function_call_and_executor_name():
    assert Room(0, None).asked_bytes(0) == 0
    assert Room(10, None).asked_bytes(0) == 10
    assert Room(0, None).asked_bytes(20) == 20
    assert Room(10, None).asked_bytes(20) == Room(30, None).asked_bytes(10) == 10


def test_a_peer_that_sends_more_than_there_is_room_for_writes_nothing():
    out = bytearray(b"before")
    with pytest.raises(rfaas.PayloadTooLarge):
        Room(6, memoryview(out)).load_result(Status.OK, [memoryview(b"too long")], 0, 0)
    assert out == b"before"


@pytest.mark.parametrize("value", [b"", b"123", b"12345"])
def test_a_value_that_is_none_is_the_peers_fault(value):
    with pytest.raises(rfaas.ProtocolError):
        load_result(Status.FUNCTION_ERROR, [memoryview(value)])
