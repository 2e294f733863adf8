"""The event log around a test, checked when it is over; tests/system/conftest.py gives it to every system test."""

import contextlib

import pytest

from rfaas.control.eventlog import EventLog
from rfaas.control.invariants import PENDING, check_directory
from support.waiting import wait_until

SETTLE_S = 10.0  # futures that a test left behind resolve within this, or they never do


def note_kill(pid, what="kill"):
    """Write into the log that the test is about to harm a process; call it before."""
    EventLog.from_environment("test").write("fault_start", what=what, target_pid=pid)


def assert_kept(directory):
    """Fail with every broken promise that the logs of a directory show.

    Calls that are not resolved yet get some seconds: a test may end before a thread of its own has. And a violation
    counts if two readings show it: while somebody still writes, one may meet an end and not what was logged before it.
    """
    broken = []

    def settled():
        before, broken[:] = [violation.text for violation in broken], check_directory(directory)
        now = [violation.text for violation in broken]
        return not now or (now == before and not any(PENDING in text for text in now))

    with contextlib.suppress(AssertionError):  # what is pending then is reported below
        wait_until(settled, SETTLE_S)
    if broken:
        words = "\n".join(str(violation) for violation in broken)
        pytest.fail(f"{len(broken)} broken promises in {directory}:\n{words}", pytrace=False)


@pytest.fixture
def event_log(tmp_path_factory, monkeypatch):
    """A directory that every process started in this test logs to; checked after the test (005 section 3)."""
    directory = tmp_path_factory.mktemp("events")
    monkeypatch.setenv("RFAAS_EVENT_LOG", str(directory))
    yield directory
    assert_kept(directory)


@pytest.fixture(scope="module", autouse=True)
def _promises_are_kept(tmp_path_factory):
    """One event log for all tests of a module that imports this, since they share their executors; checked at its end.

    There it takes the place of the fixture of the same name that checks after each test.
    """
    directory = tmp_path_factory.mktemp("events")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RFAAS_EVENT_LOG", str(directory))
        yield
    assert_kept(directory)
