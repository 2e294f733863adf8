"""A skipped test fails the session in CI unless its reason is allowed."""

import pytest

from support.inner_pytest import inner_pytest

CONFTEST = """
from support.skips import SkipsAreFailures

def pytest_configure(config):
    config.pluginmanager.register(SkipsAreFailures(("^no such device",)))
"""


@pytest.fixture
def session(tmp_path):
    """Run pytest on one file of tests with the rule switched on; returns the finished process."""

    def run(tests, *options):
        (tmp_path / "conftest.py").write_text(CONFTEST)
        (tmp_path / "test_it.py").write_text(f"import pytest\n{tests}\ndef test_that_passes(): pass\n")
        return inner_pytest(tmp_path, *options)

    return run


def test_nothing_skipped_passes(session):
    assert session("").returncode == 0


@pytest.mark.parametrize(
    "skipped",
    [
        "@pytest.mark.skip(reason='felt like it')\ndef test_one(): pass",
        "def test_one(): pytest.skip('felt like it')",
        "pytest.skip('felt like it', allow_module_level=True)",
    ],
)
def test_a_skip_fails_and_is_named(session, skipped):
    done = session(skipped)
    assert done.returncode == 1
    assert "felt like it" in done.stdout
    assert "which CI counts as failed" in done.stdout


def test_a_file_that_workers_skip_fails_and_is_named(session):
    done = session("pytest.skip('felt like it', allow_module_level=True)", "-n1")
    assert (done.returncode, "which CI counts as failed" in done.stdout) == (1, True), done.stdout


def test_an_allowed_reason_and_an_expected_failure_pass(session):
    done = session(
        "def test_one(): pytest.skip('no such device: mlx5_0')\n"
        "@pytest.mark.xfail(reason='known')\ndef test_two(): assert False"
    )
    assert done.returncode == 0, done.stdout
