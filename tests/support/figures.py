"""Shows what tests marked `figures` printed, though they passed.

A promised deadline is asserted at three times its value; the figure itself is for people to read.
"""

import pytest


class FiguresAreShown:
    """A pytest plugin that ends the report with the output of passed tests marked `figures`."""

    def __init__(self):
        self._shown = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if report.when == "call" and report.passed and item.get_closest_marker("figures") and report.capstdout:
            self._shown.append((item.name, report.capstdout.strip()))
        return report

    def pytest_terminal_summary(self, terminalreporter):
        if self._shown:
            terminalreporter.section("figures")
        for name, text in self._shown:
            terminalreporter.line(f"{name}:")
            for line in text.splitlines():
                terminalreporter.line(f"    {line}")
