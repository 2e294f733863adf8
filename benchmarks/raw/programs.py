"""Compiles the C programs of this folder into .cache/raw/ and runs them; needs a C compiler, as building rfaas does.

Usage: python benchmarks/raw/programs.py: compiles what is out of date and prints where the programs are.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OUT = ROOT / ".cache" / "raw"
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O3", "-Wall", "-Wextra", "-pthread")
INCLUDES = (ROOT / "transport" / "core", ROOT / "transport" / "raw")
COMPILE_LIMIT_S = 300
RUN_LIMIT_S = 120


def shared_sources() -> list[Path]:
    """What pingpong measures: the core, and the bare link."""
    return sorted([*(ROOT / "transport" / "core").glob("*.c"), *(ROOT / "transport" / "raw").glob("*.c")])


def openssl_flags() -> list[str]:
    """How to link the core's TLS, where the core has one and this machine its headers."""
    if not any("openssl/" in path.read_text() for path in [*shared_sources(), *HERE.glob("*.c")]):
        return []
    try:
        found = subprocess.run(["pkg-config", "--cflags", "--libs", "openssl"], capture_output=True, text=True)
    except OSError:
        return ["-lssl", "-lcrypto"]
    return found.stdout.split() if found.returncode == 0 else []


def build(name: str, *more: str) -> Path:
    """Compile NAME.c if there is no program of these sources and flags; returns the program.

    Args:
        name: of the source, here, without its ending.
        more: flags.

    Raises:
        RuntimeError: it can't be compiled; says what the compiler said.
    """
    sources = [HERE / f"{name}.c", *(shared_sources() if name == "pingpong" else [])]
    headers = sorted(path for folder in INCLUDES for path in folder.glob("*.h"))
    content = b"".join(path.read_bytes() for path in [*sources, *headers]) + repr(more).encode()
    digest = hashlib.sha256(content).hexdigest()[:12]
    program = OUT / f"{name}-{digest}"
    if program.exists():
        return program
    OUT.mkdir(parents=True, exist_ok=True)
    includes = [f"-I{folder}" for folder in INCLUDES]
    command = [
        os.environ.get("CC", "cc"),
        *FLAGS,
        *more,
        *includes,
        "-o",
        str(program),
        *map(str, sources),
        *openssl_flags(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_LIMIT_S)
    if done.returncode:
        raise RuntimeError(f"{name}.c can't be compiled:\n{done.stderr[-2000:]}")
    return program


def run(name: str, *arguments: object) -> dict[str, Any]:
    """Run a program that prints one JSON object.

    Raises:
        RuntimeError: it can't be compiled, or failed.
    """
    try:
        done = subprocess.run(
            [build(name), *map(str, arguments)], capture_output=True, text=True, timeout=RUN_LIMIT_S, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired, ValueError) as error:
        said = getattr(error, "stderr", "") or ""
        raise RuntimeError(f"{name} {' '.join(map(str, arguments))}: {error} {said}") from error
    return found


def pingpong(medium: str, size_bytes: int, rounds: int) -> dict[str, Any]:
    """One series of pingpong.c between the first and the last CPU that this process may use."""
    cpus = sorted(os.sched_getaffinity(0))
    return run("pingpong", medium, size_bytes, rounds, cpus[0], cpus[-1])


def main() -> None:
    """Compile everything."""
    for path in sorted(HERE.glob("*.c")):
        print(build(path.stem))


if __name__ == "__main__":
    main()
