"""Functions over bytes as programs use them, on real workers: `rfaas.raw` and `rfaas.native`."""

import array
import asyncio
import os
import re
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

import rfaas
from support import functions as f
from support.kernels import build, kernels
from support.personal import Personal
from support.waiting import wait_until

TIMEOUT_S = 60
WORKERS = 2


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "libkernels.so"
    path.write_bytes(kernels())
    return path


@pytest.fixture(scope="module")
def ex():
    with rfaas.Executor(WORKERS, allocator="embedded") as executor:
        executor.submit(f.nothing).result(TIMEOUT_S)
        yield executor


@pytest.fixture
def native(path):
    return lambda symbol, **options: rfaas.native(path, symbol, **options)


@rfaas.raw
def shout(inp, out):
    out[: len(inp)] = bytes(inp).upper()
    return len(inp)


@rfaas.raw(out_size=8)
def total(inp, out):
    struct.pack_into("d", out, 0, float(np.frombuffer(inp).sum()))
    return 8


def both(native):
    return [shout, native("echo")]


# --- calls --------------------------------------------------------------------------------------


def test_every_way_of_calling_takes_them(ex, native):
    for function in both(native):
        expected = bytes(function(b"ABC"))
        assert bytes(ex.submit(function, b"ABC").result(TIMEOUT_S)) == expected
        assert bytes(ex.invoke(function, b"ABC")) == expected
        assert bytes(ex.options(idempotent=True, retries=1).invoke(function, b"ABC")) == expected
        for chunksize in 1, 2:
            assert list(map(bytes, ex.map(function, [b"A", b"", b"BC"], chunksize=chunksize))) == [b"A", b"", b"BC"]

        async def awaited(function=function):
            return await asyncio.gather(*(ex.asubmit(function, bytes([n])) for n in range(20)))

        assert asyncio.run(awaited())[7] == bytes([7])
    assert struct.unpack("d", ex.invoke(total, np.arange(10.0))) == (45.0,)


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"bytes",
        bytearray(b"array of bytes"),
        memoryview(b"a view")[2:],
        array.array("d", [1.5, 2.5]),
        np.arange(12, dtype="f4").reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.float64(3),
        np.arange(1 << 19),
    ],
    ids=lambda given: type(given).__name__,
)
def test_any_contiguous_buffer_is_an_input(ex, native, given):
    expected = np.asarray(given).tobytes(order="A") if isinstance(given, np.ndarray) else bytes(memoryview(given))
    assert ex.invoke(native("echo"), given) == expected
    assert native("echo")(given) == expected


@pytest.mark.parametrize(
    ("arguments", "keywords", "text"),
    [
        (("text",), {}, "a bytes-like object is required, not 'str'"),
        ((np.arange(10)[::2],), {}, "contiguous"),
        ((b"a", b"b"), {}, "positional argument"),
        ((b"a",), {"key": 1}, "unexpected keyword argument 'key'"),
        ((b"a",), {"out": b"constant"}, "out is read-only"),
        ((b"a",), {"out": bytearray()}, "no room at all"),
        ((None,), {}, "bytes-like"),
    ],
)
def test_arguments_that_are_no_buffers_are_refused_before_anything_is_sent(ex, native, arguments, keywords, text):
    for function in both(native):
        error = ex.submit(function, *arguments, **keywords).exception(TIMEOUT_S)
        assert type(error) is rfaas.SerializationError
        assert text in str(error)
        assert not error.may_have_run
        with pytest.raises((rfaas.SerializationError, TypeError), match=re.escape(text)):
            function(*arguments, **keywords)


@pytest.mark.parametrize("out_size", [0, -1, 1.5, "8", 1 << 33])
def test_a_capacity_that_is_none_is_refused(ex, native, out_size):
    with pytest.raises(rfaas.ConfigError, match="no number of bytes"):
        native("echo", out_size=out_size)
    with pytest.raises(rfaas.ConfigError, match="no number of bytes"):
        rfaas.raw(out_size=out_size)
    assert type(ex.submit(shout, b"", out_size=out_size).exception(TIMEOUT_S)) is rfaas.ConfigError


def test_the_result_is_the_callers_own_and_writable(ex, native):
    for size in 10, 1 << 20:
        for function in both(native):
            first, second = (ex.invoke(function, bytes([65 + n]) * size) for n in range(2))
            assert (type(first), first.readonly, first.contiguous, first.nbytes) == (memoryview, False, True, size)
            first[:] = b"z" * size
            assert second == b"B" * size
            assert np.frombuffer(second, "u1").flags.writeable


