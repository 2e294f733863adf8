"""What the kernel holds of RDMA for this process, counted by `rdma resource` (iproute2)."""

import json
import os
import subprocess

KINDS = ("qp", "cq", "mr", "pd")


def kernel_objects(pid: int = 0) -> dict[str, int]:
    """How many queue pairs, completion queues, memory regions and protection domains are a process's; 0: this one's."""
    return {kind: sum(entry.get("pid") == (pid or os.getpid()) for entry in _listed(kind)) for kind in KINDS}


def _listed(kind: str) -> list[dict[str, int]]:
    told = subprocess.check_output(["rdma", "-j", "resource", "show", kind], text=True, timeout=60)
    listed: list[dict[str, int]] = json.loads(told or "[]")
    return listed
