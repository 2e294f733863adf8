"""Builds the wheel of this tree for one interpreter, once for each state of the sources; prints its path.

usage: python tools/build_wheel.py [INTERPRETER]

It is built from the sdist, as it is where a package index has no wheel for a machine: what is tested with it shows that
the sdist is whole, too. Must run on the standard library and pip alone. Both are kept in
`.cache/wheels/<hash of the sources>/`; those of earlier states are removed.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "wheels"

# What is tested with the wheel is what is in it and that it works, and an optimised one takes minutes for each Python.
QUICKLY = ("--config-settings", "cmake.define.RFAAS_OPTIMISE=OFF")

# All that can change what is in the wheel.
SOURCES = (
    "pyproject.toml",
    "CMakeLists.txt",
    "README.md",
    "LICENSE",
    "NOTICE",
    "rfaas",
    "transport",
    "executors",
    "allocator",
    "slurm_plugin",
)
NOT_SOURCES = ("__pycache__", ".so", ".pyc")

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
BUILD_SDIST = "import sys, scikit_build_core.build as backend; backend.build_sdist(sys.argv[1])"


def source_files() -> list[Path]:
    """Every file that goes into the wheel or builds part of it, sorted."""
    files = []
    for name in SOURCES:
        path = ROOT / name
        files += [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sorted(p for p in files if not str(p).endswith(NOT_SOURCES) and "__pycache__" not in p.parts)


def source_hash() -> str:
    """Names and contents of `source_files()`, in 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in source_files():
        digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def interpreter_id(python: str) -> str:
    """A name for an interpreter that two of the same version do not share, e.g. `3.11.2-1f09c5ab`."""
    program = "import sys; print('%d.%d.%d' % sys.version_info[:3], sys.base_prefix)"
    version, prefix = subprocess.check_output([python, "-I", "-c", program], text=True).split(maxsplit=1)
    return f"{version}-{hashlib.sha256(prefix.encode()).hexdigest()[:8]}"


def sdist(folder: Path) -> Path:
    """Return the sdist of this tree in `folder`, making it when it is not there yet.

    Raises:
        subprocess.CalledProcessError: it failed, with its output on stderr; nothing is kept.
    """
    if not list(folder.glob("*.tar.gz")):
        requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            # pip makes no sdists: the back-end is asked, with the packages that pyproject.toml says it needs.
            backend = ["install", "--quiet", "--target", f"{scratch}/backend", *requires]
            subprocess.run([*PIP, *backend], check=True, stdout=sys.stderr)
            env = {**os.environ, "PYTHONPATH": f"{scratch}/backend"}
            ask = [sys.executable, "-c", BUILD_SDIST, scratch]
            subprocess.run(ask, cwd=ROOT, env=env, check=True, stdout=sys.stderr)
            (archive,) = Path(scratch).glob("*.tar.gz")
            os.replace(archive, folder / archive.name)
    (found,) = folder.glob("*.tar.gz")
    return found


def build(python: str) -> Path:
    """Return the wheel of the present sources for `python`, building it when it is not there yet.

    Raises:
        subprocess.CalledProcessError: the build failed, with its output on stderr; nothing is kept.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        current = CACHE / source_hash()
        for entry in CACHE.iterdir():
            if entry.is_dir() and entry != current:
                shutil.rmtree(entry)
        folder = current / interpreter_id(python)
        if not list(folder.glob("*.whl")):
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            # Our own pip on behalf of the other interpreter, which may have none (Debian's has not).
            wheel_of = ["wheel", "--quiet", "--no-deps", *QUICKLY, "--wheel-dir", str(partial), str(sdist(current))]
            subprocess.run([*PIP, "--python", python, *wheel_of], check=True, stdout=sys.stderr)
            os.replace(partial, folder)
        (wheel,) = folder.glob("*.whl")
        return wheel


if __name__ == "__main__":
    print(build(sys.argv[1] if len(sys.argv) > 1 else sys.executable))
