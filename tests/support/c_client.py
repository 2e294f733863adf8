"""The program in C that tests of the client in C run: compiled, and read line by line.

What it is compiled from lies in tests/system/c_client. `python -m support.c_client`, with tests/ on the path, compiles
what the tests over RDMA need ahead: in their guest, whose CPUs are emulated, that would take minutes.
"""

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from support.c_build import CORE, CORE_FOLDERS, core_sources
from support.waiting import wait_until

ROOT = Path(__file__).parents[2]
PARTS = ROOT / "tests/system/c_client"
CLIENT = ROOT / "rfaas/librfaas"
STRICT = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]
SANITIZED = ["-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread"]
INCLUDES = [f"-I{path}" for path in (ROOT / "transport/include", *CORE_FOLDERS, CLIENT)]
FOR_RDMA = ROOT / ".cache/c_client"
LIBRARIES = ("libkernels.so", "librfaas_verbs.so")
TIMEOUT_S = 60.0


def compile_c(output: Path, *words: object) -> Path:
    """Compile and link; returns `output`."""
    command = [os.environ.get("CC", "cc"), *map(str, words), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return output


def client_sources() -> list[Path]:
    """All of librfaas, with the core in it."""
    return [*CLIENT.glob("*.c"), *core_sources()]


def program_sources() -> list[Path]:
    """The test program, a file for each kind of its commands."""
    return sorted((PARTS / "program").glob("*.c"))


def ssl() -> list[str]:
    """What the core needs beyond the C library, as its build has it."""
    return ["-lssl", "-lcrypto"] if "OpenSSL" in (ROOT / "CMakeLists.txt").read_text() else []


def compile_program(output: Path, flags: Iterable[object]) -> Path:
    """The test program with all of the client in it."""
    return compile_c(output, *STRICT, *flags, *INCLUDES, *program_sources(), *client_sources(), *ssl(), "-ldl")


def compile_kernels(library: Path) -> Path:
    """The functions that it calls."""
    sources = ROOT / "tests/support/kernels/kernels.c", PARTS / "functions.c"
    return compile_c(library, *STRICT, "-Wpedantic", "-O1", "-fPIC", "-shared", INCLUDES[0], *sources, "-pthread")


class Running:
    """The program in one of its commands, read line by line.

    Args:
        words: the program, the library of functions, the command with its arguments; what runs them, before.
        timeout_s: for its end.
    """

    def __init__(self, *words: object, timeout_s: float = TIMEOUT_S) -> None:
        command = [*map(str, words)]
        self._timeout_s = timeout_s
        pipe = subprocess.PIPE
        # Unbuffered: what readline() had read beyond its line, communicate() would not return.
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)

    def go_on(self) -> None:
        """Let it go on after what it waits for."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        assert text, self.process.communicate(timeout=self._timeout_s)[1].decode()
        return text.decode().strip()

    def finish(self) -> str:
        """Wait for its end, which must be a good one; returns what else it printed."""
        output, errors = (text.decode() for text in self.process.communicate(timeout=self._timeout_s))
        assert (self.process.returncode, errors) == (0, ""), f"{output}{errors}"
        return output


@contextlib.contextmanager
def ended_after() -> Iterator[Callable[[Running], Running]]:
    """Yields a function to which programs are given that run; they are ended, and nothing of them is left open."""
    processes: list[subprocess.Popen[bytes]] = []

    def keep(running: Running) -> Running:
        processes.append(running.process)
        return running

    try:
        yield keep
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


def in_a_long_call(running: Running, witness: Path, timeout_s: float = TIMEOUT_S) -> tuple[Running, int]:
    """A program whose command is one of the long ones, once its call runs; and its worker's pid."""
    worker = int(running.line().removeprefix("worker="))
    wait_until(witness.exists, timeout_s, "the call to run")
    return running, worker


def over_rdma() -> tuple[Path, Path]:
    """The program, sanitized, with what speaks to RDMA devices beside it, and its functions; compiled if out of date.

    In the guest it is as the ring has made it before.
    """
    program, kernels, module, stamp = (FOR_RDMA / name for name in ("program", *LIBRARIES, "made-from"))
    if "RFAAS_RDMA_GUEST" in os.environ:
        return program, kernels
    verbs = sorted((CORE / "ibverbs").glob("*.c"))
    sources = [
        *client_sources(),
        *verbs,
        *PARTS.glob("**/*.c"),
        ROOT / "tests/support/kernels/kernels.c",
        Path(__file__),
    ]
    headers = [
        *CLIENT.glob("*.h"),
        *PARTS.glob("**/*.h"),
        *CORE.glob("**/*.h"),
        *(ROOT / "transport/include").glob("*.h"),
    ]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted([*sources, *headers]))).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        FOR_RDMA.mkdir(parents=True, exist_ok=True)
        stamp.unlink(missing_ok=True)
        compile_kernels(kernels)
        shared = [*SANITIZED, "-fPIC", "-shared", *INCLUDES, f"-I{CORE / 'ibverbs'}"]
        compile_c(module, *STRICT, *shared, *verbs, "-libverbs")
        compile_program(program, SANITIZED)
        stamp.write_text(digest)
    return program, kernels


if __name__ == "__main__":
    over_rdma()
