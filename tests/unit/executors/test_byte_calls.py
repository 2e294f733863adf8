"""Functions over bytes in a worker without template and agent: the test holds the other ends of its sockets."""

import contextlib
import os
import socket
import struct
import sys
import threading
import time

import cloudpickle
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfaas_executors import control, libraries, placing
from rfaas_executors._compiled import Output, Outputs
from rfaas_executors._process import StatePage
from rfaas_executors.calls import Functions
from rfaas_executors.libraries import SHARED, Libraries
from rfaas_executors.worker import Worker
from rfaas_transport._core import Channel
from rfaas_transport.errors import EnvironmentFailed
from rfaas_transport.frame import Kind, Status
from rfaas_transport.manifest import Manifest, digest, encode_manifest
from rfaas_transport.shared_library import describe, is_sealed, path_for_loading, seal, this_isa
from support.kernels import build, kernels
from support.waiting import wait_until

HOLDER = "0123456789abcdef" * 2


class Rig:
    """A worker in a thread, and its client."""

    def __init__(self):
        self.agent, self.theirs = control.pair()
        self.page = StatePage.create()
        page = StatePage.from_fd(os.dup(self.page.fileno()))
        worker = Worker(self.theirs, page, {"slot": 0, "generation": 1, "node": "n"})
        self.thread = threading.Thread(target=worker.run)
        self.channel, theirs = self.pair()
        terms = {"lease_seq": 7, "epoch": 3, "lease": "aa", "holder": HOLDER}
        control.send(self.agent, {"m": "channel", "channel": 5, "page_slot": 0, **terms}, (theirs,))
        os.close(theirs)
        self.thread.start()
        self.receive()
        self.call_id = 0
        self.fetched = []

    @staticmethod
    def pair():
        mine, theirs = socket.socketpair()
        return Channel.from_fd(mine.detach()), theirs.detach()

    def receive(self):
        return wait_until(self.channel.poll, 10, "a frame")

    def call(self, manifest, blob, given=b"", **fields):
        """Define and call, sending the blob when it is asked for; returns the RESULT."""
        self.call_id += 1
        self.channel.send(Kind.DEFINE, segments=[encode_manifest(manifest)])
        where = {"lease_seq": 7, "epoch": 3, "call_id": self.call_id}
        self.channel.send(Kind.CALL, segments=[given] if given else [], **where, **fields)
        while (frame := self.receive()).kind == Kind.FETCH:
            self.fetched.append(bytes(frame.segments[0]))
            self.channel.send(Kind.BLOB, call_id=frame.call_id, segments=[blob])
        assert (frame.kind, frame.call_id) == (Kind.RESULT, self.call_id)
        return frame

    def native(self, symbol, given=b"", abi="rfaas-1", isa="any", library=None, **fields):
        library = library or kernels()
        return self.call(
            Manifest(kind="native", abi=abi, isa=isa, entry=symbol, blobs=(digest(library),)), library, given, **fields
        )

    def raw(self, function, given=b"", **fields):
        blob = cloudpickle.dumps(function)
        return self.call(Manifest(kind="raw", blobs=(digest(blob),)), blob, given, **fields)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Where workers share libraries: each test's own."""
    monkeypatch.setattr(placing, "home", lambda template_pid: tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def rig():
    rig = Rig()
    yield rig
    rig.agent.close()
    rig.thread.join(10)
    assert not rig.thread.is_alive()
    rig.theirs.close()
    rig.channel.close()
    rig.page.close()


def output(frame):
    return b"".join(frame.segments)


def said(frame):
    return msgpack.unpackb(frame.segments[0])


# --- compiled functions -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 4095, 4096, 100_000, 3 << 20])
def test_what_a_compiled_function_writes_is_what_comes_back(rig, size):
    given = os.urandom(size)
    for capacity in {max(size, 1), size + 1, 8 << 20, 0}:
        frame = rig.native("echo", given, out_size=capacity)
        assert (frame.status, output(frame) == given) == (Status.OK, True)
    assert rig.page.read(0)[1:3] == (rig.call_id, rig.call_id)


def test_the_library_is_asked_for_once_however_many_functions_it_has(rig):
    for symbol in "echo", "nothing", "count":
        assert rig.native(symbol, b"x").status == Status.OK
    assert rig.fetched == [digest(kernels())]


def test_statics_stay_from_call_to_call(rig):
    assert [struct.unpack("qq", output(rig.native("count")))[0] for _ in range(3)][-1] - 2 >= 1


@pytest.mark.parametrize("value", [1, -1, 2**31 - 1, -(2**31)])
def test_another_value_than_0_is_the_functions_error(rig, value):
    frame = rig.native("fail", struct.pack("i", value), out_size=2)
    assert (frame.status, output(frame)) == (Status.FUNCTION_ERROR, struct.pack("<i", value))


def test_an_output_that_is_too_small_says_what_was_needed(rig):
    frame = rig.native("echo", bytes(1000), out_size=999)
    assert (frame.status, frame.out_size, output(frame)) == (Status.TOO_LARGE, 1000, b"")


def test_an_output_left_unsaid_is_all_of_the_capacity_if_there_is_one(rig):
    assert output(rig.native("fill", out_size=1000)) == b"x" * 1000
    frame = rig.native("fill")
    assert (frame.status, said(frame)["type"]) == (Status.BAD_RESULT, "ValueError")


@pytest.mark.parametrize(("capacity", "beyond"), [(1, 1), (1, 63), (100, 28), (4000, 32)])
def test_a_byte_behind_the_capacity_is_found_out(rig, capacity, beyond):
    frame = rig.native("overrun", struct.pack("Q", beyond), out_size=capacity)
    assert (frame.status, said(frame)["type"]) == (Status.BAD_RESULT, "OverflowError")
    assert rig.native("fill", out_size=capacity).status == Status.OK


@pytest.mark.parametrize("given", [b"", b"x", bytes(100_000)])
def test_pointers_are_aligned_and_never_null(rig, given):
    assert struct.unpack("QQQ", output(rig.native("pointers", given, out_size=99))) == (0, 0, 0)


def test_the_context_says_who_where_and_how_long(rig):
    frame = rig.native("context", attempt=2, deadline_ns=5_000_000_000, out_size=4096)
    size, version, attempt, invocation, deadline_ns, lease_seq, epoch, reclaimed = struct.unpack(
        "QII24sQQQQ", output(frame)
    )
    assert (size, version, attempt, lease_seq, epoch, reclaimed != 0) == (len(output(frame)), 1, 2, 7, 3, True)
    assert invocation == bytes.fromhex(HOLDER) + rig.call_id.to_bytes(8, "big")
    assert 0 < deadline_ns - time.monotonic_ns() <= 5_000_000_000
    frame = rig.native("context", attempt=1, invocation=1, out_size=4096)
    assert output(frame)[16:40] == bytes.fromhex(HOLDER) + (1).to_bytes(8, "big")
    assert output(frame)[40:48] == bytes(8)
    rig.call_id = 0x1122334455667787
    frame = rig.native("context", out_size=4096)
    assert output(frame)[32:40].hex() == "1122334455667788"


def test_a_checkpoint_of_an_earlier_attempt_is_no_part_of_the_input(rig):
    library = kernels()
    manifest = Manifest(kind="native", abi="rfaas-1", entry="echo", blobs=(digest(library),))
    rig.native("nothing")
    rig.channel.send(Kind.DEFINE, segments=[encode_manifest(manifest)])
    for number, text in (8, b"in"), (9, b""):
        rig.channel.send(Kind.CALL, call_id=number, lease_seq=7, epoch=3, checkpoint=1, segments=[text, b"saved"])
        assert output(rig.receive()) == text


def test_the_form_of_the_predecessor_returns_what_it_wrote(rig):
    assert output(rig.native("old_echo", b"abc", abi="rfaas-0", out_size=3)) == b"abc"
    frame = rig.native("old_boast", b"abc", abi="rfaas-0", out_size=100)
    assert (frame.status, frame.out_size) == (Status.TOO_LARGE, 1_000_003)


def test_a_function_that_asks_is_told_of_the_agents_notice(rig):
    rig.call_id += 1
    rig.native("nothing")
    manifest = Manifest(kind="native", abi="rfaas-1", entry="until_reclaimed", blobs=(digest(kernels()),))
    rig.channel.send(Kind.DEFINE, segments=[encode_manifest(manifest)])
    rig.channel.send(Kind.CALL, call_id=99, lease_seq=7, epoch=3, out_size=8)
    wait_until(lambda: rig.page.read(0)[1] == 99, 10, "the call to be started")
    control.send(rig.agent, {"m": "drain"})
    frame = rig.receive()
    assert frame.status == Status.OK
    assert struct.unpack("q", output(frame))[0] < 9_000_000_000


# --- libraries ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "text", "hint"),
    [
        ({"entry": "no_such"}, "the library has no symbol 'no_such'", 'extern "C"'),
        ({"entry": ""}, "no name of a symbol", ""),
        ({"entry": "a\0b"}, "no name of a symbol", ""),
        ({"entry": "x" * 2000}, "no name of a symbol", ""),
        ({"abi": "rfaas-9"}, "no ABI 'rfaas-9'", ""),
        ({"isa": "vax"}, f"built for vax, and this node is {this_isa()}", "build it there too"),
        ({"isa": "x86-64-v99"}, "x86-64-v99", ""),
    ],
)
def test_what_this_worker_can_t_run_is_refused_with_the_reason(rig, changed, text, hint):
    fields = {"kind": "native", "abi": "rfaas-1", "entry": "echo", "blobs": (digest(kernels()),), **changed}
    frame = rig.call(Manifest(**fields), kernels())
    about = said(frame)
    assert (frame.status, about["type"]) == (Status.BAD_FUNCTION, "rfaas_transport.errors.EnvironmentFailed")
    assert text in about["message"]
    assert hint in about["hint"]
    assert rig.native("echo", b"still here").status == Status.OK


