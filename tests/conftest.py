"""Rules that hold in every ring of tests."""

import os

from hypothesis import settings

import cluster.fixtures
from support.figures import FiguresAreShown, ResultsAreWritten
from support.nothing_left import _nothing_is_left_running as _nothing_is_left_running  # autouse, in every ring
from support.skips import SkipsAreFailures

# No deadline per example: a shared machine may pause any of them.
settings.register_profile("rfaas", deadline=None)
settings.load_profile("rfaas")


def pytest_configure(config):
    config.pluginmanager.register(cluster.fixtures, "cluster-fixtures")
    config.pluginmanager.register(FiguresAreShown(), "figures-are-shown")
    if os.environ.get("RFAAS_TEST_REPORT"):
        config.pluginmanager.register(ResultsAreWritten(os.environ["RFAAS_TEST_REPORT"]), "results-are-written")
    if os.environ.get("CI") == "true":
        config.pluginmanager.register(SkipsAreFailures(), "skips-are-failures")
