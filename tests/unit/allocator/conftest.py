"""The world that tests of the allocator's core begin with."""

import pytest

from .world import World


@pytest.fixture
def world():
    return World()
