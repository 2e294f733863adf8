"""T38: what a function can do to its worker: a typed error with text, or harm to nobody; the pool is whole within 1 s.

One pool of two workers for all acts, so each also shows that the acts before it left nothing. docs/isolation.md has the
table for people; spec: 001 §5, 002 §10.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rfaas
from rfaas import ReasonCode
from rfaas.session import environment
from rfaas_executors.template import TRACKER_GRACE_S
from support import hostile
from support.deadlines import SLACK, assert_in_time, wait_in_time
from support.invariants import assert_kept
from support.leftovers import alive, children, shared_memory
from support.residue import Residue, descriptors
from support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.figures, pytest.mark.timeout(100)]

WORKERS = 2
TIMEOUT_S = 30
GOAL_S = 1.0
CRASHED, EXITED = ReasonCode.WORKER_CRASHED, ReasonCode.WORKER_EXITED


class Pool:
    """An executor with what it consists of, and what must be as before after each act."""

    def __init__(self, directory):
        self.directory = directory
        self.temporary = directory / "tmp"
        self.events = directory / "events"
        self.temporary.mkdir()
        self.events.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RFAAS_EVENT_LOG", str(self.events))
            patch.setenv("TMPDIR", str(self.temporary))
            # What other tests imported is not to be imported again by a template that takes another's place.
            patch.setattr(environment, "PRELOADED", ())
            self.residue = Residue(self.events)
            self.ex = rfaas.Executor(WORKERS, allocator="embedded", memory="512MiB")
            self.fill()
        self.shared = shared_memory()
        self.fill()
        self.before = self.counts()

    @property
    def agent(self):
        return self.ex._engine.session_pid

    def fill(self):
        """Have every worker there."""
        resting = [self.ex.submit(hostile.rest, 0.1) for _ in range(WORKERS)]
        return {future.result(TIMEOUT_S) for future in resting}

    def workers(self):
        return set(children(self.agent, 2)) - set(children(self.agent, 1))

    def counts(self):
        """Open descriptors of client and agent; those of a template are counted too, whichever it is now."""
        [template] = children(self.agent, 1)
        return {
            "client": len(descriptors()),
            "agent": len(descriptors(self.agent)),
            "template": len(descriptors(template)),
        }

    def is_whole(self):
        return self.ex.statistics()["workers"] == WORKERS and len(self.workers()) == WORKERS

    def retire(self, workers):
        """End workers by calls, as nobody else may."""
        give_up_s = time.monotonic() + TIMEOUT_S
        while workers & self.workers():
            assert time.monotonic() < give_up_s, "a worker takes no calls"
            self.ex.submit(hostile.exit_at_once, 0).exception(TIMEOUT_S)

    def assert_as_before(self):
        """Nothing more lives, is open or lies about than before."""
        family = {self.agent, *children(self.agent, 1), *self.workers()}
        wait_in_time(
            lambda: set(self.residue.processes()) <= family | self.workers(), SLACK * GOAL_S, "what was left to end"
        )

        def grown():
            now = self.counts()
            return {name: (count, now[name]) for name, count in self.before.items() if now[name] > count}

        wait_in_time(lambda: not grown(), SLACK * GOAL_S, "descriptors to be closed")
        wait_until(lambda: not shared_memory() - self.shared, TIMEOUT_S, "shared memory to be unlinked, others' too")
        assert not list(self.temporary.iterdir())


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    pool = Pool(tmp_path_factory.mktemp("hostile"))
    yield pool
    pool.ex.shutdown()
    pool.residue.assert_nothing_left(pool.temporary)
    assert_kept(pool.events)


def lost(code, text):
    return rfaas.WorkerLost, code, text


DEADLY = [
    ("sys.exit()", hostile.exit_with, (), lost(EXITED, r"called sys.exit\(\): status 0")),
    ("sys.exit(3)", hostile.exit_with, (3,), lost(EXITED, r"called sys.exit\(3\): status 3")),
    ("sys.exit(text)", hostile.exit_with, ("why",), lost(EXITED, r"called sys.exit\('why'\): status 1")),
    ("sys.exit, hanging at exit", hostile.exit_and_hang, (), lost(EXITED, r"sys.exit\(4\): status 4")),
    ("os._exit", hostile.exit_at_once, (7,), lost(EXITED, "exited with status 7")),
    ("os._exit(0)", hostile.exit_at_once, (0,), lost(EXITED, "exited with status 0")),
    ("segmentation fault", hostile.segfault, (), lost(CRASHED, "SIGSEGV: a bug in compiled code, or a stack")),
    ("abort", hostile.abort, (), lost(CRASHED, "SIGABRT")),
    ("C stack overflow", hostile.overflow_the_stack, (), lost(CRASHED, "SIGSEGV")),
    ("SIGKILL to itself", hostile.kill_self, (signal.SIGKILL,), lost(CRASHED, "SIGKILL")),
    ("SIGALRM to itself", hostile.kill_self, (signal.SIGALRM,), lost(CRASHED, "SIGALRM")),
    ("kills its template", hostile.kill_template, (), lost(CRASHED, "template process died")),
    ("closes every descriptor", hostile.close_all, (), lost(EXITED, "closed or replaced descriptors")),
    ("closes its channel", hostile.close_channel, (), lost(EXITED, "closed or replaced descriptors")),
    ("limits processor time", hostile.limit_processor_time, (), lost(CRASHED, "SIGXCPU|SIGKILL")),
    ("empties builtins", hostile.empty_builtins, (), lost(EXITED, "may have changed what it needs, as builtins")),
    ("daemons, then os._exit", hostile.leave_daemons_and_exit, (6,), lost(EXITED, "exited with status 5")),
    ("shared memory and a file, then os._exit", hostile.leave_files, (), lost(EXITED, "exited with status 6")),
]  # fmt: skip
"""What ends its worker: (name, function, arguments, error)."""

OWN = [
    ("recursion", hostile.recurse, "RecursionError"),
    ("KeyboardInterrupt", hostile.raise_keyboard_interrupt, "KeyboardInterrupt"),
    ("SystemExit in __str__", hostile.raise_exit_in_str, "Spiteful"),
    ("a result that ends its reader", hostile.return_what_ends_its_reader, "SystemExit"),
]
"""What is the function's own error, raised as itself where that can be: (name, function, error)."""

