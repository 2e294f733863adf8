"""The incarnation of a node: what tells it from the same node after a reboot. Spec: docs/spec/002-lease.md section 1.

`boot id:start of slurmd:inode of the pid namespace:start of its init`. The boot id alone tells real machines; nodes
that are containers share their host's, so slurmd's start and the namespace stand beside it. The kernel gives the inode
number of a dead namespace to the next one (measured), hence its init. Reads /proc of this host, nothing else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One life of one node.

    Starts count from boot (proc(5), starttime). `slurmd_start_ticks` is 0 if there is no slurmd or it can't be seen.
    """

    boot_id: str
    slurmd_start_ticks: int
    pid_namespace: int
    init_start_ticks: int

    @classmethod
    def of_this_node(cls, node: str = "", proc: Path = _PROC) -> Incarnation:
        """Read it; `node` chooses among several slurmds on one host (`slurmd -N node`)."""
        boot_id = (proc / "sys/kernel/random/boot_id").read_text().strip()
        namespace = os.stat(proc / "self/ns/pid").st_ino
        return cls(boot_id, _slurmd_start_ticks(proc, node), namespace, _start_ticks(proc / "1"))

    @classmethod
    def parse(cls, text: str) -> Incarnation | None:
        """Read what `str` wrote; None for anything else."""
        boot_id, *numbers = text.split(":")
        if not boot_id or len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
            return None
        return cls(boot_id, *map(int, numbers))

    def __str__(self) -> str:
        return f"{self.boot_id}:{self.slurmd_start_ticks}:{self.pid_namespace}:{self.init_start_ticks}"

    def proves_death_of(self, earlier: Incarnation) -> bool:
        """True if nothing that ran in the `earlier` incarnation of the same node can live in this one.

        Another boot id proves it. With the same boot id (a container) namespace and slurmd must both be others: a new
        slurmd alone finds its steps alive, and a new namespace alone may be a job's own.
        """
        if self.boot_id != earlier.boot_id:
            return True
        namespaces = [(one.pid_namespace, one.init_start_ticks) for one in (self, earlier)]
        slurmds = [one.slurmd_start_ticks for one in (self, earlier)]
        return namespaces[0] != namespaces[1] and slurmds[0] != slurmds[1] and all(slurmds)


def _slurmd_start_ticks(proc: Path, node: str) -> int:
    """Start of this host's slurmd; of several the one of this node, else the oldest."""
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "comm").read_text().strip() != "slurmd":
                continue
            words = (entry / "cmdline").read_bytes().split(b"\0")
            ticks = _start_ticks(entry)
        except OSError:  # gone meanwhile, or hidden from us
            continue
        if ticks:
            found.append((node.encode() not in words, ticks))
    return min(found)[1] if found else 0


def _start_ticks(process: Path) -> int:
    """Field 22 of its stat; 0 if it is gone or hidden from us."""
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
