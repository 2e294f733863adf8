"""What is built: one wheel, made from the sdist, that installs only `rfaas*` and all that this tree has of it."""

import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"rfaas", "rfaas_transport", "rfaas_executors", "rfaas_allocator", "rfaas_slurm_plugin"}
BUILD_TIMEOUT_S = 280  # most of it is pip fetching the build tools into an isolated environment

pytestmark = pytest.mark.slow


def run(*command, cwd):
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def members(wheel):
    """Names in a wheel without its dist-info."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def sources():
    """Names in the wheel of what this tree has of the packages, but what is compiled or included in the compiled."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["scikit-build"]["wheel"]
    left_out = tuple(name.removeprefix("*") for name in settings["exclude"] if name.startswith("*"))
    built = (*left_out, ".so", ".pyc")  # beside the sources, by an editable install
    found = set()
    for package in map(Path, settings["packages"]):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and not path.name.endswith(built):
                found.add(str(Path(package.name, path.relative_to(ROOT / package))))
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return Path(run(sys.executable, ROOT / "tools" / "build_wheel.py", cwd=tmp_path_factory.mktemp("wheel")).strip())


def test_the_wheel_installs_our_packages_and_nothing_else(wheel):
    assert {name.split("/")[0] for name in members(wheel)} == PACKAGES


def test_the_wheel_says_that_its_packages_are_typed(wheel):
    assert {name.split("/")[0] for name in members(wheel) if name.endswith("/py.typed")} == PACKAGES


def test_the_wheel_holds_the_compiled_core_and_no_source_of_it(wheel):
    assert [name for name in members(wheel) if name.startswith("rfaas_transport/_core") and name.endswith(".so")]
    assert "rfaas_transport/_core.pyi" in members(wheel)
    assert "rfaas_transport/librfaas_bench.so" in members(wheel)  # `rfaas bench` needs no compiler
    sources = [name for name in members(wheel) if Path(name).suffix in {".pyx", ".pxd", ".pxi", ".c", ".h", ".o"}]
    wanted = ("rfaas/include/", "rfaas_slurm_plugin/spank/")  # what programs include, and what sites build themselves
    assert [name for name in sources if not name.startswith(wanted)] == []


def test_the_wheel_holds_the_headers_that_programs_include(wheel):
    public = {path.name for path in (ROOT / "transport" / "include").glob("*.h")}
    assert {f"rfaas/include/{name}" for name in public} <= members(wheel)


def test_the_wheel_holds_what_programs_in_c_and_fortran_are_built_with(wheel):
    parts = {"rfaas/include/rfaas.f90", "rfaas/lib/librfaas.so", "rfaas/lib/pkgconfig/rfaas.pc"}
    assert parts <= members(wheel)
    assert [name for name in members(wheel) if name.endswith(".f90") and name not in parts] == []
    speaks_to_devices = [name for name in members(wheel) if name.startswith("rfaas_transport/_verbs.")]
    assert ("rfaas/lib/librfaas_verbs.so" in members(wheel)) == bool(speaks_to_devices)


def test_by_way_of_the_sdist_all_of_the_tree_is_in_the_wheel_and_else_only_what_is_built(wheel):
    assert sources() - members(wheel) == set()
    built = {name for name in members(wheel) - sources() if not name.endswith(".so")}
    places = ("rfaas/include/", "rfaas/lib/", "rfaas_slurm_plugin/bin/", "rfaas_slurm_plugin/spank/")
    assert {name for name in built if not name.startswith(places)} == set()


def test_the_wheel_holds_what_a_site_gives_to_its_slurm(wheel, tmp_path):
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", tmp_path, wheel, cwd=tmp_path)
    hook = tmp_path / "rfaas_slurm_plugin/bin/rfaas-hook"
    assert os.access(hook, os.X_OK)
    assert subprocess.run([hook, "prolog_slurmctld"], timeout=60).returncode == 0  # no configuration: nobody is told
    there = {path.name for path in (tmp_path / "rfaas_slurm_plugin/spank").iterdir()}
    assert there == {path.name for path in (ROOT / "slurm_plugin/spank").iterdir() if path.suffix != ".so"}


def test_the_wheel_works_beside_modules_with_our_folders_names(wheel, tmp_path):
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", tmp_path / "site", wheel, cwd=tmp_path)
    for generic in ("transport", "executors", "allocator"):
        (tmp_path / f"{generic}.py").write_text("mine = True\n")
    program = (
        "import rfaas, transport, executors, allocator; from rfaas_transport import _core; "
        "print(transport.mine, rfaas.__file__, hex(_core.crc32c(b'123456789')))"
    )
    # -S: an editable install in this environment would answer for rfaas first. What rfaas depends on comes from it.
    paths = [str(tmp_path / "site"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    (tmp_path / "program.py").write_text(f"import sys; sys.path[1:1] = {paths!r}; {program}\n")
    out = run(sys.executable, "-S", tmp_path / "program.py", cwd=tmp_path)
    assert out.split() == ["True", str(tmp_path / "site" / "rfaas" / "__init__.py"), "0xe3069283"]
