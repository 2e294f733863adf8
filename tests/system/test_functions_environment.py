"""The surroundings of a function: modules, working directory, locale and limits, as in the program that calls it."""

import os
import subprocess
import sys
import textwrap
import warnings
from importlib.metadata import version

import pytest

import rfaas
from rfaas.session import modules
from support import functions as f
from support.agent_rig import AgentRig, environment
from support.waiting import wait_until

TIMEOUT_S = 60

SURROUNDINGS = """
    import locale, os, resource, sys
    import rfaas

    def surroundings():
        names = ("CORE", "NOFILE", "STACK")
        return {
            "cwd": os.getcwd(),
            "encodings": (sys.stdout.encoding, sys.getfilesystemencoding(), locale.getpreferredencoding(False)),
            "variables": {k: v for k, v in os.environ.items() if k.startswith(("LC_", "LANG"))},
            "limits": {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0] for name in names},
        }
"""


def run_program(source, cwd, **env):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=cwd,
        env={**kept, "RFAAS_ALLOCATOR": "embedded", **env},
        check=False,
    )


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C"},
        {"LANG": "C.UTF-8", "LC_NUMERIC": "C", "LC_TIME": "POSIX"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1:replace"},
    ],
    ids=["C", "UTF-8", "latin-1"],
)
def test_functions_have_the_directory_locale_and_encoding_of_the_program(tmp_path, variables):
    source = (
        SURROUNDINGS
        + """
    with rfaas.Executor(1) as ex:
        here, there = surroundings(), ex.submit(surroundings).result(60)
    assert here == there, (here, there)
    """
    )
    done = run_program(source, tmp_path, **variables)
    assert done.returncode == 0, done.stderr


def test_soft_limits_of_core_files_and_stack_follow_the_program(tmp_path):
    """Changed while the session process, whose limits they were at first, is there."""
    source = (
        SURROUNDINGS
        + """
    first = rfaas.Executor(1)
    assert first.submit(surroundings).result(60)["limits"] == surroundings()["limits"]
    for name, value in (("CORE", 0), ("NOFILE", 333), ("STACK", 33 << 20)):
        number = getattr(resource, f"RLIMIT_{name}")
        resource.setrlimit(number, (value, resource.getrlimit(number)[1]))
    with rfaas.Executor(1) as second:
        limits = second.submit(surroundings).result(60)["limits"]
    first.shutdown()
    assert limits == {"CORE": 0, "NOFILE": 333, "STACK": 33 << 20}, limits
    """
    )
    done = run_program(source, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def rig():
    with AgentRig() as rig:
        yield rig


def attached(rig, **words):
    session = rig.session()
    terms = rig.propose()
    wait_until(lambda: any(getattr(m, "lease_id", b"") == terms.lease_id for m in rig.hear(0.01)), 5)
    env = words.pop("env", environment())
    session.attach(terms, env, **words)
    return session


def test_a_node_says_which_modules_differ_before_its_worker_is_up(rig):
    asked = [["msgpack", "0.0.1"], ["gone_for_good", "7"], ["cloudpickle", ""]]
    session = attached(rig, modules=asked)
    session.wait_for("worker-up")
    order = [words["m"] for words in session.heard if words["m"] in ("differs", "worker-up")]
    assert order == ["differs", "worker-up"]
    differ = session.wait_for("differs")["modules"]
    assert [(name, here) for name, here, _ in differ] == [("msgpack", "0.0.1"), ("gone_for_good", "7")]
    assert [there for _, _, there in differ] == [version("msgpack"), None]


def test_a_client_that_wants_the_same_modules_gets_no_worker_where_they_differ(rig):
    session = attached(rig, modules=[["gone_for_good", "7"]], modules_strict=True)
    refused = session.wait_for("refused")
    assert refused["code"] == "environment-failed"
    assert "gone_for_good 7 is missing there" in refused["hint"]
    assert "remedy: install the same versions" in refused["hint"]
    assert session.wait_for("ended")["reason"] == "released"


def test_another_python_is_named_with_the_remedy_before_anything_of_it_is_imported(rig):
    env = environment(version=[3, 9, 0], path=["/nowhere"])
    refused = attached(rig, env=env).wait_for("refused")
    running = "{}.{}".format(*sys.version_info)
    assert f"is Python {running} here, but 3.9 at the client" in refused["hint"]
    assert "remedy: use an environment that the nodes see" in refused["hint"]


def test_a_working_directory_that_the_node_does_not_have_is_named_with_the_remedy(rig):
    refused = attached(rig, env=environment(cwd="/only/at/home")).wait_for("refused")
    assert "the working directory /only/at/home can't be entered here" in refused["hint"]
    assert "remedy: start the program in a directory that the nodes see" in refused["hint"]
    assert "Traceback" not in refused["hint"]


@pytest.fixture
def claims(monkeypatch):
    """This program has imported what no worker of this machine has."""
    monkeypatch.setattr(modules, "imported", lambda without=(): [("msgpack", "0.0.1"), ("only_at_home", "2")])


def test_the_program_is_warned_before_the_first_call_runs(claims, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with rfaas.Executor(2, allocator="embedded") as ex:
            ex.submit(f.witness, str(tmp_path / "ran")).add_done_callback(lambda _: caught.append("result"))
            assert list(ex.map(abs, [-1])) == [1]
    assert caught[-1] == "result"
    (told,) = [w for w in caught if w != "result" and w.category is rfaas.EnvironmentWarning]
    assert caught.index(told) < caught.index("result")
    assert "msgpack is 0.0.1 here and" in str(told.message)
    assert "only_at_home 2 is missing there" in str(told.message)
    assert "remedy: install the same versions" in str(told.message)


def test_an_error_if_the_program_wants_that_and_nothing_has_run(claims, tmp_path):
    with rfaas.Executor(1, allocator="embedded", check_modules="error") as ex:
        error = ex.submit(f.witness, str(tmp_path / "ran")).exception(TIMEOUT_S)
    assert (type(error), error.may_have_run) == (rfaas.EnvironmentFailed, False)
    assert "only_at_home 2 is missing there" in str(error)
    assert f.runs(tmp_path / "ran") == 0


def test_nothing_is_said_where_everything_agrees(tmp_path):
    source = """
        import rfaas, numpy, msgpack
        with rfaas.Executor(1) as ex:
            print(ex.submit(abs, -1).result(60))
    """
    done = run_program(source, tmp_path)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_nothing_is_said_to_a_program_that_wants_it_so(claims):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with rfaas.Executor(1, allocator="embedded", check_modules="ignore") as ex:
            assert ex.submit(abs, -1).result(TIMEOUT_S) == 1
    assert [w for w in caught if w.category is rfaas.EnvironmentWarning] == []


def test_a_warning_that_is_an_error_is_logged_and_costs_no_call(claims, caplog):
    with rfaas.Executor(1, allocator="embedded") as ex:  # here warnings are errors
        assert ex.submit(abs, -1).result(TIMEOUT_S) == 1
    assert "only_at_home 2 is missing there" in caplog.text
