"""In CI a skipped test is a failure: a ring that silently did not run would look like one that passed.

Registered by tests/conftest.py when the environment says CI=true.
"""

import os
import re

import pytest

# Patterns of skip reasons that CI accepts, each with why it cannot be otherwise. Keep it short.
ALLOWED_REASONS: tuple[str, ...] = (
    r"^no RDMA device",  # hardware, or a kernel module that CI's kernel may not have: tests/rdma/rig/ring brings one
)
if os.environ.get("RFAAS_RDMA_DEVICE"):
    ALLOWED_REASONS = ()


class SkipsAreFailures:
    """A pytest plugin that fails the session when a test or a file was skipped for a reason that is not allowed."""

    def __init__(self, allowed_reasons: tuple[str, ...] = ALLOWED_REASONS) -> None:
        self._allowed = [re.compile(pattern) for pattern in allowed_reasons]
        self.refused: list[str] = []

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not any(pattern.search(reason) for pattern in self._allowed):
            self.refused.append(f"{report.nodeid}: {reason}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.refused and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.refused:
            terminalreporter.section("skipped, which CI counts as failed", red=True)
            for line in self.refused:
                terminalreporter.line(line)
