"""Deadlines: what rfaas promises to have done by when, asserted at `SLACK` times the promise.

A process without a CPU keeps no promise. A test that missed a deadline while others ran beside it, and failed in
nothing else, is run again with the machine to itself, and that decides (tools/rings.py).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from support.waiting import wait_until

T = TypeVar("T")

SLACK = 3  # asserted deadline over goal: a test machine may pause any process
LATE = "late"  # the property of a report, which pytest-xdist's workers hand to who reports


class Late(AssertionError):
    """What was to happen happened, or may yet; a deadline was missed."""


def assert_in_time(took_s: float, limit_s: float, what: str = "") -> None:
    """Raises Late if it took longer than that."""
    if not took_s <= limit_s:
        raise Late(f"{what or 'it'} took {took_s:.3f} s, at most {limit_s:g} s was allowed")


def wait_in_time(condition: Callable[[], T], limit_s: float, what: str = "") -> T:
    """`wait_until` for a promised deadline: raises Late if the condition is still false by then."""
    return wait_until(condition, limit_s, what, error=Late)


class LateTestsAreTold:
    """A pytest plugin that writes a JSON file: {"late": names of tests that failed in a deadline alone, "failed": all
    others that failed, or that were skipped where that is a failure}.
    """

    def __init__(self, path):
        self._path = Path(path)
        self._failed = {}

    def pytest_runtest_logreport(self, report):
        if report.failed:
            late = report.when == "call" and (LATE, True) in report.user_properties
            self._failed[report.nodeid] = late and self._failed.get(report.nodeid, True)

    def pytest_collectreport(self, report):
        if report.failed:
            self._failed[report.nodeid] = False

    def pytest_sessionfinish(self, session):
        skips = session.config.pluginmanager.get_plugin("skips-are-failures")
        told = {
            "late": [name for name, late in self._failed.items() if late],
            "failed": [name for name, late in self._failed.items() if not late] + (skips.refused if skips else []),
        }
        self._path.write_text(json.dumps(told))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Marks the report of a test that raised Late: where the test runs, which may be one of pytest-xdist's workers."""
    report = yield
    if call.when == "call" and call.excinfo is not None and call.excinfo.errisinstance(Late):
        report.user_properties.append((LATE, True))
    return report
