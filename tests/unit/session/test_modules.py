"""Modules of a program and those of a worker's interpreter, compared by name and version without importing any."""

import importlib
import sys
import types

import cloudpickle  # noqa: F401 - listed like any other that is loaded
import pytest

from rfaas.session.modules import describe, differences, imported, installed_versions


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory of installed distributions, first in sys.path."""
    for name, version, module in (
        ("plain", "1.2", "plain"),
        ("Other.Name", "3.4", "odd"),
        ("With-Dash", "5", "with_dash"),
    ):
        about = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        about.mkdir()
        (tmp_path / f"{module}.py").write_text("")
        if module == "odd":
            (about / "top_level.txt").write_text("odd\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("__version__ = '9.9'\n")
    (tmp_path / "local.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("plain", "odd", "with_dash", "package", "local")
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


def test_versions_are_those_of_the_metadata(site):
    assert installed_versions(["plain", "odd", "with_dash", "local"]) == {
        "plain": "1.2",
        "odd": "3.4",
        "with_dash": "5",
    }


def test_what_was_imported_from_the_path_is_listed_with_its_version(site):
    listed = dict(imported(site))
    assert listed == {"plain": "1.2", "odd": "3.4", "with_dash": "5", "package": "9.9", "local": ""}


def test_what_need_not_be_on_a_worker_is_not_listed(site):
    made = types.ModuleType("made_here")
    listed = dict(imported({**sys.modules, "made_here": made}, without=["local"]))
    for name in ("json", "sys", "__main__", "made_here", "local", "rfaas", "plain.sub"):
        assert name not in listed
    assert "plain" in listed
    assert "cloudpickle" in listed


def test_missing_and_other_versions_are_found_and_named(site):
    asked = [("plain", "1.3"), ("odd", "3.4"), ("gone_for_good", "7"), ("local", ""), ("package", "1.0")]
    found = differences(asked)
    assert found == [("plain", "1.3", "1.2"), ("gone_for_good", "7", None)]
    said = describe(found, "n1")
    assert said.startswith("node n1 has other modules than this program: ")
    assert said.endswith("plain is 1.3 here and 1.2 there; gone_for_good 7 is missing there")


def test_a_finder_that_raises_means_missing(site, monkeypatch):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "cursed":
                raise ImportError("no")

    monkeypatch.setattr("sys.meta_path", [Finder(), *sys.meta_path])
    assert differences([("cursed", "")]) == [("cursed", "", None)]


def test_a_program_agrees_with_itself():
    assert differences(imported()) == []