HARMLESS = [
    ("sys.exit in a thread", hostile.exit_in_a_thread, (), "alone"),
    ("SIGTERM to itself", hostile.kill_self, (signal.SIGTERM,), "alive"),
    ("stops its template", hostile.stop_template, (), "stopped"),
    ("closes standard streams", hostile.close_standard, (), "closed"),
    ("closes the control socket", hostile.close_control, (), "closed"),
    ("replaces the control socket", hostile.replace_control, (), "replaced"),
    ("closes what it waits with", hostile.close_pollers, (), "closed"),
    ("allows itself three descriptors", hostile.lower_descriptors, (), "lowered"),
    ("ignores every signal", hostile.handle_everything, (), "ignored"),
    ("blocks every signal", hostile.block_everything, (), "blocked"),
    ("leaves timers running", hostile.set_timers, (), "set"),
    ("handlers that raise", hostile.raise_in_handler, (), "installed"),
    ("empties sys.modules and sys.path", hostile.empty_modules, (), "emptied"),
    ("excepthooks that raise, no gc", hostile.spoil_hooks, (), "spoilt"),
    ("no stdout, no stderr", hostile.spoil_streams, (), "spoilt"),
    ("working directory, umask, environment, locale", hostile.spoil_surroundings, ("/",), "spoilt"),
    ("returns in a forked child too", hostile.return_in_a_child, (), "parent"),
    ("an endless thread", hostile.run_endless_thread, (), "spinning"),
]
"""What its caller gets a result from: (name, function, arguments, result)."""

LEFT = [
    ("daemons", hostile.leave_daemons, (6,), 6),
    ("a child that holds every descriptor", hostile.leave_holders_of_pipes, (), 1),
    ("threads", hostile.leave_threads, (5,), 0),
]
"""What lives on with the worker, and ends with it: (name, function, arguments, processes)."""


def names(table):
    return [row[0] for row in table]


def assert_whole_again(pool, name, how):
    """The pool has its size again, every worker serves, nothing is left."""
    began_s = time.monotonic()
    wait_in_time(pool.is_whole, SLACK * GOAL_S, "the pool to be whole")
    whole_s = time.monotonic() - began_s
    assert len(pool.fill()) == WORKERS
    pool.assert_as_before()
    print(f"\n{name}: {how}; whole after {whole_s * 1000:.0f} ms")


