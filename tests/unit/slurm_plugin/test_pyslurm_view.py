"""The helper of pyslurm as a process: what becomes of one that dies, hangs, or says something else."""

import ast
import os
import sys
from pathlib import Path

import pytest

from rfaas_slurm_plugin.views import pyslurm_view
from rfaas_slurm_plugin.views.pyslurm_view import FIRST_PAUSE_S, PyslurmHelper, PyslurmVersions
from rfaas_slurm_plugin.views.view import ClusterUnavailable

ROOT = Path(__file__).resolve().parents[3]

SPEAKS = """\
import sys, json
def say(value):
    body = json.dumps(value).encode()
    sys.stdout.buffer.write(b"%d\\n" % len(body) + body)
    sys.stdout.buffer.flush()
say({"pyslurm": "25.11.2", "slurm": "26.05"})
for line in sys.stdin:
    name = line.strip()
"""


@pytest.fixture
def clock():
    class Clock:
        now_s = 100.0

        def __call__(self):
            return self.now_s

    return Clock()


@pytest.fixture
def helper(clock):
    """Makes a helper that answers each question by these lines of Python; all are ended after the test."""
    made = []

    def make(*lines):
        program = SPEAKS + "".join(f"    {line}\n" for line in lines)
        made.append(PyslurmHelper([sys.executable, "-c", program], now=clock))
        return made[-1]

    yield make
    for one in made:
        one.end()


def test_questions_are_answered_in_order_by_one_process(helper):
    one = helper('say({name: ["x" * 200_000]})')
    nodes, jobs = one.ask("nodes", "jobs")
    pid = one.pid
    assert (list(nodes), list(jobs), len(jobs["jobs"][0])) == (["nodes"], ["jobs"], 200_000)
    one.ask("nodes")
    assert one.pid == pid
    assert one.versions() == PyslurmVersions("25.11.2", "26.05")


def test_a_death_is_said_with_its_signal_and_the_next_helper_waits_longer_each_time(helper, clock):
    one = helper("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    pauses_s = []
    for _ in range(4):
        with pytest.raises(ClusterUnavailable, match="died of SIGSEGV at nodes"):
            one.ask("nodes")
        assert one.pid is None
        with pytest.raises(ClusterUnavailable, match="the next starts in"):
            one.ask("nodes")
        pauses_s.append(one._not_before_s - clock.now_s)
        clock.now_s = one._not_before_s
    for number, pause_s in enumerate(pauses_s):
        assert FIRST_PAUSE_S * 2**number / 2 <= pause_s <= FIRST_PAUSE_S * 2**number


def test_an_answered_question_ends_the_row_of_deaths(helper, clock, tmp_path):
    once = tmp_path / "once"
    one = helper(
        "import os", f"if not os.path.exists({str(once)!r}): open({str(once)!r}, 'w'); os._exit(3)", "say({name: []})"
    )
    with pytest.raises(ClusterUnavailable, match="ended with status 3 at nodes"):
        one.ask("nodes")
    clock.now_s += FIRST_PAUSE_S
    assert one.ask("nodes") == [{"nodes": []}]
    assert one._deaths == 0


@pytest.mark.parametrize(
    "line",
    [
        "print('a word', flush=True)",
        "print('-5', flush=True)",
        "print('999999999999', flush=True)",
        "print('x' * 1000, flush=True)",
        "print('4', flush=True); print('[1]', flush=True)",
        "print('9', flush=True); print('{\"nodes\":', flush=True)",
    ],
)
def test_what_is_no_answer_kills_the_helper(helper, line):
    one = helper(line)
    with pytest.raises(ClusterUnavailable, match="at nodes"):
        one.ask("nodes")
    assert one.pid is None


def test_one_that_does_not_answer_in_time_is_killed(helper, monkeypatch):
    monkeypatch.setattr(pyslurm_view, "ANSWER_TIMEOUT_S", 0.05)
    one = helper("pass")
    with pytest.raises(ClusterUnavailable, match=r"was killed \(no answer in time\) at nodes"):
        one.ask("nodes")
    assert one.pid is None


def test_an_error_of_slurms_is_said_and_the_helper_lives(helper):
    one = helper('say({"errors": [{"error": "nodes: RPCError: Unable to contact slurm controller"}]})')
    with pytest.raises(ClusterUnavailable, match="Unable to contact"):
        one.ask("nodes")
    assert one.pid is not None


def test_the_real_helper_says_that_pyslurm_is_not_there(helper, tmp_path):
    one = PyslurmHelper([sys.executable, "-I", str(pyslurm_view.HELPER)])
    with pytest.raises(ClusterUnavailable, match="No module named 'pyslurm'"):
        one.versions()
    assert one.pid is None


def test_an_interpreter_that_is_not_there_is_said():
    with pytest.raises(ClusterUnavailable, match="can't be started"):
        PyslurmHelper(["/no/such/python"]).versions()


@pytest.mark.parametrize(
    ("pyslurm", "slurm", "fits"),
    [
        ("25.11.2", "25.11", True),
        ("25.11.2", "26.05", True),
        ("25.11.0", "24.11", False),
        ("25.11.2", "", False),
        ("17.11.0", "26.05", False),
    ],
)
def test_only_pairs_that_were_tried_fit(pyslurm, slurm, fits):
    assert (PyslurmVersions(pyslurm, slurm).misfit == "") is fits


def test_nothing_imports_pyslurm_or_the_helper_but_the_helper():
    """What is under the GPL stays a program of its own."""
    found = set()
    for folder in ("rfaas", "transport", "executors", "allocator", "slurm_plugin"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_bytes())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if any(name.split(".")[0] == "pyslurm" or "pyslurm_helper" in name for name in names):
                    found.add(os.path.relpath(path, ROOT))
    assert found == {"slurm_plugin/rfaas_slurm_plugin/pyslurm_helper/helper.py"}
