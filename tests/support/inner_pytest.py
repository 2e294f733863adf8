"""pytest in a process of its own, on tests that a test wrote: for the rules of tests/support themselves."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def inner_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in `folder`, where tests/support can be imported; returns the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "."],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=60,
    )
