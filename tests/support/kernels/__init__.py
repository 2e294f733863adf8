"""Shared libraries for tests, compiled when they are first asked for."""

import functools
import subprocess
import tempfile
from pathlib import Path

import rfaas

HERE = Path(__file__).parent
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1", "-fPIC", "-shared"]


def build(source, directory, *flags, name="libkernels.so"):
    """Compile a library from a file or a text of C; returns its path."""
    if not isinstance(source, Path):
        text, source = source, Path(directory) / f"{name}.c"
        source.write_text(text)
    library = Path(directory) / name
    command = ["cc", *FLAGS, f"-I{rfaas.get_include()}", "-o", library, source, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return library


@functools.cache
def kernels():
    """The library of kernels.c, as bytes."""
    with tempfile.TemporaryDirectory() as directory:
        return build(HERE / "kernels.c", directory).read_bytes()
