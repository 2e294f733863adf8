"""What users left on a cluster, and what a cluster left on the machine.

Must only look. The machine may be busy with other things: only what can be traced to a cluster counts.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from cluster.rig.cluster import CGROUP_ROOT, Cluster
from cluster.rig.node import Node, process_identity
from cluster.rig.settings import USERS

TCP_LISTEN = "0A"  # proc(5), /proc/net/tcp
UIDS = frozenset(account.uid for account in USERS)


def left_by_users(cluster: Cluster) -> list[str]:
    """Jobs, processes, sockets and temporary files of the cluster's users, one line each; empty when all is clean.

    Homes don't count: a user's files stay. Nodes that are down hold nothing.
    """
    jobs = cluster.head.run_as_root("squeue", "-h", "-a", "-o", "job %i of %u, %T on %N: %j").splitlines()
    return [*jobs, *(line for node in cluster.nodes if node.init_pid for line in _left_on(node)), *_left_in_var_tmp()]


def _left_on(node: Node) -> Iterator[str]:
    for process in node.processes():
        if process.uid in UIDS:
            yield f"process on {node.name}: {process.pid} of uid {process.uid}: {process.command}"
    view = Path(f"/proc/{node.init_pid}")
    for folder in node.temporary_folders:
        for entry in sorted(Path(f"{view}/root{folder}").iterdir()):
            yield f"file on {node.name}: {folder}/{entry.name}"
    for name in _abstract_sockets(view):
        yield f"abstract socket on {node.name}: {name}"
    for port, uid in _listeners(view):
        yield f"listening socket on {node.name}: port {port} of uid {uid}"


def _abstract_sockets(view: Path) -> list[str]:
    """Bound abstract names in the node's network namespace; Slurm and munge have none."""
    lines = (view / "net/unix").read_text(errors="replace").splitlines()[1:]
    names = (line.split(maxsplit=7)[7:] for line in lines)
    return sorted({name[0] for name in names if name and name[0].startswith("@")})


def _listeners(view: Path) -> Iterator[tuple[int, int]]:
    for table in ("net/tcp", "net/tcp6"):
        for line in (view / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == TCP_LISTEN and int(fields[7]) in UIDS:
                yield int(fields[1].rpartition(":")[2], 16), int(fields[7])


def _left_in_var_tmp() -> Iterator[str]:
    """The one temporary folder that nodes share with the machine."""
    for entry in Path("/var/tmp").iterdir():
        try:
            if entry.lstat().st_uid in UIDS:
                yield f"file: {entry}"
        except FileNotFoundError:
            continue


class Footprint:
    """What a running cluster occupies on the machine, remembered so that it can be looked for after `stop`."""

    def __init__(self, cluster: Cluster) -> None:
        self._name = cluster.layout.root.name
        holders = [json.loads(cluster.layout.init_file(node.name).read_text()) for node in cluster.nodes]
        pids = {process.pid for node in cluster.nodes for process in node.processes()}
        pids |= {init[key] for init in holders for key in ("pid", "holder")}
        self._processes = {pid: process_identity(pid) for pid in pids}

    @property
    def n_processes(self) -> int:
        """How many processes it had."""
        return len(self._processes)

    def remains(self) -> list[str]:
        """What is still there of it, one line each."""
        return [
            *(f"process {pid}" for pid, was in self._processes.items() if was and process_identity(pid) == was),
            *(f"mount seen by {pid}" for pid in _all_pids() if self._is_mounted_for(pid)),
            *(f"cgroup {found}" for found in CGROUP_ROOT.glob(f"*/{self._name}")),
            *(f"file {found}" for top in TEMPORARY for found in Path(top).glob(f"*{self._name}*")),
        ]

    def _is_mounted_for(self, pid: int) -> bool:
        try:
            return self._name in Path(f"/proc/{pid}/mountinfo").read_text()
        except OSError:  # gone, or a zombie
            return False


TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm", "/run")


def _all_pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def network_and_mounts() -> set[str]:
    """The machine's own network devices and mounts, which a cluster must not change."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return {f"device {name}" for name in os.listdir("/sys/class/net")} | {f"mount {line}" for line in mounts}
