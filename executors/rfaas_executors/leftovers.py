"""Finding what an earlier agent of the same slice left running, so that this one can swear that nothing of it lives.

Workers die with their template and the template with its agent; what functions started may outlive them. All of it
carries the slice's mark in its environment (`template_host.MARKER`). Spec: docs/spec/002-lease.md section 3.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from rfaas_executors.template_host import MARKER

SWEEP_S = 5.0
_STEP_S = 0.005


def sweep(slice_id: bytes, limit_s: float = SWEEP_S) -> bool:
    """Kill every process marked with this slice; True once none lives, False if some still does after `limit_s`."""
    mark = f"{MARKER}={slice_id.hex()}".encode()
    give_up_s = time.monotonic() + limit_s
    while found := _marked(mark):
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > give_up_s:
            return False
        time.sleep(_STEP_S)
    return True


def _marked(mark: bytes) -> list[int]:
    """Living processes of this user with the mark; a zombie's environment is empty."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
    return found
