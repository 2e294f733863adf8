"""The tools that guard the repository find what is wrong and nothing else."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def check_docs(tmp_path):
    """Write documents into a tree of their own and check them; returns the finished process."""
    (tmp_path / "tools").mkdir()
    script = tmp_path / "tools" / "check_docs.py"
    script.write_text((TOOLS / "check_docs.py").read_text())

    def check(documents, *arguments):
        for name, text in documents.items():
            (tmp_path / name).write_text(text)
        return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=60)

    return check


def test_links_that_lead_somewhere_are_accepted(check_docs):
    done = check_docs(
        {
            "README.md": "# A b: `c`\n[file](other.md) [heading](other.md#two-words) [here](#a-b-c)\n"
            "[web](https://example.org/x) `[code](nowhere.md)`\n```\n[code](nowhere.md)\n```\n",
            "other.md": "## Two words\n",
        }
    )
    assert (done.returncode, done.stdout) == (0, "2 documents, 0 problems\n")


def test_links_that_lead_nowhere_are_named_with_their_line(check_docs):
    done = check_docs({"README.md": "# A\n\n[x](gone.md)\n[y](#b)\n[z](/etc/passwd)\n"})
    assert done.returncode == 1
    assert done.stdout.splitlines()[:3] == [
        "README.md:3: no such file: gone.md",
        "README.md:4: no such heading: #b",
        "README.md:5: no such file: /etc/passwd",
    ]


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ("```python run\nprint(6 * 7)\n```\n\n```text output\n42\n```\n", None),
        ("```python run\nprint(6 * 7)\n```\n\n```text output\n41\n```\n", "program prints\n42"),
        ("```python run\nraise SystemExit('no')\n```\n", "program ends with status 1"),
        ("```python\nraise SystemExit('not marked, not run')\n```\n", None),
    ],
)
def test_programs_of_the_readme_are_run(check_docs, block, problem):
    done = check_docs({"README.md": block}, "--run")
    assert done.returncode == (1 if problem else 0)
    assert (problem or "0 problems") in done.stdout


def test_ends_of_files_and_lines_are_tidied_once(tmp_path):
    file = tmp_path / "file.txt"
    file.write_text("a  \n\tb\t\n\n\n")
    command = [sys.executable, TOOLS / "end_of_file.py", file]
    assert subprocess.run(command, timeout=60).returncode == 1
    assert file.read_text() == "a\n\tb\n"
    assert subprocess.run(command, timeout=60).returncode == 0


# --- tools/rings.py ---------------------------------------------------------------------------------------------


@pytest.fixture
def rings(monkeypatch, capfd):
    """Runs `tools/rings.py` on rings of one small program each, or a command; returns exit status and output."""
    monkeypatch.syspath_prepend(TOOLS)
    module = importlib.import_module("rings")

    def run(programs, *asked):
        commands = {n: p if isinstance(p, tuple) else (sys.executable, "-c", p) for n, p in programs.items()}
        monkeypatch.setattr(module, "RINGS", commands)
        monkeypatch.setattr(sys, "argv", ["rings.py", *asked])
        return module.main(), capfd.readouterr().out

    return run


GOOD = "print('== 3 passed, 1 deselected in 2.50s ==')"
BAD = "import sys; print('1 failed, 2 passed in 0.10s', file=sys.stderr); sys.exit(1)"


def test_rings_run_in_their_order_and_each_is_summed_up(rings):
    status, output = rings({"one": GOOD, "two": "print('not pytest')"})
    assert status == 0
    assert "== ring one\n== 3 passed, 1 deselected in 2.50s ==\n\n== ring two\nnot pytest\n" in output
    assert [line.split() for line in output.rpartition("== rings\n")[2].splitlines()] == [
        ["one", "passed", "0", "min", "00", "s", "3", "passed,", "1", "deselected"],
        ["two", "passed", "0", "min", "00", "s"],
    ]


def test_after_a_ring_that_failed_the_others_do_not_begin(rings):
    status, output = rings({"one": GOOD, "two": BAD, "three": GOOD})
    assert status == 1
    one, two, three = output.rpartition("== rings\n")[2].splitlines()
    assert "passed" in one
    assert "FAILED" in two
    assert "1 failed, 2 passed" in two
    assert three.split() == ["three", "not", "run"]


def test_rings_can_be_asked_for_by_name(rings):
    status, output = rings({"one": BAD, "two": GOOD}, "two")
    assert (status, "one" in output.rpartition("== rings\n")[2]) == (0, False)
    with pytest.raises(SystemExit):
        rings({"one": GOOD}, "four")


LATE_TEST = """
import os
from support.deadlines import assert_in_time

def test_one(): pass
def test_busy(): assert_in_time(2.0 if {when} else 0.5, 1.0)
{more}
"""


@pytest.mark.parametrize(
    ("when", "more", "status", "again"),
    [
        ("'PYTEST_XDIST_WORKER' in os.environ", "", 0, "1 failed, 1 passed; again alone: 1 passed"),
        ("True", "", 1, "1 failed, 1 passed; again alone: 1 failed"),
        ("'PYTEST_XDIST_WORKER' in os.environ", "def test_two(): assert False", 1, "2 failed, 1 passed"),
    ],
)
def test_what_was_late_beside_others_is_run_again_alone(rings, monkeypatch, tmp_path, when, more, status, again):
    (tmp_path / "conftest.py").write_text((TOOLS.parent / "tests/conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(LATE_TEST.format(when=when, more=more))
    module = importlib.import_module("rings")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(TOOLS.parent / "tests"))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    found, output = rings({"one": (*module.PYTEST, "-p", "no:cacheprovider", "-n", "2", ".")})
    assert found == status, output
    assert output.splitlines()[-1].endswith(again)
