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
    sources = [HERE / "core_test.c", HERE / "core_arrays_test.c", *sorted(CORE.glob("*.c"))]
    compiler = os.environ.get("CC", "cc")
    subprocess.run(
        [
            compiler,
            *flags,
            f"-fsanitize={sanitizers}",
            "-fno-sanitize-recover=all",
            f"-I{CORE}",
            "-o",
            program,
            *sources,
        ],
        check=True,
        timeout=120,
    )
    result = subprocess.run([program], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
