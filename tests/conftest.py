"""Rules that hold in every ring of tests."""

import os

from hypothesis import settings

from support.skips import SkipsAreFailures

# No deadline per example: a shared machine may pause any of them.
settings.register_profile("rfaas", deadline=None)
settings.load_profile("rfaas")


def pytest_configure(config):
    if os.environ.get("CI") == "true":
        config.pluginmanager.register(SkipsAreFailures(), "skips-are-failures")
