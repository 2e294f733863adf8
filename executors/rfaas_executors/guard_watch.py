"""What the neighbour guard sees: iteration marks, the host tasks' run queue, pressure of their cgroups, steal.

Must not decide and must not signal. Everything here is written by other users: files are read with `pread` and checked,
never mapped, so that nobody can crash or stall an agent by them. Formats: docs/spec/012-marks.md, proc(5), cgroups(7).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rfaas_executors.guard_core import Look

MARKS_DIR: Final = "/dev/shm"
PREFIX: Final = "rfaas-mark-"
MAGIC: Final = b"RFMARKS1"
PAGE_BYTES: Final = 4096
STAMPS: Final = 32
_HEAD: Final = struct.Struct("=8s32s64sQ16x")
_PAGE: Final = struct.Struct(f"={STAMPS}Q")
_COUNT: Final = struct.Struct("=Q")
_COUNT_AT: Final = 104
MOST_FILES: Final = 256  # of a node: ranks that are watched
MOST_TASKS: Final = 64
LIST_EVERY_S: Final = 1.0
TASKS_EVERY_S: Final = 5.0
LEAST_RUN: Final = 0.2  # of a look: host tasks that ran less say nothing about waiting
_OURS: Final = (b"rfaas_executors", b"rfaas: template or worker of a slice")
_JOB_OF_CGROUP: Final = re.compile(r"/job_(\d+)(?:/|$)")


@dataclass(slots=True)
class _Page:
    """One marking process. `seen`: marks up to there have been told."""

    descriptor: int
    program: str
    seen: int


class MarkReader:
    """The marks of one node's jobs.

    Args:
        directory: where their files are; "none": nobody marks.
        node: marks of other nodes are not ours, where several share a machine; empty: all are.
    """

    def __init__(self, directory: str = MARKS_DIR, node: str = "") -> None:
        self._directory = directory
        self._node = node
        self._pages: dict[str, _Page] = {}
        self._list_at_s = 0.0

    @property
    def programs(self) -> set[str]:
        """Of those that mark now."""
        return {page.program for page in self._pages.values()}

    def read(self, now_s: float, boot_less_monotonic_s: float) -> dict[str, tuple[tuple[float, float], ...]]:
        """By source, the iterations that ended since the last time: begin and end on the clock of `now_s`."""
        if self._directory == "none":
            return {}
        if now_s >= self._list_at_s:
            self._list_at_s = now_s + LIST_EVERY_S
            self._list()
        return {
            f"marks {name.removeprefix(PREFIX)}": tuple(self._new_of(page, boot_less_monotonic_s))
            for name, page in self._pages.items()
        }

    def close(self) -> None:
        """Let go of all files."""
        for name in list(self._pages):
            self._drop(name)

    def _list(self) -> None:
        """Find new files, forget those whose writers are dead; theirs go if they are ours to remove."""
        try:
            names = [name for name in os.listdir(self._directory) if name.startswith(PREFIX)]
        except OSError:
            names = []
        for name in [name for name in self._pages if name not in names]:
            self._drop(name)
        for name in names[:MOST_FILES]:
            if name not in self._pages and (page := self._opened(name)) is not None:
                self._pages[name] = page
        for name, page in list(self._pages.items()):
            if _is_unlocked(page.descriptor):
                if os.fstat(page.descriptor).st_uid == os.geteuid():
                    with contextlib.suppress(OSError):
                        os.unlink(Path(self._directory, name))
                self._drop(name)

    def _opened(self, name: str) -> _Page | None:
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(Path(self._directory, name), flags)
        except OSError:
            return None
        page = None
        with contextlib.suppress(OSError, struct.error):
            about = os.fstat(descriptor)
            if stat.S_ISREG(about.st_mode) and about.st_size == PAGE_BYTES:
                magic, program, node, count = _HEAD.unpack(os.pread(descriptor, _HEAD.size, 0))
                if magic == MAGIC and self._is_here(_text(node)):
                    page = _Page(descriptor, _text(program) or "unnamed", count)
        if page is None:
            os.close(descriptor)
        return page

    def _is_here(self, node: str) -> bool:
        return not node or not self._node or node == self._node

    def _new_of(self, page: _Page, offset_s: float) -> Iterator[tuple[float, float]]:
        """Iterations since the last look that the page holds whole: it keeps 32, and one may be being written."""
        try:
            _, _, _, count = _HEAD.unpack(os.pread(page.descriptor, _HEAD.size, 0))
            stamps = _PAGE.unpack(os.pread(page.descriptor, _PAGE.size, _HEAD.size))
            (now_count,) = _COUNT.unpack(os.pread(page.descriptor, _COUNT.size, _COUNT_AT))
        except (OSError, struct.error):
            return
        first = max(page.seen, now_count - STAMPS + 2, 1)
        page.seen = count
        for number in range(first, min(count, first + STAMPS)):
            begin_ns, end_ns = stamps[(number - 1) % STAMPS], stamps[number % STAMPS]
            if begin_ns < end_ns:
                yield begin_ns / 1e9 + offset_s, end_ns / 1e9 + offset_s

    def _drop(self, name: str) -> None:
        os.close(self._pages.pop(name).descriptor)


class HostTasks:
    """Tasks of other jobs on this node, or of this job beside the slice where it shares itself.

    Seen are those whose cgroup is named after a job, and the same user's by their environment.

    Args:
        job_id: the slice's own job; empty: it has none, and no task is the host's.
        node: as Slurm calls it.
        shared: the slice's job is the host.
    """

    def __init__(self, job_id: str, node: str, *, shared: bool, proc: Path = Path("/proc")) -> None:
        self._job_id = job_id
        self._node = node
        self._shared = shared
        self._proc = proc
        self._find_at_s = 0.0
        self._times: dict[str, tuple[int, int]] = {}  # by task: nanoseconds that it ran, and that it waited
        self.programs: set[str] = set()
        self.cgroups: set[str] = set()

    def stretch(self, now_s: float, since_s: float) -> float | None:
        """Wall time over running time of all host tasks since the last look; None if they hardly ran."""
        if not self._job_id:
            return None
        if now_s >= self._find_at_s:
            self._find_at_s = now_s + TASKS_EVERY_S
            self._find()
        ran_ns = waited_ns = 0
        for task, (run_ns, wait_ns) in self._times.items():
            try:
                now_run_ns, now_wait_ns = map(int, (self._proc / task / "schedstat").read_text().split()[:2])
            except (OSError, ValueError):
                continue
            ran_ns += max(0, now_run_ns - run_ns)
            waited_ns += max(0, now_wait_ns - wait_ns)
            self._times[task] = now_run_ns, now_wait_ns
        if ran_ns == 0 or ran_ns < LEAST_RUN * (now_s - since_s) * 1e9:
            return None
        return (ran_ns + waited_ns) / ran_ns

    def _find(self) -> None:
        found: dict[str, tuple[int, int]] = {}
        self.programs, self.cgroups = set(), set()
        me = os.getpid()
        with contextlib.suppress(OSError):
            for entry in os.scandir(self._proc):
                if not entry.name.isdigit() or int(entry.name) == me or len(found) >= MOST_TASKS:
                    continue
                cgroup = self._host_cgroup(entry.name)
                if cgroup is None:
                    continue
                with contextlib.suppress(OSError, ValueError):
                    self.programs.add((self._proc / entry.name / "comm").read_text().strip())
                    self.cgroups.add(cgroup)
                    for thread in os.listdir(self._proc / entry.name / "task"):
                        task = f"{entry.name}/task/{thread}"
                        found[task] = self._times.get(task, self._now_of(task))
        self._times = found

    def _now_of(self, task: str) -> tuple[int, int]:
        run_ns, wait_ns, _ = map(int, (self._proc / task / "schedstat").read_text().split())
        return run_ns, wait_ns

    def _host_cgroup(self, pid: str) -> str | None:
        """The cgroup v2 of a process that belongs to the host job, empty if it has none of its own; None: another's."""
        try:
            lines = (self._proc / pid / "cgroup").read_text().splitlines()
            comm = (self._proc / pid / "comm").read_text().strip()
        except OSError:
            return None
        if comm.startswith(("slurm", "srun", "rfaas")):
            return None
        path = next((line.split(":", 2)[2] for line in lines if line.startswith("0:")), "")
        named = _JOB_OF_CGROUP.search("\n".join(lines))
        job = named.group(1) if named is not None else self._job_by_environment(pid)
        if not job or (job == self._job_id) != self._shared:
            return None
        if self._is_ours(pid):
            return None
        return path if len(path) > 1 else ""

    def _job_by_environment(self, pid: str) -> str:
        variables = self._environment(pid)
        here = variables.get(b"SLURMD_NODENAME", b"").decode(errors="replace") == self._node
        return variables.get(b"SLURM_JOB_ID", b"").decode(errors="replace") if here else ""

    def _is_ours(self, pid: str) -> bool:
        """True for agents, templates and workers, of other slices and users too: their command lines say so."""
        try:
            words = (self._proc / pid / "cmdline").read_bytes()
        except OSError:
            return True
        return any(sign in words for sign in _OURS)

    def _environment(self, pid: str) -> dict[bytes, bytes]:
        try:
            text = (self._proc / pid / "environ").read_bytes()
        except OSError:
            return {}
        return {name: value for name, _, value in (one.partition(b"=") for one in text.split(b"\0"))}


