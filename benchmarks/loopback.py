"""An allocator and an agent that listens on TCP of this machine, so that calls go over loopback TCP for certain.

Embedded workers are reached over shared memory or a unix socket; what a worker on another node would cost at least is
seen only here. Both end with the `with` block.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

END_S = 20.0


@contextlib.contextmanager
def workers(cores: int = 1) -> Iterator[Path]:
    """Start both; yields the state directory, which is an Executor's `allocator`.

    Raises:
        RuntimeError: one of them did not come up; nothing is left.
    """
    with tempfile.TemporaryDirectory(prefix="rfaas-bench-") as directory, contextlib.ExitStack() as stack:
        state_dir = Path(directory) / "state"
        where = ["--listen", "127.0.0.1", "--cores", str(cores), "--grace", "1s"]
        stack.enter_context(_running(["rfaas_allocator", "--state-dir", str(state_dir)], "serving"))
        stack.enter_context(_running(["rfaas", "agent", "--json", "--allocator", str(state_dir), *where], '"joined"'))
        yield state_dir


@contextlib.contextmanager
def _running(module: list[str], ready: str) -> Iterator[None]:
    """Run until the block ends; from the line on that has `ready` in it."""
    command = [sys.executable, "-m", *module]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        if not any(ready in line for line in process.stdout):
            raise RuntimeError(f"{' '.join(command)} did not come up")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