@pytest.mark.parametrize(("name", "act", "arguments", "expected"), DEADLY, ids=names(DEADLY))
def test_what_ends_its_worker_is_a_typed_error_with_a_text(pool, name, act, arguments, expected):
    kind, code, text = expected
    error = pool.ex.submit(act, *arguments).exception(TIMEOUT_S)
    assert type(error) is kind, repr(error)
    assert (error.reason_code, error.may_have_run) == (code, True), error
    assert error.phase in ("STARTED", "DONE")
    with pytest.raises(kind, match=text):
        raise error
    assert_whole_again(pool, name, f"{kind.__name__}, {code.text}")


@pytest.mark.parametrize(("name", "act", "kind"), OWN, ids=names(OWN))
def test_what_a_function_raises_is_its_own_error(pool, name, act, kind):
    error = pool.ex.submit(act).exception(TIMEOUT_S)
    assert type(error).__name__ == kind
    pool.retire(pool.workers())
    assert_whole_again(pool, name, kind)


@pytest.mark.parametrize(("name", "act", "arguments", "result"), HARMLESS, ids=names(HARMLESS))
def test_what_harms_nobody_gives_its_result(pool, name, act, arguments, result):
    """Every worker goes on or is replaced, and what it answers then is right."""
    assert pool.ex.submit(act, *arguments).result(TIMEOUT_S) == result
    for _ in range(3):
        wait_in_time(pool.is_whole, SLACK * GOAL_S, "the pool to be whole")
        pool.fill()
    pool.retire(pool.workers())
    assert_whole_again(pool, name, "its result")


@pytest.mark.parametrize("act", [hostile.block_everything, hostile.handle_everything, hostile.set_timers])
def test_what_rfaas_stands_on_is_put_back_for_the_next_call(pool, act):
    before = pool.workers()
    pool.ex.submit(act).result(TIMEOUT_S)
    states = [pool.ex.submit(hostile.surroundings, 0.1) for _ in range(WORKERS)]
    seen = {pid: state for pid, *state in (future.result(TIMEOUT_S) for future in states)}
    assert list(seen.values()) == [[[], 0.0, 1]] * WORKERS
    assert pool.workers() == before


@pytest.mark.parametrize(("name", "act", "arguments", "count"), LEFT, ids=names(LEFT))
def test_what_is_left_behind_lives_as_long_as_its_worker(pool, name, act, arguments, count):
    pid = pool.ex.submit(act, *arguments).result(TIMEOUT_S)
    assert pid in pool.workers()
    wait_until(lambda: len(children(pid)) == count, TIMEOUT_S, f"{count} processes below the worker")
    left = set(children(pid))
    assert pool.ex.submit(hostile.exit_at_once, 0).exception(TIMEOUT_S)  # perhaps of the other worker
    pool.retire({pid})
    assert not [one for one in left if alive(one)], "a worker was told dead before all that it left was"
    assert_whole_again(pool, name, f"{count} processes, gone with their worker")


@pytest.mark.parametrize(
    ("act", "arguments"),
    [(hostile.replace_builtins, ()), (hostile.lower_descriptors, (True,)), (hostile.limit_memory, ())],
    ids=["replaces builtins", "has no descriptors for good", "has no memory for good"],
)
def test_a_worker_that_can_t_go_on_harms_no_later_call(pool, act, arguments):
    """Who meets it first is chance: the function, or the worker's own code, which then says what happened."""
    error = pool.ex.submit(act, *arguments).exception(TIMEOUT_S)
    told = "the worker's own code failed; a function may have changed what it needs"
    assert error is None or type(error) is MemoryError or told in str(error), repr(error)
    if act is hostile.limit_memory:  # one that gets along with what it has stays
        pool.retire(pool.workers())
    for _ in range(3):
        wait_in_time(pool.is_whole, SLACK * GOAL_S, "the pool to be whole")
        assert len(pool.fill()) == WORKERS
    assert_whole_again(pool, act.__name__, type(error).__name__ if error else "its result")