@pytest.mark.parametrize("kind", ["", "Native", "python ", "wasm"])
@pytest.mark.parametrize("n_blobs", [0, 1, 3])
def test_kinds_and_numbers_of_blobs_that_mean_nothing_are_refused(rig, kind, n_blobs):
    blobs = tuple(digest(kernels()) for _ in range(n_blobs))
    assert (
        rig.call(Manifest(kind=kind, abi="rfaas-1", entry="echo", blobs=blobs), kernels()).status == Status.BAD_FUNCTION
    )
    if n_blobs != 1:
        assert rig.native("echo", library=kernels()).status == Status.OK
        many = Manifest(kind="native", abi="rfaas-1", entry="echo", blobs=blobs)
        assert rig.call(many, kernels()).status == Status.BAD_FUNCTION


def test_a_library_that_lacks_another_says_which_and_what_to_do(rig, tmp_path):
    build("int needed(void) { return 1; }", tmp_path, "-Wno-missing-prototypes", name="libneeded.so")
    text = "#include <stdint.h>\nint needed(void); int32_t f(void); int32_t f(void) { return needed(); }"
    library = build(text, tmp_path, f"-L{tmp_path}", "-lneeded", name="libneeds.so").read_bytes()
    about = said(rig.native("f", library=library))
    assert "libneeded.so: cannot open shared object file" in about["message"]
    assert "/proc/" not in about["message"]
    assert "install that library on the nodes" in about["hint"]
    library = build(text, tmp_path, name="libundefined.so").read_bytes()
    about = said(rig.native("f", library=library))
    assert "undefined symbol: needed" in about["message"]
    assert "link the library with" in about["hint"]


