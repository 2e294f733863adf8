"""Runs the tests that need no server, and the first example, on the built wheel under every Python found here.

usage: python tools/test_on_pythons.py [VERSION...]      e.g. 3.12.1; default: all that tools/find-pythons.sh lists

As many interpreters at a time as there are CPUs; what a step printed is shown when it is over. Each has a venv in
`.cache/pythons/` with the wheel and the `test` extra, and a copy of the tests, so that nothing can be imported from the
checkout. The oldest also gets the oldest protobuf that users pin. The interpreter that runs this has run the tests by
`make check`: unless it is asked for, only the example is run there. Must run on the standard library and pip alone.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from build_wheel import ROOT, build, interpreter_id

CACHE = ROOT / ".cache" / "pythons"
TESTS = ("tests/unit", "tests/wire", "tests/conformance")
FIRST_EXAMPLE = "examples/01_hello.py"
# Many environments pin protobuf 5; the others get the newest.
PINNED_IN_OLDEST = ("protobuf==5.29.*",)
# Generous: a hang must end, a slow machine must not fail.
INSTALL_TIMEOUT_S, TESTS_TIMEOUT_S, EXAMPLE_TIMEOUT_S = 900, 600, 120


def found_pythons(versions: list[str]) -> list[tuple[str, str]]:
    """(path, version) of the interpreters to test, oldest first; exits when one that was asked for is not there."""
    listing = subprocess.check_output([ROOT / "tools" / "find-pythons.sh"], text=True)
    found = [(path, version) for path, version in (line.split("\t") for line in listing.splitlines())]
    missing = set(versions) - {version for _, version in found}
    if missing or not found:
        sys.exit(f"not found: Python {', '.join(sorted(missing)) or '>= 3.11'}")
    return [pair for pair in found if not versions or pair[1] in versions]


def fresh_tree(folder: Path) -> Path:
    """Copy the tests, and what they read or compile, to where no module of rfaas is."""
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    without_caches = shutil.ignore_patterns("__pycache__")
    for name in ("tests", "examples", "docs", "benchmarks", "transport/core", "transport/include", "slurm_plugin"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=without_caches)
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


def prepare_venv(folder: Path, python: str, pins: tuple[str, ...]) -> Path:
    """Return the Python of a venv with the present wheel; only the wheel is installed again when only it changed."""
    venv_python = folder / "venv" / "bin" / "python"
    requirements = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + repr(pins).encode()).hexdigest()
    stamp = folder / "venv" / "requirements.sha256"
    if not stamp.exists() or stamp.read_text() != requirements:
        shutil.rmtree(folder / "venv", ignore_errors=True)
        subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
    wheel = build(str(venv_python))
    pip = [str(venv_python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, f"{wheel}[test]", *pins], check=True, timeout=INSTALL_TIMEOUT_S)
    subprocess.run([*pip, "--force-reinstall", "--no-deps", str(wheel)], check=True, timeout=INSTALL_TIMEOUT_S)
    stamp.write_text(requirements)
    return venv_python


def run(what: str, command: list[str], tree: Path, timeout_s: float) -> bool:
    """Run one step; show what it printed and how it went, and True when it went well."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    started_s = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=tree, env=env, timeout=timeout_s, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        passed, output = done.returncode == 0, done.stdout
        verdict = "passed" if passed else "FAILED"
    except subprocess.TimeoutExpired as late:
        passed, output = False, late.output or b""
        verdict = f"FAILED: still running after {timeout_s:.0f} s"
    text = output.decode(errors="replace")
    print(f"{text}== {what}: {verdict} in {time.monotonic() - started_s:.1f} s", flush=True)
    return passed


def test_on(python: str, version: str, pins: tuple[str, ...]) -> bool:
    """Test one interpreter; True when all of it passed."""
    print(f"== Python {version} ({python})", *pins, flush=True)
    folder = CACHE / interpreter_id(python)
    tree = fresh_tree(folder)
    venv_python = prepare_venv(folder, python, pins)
    tests = [name for name in TESTS if list((tree / name).glob("**/test_*.py"))]
    # The script, not `-m pytest`, which would put the current folder on the path.
    pytest = [str(venv_python.with_name("pytest")), "-q", "-p", "no:cacheprovider", "-m", "not rdma", *tests]
    is_tested = not sys.argv[1:] and Path(python).resolve() == Path(sys.executable).resolve()
    passed = is_tested or run(f"Python {version} tests", pytest, tree, TESTS_TIMEOUT_S)
    if (tree / FIRST_EXAMPLE).exists():
        example = [str(venv_python), FIRST_EXAMPLE]
        passed = run(f"Python {version} {FIRST_EXAMPLE}", example, tree, EXAMPLE_TIMEOUT_S) and passed
    return passed


def main() -> None:
    """Test every interpreter, also after one failed; exit status 1 when any did."""
    found = found_pythons(sys.argv[1:])
    pins = [PINNED_IN_OLDEST, *[()] * (len(found) - 1)]
    with ThreadPoolExecutor(os.cpu_count()) as at_a_time:
        results = list(at_a_time.map(test_on, *zip(*found, strict=True), pins))
    for (python, version), passed in zip(found, results, strict=True):
        print(f"{'passed' if passed else 'FAILED'}  Python {version} ({python})")
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
