"""All that some processes hold at a moment, for a difference with what they hold later: nothing may grow with use."""

import contextlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from support.leftovers import children, shared_memory, sockets_of
from support.residue import descriptors

GRPC_UNNAMED = 2  # for all cycles together, so a thread a cycle is found all the same
GRPC_THREADS = ("event_engine", "lifeguard", "grpc_", "default-execut", "resolver-execut", "timer_")


@dataclass(frozen=True)
class Holdings:
    """By name of a kind of thing (and of its owner): how many there are."""

    counts: Counter

    @classmethod
    def of(cls, processes, directories):
        """What named processes hold, and what lies in named directories, in shared memory and among control groups.

        Args:
            processes: pid by name.
            directories: path by name.
        """
        counts = Counter()
        for name, pid in processes.items():
            counts.update(f"{name}: descriptor {_kind(target)}" for target in descriptors(pid).values())
            counts.update(f"{name}: thread {thread}" for thread in _threads(pid))
            counts.update({f"{name}: children": len(children(pid))})
            counts.update({f"{name}: abstract sockets": len(sockets_of(pid))})
        for name, directory in directories.items():
            counts.update(f"{name}: {path.relative_to(directory)}" for path in Path(directory).rglob("*"))
        counts.update(f"/dev/shm: {name}" for name in shared_memory() if "rfaas" in name)
        counts.update(f"cgroup: {path}" for path in _control_groups())
        return cls(counts)

    def beyond(self, before):
        """What there is more of than before."""
        more = (self.counts - before.counts).items()
        return {name: (before.counts[name], count) for name, count in more if count > _may_come(name)}


def _may_come(name):
    """How many more of this no cycle has left: threads of gRPC's pool that bear the name of who made them."""
    return GRPC_UNNAMED if name.endswith("thread python") else 0


def _threads(pid):
    """Names of its threads, but for gRPC's: it keeps a pool, which grows and shrinks as it sees fit."""
    names = []
    for file in Path(f"/proc/{pid}/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # one that has just ended
            names.append(file.read_text().strip())
    return [name for name in names if not name.startswith(GRPC_THREADS)]


def resident_kib(pid):
    """What a process has in memory."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()).group(1))


def _kind(target):
    """What a descriptor refers to, without what is different each time."""
    return re.sub(r"\[\d+\]|\d{2,}", "[]", target)


def _control_groups():
    """Control groups of ours."""
    return [str(path) for path in Path("/sys/fs/cgroup").rglob("*rfaas*") if path.is_dir()]