def test_an_output_can_be_written_to_a_buffer_of_the_callers(ex, native):
    for function in both(native):
        room = np.zeros(4, "u4")
        assert ex.invoke(function, b"ABCDEFGH", out=room) == 8
        assert room.tobytes() == b"ABCDEFGH" + bytes(8)
        assert function(b"IJKL", out=room) == 4
        assert room.tobytes() == b"IJKLEFGH" + bytes(8)
    rooms = [bytearray(3) for _ in range(30)]
    futures = [ex.submit(shout, b"%3d" % n, out=room) for n, room in enumerate(rooms)]
    assert [future.result(TIMEOUT_S) for future in futures] == [3] * 30
    assert [int(room) for room in rooms] == list(range(30))


def test_an_output_beyond_its_capacity_says_what_was_needed_and_writes_nothing(ex, native):
    for function in both(native)[1:]:
        room = bytearray(b"as before")
        for here in False, True:
            with pytest.raises(
                rfaas.PayloadTooLarge, match="the output takes 100 bytes, and there was room for 9"
            ) as told:
                function(bytes(100), out=room) if here else ex.invoke(function, bytes(100), out=room)
            assert "out_size=100" in told.value.hint
            assert told.value.may_have_run
        assert room == b"as before"
        assert type(ex.submit(function, bytes(100), out_size=99).exception(TIMEOUT_S)) is rfaas.PayloadTooLarge
        assert ex.invoke(function, bytes(100), out_size=100) == bytes(100)


def test_payload_limit_holds_for_both_ways(native):
    with rfaas.Executor(1, allocator="embedded", payload_limit=1000) as ex:
        error = ex.submit(native("echo"), bytes(1001)).exception(TIMEOUT_S)
        assert (type(error), error.phase) == (rfaas.PayloadTooLarge, "QUEUED")
        assert ex.invoke(native("echo"), bytes(1000)) == bytes(1000)
        grow = rfaas.raw(lambda inp, out: 2000)
        with pytest.raises(rfaas.PayloadTooLarge, match="2000 bytes is larger than the payload_limit of 1000 bytes"):
            ex.invoke(grow)
        with pytest.raises(rfaas.PayloadTooLarge, match="room for 10"):
            ex.invoke(rfaas.raw(lambda inp, out: 500), out_size=10)


def test_large_payloads_pass_over_every_medium(path):
    given = os.urandom(1 << 20) * 20
    for transport in "shm", "tcp":
        with rfaas.Executor(1, allocator="embedded", transport=transport) as ex:
            for function in shout, rfaas.native(path, "echo"):
                room = bytearray(len(given))
                assert ex.invoke(function, given, out=room) == len(given)
                assert room == (given.upper() if function is shout else given)


# --- raw functions ------------------------------------------------------------------------------


def test_a_raw_function_is_any_function_of_python(ex):
    offset = 3

    @rfaas.raw
    def closure(inp, out):
        print("printed by a raw function")
        out[0] = inp[0] + offset
        return np.int64(1)

    assert closure.__name__ == "closure"
    assert ex.invoke(closure, b"\1") == b"\4"
    assert ex.invoke(rfaas.raw(lambda inp, out: len(inp)), bytes(5)).nbytes == 5

    @rfaas.raw
    def outer(inp, out):
        out[:1] = closure(inp)
        return len(rfaas.current().invocation_id) and 1

    assert ex.invoke(outer, b"\1") == b"\4"


def test_what_a_raw_function_raises_is_raised(ex):
    @rfaas.raw
    def fail(inp, out):
        raise ZeroDivisionError("as itself")

    with pytest.raises(ZeroDivisionError, match="as itself") as told:
        ex.invoke(fail, out=bytearray(1))
    assert "raise ZeroDivisionError" in str(told.value.__cause__)
    with pytest.raises(rfaas.SerializationError, match="how many bytes it wrote to its output"):
        ex.invoke(rfaas.raw(lambda inp, out: None))


def test_a_raw_function_whose_call_runs_nothing_is_refused(ex):
    @rfaas.raw
    def lazy(inp, out):
        yield 1

    with pytest.raises(rfaas.SerializationError, match="is a generator function"):
        ex.invoke(lazy)


