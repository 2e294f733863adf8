"""Commands that lack something of RDMA: memory that they may lock, and so register; libibverbs."""

import os
import re
import subprocess


def with_locked_memory(size_bytes: int) -> list[str]:
    """The beginning of a command that may lock so much, whoever runs it."""
    limit = ["prlimit", f"--memlock={size_bytes}:{size_bytes}"]
    if os.geteuid() == 0:
        return ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", *limit]
    return limit


def without_library() -> list[str]:
    """The beginning of a command whose processes find no libibverbs."""
    listed = subprocess.check_output(["/sbin/ldconfig", "-p"], text=True)
    found = re.search(r"libibverbs\.so\.1 .*=> (\S+)", listed)
    assert found, "no libibverbs is installed"
    namespace = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    hide = f'mount --bind /dev/null {os.path.realpath(found.group(1))} && exec "$@"'
    return [*namespace, "sh", "-c", hide, "sh"]