@pytest.mark.parametrize("damage", ["empty", "text", "half", "header", "object"])
def test_what_is_no_whole_library_is_refused(rig, damage, tmp_path):
    whole = kernels()
    broken = {
        "empty": b"\0",
        "text": b"#!/bin/sh\n",
        "half": whole[: len(whole) // 4],
        "header": whole[:40],
        "object": whole[:16] + b"\1\0" + whole[18:],
    }[damage]
    about = said(rig.native("echo", library=broken))
    assert about["message"].startswith("the library can't be loaded: it is ")
    assert about["hint"] == "build it by cc -shared -fPIC -o libNAME.so"


NUMBERED = """
#include <rfaas_function.h>
rfaas_function_1 f;
int32_t f(const void *in, uint64_t in_size, void *out, uint64_t *out_size, const rfaas_ctx *ctx) {
    (void)in, (void)in_size, (void)out, (void)out_size, (void)ctx;
    return NUMBER;
}
"""


def test_a_second_library_is_never_taken_for_the_first(rig, tmp_path):
    for n in 1, 2, 3:
        library = build(NUMBERED, tmp_path, f"-DNUMBER={n}").read_bytes()
        assert output(rig.native("f", library=library)) == struct.pack("i", n)
    assert len({path_for_loading(7) for _ in range(1000)}) == 1000


def test_sealed_memory_can_t_be_changed_by_anybody():
    memory = seal(b"library")
    try:
        assert is_sealed(memory)
        with pytest.raises(PermissionError):
            os.write(memory, b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(memory, 3)
        with pytest.raises(PermissionError):
            os.pwrite(os.open(f"/proc/self/fd/{memory}", os.O_RDWR), b"x", 0)
    finally:
        os.close(memory)
    assert not is_sealed(os.open(os.devnull, os.O_RDONLY))


def test_another_worker_of_the_node_takes_the_library_from_the_first():
    library, name = kernels(), digest(kernels())
    first, second = Libraries(), Libraries()
    assert not first.is_here(digest(b"another"))
    first.symbol(name, library, "echo")
    assert second.is_here(name)
    assert second.symbol(name, None, "echo") == first.symbol(name, None, "echo")  # one process: one mapping


def test_a_copy_outlives_the_workers_that_had_it(home):
    library, name = kernels(), digest(kernels())
    Libraries().symbol(name, library, "echo")
    (home / f"{name.hex()}.memory").unlink()  # as if its process were gone
    assert Libraries().is_here(name)


def test_one_worker_asks_for_a_library_while_the_others_wait_for_it():
    library, name = kernels(), digest(kernels())
    first, others = Libraries(), [Libraries() for _ in range(3)]
    assert not first.is_here(name)
    found = []
    waiting = [threading.Thread(target=lambda one=one: found.append(one.is_here(name))) for one in others]
    for thread in waiting:
        thread.start()
    assert found == []
    first.symbol(name, library, "echo")
    for thread in waiting:
        thread.join(10)
    assert found == [True] * 3


def test_a_worker_that_never_gets_what_it_asked_for_delays_the_others_a_little_only(monkeypatch):
    monkeypatch.setattr(libraries, "WAIT_S", 0.05)
    name = digest(kernels())
    first, second = Libraries(), Libraries()
    assert not first.is_here(name)
    assert not second.is_here(name)
    with pytest.raises(EnvironmentFailed):
        first.symbol(name, b"something else", "echo")
    third = Libraries()
    assert not third.is_here(name)
    assert third.symbol(name, kernels(), "echo")


def test_what_others_left_there_is_not_believed(home):
    home.mkdir()
    library, name = kernels(), digest(kernels())
    place = home / f"{name.hex()}.memory"
    place.write_bytes(library)  # not sealed
    (home / f"{name.hex()}.so").write_bytes(library[1:])  # not the same
    assert not Libraries().is_here(name)
    place.unlink()
    memory = seal(library[:-1] + b"?")
    place.symlink_to(f"/proc/{os.getpid()}/fd/{memory}")
    assert not Libraries().is_here(name)
    os.close(memory)
    assert not Libraries().is_here(name)
    place.unlink()
    os.mkfifo(place)
    assert not Libraries().is_here(name)


def test_no_more_libraries_are_kept_open_than_a_worker_may():
    before = len(os.listdir("/proc/self/fd"))
    kept = Libraries()
    for n in range(SHARED + 5):
        kept.symbol(digest(kernels() + bytes([n])), kernels() + bytes([n]), "echo")
    assert len(os.listdir("/proc/self/fd")) - before <= SHARED


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 5000), st.binary(min_size=1, max_size=8))
def test_a_library_with_wrong_bytes_is_described_or_refused(at, put):
    data = kernels()
    at %= len(data)
    changed = data[:at] + put + data[at + len(put) :]
    for one in changed, changed[:at]:
        with contextlib.suppress(ValueError):
            describe(one)


