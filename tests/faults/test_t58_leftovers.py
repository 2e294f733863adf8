"""T58's fixture: what a test leaves running fails that test, by name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent

CONFTEST = """
import pytest
from support import nothing_left
from support.nothing_left import _nothing_is_left_running

nothing_left.GONE_S = 0.5

@pytest.fixture
def event_log(tmp_path, monkeypatch):
    monkeypatch.setenv("RFAAS_EVENT_LOG", str(tmp_path))
    return tmp_path
"""
CHILD = "import subprocess\ndef test_it(): globals()['p'] = subprocess.Popen(['sleep', '4.25'])\n"
ZOMBIE = "import os\ndef test_it():\n    if os.fork() == 0: os._exit(0)\n"
ORPHAN = (
    "import subprocess\ndef test_it(event_log):\n"
    "    subprocess.run('sleep 61 & echo $! > %s', shell=True, start_new_session=True)\n"
)


@pytest.fixture
def session(tmp_path):
    def run(tests):
        (tmp_path / "conftest.py").write_text(CONFTEST)
        (tmp_path / "test_one.py").write_text(tests)
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore", "."],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_a_child_that_runs_on_fails_its_test(session):
    done = session(CHILD)
    assert (done.returncode, "sleep 4.25" in done.stdout) == (1, True), done.stdout


def test_a_zombie_fails_its_test(session):
    done = session(ZOMBIE)
    assert (done.returncode, "zombie" in done.stdout) == (1, True), done.stdout


def test_a_daemon_that_left_its_starter_fails_the_test_whose_log_it_writes(session, tmp_path):
    try:
        done = session(ORPHAN % (tmp_path / "pid"))
        assert (done.returncode, "sleep 61" in done.stdout) == (1, True), done.stdout
    finally:
        os.kill(int((tmp_path / "pid").read_text()), 9)


def test_a_test_that_leaves_nothing_passes(session):
    done = session("def test_it(): pass\n")
    assert done.returncode == 0, done.stdout
