"""T38 for compiled functions: what one does to its worker is a typed error with text; the pool is whole within 1 s."""

import os
import struct
import time

import pytest

import rfaas
from rfaas import ReasonCode
from support import functions as f
from support.deadlines import SLACK, wait_in_time
from support.invariants import assert_kept
from support.kernels import kernels
from support.residue import Residue, descriptors
from support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.figures, pytest.mark.timeout(100)]

WORKERS = 2
TIMEOUT_S = 30
GOAL_S = 1.0
CRASHED, EXITED = ReasonCode.WORKER_CRASHED, ReasonCode.WORKER_EXITED

DEADLY = [
    ("crash", b"", CRASHED, "the compiled function crash crashed with SIGSEGV: it used memory that is not its own"),
    ("overrun", struct.pack("Q", 100), CRASHED, "SIGSEGV: it went beyond its output, which has room for 64 bytes"),
    ("overrun", struct.pack("Q", 1 << 20), CRASHED, "SIGSEGV: it went beyond its output, which has room for 64 bytes"),
    ("illegal", b"", CRASHED, "the compiled function illegal crashed with SIGILL: the library was built for"),
    ("abort_it", b"", CRASHED, "the compiled function abort_it crashed with SIGABRT"),
    ("overflow", b"", CRASHED, "the compiled function overflow crashed with SIGSEGV"),
    ("exit_it", b"", EXITED, "the worker exited with status 3"),
    ("exit_at_once", b"", EXITED, "the worker exited with status 4"),
    ("end_thread", b"", EXITED, "the worker exited with status 0"),
    ("close_all", b"", EXITED, "a function closed or replaced descriptors"),
]  # fmt: skip
"""What ends its worker: (symbol, input, reason, text)."""


class Pool:
    """An executor of two workers, and what must be as before after each act."""

    def __init__(self, directory):
        self.path = directory / "libkernels.so"
        self.path.write_bytes(kernels())
        self.temporary, self.events = directory / "tmp", directory / "events"
        self.temporary.mkdir()
        self.events.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RFAAS_EVENT_LOG", str(self.events))
            patch.setenv("TMPDIR", str(self.temporary))
            self.residue = Residue(self.events)
            self.ex = rfaas.Executor(WORKERS, allocator="embedded", memory="512MiB")
            self.fill()
        self.before = self.counts()

    def native(self, symbol, **options):
        return rfaas.native(self.path, symbol, out_size=64, **options)

    def fill(self):
        """Have every worker there."""
        return set(self.ex.map(f.sleep, [0.1] * WORKERS))

    def counts(self):
        return len(descriptors()), len(descriptors(self.ex._engine.session_pid))

    def assert_whole(self, name, how):
        began_s = time.monotonic()
        wait_in_time(lambda: self.ex.statistics()["workers"] == WORKERS, SLACK * GOAL_S, "the pool to be whole")
        print(f"\n{name}: {how}; whole after {(time.monotonic() - began_s) * 1000:.0f} ms")
        assert self.ex.invoke(self.native("echo"), b"right") == b"right"
        self.fill()
        wait_in_time(lambda: self.counts() <= self.before, SLACK * GOAL_S, "descriptors to be closed")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    pool = Pool(tmp_path_factory.mktemp("compiled"))
    yield pool
    pool.ex.shutdown()
    pool.residue.assert_nothing_left(pool.temporary)
    assert_kept(pool.events)


@pytest.mark.parametrize(("symbol", "given", "code", "text"), DEADLY, ids=[row[0] for row in DEADLY])
def test_what_ends_its_worker_is_a_typed_error_with_a_text(pool, symbol, given, code, text):
    error = pool.ex.submit(pool.native(symbol), given).exception(TIMEOUT_S)
    assert type(error) is rfaas.WorkerLost, repr(error)
    assert (error.reason_code, error.may_have_run) == (code, True), error
    assert text in str(error)
    pool.assert_whole(symbol, str(error))


def test_an_endless_function_ends_by_its_time_limit(pool):
    error = pool.ex.options(call_timeout_s=0.3).submit(pool.native("spin")).exception(TIMEOUT_S)
    assert (type(error), error.phase) == (rfaas.DeadlineExceeded, "STARTED")
    pool.assert_whole("spin", "DeadlineExceeded")


@rfaas.raw
def fill(inp, out):
    for at in range(0, len(out), 1 << 20):
        out[at : at + (1 << 20)] = bytes(1 << 20)
    return 0


def test_an_output_counts_as_memory_of_the_function_once_it_is_written_to(pool):
    assert pool.ex.invoke(fill, out_size=100 << 20).nbytes == 0
    error = pool.ex.submit(fill, out_size=2 << 30).exception(TIMEOUT_S)
    assert type(error) is rfaas.FunctionOOM
    pool.assert_whole("fill", "FunctionOOM")


def test_a_jump_into_a_call_that_is_over_is_an_answer_or_a_typed_error(pool):
    """What it does is undefined; whatever that is, no later call feels it."""
    for _ in range(3 * WORKERS):
        error = pool.ex.submit(pool.native("jump")).exception(TIMEOUT_S)
        assert error is None or type(error) in (rfaas.FunctionError, rfaas.WorkerLost)
    pool.assert_whole("jump", type(error).__name__)


def test_the_child_of_a_function_that_forks_answers_nothing(pool):
    before = pool.ex.statistics()["late_results"]
    pids = [struct.unpack("q", pool.ex.invoke(pool.native("fork_it")))[0] for _ in range(5)]
    assert 0 not in pids
    assert pool.ex.statistics()["late_results"] == before
    pool.assert_whole("fork_it", "the parent's result")


def test_a_crash_says_nothing_of_a_call_of_another_kind(pool):
    """Last words are of the function that crashed, and a crash in Python's own code has none of a compiled one."""
    wait_until(lambda: pool.ex.invoke(pool.native("echo"), b"x") == b"x", TIMEOUT_S)
    error = pool.ex.submit(os.abort).exception(TIMEOUT_S)
    assert (type(error), "SIGABRT" in str(error), "compiled function" in str(error)) == (rfaas.WorkerLost, True, False)
    pool.assert_whole("abort in Python", "WorkerLost")


def test_all_of_them_at_once_harm_no_other_call(pool):
    beside = pool.ex.options(idempotent=True, retries=20)
    futures = []
    for symbol, given, _, _ in DEADLY:
        futures.append(pool.ex.submit(pool.native(symbol), given))
        futures += [beside.submit(pool.native("echo"), b"right") for _ in range(3)]
    kinds = [type(future.exception(2 * TIMEOUT_S)) for future in futures]
    assert kinds == [rfaas.WorkerLost, type(None), type(None), type(None)] * len(DEADLY)
    pool.assert_whole("all at once", f"{len(DEADLY)} lost, {3 * len(DEADLY)} answered")
