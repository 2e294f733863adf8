"""A session process's core with one client, and with a channel."""

import pytest

from rfaas.session.events import DataUp
from support.session import Harness


@pytest.fixture
def h():
    """A session with a client that wants workers."""
    harness = Harness()
    harness.link()
    harness.join()
    harness.want(4)
    harness.take()
    return harness


@pytest.fixture
def channel(h):
    """A channel that the client has."""
    number = h.serve()
    h.step(DataUp(number))
    h.take()
    return number
