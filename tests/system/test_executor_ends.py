"""How calls, workers, sessions and programs end: losses, deadlines, interpreter exit, forks, nothing left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import rfaas
from support import functions as f
from support.allocator import AllocatorProcess
from support.deadlines import assert_in_time
from support.leftovers import abstract_sockets, alive, children, shared_memory
from support.waiting import wait_until

TIMEOUT_S = 60


@pytest.fixture
def ex():
    with rfaas.Executor(2, allocator="embedded") as executor:
        executor.submit(f.nothing).result(TIMEOUT_S)
        yield executor


def session_pid(executor):
    return executor._engine.session_pid


def run_program(text):
    """What a program prints, and its exit status, in an interpreter of its own."""
    command = [sys.executable, "-c", textwrap.dedent(text)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    return done.stdout, done.returncode


def test_a_host_that_can_t_make_workers_is_said_to_be_the_reason():
    said, status = run_program("""
        import os, resource, rfaas
        os.environ.pop("RFAAS_EVENT_LOG", None)  # which is files
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # the agent's page for a worker is a file too
        with rfaas.Executor(1, allocator="embedded", acquire_timeout_s=3) as ex:
            try:
                ex.invoke(abs, -1)
            except rfaas.AcquireTimeout as error:
                print(error.message)
    """)
    assert status == 0
    assert "did not come: the agent can't make another worker: [Errno 27] File too large" in said


def test_a_first_call_of_a_thread_that_outlives_the_main_one_is_refused_in_the_standard_s_words():
    said, _ = run_program("""
        import rfaas, threading

        def call():
            threading.main_thread().join()
            try:
                rfaas.Executor(1, allocator="embedded").submit(abs, -1)
            except RuntimeError as error:
                print(error)

        threading.Thread(target=call).start()
    """)
    assert said == "cannot schedule new futures after interpreter shutdown\n"


# --- workers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("deadly", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_s_death_is_known_within_a_second_and_it_is_replaced(ex, tmp_path, deadly):
    lost = ex.submit(f.witness_then_die, tmp_path / "witness", deadly)
    wait_until(lambda: f.runs(tmp_path / "witness"), TIMEOUT_S)
    began_s = time.monotonic()
    error = lost.exception(TIMEOUT_S)
    assert_in_time(time.monotonic() - began_s, 1.0)
    assert (type(error), error.may_have_run, error.phase) == (rfaas.WorkerLost, True, "STARTED")
    assert error.reason_code is rfaas.ReasonCode.WORKER_CRASHED
    assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1
    assert f.runs(tmp_path / "witness") == 1


def test_a_worker_killed_from_outside_is_replaced_and_both_serve_again(ex, tmp_path):
    running = ex.submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "never")
    wait_until(lambda: f.runs(tmp_path / "witness"), TIMEOUT_S)
    os.kill(int((tmp_path / "witness").read_text().split()[1]), signal.SIGKILL)
    began_s = time.monotonic()
    assert type(running.exception(TIMEOUT_S)) is rfaas.WorkerLost
    assert_in_time(time.monotonic() - began_s, 1.0)
    pids = set(ex.map(lambda s: (time.sleep(s), os.getpid())[1], [0.3] * 4))
    assert len(pids) == 2


def test_exits_of_a_function_are_worker_losses_with_their_status(ex):
    error = ex.submit(os._exit, 3).exception(TIMEOUT_S)
    assert (type(error), error.reason_code) == (rfaas.WorkerLost, rfaas.ReasonCode.WORKER_EXITED)
    assert "3" in str(error)


def test_a_call_that_is_idempotent_runs_again_after_its_worker_died(ex, tmp_path):
    again = ex.options(idempotent=True, retries=1)
    assert again.submit(f.die_at_first, tmp_path / "witness").result(TIMEOUT_S) == 2
    assert ex.statistics()["retried"] == 1


def test_without_retries_it_does_not(ex, tmp_path):
    error = ex.options(idempotent=True).submit(f.die_at_first, tmp_path / "witness").exception(TIMEOUT_S)
    assert type(error) is rfaas.WorkerLost
    assert f.runs(tmp_path / "witness") == 1


def test_a_function_that_ended_three_workers_is_poison(ex, tmp_path):
    error = (
        ex.options(idempotent=True, retries=10).submit(f.witness_then_die, tmp_path / "witness").exception(TIMEOUT_S)
    )
    assert type(error) is rfaas.PoisonFunction
    assert f.runs(tmp_path / "witness") == 3
    assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1


def test_a_call_that_takes_too_long_is_killed_with_its_worker(ex, tmp_path):
    began_s = time.monotonic()
    hurried = ex.options(call_timeout_s=0.5)
    error = hurried.submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "never").exception(TIMEOUT_S)
    assert time.monotonic() - began_s >= 0.5
    assert_in_time(time.monotonic() - began_s, 1.5)
    assert (type(error), error.phase, error.may_have_run) == (rfaas.DeadlineExceeded, "STARTED", True)
    pid = int((tmp_path / "witness").read_text().split()[1])
    wait_until(lambda: not alive(pid), 2.0, "the worker to be gone")
    assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1


def test_a_deadline_counts_the_time_in_the_queue(ex, tmp_path):
    busy = [ex.submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "gate") for _ in range(2)]
    wait_until(lambda: f.runs(tmp_path / "witness") == 2, TIMEOUT_S)
    error = ex.options(call_timeout_s=0.2).submit(f.witness, tmp_path / "late").exception(TIMEOUT_S)
    assert (type(error), error.phase, error.may_have_run) == (rfaas.DeadlineExceeded, "QUEUED", False)
    (tmp_path / "gate").touch()
    assert [future.result(TIMEOUT_S) for future in busy] == ["done", "done"]
    assert f.runs(tmp_path / "late") == 0


def test_calls_behind_a_deadly_one_all_succeed(ex, tmp_path):
    futures = [ex.submit(f.add, n) for n in range(200)]
    deadly = [ex.submit(f.witness_then_die, tmp_path / "witness") for _ in range(3)]
    futures += [ex.submit(f.add, n) for n in range(200, 400)]
    assert [future.result(TIMEOUT_S) for future in futures] == list(range(400))
    assert {type(future.exception(TIMEOUT_S)) for future in deadly} == {rfaas.WorkerLost}
    assert f.runs(tmp_path / "witness") == 3


# --- the session process -----------------------------------------------------------------------------


def test_when_the_session_process_is_killed_futures_resolve_and_the_next_call_works(ex, tmp_path):
    running = ex.submit(f.witness_then_wait, tmp_path / "witness", tmp_path / "never")
    wait_until(lambda: f.runs(tmp_path / "witness"), TIMEOUT_S)
    worker_pid = int((tmp_path / "witness").read_text().split()[1])
    os.kill(session_pid(ex), signal.SIGKILL)
    began_s = time.monotonic()
    error = running.exception(TIMEOUT_S)
    assert_in_time(time.monotonic() - began_s, 2.0)
    assert (type(error), error.may_have_run) == (rfaas.AgentLost, True)
    assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1
    wait_until(lambda: not alive(worker_pid), 2.0, "the old worker to be gone")


def test_calls_that_waited_when_the_session_process_was_killed_go_on(ex, tmp_path):
    again = ex.options(idempotent=True, retries=3)
    futures = [again.submit(f.sleep, 0.01) for _ in range(100)]
    wait_until(lambda: ex.statistics()["answered"] > 10, TIMEOUT_S)
    os.kill(session_pid(ex), signal.SIGKILL)
    assert [future.result(TIMEOUT_S) for future in futures] == [0.01] * 100


def test_an_idle_executor_survives_its_session_process(ex):
    os.kill(session_pid(ex), signal.SIGKILL)
    # Before that is known a call may still go to a worker that is about to die, and may rightly fail.
    wait_until(lambda: ex.statistics()["workers"] == 0, TIMEOUT_S)
    assert ex.submit(f.add, 1).result(TIMEOUT_S) == 1


# --- programs ----------------------------------------------------------------------------------------


def run(program, tmp_path, **options):
    """Run a program in a fresh interpreter."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(program))
    return subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=tmp_path,
        **options,
    )


