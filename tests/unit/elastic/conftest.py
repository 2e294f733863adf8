"""A preempted run has its process ignore SIGTERM for good; here the process goes on."""

import signal

import pytest


@pytest.fixture(autouse=True)
def sigterm_as_before():
    """Children of later tests would inherit that they ignore it."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