@dataclass(slots=True)
class Pressure:
    """PSI of the host's cgroups: the part of the time in which some of its tasks waited (cgroups(7), *.pressure)."""

    root: Path = Path("/sys/fs/cgroup")
    _totals: dict[str, int] = field(default_factory=dict)  # by file, microseconds

    def stretch(self, cgroups: set[str], elapsed_s: float) -> float | None:
        """1 / (1 - waiting), the worst of CPU, memory and I/O over all; None where nothing is counted."""
        worst: float | None = None
        totals: dict[str, int] = {}
        for cgroup in sorted(filter(None, cgroups)):
            for kind in ("cpu", "memory", "io"):
                path = f"{self.root}{cgroup}/{kind}.pressure"
                total_us = some_total_us(path)
                if total_us is None:
                    continue
                totals[path] = total_us
                if path in self._totals and elapsed_s > 0:
                    waiting = min(0.9, (total_us - self._totals[path]) / 1e6 / elapsed_s)
                    worst = max(worst or 1.0, 1.0 / (1.0 - waiting))
        self._totals = totals
        return worst


class Steal:
    """What a hypervisor takes of this machine's time (proc(5), /proc/stat)."""

    def __init__(self, path: str = "/proc/stat") -> None:
        self._path = path
        self._last = self._now()

    def part(self) -> float:
        """Of the time of all CPUs since the last look."""
        before, self._last = self._last, self._now()
        elapsed = self._last[1] - before[1]
        return (self._last[0] - before[0]) / elapsed if elapsed > 0 else 0.0

    def _now(self) -> tuple[int, int]:
        try:
            with open(self._path) as file:
                fields = [int(field) for field in file.readline().split()[1:9]]
            return fields[7], sum(fields)
        except (OSError, ValueError, IndexError):
            return 0, 0


