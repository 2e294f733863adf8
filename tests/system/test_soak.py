"""`make soak`: parts with their results, and going on where it was; on a little project with tests of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.waiting import wait_until

ROOT = Path(__file__).parents[2]

CONFTEST = """
import os
from support.figures import ResultsAreWritten

def pytest_configure(config):
    config.pluginmanager.register(ResultsAreWritten(os.environ["RFAAS_TEST_REPORT"]))
"""
PASSES = """
import os
def test_kills():
    print("RFAAS_TEST_SEED=17")
    print("100 kills: worst 0.2 s (goal 1 s)")
    assert os.environ["RFAAS_SOAK"]
"""
FAILS = "def test_fails(): print('reached 3'); assert False\n"
HANGS = "import pathlib, signal\ndef test_hangs(): pathlib.Path('hangs').touch(); signal.pause()\n"


class Project:
    """A repository with the tool and fault tests."""

    def __init__(self, directory):
        self.directory = directory
        self.faults = directory / "tests" / "faults"
        self.faults.mkdir(parents=True)
        (directory / "tools").mkdir()
        (directory / "benchmarks" / "soak").mkdir(parents=True)
        shutil.copy(ROOT / "tools" / "soak.py", directory / "tools")
        (self.faults / "conftest.py").write_text(CONFTEST)
        (directory / "pytest.ini").write_text("[pytest]\n")
        (directory / ".gitignore").write_text("out/\n__pycache__/\n.pytest_cache/\nhangs\n")
        self.git("init", "--quiet")

    def git(self, *arguments):
        who = ("-c", "user.name=n", "-c", "user.email=e")
        subprocess.run(["git", *who, *arguments], cwd=self.directory, check=True, timeout=60)

    def commit(self, **files):
        for name, text in files.items():
            (self.faults / f"{name}.py").write_text(text)
        self.git("add", "-A")
        self.git("commit", "--quiet", "-m", "m")

    def popen(self, *arguments):
        command = [sys.executable, str(self.directory / "tools" / "soak.py"), *arguments]
        env = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        env["PYTEST_PLUGINS"] = "pytest_timeout"
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, *arguments):
        with self.popen(*arguments) as process:
            out, _ = process.communicate(timeout=120)
        return process.returncode, out

    @property
    def results(self):
        path = self.directory / "benchmarks" / "soak" / "results.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def table(self):
        return (self.directory / "benchmarks" / "soak" / "README.md").read_text()


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path / "project")


def test_each_part_leaves_its_result_and_is_not_run_again_at_this_commit(project):
    project.commit(test_t01_kill=PASSES, test_t04_fail=FAILS)
    assert project.run()[0] == 1
    first, second = project.results
    assert (first["part"], first["outcome"], first["seeds"]) == ("T01", "passed", [17])
    assert first["tests"][0]["figures"] == ["100 kills: worst 0.2 s (goal 1 s)"]
    assert (second["part"], second["outcome"]) == ("T04", "failed")
    assert first["command"] == "make soak PART=T01"
    assert "| T01 | passed |" in project.table
    assert "| T04 | failed |" in project.table
    project.commit()  # of the results: it changes nothing that was tested
    code, out = project.run()
    assert (code, len(project.results)) == (0, 2), out
    assert project.run("t01")[0] == 0
    assert len(project.results) == 3
    project.commit(test_t06_more=PASSES)
    assert project.run()[0] == 1
    assert [result["part"] for result in project.results[3:]] == ["T01", "T04", "T06"]


def test_what_is_interrupted_leaves_no_result_and_runs_again(project):
    project.commit(test_t01_kill=PASSES, test_t02_hang=HANGS)
    with project.popen() as process:
        wait_until((project.directory / "hangs").exists, 60)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert [result["part"] for result in project.results] == ["T01"]
    project.git("rm", "--quiet", "--cached", "tests/faults/test_t02_hang.py")
    (project.faults / "test_t02_hang.py").write_text(PASSES)
    code, out = project.run("T02")
    assert code == 0, out
    assert [result["part"] for result in project.results] == ["T01", "T02"]
    assert project.results[1]["commit"].endswith("-dirty")  # counts for nobody's commit


def test_an_unknown_part_is_refused_by_name(project):
    project.commit(test_t01_kill=PASSES)
    code, out = project.run("T99")
    assert (code, "no such part: T99; there are T01" in out) == (2, True)


def test_the_tables_are_those_of_the_results():
    subprocess.run([sys.executable, ROOT / "tools" / "soak.py", "--check"], check=True, timeout=60)
