"""Which CPUs of a job its tasks leave: read from the kernel, decided without it.

Must not start or signal anything. A task is *bound* if it may run on fewer CPUs than its job has here; where the site
binds nothing, nothing is known to be used, and who lends runs behind the tasks by SCHED_IDLE alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rfaas_transport.errors import ConfigError

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Share:
    """What is to be lent of a job's part of this node."""

    cores: int
    memory_bytes: int


def check(wanted: Share, environ: Mapping[str, str]) -> None:
    """Refuse to lend more than the job has on this node, as far as Slurm's variables say what that is.

    Raises:
        ConfigError: it has less; nothing was started.
    """
    cpus = _number(environ, "SLURM_CPUS_ON_NODE")
    if cpus and wanted.cores > cpus:
        raise ConfigError(f"{wanted.cores} cores are to be shared, and the job has {cpus} here", hint="share fewer")
    memory_mib = _number(environ, "SLURM_MEM_PER_NODE") or _number(environ, "SLURM_MEM_PER_CPU") * cpus
    if memory_mib and wanted.memory_bytes > memory_mib << 20:
        raise ConfigError(
            f"{wanted.memory_bytes >> 20} MiB are to be shared, and the job has {memory_mib} MiB here",
            hint="share less, or ask for more by --mem",
        )


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    return int(text) if text.isdigit() else 0


def choose(allowed: frozenset[int], tasks: Iterable[frozenset[int]], cores: int, job_cpus: int) -> frozenset[int]:
    """The CPUs to lend: of those that no bound task may use, the last; empty if there are too few of them.

    Args:
        allowed: the CPUs that the job has here.
        tasks: where each of its tasks may run.
        cores: how many to lend.
        job_cpus: how many the job has by Slurm's count: more than `allowed` where a site declares more than there are;
            then nothing can be bound, and all of `allowed` is lent.
    """
    if len(allowed) < job_cpus:
        return allowed
    used = frozenset[int]().union(*(cpus for cpus in tasks if allowed - cpus))
    free = sorted(allowed - used)
    return frozenset(free[-cores:]) if len(free) >= cores else frozenset()


def tasks_of(job_id: str, but: int) -> Iterator[frozenset[int]]:
    """Where each process of the job on this node may run, that of `but` and all below it left out."""
    parents = {pid: _parent(pid) for pid in _pids()}
    for pid in parents:
        if not _is_below(pid, but, parents) and _job_of(pid) == job_id:
            with contextlib.suppress(ProcessLookupError):
                yield frozenset(os.sched_getaffinity(pid))


def _is_below(pid: int, top: int, parents: Mapping[int, int]) -> bool:
    """Whether it is `top`, or a descendant of it."""
    while pid != top:
        if pid not in parents:
            return False
        pid = parents[pid]
    return True


def _pids() -> Iterator[int]:
    uid = os.getuid()
    for entry in os.scandir(PROC):
        try:
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                yield int(entry.name)
        except FileNotFoundError:  # gone meanwhile
            continue


def _parent(pid: int) -> int:
    try:
        return int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _job_of(pid: int) -> str:
    """The job of a process by its environment, which is the user's own to read; empty if it has none."""
    try:
        environment = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return ""
    for entry in environment.split(b"\0"):
        if entry.startswith(b"SLURM_JOB_ID="):
            return entry[len(b"SLURM_JOB_ID=") :].decode(errors="replace")
    return ""
