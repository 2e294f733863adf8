"""Programs in C over the sources of the project, built for tests: with sanitizers, failpoints, or one line changed.

Sources are compiled once each, two at a time, and linked as often as wanted.
"""

import os
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORE = ROOT / "transport/core"
# CMakeLists.txt has these folders too.
CORE_FOLDERS = (CORE, *(CORE / name for name in ("frames", "shm", "tcp", "verbs", "regions")))
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread")
INCLUDES = (
    *(str(folder.relative_to(ROOT)) for folder in (*CORE_FOLDERS, CORE / "tls")),
    "transport/include",
    "rfaas/librfaas",
    "executors/compiled",
    "executors/core",
    "slurm_plugin/node_agent",
)
ASAN = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TSAN = ("-fsanitize=thread", "-fno-sanitize-recover=all")
VALGRIND = [
    "valgrind",
    "--quiet",
    "--error-exitcode=9",
    "--leak-check=full",
    "--errors-for-leak-kinds=definite,indirect,possible",
    "--fair-sched=try",
]
TIMEOUT_S = 120


def core_sources() -> list[Path]:
    return sorted(path for folder in CORE_FOLDERS for path in folder.glob("*.c"))


def core_file(name: str) -> Path:
    (path,) = (folder / name for folder in CORE_FOLDERS if (folder / name).exists())
    return path


def tls_sources() -> list[Path]:
    return sorted(CORE.glob("tls/*.c"))


class CBuild:
    """The sources of one program, compiled with the same flags into `folder`."""

    def __init__(self, folder: Path, sources: Iterable[Path], flags: Iterable[str] = (), libraries: Iterable[str] = ()):
        self._folder, self._flags, self._libraries = folder, [*FLAGS, *flags], list(libraries)
        self._compiler = os.environ.get("CC", "cc")
        with ThreadPoolExecutor(2) as pool:
            sources = list(sources)
            self._objects: dict[Path, Path] = dict(zip(sources, pool.map(self._compile, sources), strict=True))

    def _run(self, words: Iterable[object]) -> None:
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.returncode == 0, done.stderr

    def _compile(self, source: Path, text: str | None = None, *flags: str) -> Path:
        """An object of this source, or of another text in its place."""
        target = self._folder / f"{source.stem}-{len(list(self._folder.iterdir()))}-{os.urandom(4).hex()}.o"
        what: Path = source
        if text is not None:
            what = target.with_suffix(".c")
            what.write_text(text)
        includes = [f"-I{ROOT / path}" for path in INCLUDES] + [f"-I{source.parent}"]
        self._run([self._compiler, *self._flags, *flags, *includes, "-c", "-o", target, what])
        return target

    def link(self, name: str, replaced: Mapping[Path, str] | None = None, of: Iterable[Path] = ()) -> Path:
        """The program, `of` some of the sources or all; with `replaced`, the texts that take the place of theirs."""
        program, objects = self._folder / name, {source: self._objects[source] for source in of or self._objects}
        for source, text in (replaced or {}).items():
            objects[source] = self._compile(source, text, "-Wno-error")
        self._run([self._compiler, *self._flags, "-o", program, *objects.values(), *self._libraries])
        return program
