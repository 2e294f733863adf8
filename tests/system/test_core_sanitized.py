"""The C core and compiled functions alone under the compiler's sanitizers and under valgrind: memory, leaks, undefined
behaviour, data races.

What the client in C does beyond is sanitized in test_c_client.py, decoders in T64, rings that are interrupted in T60.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support import soak
from support.c_build import ASAN, ROOT, TSAN, VALGRIND, CBuild, core_sources, tls_sources

HERE = Path(__file__).parent
PARTS = (
    "core_test",
    "core_arrays_test",
    "core_attendant_test",
    "core_heap_test",
    "core_loan_test",
    "core_region_test",
    "core_pairs",
)
CORE_TEST = [HERE / f"{name}.c" for name in PARTS]
COMPILED_TEST = [
    HERE / "compiled_test.c",
    ROOT / "executors/core/state_page.c",
    *sorted((ROOT / "executors/compiled").glob("*.c")),
]
SANITIZERS = {"address,undefined": ASAN, "thread": TSAN}
VALGRIND_SHARE = 50
"""It is some 30 times slower: of the rounds of core_test one in so many."""


def core_test(folder, flags=()):
    sources = [*CORE_TEST, *core_sources(), *tls_sources()]
    return CBuild(folder, sources, flags, ["-lssl", "-lcrypto"]).link("core_test")


@pytest.mark.parametrize("sanitizers", SANITIZERS)
def test_the_core_runs_clean(tmp_path, sanitizers):
    program = core_test(tmp_path, SANITIZERS[sanitizers])
    for _ in range(soak.scaled(1, 20)):
        result = subprocess.run([program], capture_output=True, text=True, timeout=soak.timeout_s())
        assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("sanitizers", SANITIZERS)
def test_compiled_functions_run_clean(tmp_path, sanitizers):
    program = CBuild(tmp_path, COMPILED_TEST, SANITIZERS[sanitizers]).link("compiled_test")
    environment = {**os.environ, "ASAN_OPTIONS": "handle_segv=0:handle_abort=0", "TSAN_OPTIONS": "handle_segv=0"}
    result = subprocess.run([program], capture_output=True, text=True, timeout=120, env=environment)
    assert (result.returncode, result.stderr) == (0, "")


def test_valgrind_finds_nothing_in_the_core(tmp_path):
    if shutil.which("valgrind") is None:
        pytest.skip("no valgrind: see tools/apt-packages.txt")
    program = core_test(tmp_path)
    command = [*VALGRIND, program, str(soak.scaled(VALGRIND_SHARE, 1)), "valgrind"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=soak.timeout_s())
    assert (result.returncode, result.stderr) == (0, "")
