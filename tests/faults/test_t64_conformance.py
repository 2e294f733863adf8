"""T64: the conformance suite and the vectors once more, with the core and its binding under the address and the
undefined-behaviour sanitizer. Only in a soak: building the binding so takes longer than all of it.
"""

import os
import shutil
import subprocess
import sys
import sysconfig

from support import soak
from support.c_build import ASAN, ROOT

MODULES = ("_core", "_tls")
BUILD_TIMEOUT_S = 900


def preloaded():
    """The sanitizer's library, which has to be there before an interpreter that knows nothing of it."""
    names = ("libasan.so", "libubsan.so")
    compiler = os.environ.get("CC", "cc")
    found = [subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True) for name in names]
    return ":".join(done.stdout.strip() for done in found)


def sanitized_package(folder):
    """A copy of rfaas_transport whose compiled modules are sanitized."""
    build, package = folder / "build", folder / "packages" / "rfaas_transport"
    options = {
        "SKBUILD_PROJECT_NAME": "rfaas",
        "SKBUILD_PROJECT_VERSION": "0",
        "Python_EXECUTABLE": sys.executable,
        "CMAKE_C_FLAGS": " ".join([*ASAN, "-O1", "-g"]),
        "CMAKE_BUILD_TYPE": "Debug",
        "RFAAS_WERROR": "OFF",
    }
    cmake = shutil.which("cmake", path=f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    words = [f"-D{name}={value}" for name, value in options.items()]
    subprocess.run([cmake, "-S", ROOT, "-B", build, *words], check=True, timeout=BUILD_TIMEOUT_S)
    subprocess.run([cmake, "--build", build, "--target", *MODULES], check=True, timeout=BUILD_TIMEOUT_S)
    shutil.copytree(ROOT / "transport/rfaas_transport", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    made = [next(build.glob(f"{name}.*.so")) for name in MODULES]
    for module in made:
        shutil.copy(module, package)
    return package.parent


def run_the_suite(folder):
    paths = [sanitized_package(folder), ROOT / "tests", sysconfig.get_path("purelib")]
    environment = {
        **os.environ,
        "LD_PRELOAD": preloaded(),
        "PYTHONPATH": ":".join(map(str, paths)),
        "PYTHONMALLOC": "malloc",  # or the sanitizer sees the interpreter's large blocks, not what is in them
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter frees little of its own at its end
    }
    # Without site: an editable install would bring its own rfaas_transport first.
    command = [sys.executable, "-S", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/conformance"]
    command.append("tests/wire/test_frames.py")
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=soak.timeout_s())


if soak.SOAK:

    def test_the_conformance_suite_runs_clean_under_sanitizers(tmp_path):
        done = run_the_suite(tmp_path)
        print(done.stdout[-300:])
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        assert "Sanitizer" not in done.stderr
