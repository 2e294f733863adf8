"""Compiles the C programs of this folder into .cache/raw/ and runs them; needs a C compiler, as building rfaas does.

Usage: python benchmarks/raw/programs.py: compiles what is out of date and prints where the programs are.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OUT = ROOT / ".cache" / "raw"
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O3", "-Wall", "-Wextra", "-pthread")
CORE = ROOT / "transport" / "core"
RAW = ROOT / "transport" / "raw"
# CMakeLists.txt has these folders too.
CORE_FOLDERS = (CORE, *(CORE / name for name in ("frames", "shm", "tcp", "verbs", "regions")))
INCLUDES = (*CORE_FOLDERS, CORE / "tls", CORE / "ibverbs", RAW)
OF_CLIENT = ("c_calls", "c_calls_verbs")
COMPILE_LIMIT_S = 300
RUN_LIMIT_S = 120
PINGPONG_S = 3


def sources_of(name: str) -> list[Path]:
    """What is compiled into a program, besides its own file: the C core, for those that measure it."""
    is_core_in_it = name in ("pingpong", "tcp_spin", "tls_echo", "verbs_rounds")
    core = [path for folder in CORE_FOLDERS if is_core_in_it for path in folder.glob("*.c")]
    link = [RAW / "raw_link.c"] if name == "pingpong" else []
    tls = [*(CORE / "tls").glob("*.c")] if name == "tls_echo" else []
    verbs = [RAW / "raw_verbs.c", CORE / "ibverbs" / "verbs_device.c"] if name == "c_calls_verbs" else []
    return [HERE / f"{name}.c", *sorted([*core, *link, *tls, *verbs])]


def flags_of(name: str) -> list[str]:
    """What a program is linked with.

    Raises:
        RuntimeError: that is not installed.
    """
    if name == "tls_echo":
        return ["-lssl", "-lcrypto"]
    if name not in OF_CLIENT:
        return []
    command = [sys.executable, "-m", "rfaas", "config", "--cflags", "--libs"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if found.returncode:
        raise RuntimeError(f"this rfaas has no rfaas.h: {found.stderr.strip()[-300:]}")
    return [*shlex.split(found.stdout), *(["-libverbs"] if name == "c_calls_verbs" else [])]


def build(name: str, *more: str) -> Path:
    """Compile NAME.c if there is no program of these sources and flags; returns the program.

    Args:
        name: of the source, here, without its ending.
        more: flags.

    Raises:
        RuntimeError: it can't be compiled; says what the compiler said.
    """
    sources = sources_of(name)
    if not sources[0].exists():
        raise RuntimeError(f"there is no {sources[0].name} here")
    headers = sorted(path for folder in (*INCLUDES, HERE) for path in folder.glob("*.h"))
    content = b"".join(path.read_bytes() for path in [*sources, *headers]) + repr(more).encode()
    digest = hashlib.sha256(content).hexdigest()[:12]
    program = OUT / f"{name}-{digest}"
    may_be_old = name in OF_CLIENT and "RFAAS_RDMA_GUEST" not in os.environ  # what it is linked with may have changed
    if program.exists() and not may_be_old:
        return program
    flags = flags_of(name)
    OUT.mkdir(parents=True, exist_ok=True)
    compiler = [os.environ.get("CC", "cc"), *FLAGS, *more, *(f"-I{folder}" for folder in INCLUDES)]
    command = [*compiler, "-o", str(program), *map(str, sources), *flags]
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
    """One series of pingpong.c between the first and the last CPU of this process; bare media: 3 s at most."""
    return run("pingpong", medium, size_bytes, rounds, *two_cpus(), PINGPONG_S)


def two_cpus() -> tuple[int, int]:
    """The first and the last CPU that this process may use."""
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[0], cpus[-1]


def main() -> None:
    """Compile everything; says what can't be."""
    for path in sorted(HERE.glob("*.c")):
        try:
            print(build(path.stem))
        except RuntimeError as error:
            print(error, file=sys.stderr)


if __name__ == "__main__":
    main()
