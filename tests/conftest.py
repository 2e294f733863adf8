"""Rules that hold in every ring of tests."""

import os
import tempfile
from pathlib import Path

import cluster.fixtures
import cluster.site_rig
from support import deadlines, order
from support.figures import FiguresAreShown, ResultsAreWritten
from support.nothing_left import _nothing_is_left_running as _nothing_is_left_running  # autouse, in every ring
from support.skips import SkipsAreFailures


def pytest_configure(config):
    config.pluginmanager.register(cluster.fixtures, "cluster-fixtures")
    config.pluginmanager.register(cluster.site_rig, "cluster-site-rig")
    config.pluginmanager.register(order, "order")
    config.pluginmanager.register(deadlines, "deadlines")
    if hasattr(config, "workerinput"):
        _separate_temporary_files(config.option.basetemp)
        return  # what follows reads reports, and those of pytest-xdist's workers all come to the process that reports
    config.pluginmanager.register(FiguresAreShown(), "figures-are-shown")
    if os.environ.get("RFAAS_TEST_REPORT"):
        config.pluginmanager.register(ResultsAreWritten(os.environ["RFAAS_TEST_REPORT"]), "results-are-written")
    if os.environ.get("RFAAS_TEST_LATE"):
        config.pluginmanager.register(deadlines.LateTestsAreTold(os.environ["RFAAS_TEST_LATE"]), "late-tests-are-told")
    if os.environ.get("CI") == "true":
        config.pluginmanager.register(SkipsAreFailures(), "skips-are-failures")


def _separate_temporary_files(base):
    """Each of pytest-xdist's workers has a temporary directory of its own, so that tests may look at what is left."""
    directory = Path(f"{base}-tmp")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(directory)
    tempfile.tempdir = None  # it is looked up again
