"""Shows what tests marked `figures` printed, though they passed; writes what all tests came to, if that is asked for.

A promised deadline is asserted at three times its value; the figure itself is for people to read.
"""

import json
import re
from pathlib import Path

SEED = re.compile(r"RFAAS_TEST_SEED=(\d+)")


class FiguresAreShown:
    """A pytest plugin that ends the report with the output of passed tests marked `figures`."""

    def __init__(self):
        self._shown = []

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed and "figures" in report.keywords and report.capstdout:
            self._shown.append((report.nodeid.rpartition("::")[2], report.capstdout.strip()))

    def pytest_terminal_summary(self, terminalreporter):
        if self._shown:
            terminalreporter.section("figures")
        for name, text in self._shown:
            terminalreporter.line(f"{name}:")
            for line in text.splitlines():
                terminalreporter.line(f"    {line}")


class ResultsAreWritten:
    """A pytest plugin that writes outcome, duration, seeds and output of each test to a JSON file (tools/soak.py).

    A test whose set-up or end failed has failed, whatever it came to itself.
    """

    def __init__(self, path):
        self._path = Path(path)
        self._tests = {}

    def pytest_runtest_logreport(self, report):
        name = report.nodeid.rpartition("::")[2]
        test = self._tests.setdefault(
            report.nodeid, {"name": name, "outcome": "passed", "seconds": 0.0, "seeds": [], "figures": []}
        )
        test["seconds"] = round(test["seconds"] + report.duration, 2)
        if test["outcome"] == "passed":
            test["outcome"] = report.outcome
        if report.when == "call":
            lines = [line for line in report.capstdout.splitlines() if line.strip()]
            test["seeds"] = [int(seed) for seed in SEED.findall(report.capstdout)]
            test["figures"] = [line for line in lines if not SEED.search(line)]

    def pytest_sessionfinish(self):
        self._path.write_text(json.dumps(list(self._tests.values())))
