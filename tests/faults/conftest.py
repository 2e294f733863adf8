"""What every fault test has: an event log, whose invariants are checked when the test is over."""

import pytest

from support.invariants import event_log as event_log  # a fixture: pytest finds it by its name here


@pytest.fixture(autouse=True)
def _promises_are_kept(event_log):
    """Every fault test is followed by the checker."""