EXIT = """
    import atexit, sys, time
    from concurrent.futures import ProcessPoolExecutor
    import rfaas

    def slow(n):
        time.sleep(0.2)
        return n

    if __name__ == "__main__":
        atexit.register(print, "atexit before")
        ex = rfaas.Executor(1) if sys.argv[1:] != ["standard"] else ProcessPoolExecutor(1)
        future = ex.submit(slow, 1)
        atexit.register(print, "atexit after")
        for n in range(3):
            ex.submit(slow, n).add_done_callback(lambda done: print("callback", done.result()))
        print("main ends")
"""


def test_pending_calls_and_callbacks_finish_before_atexit_handlers(tmp_path):
    done = run(EXIT, tmp_path)
    assert done.stderr == ""
    said = done.stdout.splitlines()
    assert said == ["main ends", "callback 0", "callback 1", "callback 2", "atexit after", "atexit before"]


def test_the_standard_executor_ends_in_the_same_order(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(EXIT))
    standard = subprocess.run([sys.executable, path, "standard"], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert standard.stdout == run(EXIT, tmp_path).stdout


def test_a_program_that_fails_still_finishes_its_calls_and_says_why(tmp_path):
    done = run(
        """
        import rfaas
        ex = rfaas.Executor(1)
        ex.submit(pow, 2, 3).add_done_callback(lambda done: print(done.result()))
        raise SystemExit("on purpose")
        """,
        tmp_path,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("8\n", "on purpose\n", 1)


def test_prints_of_functions_are_seen(tmp_path):
    done = run(
        """
        import rfaas
        with rfaas.Executor(1) as ex:
            ex.submit(print, "from a worker").result(60)
        """,
        tmp_path,
    )
    assert (done.stdout.partition("] ")[2], done.stderr) == ("from a worker\n", "")


def test_a_call_at_exit_is_refused(tmp_path):
    done = run(
        """
        import atexit, rfaas
        ex = rfaas.Executor(1)
        ex.submit(pow, 2, 3).result(60)
        def late():
            try:
                ex.submit(pow, 2, 3)
            except RuntimeError as error:
                print(error)
        atexit.register(late)
        """,
        tmp_path,
    )
    assert done.stdout == "cannot schedule new futures after interpreter shutdown\n"
    assert done.stderr == ""


NOTHING_LEFT = """
    import os, sys
    sys.path.insert(0, {tests!r})
    import rfaas
    from rfaas.session import names
    from support.leftovers import children
    start = names.process_start(os.getpid())
    print(names.socket_name(os.getuid(), names.embedded_key(os.getpid(), start))[1:])
    with rfaas.Executor(2) as ex:
        pids = {{*ex.map(lambda _: __import__("os").getpid(), range(20)), ex._engine.session_pid}}
        print(*pids, *children(ex._engine.session_pid))
        {ending}
"""


@pytest.mark.parametrize(
    "ending", ["pass", "os._exit(0)", "os.kill(os.getpid(), 9)", "1 / 0"], ids=["good", "_exit", "kill -9", "exception"]
)
def test_nothing_is_left_of_a_program_however_it_ends(tmp_path, ending):
    memory = shared_memory()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    tests = str(Path(__file__).parents[1])
    program = NOTHING_LEFT.format(tests=tests, ending="sys.stdout.flush(); " + ending)
    done = run(program, tmp_path, env={**os.environ, "TMPDIR": str(temporary)})
    socket, *pids = done.stdout.split()
    assert len(pids) >= 3, done.stderr
    wait_until(lambda: not any(alive(pid) for pid in pids), 10, "every process to be gone")
    assert not abstract_sockets(socket)
    wait_until(lambda: shared_memory() <= memory, 10, "shared memory to be unlinked, that of others too")
    assert list(temporary.iterdir()) == []


def test_after_shutdown_nothing_of_an_executor_is_left():
    before = set(children(os.getpid()))
    with rfaas.Executor(2, allocator="embedded") as ex:
        list(ex.map(f.add, range(10)))
        session = session_pid(ex)
        pids = [session, *children(session)]
        assert len(pids) >= 3
    wait_until(lambda: not any(alive(pid) for pid in pids), 10, "every process to be gone")
    assert set(children(os.getpid())) <= before


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # 3.12 and later warn of threads
def test_a_forked_child_can_make_an_executor_of_its_own(ex):
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            ex.submit(f.nothing)
            said = "the parent's executor took a call"
        except RuntimeError as error:
            said = str(error)
        try:
            with rfaas.Executor(1, allocator="embedded") as own:
                said += f"; own: {own.submit(f.add, 1).result(30)}"
        except BaseException as error:
            said += repr(error)
        os.write(write_end, said.encode())
        os._exit(0)
    os.close(write_end)
    said = os.read(read_end, 65536).decode()
    os.close(read_end)
    os.waitpid(child, 0)
    assert "after fork" in said
    assert said.endswith("own: 1")
    assert ex.submit(f.add, 2).result(TIMEOUT_S) == 2


def test_multiprocessing_children_and_executors_get_along(tmp_path):
    done = run(
        """
        import multiprocessing, rfaas

        def child(queue):
            with rfaas.Executor(1) as ex:
                queue.put(ex.submit(pow, 2, 4).result(30))

        if __name__ == "__main__":
            with rfaas.Executor(1) as ex:
                assert ex.submit(pow, 2, 3).result(60) == 8
                context = multiprocessing.get_context("spawn")
                queue = context.Queue()
                process = context.Process(target=child, args=(queue,))
                process.start()
                print(queue.get(timeout=30), ex.submit(pow, 2, 5).result(60))
                process.join(30)
                print(process.exitcode)
        """,
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("16 32\n0\n", "")


def test_ctrl_c_reaches_the_program_and_not_its_workers(tmp_path):
    """As a terminal does: SIGINT to the whole process group."""
    path = tmp_path / "program.py"
    path.write_text(
        textwrap.dedent(
            """
            import os, pathlib, time, rfaas

            def wait(started, gate):
                pathlib.Path(started).touch()
                while not os.path.exists(gate):
                    time.sleep(0.005)
                return "not interrupted"

            with rfaas.Executor(1) as ex:
                future = ex.submit(wait, "started", "gate")
                try:
                    future.result(60)
                except KeyboardInterrupt:
                    pathlib.Path("gate").touch()
                print(future.result(60), ex.submit(pow, 2, 3).result(60))
            """
        )
    )
    process = subprocess.Popen(
        [sys.executable, str(path)], cwd=tmp_path, start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: (tmp_path / "started").exists(), TIMEOUT_S)
        os.killpg(process.pid, signal.SIGINT)
        stdout, _ = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert stdout == "not interrupted 8\n"


# --- executors that nobody holds any more -------------------------------------------------------------


def test_a_collected_executor_keeps_its_times_and_costs_no_cpu(tmp_path):
    """Its call waits for a worker that never comes: the allocator has no slice."""

    def dropped(**settings):
        return rfaas.Executor(1, allocator=tmp_path / "state", **settings).submit(f.nothing)

    with AllocatorProcess(tmp_path / "state") as allocator:
        allocator.start()
        starved, late = dropped(acquire_timeout_s=1), dropped(call_timeout_s=1)
        busy_s = time.process_time()
        assert type(starved.exception(TIMEOUT_S)) is rfaas.AcquireTimeout
        assert type(late.exception(TIMEOUT_S)) is rfaas.DeadlineExceeded
        assert time.process_time() - busy_s < 0.5


# --- workers that this machine can't hold -------------------------------------------------------------


@pytest.mark.parametrize(
    ("beyond", "said"),
    [({"cores": 5000}, "5000 cores of"), ({"memory": "1024TiB"}, "1073741824 MiB of")],
    ids=["cores", "memory"],
)
def test_an_embedded_worker_larger_than_the_machine_is_denied_at_once_and_for_good(beyond, said):
    with rfaas.Executor(1, allocator="embedded", **beyond) as ex:
        error = ex.submit(f.nothing).exception(TIMEOUT_S)
    assert type(error) is rfaas.LeaseDenied
    assert "one worker asks for more than this machine has" in str(error)
    assert said in str(error)


def test_an_embedded_worker_may_have_the_whole_machine():
    all_cores = len(os.sched_getaffinity(0))
    all_memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with rfaas.Executor(1, cores=all_cores, memory=all_memory_bytes, allocator="embedded") as ex:
        assert ex.submit(f.add, 2, 3).result(TIMEOUT_S) == 5


def test_a_collected_executor_retries(tmp_path):
    executor = rfaas.Executor(1, allocator="embedded", idempotent=True, retries=1)
    future = executor.submit(f.die_at_first, tmp_path / "witness")
    del executor
    assert future.result(TIMEOUT_S) == 2


def test_a_program_with_few_descriptors_is_served_by_as_many_workers_as_they_allow(tmp_path):
    program = """
        import rfaas, time
        with rfaas.Executor(40, allocator="embedded") as ex:
            print(len(list(ex.map(time.sleep, [0.1] * 100))))
    """
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(program))
    limited = f"ulimit -n 64; exec {sys.executable} {path}"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "100\n", "")