def test_a_library_says_what_it_was_built_for_and_what_it_offers():
    library = describe(kernels())
    assert library.isa == this_isa()
    assert {"echo", "old_echo", "fork_it"} <= library.symbols
    assert not {"memcpy", "before"} & library.symbols


# --- raw functions ------------------------------------------------------------------------------


def test_a_raw_function_writes_where_the_result_is_sent_from(rig):
    def shout(inp, out):
        assert inp.readonly
        out[: len(inp)] = bytes(inp).upper()
        return len(inp)

    assert output(rig.raw(shout, b"hello", out_size=16)) == b"HELLO"
    assert output(rig.raw(shout, b"again")) == b"AGAIN"


def test_a_raw_function_s_exception_is_not_bound_by_its_capacity(rig):
    def fail(inp, out):
        raise ValueError("x" * 1000)

    frame = rig.raw(fail, b"", out_size=1)
    assert (frame.status, said(frame)["message"]) == (Status.EXCEPTION, "x" * 1000)


@pytest.mark.parametrize(
    ("returned", "status"),
    [
        (None, Status.BAD_RESULT),
        (-1, Status.BAD_RESULT),
        ("3", Status.BAD_RESULT),
        (17, Status.TOO_LARGE),
        (2**70, Status.TOO_LARGE),
    ],
)
def test_what_a_raw_function_may_not_return_is_told(rig, returned, status):
    frame = rig.raw(lambda inp, out: returned, b"", out_size=16)
    assert frame.status == status
    if status == Status.TOO_LARGE:
        assert frame.out_size == min(returned, 2**64 - 1)
    assert rig.raw(lambda inp, out: True, out_size=16).status == Status.OK


