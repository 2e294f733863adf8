"""A KeyboardInterrupt between any two lines of `submit`, `cancel` and `shutdown`: no future is lost, none runs twice.

Python runs signal handlers between two bytecodes of the main thread, wherever it is. Here a trace function takes the
place of the signal: it raises at the n-th line executed inside the client, for every n that there is.
"""

import linecache
import sys
from pathlib import Path

import pytest

import rfaas.client
from rfaas import Executor
from support.scripted_session import ScriptedSession
from support.waiting import wait_until

TIMEOUT_S = 20
CLIENT = str(Path(rfaas.client.__file__).parent)


class Interrupter:
    """Raises KeyboardInterrupt at the n-th line of the client's own code; counts them all for n = None."""

    def __init__(self, n):
        self.n = n
        self.lines = 0

    def _trace(self, frame, event, arg):
        name = frame.f_code.co_filename
        if not name.startswith(CLIENT) or name.endswith(
            "history.py"
        ):  # no line of a log is written whole or not at all
            return None
        # Python takes no signal between the end of a `with` block and its __exit__; a trace function is called there.
        line = linecache.getline(name, frame.f_lineno).strip()
        if event == "line" and not line.startswith("with "):
            self.lines += 1
            if self.lines == self.n:
                raise KeyboardInterrupt
        return self._trace

    def run(self, function):
        """Call a function; True if it was interrupted."""
        sys.settrace(self._trace)
        try:
            function()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False


@pytest.fixture
def session(monkeypatch):
    scripted = ScriptedSession()
    scripted.install(monkeypatch)
    return scripted


@pytest.fixture
def ex(session):
    executor = Executor(2, allocator="embedded")
    first = executor.submit(abs, 0)
    session.worker()
    first.result(TIMEOUT_S)
    yield executor
    executor.shutdown(wait=False, cancel_futures=True)
    session.end()
    executor.shutdown()


class Witness:
    """A function that counts its runs; workers of the scripted session run in this process."""

    runs: list[int] = []  # noqa: RUF012  # shared with the workers' copies on purpose

    def __init__(self, n):
        self.n = n

    def __call__(self):
        Witness.runs.append(self.n)
        return self.n


@pytest.mark.parametrize("busy", [False, True], ids=["a worker idles", "all workers are busy"])
def test_submit(ex, session, busy):
    """What was interrupted runs once or never; everything after it runs, and nothing runs twice."""
    (worker,) = session.workers.values()
    n, interrupted = 0, True
    while interrupted:
        n += 1
        Witness.runs.clear()
        if busy:
            worker.hold.clear()
        before = ex.submit(Witness(1))
        if not busy:
            before.result(TIMEOUT_S)
            wait_until(lambda: ex.statistics()["running"] == 0, TIMEOUT_S)
        interrupted = Interrupter(n).run(lambda: ex.options(call_timeout_s=60).submit(Witness(2)))
        after = [ex.submit(Witness(3)) for _ in range(3)]
        worker.hold.set()
        assert before.result(TIMEOUT_S) == 1
        assert [future.result(TIMEOUT_S) for future in after] == [3, 3, 3]
        wait_until(
            lambda: not any(ex.statistics()[key] for key in ("queued", "running")), TIMEOUT_S, f"quiet after {n}"
        )
        assert Witness.runs.count(1) == 1
        assert Witness.runs.count(2) <= 1
        assert Witness.runs.count(3) == 3
        wait_until(lambda: not ex._engine._calls, TIMEOUT_S, f"no call to be left after {n}")
    assert n > 30


def test_submit_of_the_first_call(session):
    """Starting the I/O thread can be interrupted too."""
    n, interrupted = 0, True
    while interrupted:
        n += 1
        session.workers.clear()
        session._sock = None
        executor = Executor(2, allocator="embedded")
        interrupted = Interrupter(n).run(lambda: executor.submit(abs, -1))  # noqa: B023
        future = executor.submit(abs, -2)
        session.worker()
        assert future.result(TIMEOUT_S) == 2
        executor.shutdown()
    assert n > 30


def test_cancel(ex, session):
    (worker,) = session.workers.values()
    n, interrupted = 0, True
    while interrupted:
        n += 1
        worker.hold.clear()
        running, waiting = ex.submit(abs, -1), ex.submit(abs, -2)
        interrupted = Interrupter(n).run(waiting.cancel)
        worker.hold.set()
        assert running.result(TIMEOUT_S) == 1
        if not waiting.cancelled():
            assert waiting.exception(TIMEOUT_S) is None or type(waiting.exception()) is rfaas.Cancelled
        assert ex.submit(abs, -3).result(TIMEOUT_S) == 3
        wait_until(lambda: not ex._engine._calls, TIMEOUT_S, f"no call to be left after {n}")
    assert n > 10


def test_shutdown(session):
    n, interrupted = 0, True
    while interrupted:
        n += 1
        session.workers.clear()
        session._sock = None
        executor = Executor(2, allocator="embedded")
        futures = [executor.submit(abs, -1) for _ in range(3)]
        interrupted = Interrupter(n).run(lambda: executor.shutdown(cancel_futures=True, wait=False))  # noqa: B023
        executor.shutdown(cancel_futures=True)
        assert all(f.cancelled() or type(f.exception(0)) is rfaas.Cancelled for f in futures)
    assert n > 10