def test_a_raw_function_of_a_shipped_module_is_known_by_name(tmp_path):
    (tmp_path / "raw_functions.py").write_text(
        "import rfaas, os\n\nSEEN = []\n\n@rfaas.raw(out_size=16)\ndef count(inp, out):\n"
        "    SEEN.append(1)\n    out[:1] = bytes([len(SEEN)])\n    return 1\n\n"
        "def seen():\n    return len(SEEN), os.getpid()\n"
    )
    program = (
        "import rfaas, raw_functions\n"
        "with rfaas.Executor(1, allocator='embedded', files=['raw_functions.py']) as ex:\n"
        "    print(*[ex.invoke(raw_functions.count)[0] for _ in range(3)], ex.invoke(raw_functions.seen)[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1 2 3 3\n", "")


def test_functions_over_bytes_travel_as_arguments_too(ex, native):
    def apply(function, given):
        return bytes(function(given))

    assert ex.invoke(apply, shout, b"abc") == b"ABC"
    assert ex.invoke(apply, native("echo"), b"abc") == b"abc"


# --- compiled functions -------------------------------------------------------------------------


def test_a_compiled_function_s_own_error_is_its_value(ex, native):
    for value in 1, -7, 2**31 - 1, -(2**31):
        error = ex.submit(native("fail"), struct.pack("i", value)).exception(TIMEOUT_S)
        assert (type(error), error.value, error.may_have_run, error.phase) == (rfaas.FunctionError, value, True, "DONE")
        assert str(error) == f"the function returned {value}"
        with pytest.raises(rfaas.FunctionError):
            native("fail")(struct.pack("i", value))


def test_retry_on_takes_it_like_any_exception(ex, native, tmp_path):
    again = ex.options(idempotent=True, retries=2, retry_on=[rfaas.FunctionError])
    error = again.submit(native("fail"), struct.pack("i", 5)).exception(TIMEOUT_S)
    assert (error.value, error.attempt) == (5, 2)


def test_its_context_says_how_long_it_has_and_which_attempt_it_is(ex, native):
    timed = ex.options(call_timeout_s=30)
    found = bytes(timed.invoke(native("context")))
    size, version, attempt, invocation, deadline_ns, lease_seq, epoch = struct.unpack("QII24sQQQ8x", found)
    assert (size, version, attempt) == (len(found), 1, 0)
    assert 0 < deadline_ns - time.monotonic_ns() < 30e9
    assert lease_seq > 0 < epoch
    assert bytes(timed.invoke(native("context")))[16:32] == invocation[:16]  # the client's
    assert bytes(timed.invoke(native("context")))[32:40] > invocation[16:]


def test_what_it_prints_is_at_the_caller(ex, native, capfd):
    ex.invoke(native("say"), b"hello")
    assert "said by C: hello" in capfd.readouterr().out


def test_the_form_of_the_predecessor(ex, native):
    assert ex.invoke(native("old_echo", abi="rfaas-0"), b"abc") == b"abc"
    assert native("old_echo", abi="rfaas-0")(b"abc") == b"abc"


def memory_of_libraries():
    """Inodes of the sealed memory that this process has mapped, and its pid."""
    with open("/proc/self/maps") as maps:
        return {line.split()[4] for line in maps if "memfd:rfaas-function" in line}, os.getpid()


def test_a_library_comes_to_a_node_once_and_its_workers_share_it(tmp_path):
    library = build(
        '#include <rfaas_function.h>\nrfaas_function_1 f;\nconst char weight[3 << 20] = "x";\n'
        "int32_t f(const void *a, uint64_t b, void *out, uint64_t *n, const rfaas_ctx *c) {\n"
        "    (void)a, (void)b, (void)c;\n    *(char *)out = weight[0];\n    *n = 1;\n    return 0;\n}\n",
        tmp_path,
    )
    function = rfaas.native(library, "f", out_size=1)
    with rfaas.Executor(WORKERS, allocator="embedded") as ex:
        list(ex.map(f.sleep, [0.2] * WORKERS))
        ports = ex._engine._ports._by_number
        before = sum(port.channel.statistics()["payload_bytes_sent"] for port in ports.values())

        def all_have_it():
            futures = [ex.submit(function) for _ in range(10 * WORKERS)]
            assert {bytes(future.result(TIMEOUT_S)) for future in futures} == {b"x"}
            found = [
                future.result(TIMEOUT_S) for future in [ex.submit(memory_of_libraries) for _ in range(8 * WORKERS)]
            ]
            with_it = {pid: inodes for inodes, pid in found if inodes}
            return with_it if len(with_it) == WORKERS else None

        inodes = wait_until(all_have_it, TIMEOUT_S, "every worker to have called it")
        assert len({frozenset(one) for one in inodes.values()}) == 1
        sent = sum(port.channel.statistics()["payload_bytes_sent"] for port in ports.values()) - before
        assert (3 << 20) < sent < 2 * (3 << 20)
        for pid in inodes:  # with every worker that had it gone, the node still has it
            os.kill(pid, signal.SIGKILL)
        assert ex.options(idempotent=True, retries=3).invoke(function) == b"x"
        assert sum(port.channel.statistics()["payload_bytes_sent"] for port in ports.values()) < 1 << 20  # new channels


