"""A test that only missed a deadline is told apart from one that failed, also where pytest-xdist's workers ran it."""

import json

import pytest

from support.deadlines import Late, assert_in_time, wait_in_time
from support.inner_pytest import inner_pytest

CONFTEST = """
from support import deadlines, skips

def pytest_configure(config):
    config.pluginmanager.register(deadlines, "deadlines")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(skips.SkipsAreFailures(()), "skips-are-failures")
        config.pluginmanager.register(deadlines.LateTestsAreTold("told.json"))
"""

SESSION = """
import pytest
from support.deadlines import assert_in_time, wait_in_time

@pytest.fixture
def broken_at_its_end():
    yield
    assert False

def test_good(): assert_in_time(1.0, 1.0)
@pytest.mark.parametrize("limit_s", [1.0, 3.0])
def test_late(limit_s): assert_in_time(2.0, limit_s)
def test_still_waiting(): wait_in_time(lambda: False, 0.01)
def test_failed(): assert 2.0 <= 1.0
def test_late_and_more(broken_at_its_end): assert_in_time(2.0, 1.0)
def test_skipped(): pytest.skip("felt like it")
"""


def test_a_deadline_is_kept_or_missed():
    assert_in_time(3.0, 3.0)
    with pytest.raises(Late, match=r"the end took 3\.100 s, at most 3 s was allowed"):
        assert_in_time(3.1, 3.0, "the end")
    with pytest.raises(Late):
        assert_in_time(float("nan"), 3.0)
    assert wait_in_time(lambda: 5, 0.0) == 5


@pytest.mark.parametrize("beside", [(), ("-n2",)])
def test_only_late_tests_are_told_as_late(tmp_path, beside):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(SESSION)
    done = inner_pytest(tmp_path, *beside)
    assert done.returncode == 1, done.stdout
    told = json.loads((tmp_path / "told.json").read_text())
    assert sorted(told["late"]) == ["test_it.py::test_late[1.0]", "test_it.py::test_still_waiting"]
    failed = sorted(told["failed"])
    assert failed[:2] == ["test_it.py::test_failed", "test_it.py::test_late_and_more"]
    assert [name.partition(": ")[2] for name in failed[2:]] == ["felt like it"]
