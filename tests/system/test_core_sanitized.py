"""The C core alone under the compiler's sanitizers: memory, undefined behaviour, data races."""

import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CORE = HERE.parent.parent / "transport" / "core"


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_the_core_runs_clean(tmp_path, sanitizers):
    program = tmp_path / "core_test"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]
    sources = [
        HERE / "core_test.c",
        HERE / "core_arrays_test.c",
        HERE / "core_attendant_test.c",
        *sorted(CORE.glob("*.c")),
        *sorted(CORE.glob("tls/*.c")),
    ]
    compiler = os.environ.get("CC", "cc")
    subprocess.run(
        [
            compiler,
            *flags,
            f"-fsanitize={sanitizers}",
            "-fno-sanitize-recover=all",
            f"-I{CORE}",
            f"-I{CORE / 'tls'}",
            "-o",
            program,
            *sources,
            "-lssl",
            "-lcrypto",
        ],
        check=True,
        timeout=120,
    )
    result = subprocess.run([program], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_compiled_functions_run_clean(tmp_path, sanitizers):
    program, root = tmp_path / "compiled_test", HERE.parent.parent
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]
    includes = [f"-I{root / 'executors' / 'compiled'}", f"-I{root / 'transport' / 'include'}"]
    sources = [HERE / "compiled_test.c", *sorted((root / "executors" / "compiled").glob("*.c"))]
    compiler = os.environ.get("CC", "cc")
    checks = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    subprocess.run([compiler, *flags, *checks, *includes, "-o", program, *sources], check=True, timeout=120)
    environment = {**os.environ, "ASAN_OPTIONS": "handle_segv=0:handle_abort=0", "TSAN_OPTIONS": "handle_segv=0"}
    result = subprocess.run([program], capture_output=True, text=True, timeout=120, env=environment)
    assert (result.returncode, result.stderr) == (0, "")