def test_a_library_that_does_not_load_is_told_with_the_remedy(ex, tmp_path, path):
    build("int needed(void) { return 1; }", tmp_path, name="libneeded.so")
    text = "#include <stdint.h>\nint needed(void); int32_t f(void); int32_t f(void) { return needed(); }"
    library = build(text, tmp_path, f"-L{tmp_path}", "-lneeded", name="libneeds.so")
    error = ex.submit(rfaas.native(library, "f")).exception(TIMEOUT_S)
    assert type(error) is rfaas.EnvironmentFailed
    assert error.message.startswith("the library can't be loaded: libneeded.so: cannot open shared object file")
    assert error.hint == "install that library on the nodes too, or link it in statically"
    assert error.node
    error = ex.submit(rfaas.native(path, "echo", isa="vax")).exception(TIMEOUT_S)
    assert type(error) is rfaas.EnvironmentFailed
    assert "built for vax" in str(error)


@pytest.mark.parametrize(
    ("library", "symbol", "options", "text"),
    [
        ("no/such.so", "f", {}, "No such file"),
        (__file__, "f", {}, "no ELF file"),
        (sys.executable, "f", {}, "can't be used|no symbol"),
        (None, "no_such_function", {}, "has no symbol 'no_such_function'"),
        (None, "a_variable", {}, "has no symbol 'a_variable' of a function"),
        (None, "", {}, "no name of a function"),
        (None, "echo", {"abi": "rfaas-7"}, "there is no ABI 'rfaas-7'"),
    ],
)
def test_what_is_wrong_with_a_library_is_told_where_it_is_named(path, library, symbol, options, text):
    with pytest.raises(rfaas.ConfigError, match=text):
        rfaas.native(library or path, symbol, **options)


def test_a_time_limit_and_an_interrupt_end_a_function_that_never_returns(ex, native, tmp_path):
    error = ex.options(call_timeout_s=0.3).submit(native("spin")).exception(TIMEOUT_S)
    assert (type(error), error.phase) == (rfaas.DeadlineExceeded, "STARTED")
    call = ex.submit(native("spin"), os.fsencode(tmp_path / "runs"))
    wait_until((tmp_path / "runs").exists, TIMEOUT_S)
    assert call.cancel(interrupt=True)
    error = call.exception(TIMEOUT_S)
    assert (type(error), error.reason_code) == (rfaas.Cancelled, rfaas.ReasonCode.CALL_INTERRUPTED)
    assert ex.invoke(native("echo"), b"after") == b"after"


def test_a_compiled_function_uses_the_grace_of_a_reclaim_or_is_killed(tmp_path, path):
    personal = Personal(tmp_path)
    try:
        personal.start_allocator()
        agent = personal.start_agent(2, grace_s=3.0)
        with rfaas.Executor(2, allocator=personal.state_dir) as ex:
            polite = ex.submit(rfaas.native(path, "until_reclaimed"), os.fsencode(tmp_path / "polite"))
            deaf = ex.submit(rfaas.native(path, "spin"), os.fsencode(tmp_path / "deaf"))
            wait_until(lambda: (tmp_path / "polite").exists() and (tmp_path / "deaf").exists(), TIMEOUT_S)
            agent.send_signal(signal.SIGTERM)
            (waited_ns,) = struct.unpack("q", polite.result(TIMEOUT_S))
            assert waited_ns < 9e9
            error = deaf.exception(TIMEOUT_S)
            assert (type(error), error.may_have_run) == (rfaas.Reclaimed, True)
    finally:
        personal.stop()


def test_the_include_directory_has_the_header():
    with open(os.path.join(rfaas.get_include(), "rfaas_function.h")) as header:
        assert "rfaas_function" in header.read()