def test_a_channel_that_was_replaced_by_a_file_is_not_written_to(pool):
    path = pool.directory / "victim"
    error = pool.ex.submit(hostile.replace_channel, path).exception(TIMEOUT_S)
    assert type(error) is rfaas.WorkerLost
    assert "closed or replaced descriptors" in error.message
    assert path.read_bytes() == b""
    assert_whole_again(pool, "replaces its channel by a file", "WorkerLost, and nothing in the file")


def test_an_endless_function_ends_by_its_time_limit_and_a_deaf_one_too(pool):
    for act in hostile.rest, hostile.allocate:
        argument = hostile.LAST_S if act is hostile.rest else 1 << 24
        error = pool.ex.options(call_timeout_s=0.3).submit(act, argument).exception(TIMEOUT_S)
        assert type(error) is rfaas.DeadlineExceeded
    assert_whole_again(pool, "endless", "DeadlineExceeded")


def test_all_of_them_at_once_harm_no_other_call(pool):
    """Deadly acts and calls beside them: each call has its own end."""
    acts = [
        (act, arguments) for _, act, arguments, _ in DEADLY if act not in (hostile.kill_template, hostile.exit_and_hang)
    ]
    beside = pool.ex.options(idempotent=True, retries=20)
    futures = []
    for act, arguments in acts:
        futures.append(pool.ex.submit(act, *arguments))
        futures += [beside.submit(hostile.size_of, b"12345") for _ in range(3)]
    kinds = [type(future.exception(2 * TIMEOUT_S)) for future in futures]
    assert kinds == [rfaas.WorkerLost, type(None), type(None), type(None)] * len(acts)
    assert_whole_again(pool, "all at once", f"{len(acts)} lost, {3 * len(acts)} answered")


def test_each_tracker_of_shared_memory_has_its_time_whoever_died_before(pool, tmp_path):
    """They unlink what their worker had made, and have to start first; what only looks like one has as long."""
    paths = [tmp_path / "first", tmp_path / "second"]
    for path in paths:
        assert type(pool.ex.submit(hostile.leave_a_tracker, path).exception(TIMEOUT_S)) is rfaas.WorkerLost
        wait_until(lambda path=path: path.exists() and path.read_text(), TIMEOUT_S, "the tracker to begin")
        wait_until(lambda: float(paths[0].read_text() or 0) > 0.6, TIMEOUT_S, "time to pass")
    pool.assert_as_before()
    lived_s = [float(path.read_text()) for path in paths]
    print("lived", lived_s)
    assert min(lived_s) > 0.9 * TRACKER_GRACE_S


KILLS_ITS_AGENT = """
import sys, time
sys.path.insert(0, {tests!r})
import rfaas
from support import hostile
from support.invariants import note_kill
with rfaas.Executor(2, allocator="embedded") as ex:
    ex.submit(hostile.ok).result(60)
    note_kill(ex._engine.session_pid)
    began_s = time.monotonic()
    error = ex.submit(hostile.kill_agent_and_leave_daemons, 4).exception(60)
    told_s = time.monotonic() - began_s
    again = ex.submit(hostile.ok).result(60)[0]
    print(type(error).__name__, error.may_have_run, again, told_s, time.monotonic() - began_s)
"""


def test_who_kills_the_agent_ends_all_its_calls_and_leaves_nothing(event_log, tmp_path):
    """A program of its own, since executors of one program share their agent."""
    residue = Residue(event_log)
    program = tmp_path / "program.py"
    program.write_text(KILLS_ITS_AGENT.format(tests=str(Path(__file__).parents[1])))
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=90, check=False)
    kind, may_have_run, again, told_s, again_s = done.stdout.split()
    assert (kind, may_have_run, again) == ("AgentLost", "True", "0")
    wait_in_time(lambda: not residue.processes(), SLACK * GOAL_S, "what the dead agent's worker had left")
    print(f"\nkills its agent: AgentLost after {float(told_s):.2f} s, the next answer after {float(again_s):.2f} s")
    assert_in_time(float(told_s), SLACK * 2.0)


def test_the_agent_is_none_of_their_victims(pool):
    assert alive(pool.agent)
    assert Path(f"/proc/{pool.agent}/oom_score_adj").read_text() == Path("/proc/self/oom_score_adj").read_text()
    for worker in pool.workers():
        assert Path(f"/proc/{worker}/oom_score_adj").read_text().strip() == "1000"
    assert os.getpid() not in pool.workers()