def test_an_output_that_a_function_keeps_is_not_written_to_again(rig, monkeypatch):
    kept = []

    def keep(inp, out):
        array = np.frombuffer(out, np.uint8)
        array[0] = inp[0]
        sys.modules["kept_by_test"].append(array)
        return 1

    monkeypatch.setitem(sys.modules, "kept_by_test", kept)
    assert [output(rig.raw(keep, bytes([n]), out_size=100)) for n in range(3)] == [b"\0", b"\1", b"\2"]
    assert [int(array[0]) for array in kept] == [0, 1, 2]


# --- outputs ------------------------------------------------------------------------------------


def test_an_output_is_used_again_once_nobody_reads_it():
    outputs = Outputs()
    first = outputs.take(100)
    assert outputs.take(100) is first
    with memoryview(first):
        second = outputs.take(100)
        assert second is not first
    assert outputs.take(100) in (first, second)
    assert outputs.take(101).capacity_bytes == 101


def test_of_large_outputs_only_the_last_is_kept():
    outputs = Outputs()
    small, large = outputs.take(100), outputs.take(2 << 20)
    assert outputs.take(2 << 20) is large
    larger = outputs.take(3 << 20)
    assert outputs.take(3 << 20) is larger
    assert outputs.take(2 << 20) is not large
    assert outputs.take(100) is small


def test_a_large_output_gives_its_memory_back_once_it_is_sent():
    output = Output(96 << 20)
    with memoryview(output) as room:
        room[::4096] = b"x" * len(range(0, 96 << 20, 4096))
    output.show(96 << 20)
    memoryview(output).release()
    with memoryview(output) as room:
        assert (room[0:1], room[80 << 20]) == (b"x", 0)


def test_no_capacity_is_too_large_to_be_named_and_only_what_is_written_counts():
    rest = Output(1 << 32)
    with memoryview(rest) as room:
        room[-1] = 1
    with pytest.raises(MemoryError, match="can't be mapped"):
        Output(1 << 62)
    with pytest.raises(ValueError, match="bytes of an output"):
        Output(10).show(11)


@settings(max_examples=100, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["native", "raw", "python", "x"]) | st.text(max_size=5),
            "abi": st.sampled_from(["rfaas-1", "rfaas-0", "pickle5"]) | st.text(max_size=5),
            "isa": st.sampled_from(["any", "x86-64", "x86-64-v3", "x86-64-v"]) | st.text(max_size=9),
            "entry": st.sampled_from(["", "no_such"]) | st.text(max_size=20),
            "blobs": st.lists(st.sampled_from([b"text", b"\x7fELF" + bytes(60), b"\x80\5N."]), max_size=3),
        }
    )
)
def test_any_manifest_of_a_hostile_client_is_answered(fields):
    functions = Functions()
    blobs = fields.pop("blobs")
    manifest = Manifest(**fields, blobs=tuple(map(digest, blobs)))
    defined = functions.define(encode_manifest(manifest), blobs)
    functions.missing(defined)
    assert functions.run(defined, [memoryview(b"N.")]).status == Status.BAD_FUNCTION