class GuardWatch:
    """All watches of one slice.

    Args:
        shared: the slice is a part of the host job.
    """

    def __init__(self, node: str, job_id: str, marks_dir: str, *, shared: bool) -> None:
        self._marks = MarkReader(marks_dir, node)
        self._tasks = HostTasks(job_id, node, shared=shared)
        self._pressure = Pressure()
        self._steal = Steal()
        self._last_s: float | None = None

    def look(self, now_s: float, functions: float) -> Look:
        """What was seen since the last look; `functions`: part of that time in which some worker had a call."""
        since_s = now_s if self._last_s is None else self._last_s
        self._last_s = now_s
        offset_s = now_s - time.clock_gettime(time.CLOCK_MONOTONIC)
        iterations = self._marks.read(now_s, offset_s)
        found = {
            "run queue": self._tasks.stretch(now_s, since_s),
            "pressure": self._pressure.stretch(self._tasks.cgroups, now_s - since_s),
        }
        stretches = {watch: stretch for watch, stretch in found.items() if stretch is not None}
        programs = self._marks.programs or self._tasks.programs
        host = ", ".join(sorted(programs)[:3])
        return Look(iterations, stretches, functions, self._steal.part(), host)

    def close(self) -> None:
        """Let go of all files."""
        self._marks.close()


def some_total_us(path: str) -> int | None:
    """The total of the line "some" of a pressure file, in microseconds."""
    try:
        with open(path) as file:
            return int(file.readline().rpartition("total=")[2])
    except (OSError, ValueError):
        return None


def _is_unlocked(descriptor: int) -> bool:
    """True if the writer is dead: it holds an exclusive lock as long as it lives."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def _text(field: bytes) -> str:
    text = field.partition(b"\0")[0].decode(errors="replace")
    return "".join(sign if sign.isprintable() and sign != "," else "?" for sign in text)
