"""Commands under a limit of locked memory, which is what a process may register for RDMA."""

import os


def with_locked_memory(size_bytes: int) -> list[str]:
    """The beginning of a command that may lock so much, whoever runs it."""
    limit = ["prlimit", f"--memlock={size_bytes}:{size_bytes}"]
    if os.geteuid() == 0:
        return ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", *limit]
    return limit
