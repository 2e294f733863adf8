"""The limits of one worker: memory, processes and threads, and who went beyond (docs/spec/002-lease.md section 10).

Must not end anything: the agent's core decides. Looking is cheap as long as the resident sets, never less than what
counts, stay within the limit: some 40 us. Beyond that the exact figure is read, which may take long: in a thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field

from rfaas.units import size_text
from rfaas_executors import proc_usage
from rfaas_transport.errors import ReasonCode

LEAST_BYTES = 64 << 20  # an interpreter needs some 20 MiB before it does anything
COST_SHARE = 0.1  # of a core that looking at one worker may cost
EXACT_EVERY_S = 1.0  # memory that was shared may become a process's own while its resident set stays as it is
SPARSE_BYTES = 4 << 30  # of address space: 8 MiB for the stack of each thread, arrays that are hardly touched
DEFAULT_TASKS = 512


@dataclass(frozen=True, slots=True)
class Beyond:
    """A worker went beyond a limit: why, and in figures."""

    reason_code: ReasonCode
    hint: str


@dataclass(slots=True)
class WorkerLimits:
    """What one worker may use, and what is known of its use.

    Args:
        pid: of the worker.
        limit_bytes: of memory, for it and all below it.
        most_tasks: processes and threads, its own included.
    """

    pid: int
    limit_bytes: int
    most_tasks: int
    resident_bytes: int = 0  # of all processes, at the last look
    peak_bytes: int = 0  # the most that was seen
    _exact_bytes: int = 0
    _exact_at_s: float = -1e9
    _exact_again_s: float = 0.0
    _resident_then: dict[int, int] = field(default_factory=dict)  # at the last close look

    def look(self, now_s: float) -> Beyond | proc_usage.Family | None:
        """See what it uses now.

        Returns:
            What it is beyond; or the family, if only `look_closely` can tell; or None.
        """
        family = proc_usage.family(self.pid, self.most_tasks)
        if family.n_tasks > self.most_tasks:
            freeze(self.pid)
            text = f"it had more than {self.most_tasks:,} processes and threads, the limit of a worker"
            return Beyond(ReasonCode.PROCESS_LIMIT, text)
        self.resident_bytes = sum(family.resident.values())
        if self.resident_bytes <= self.limit_bytes:
            self.peak_bytes = max(self.peak_bytes, self.resident_bytes)
            return None
        return family if now_s >= self._exact_again_s and self._may_be_beyond(family.resident, now_s) else None

    def _may_be_beyond(self, resident: dict[int, int], now_s: float) -> bool:
        """False if what grew since the last close look leaves it within the limit."""
        grown_bytes = sum(max(0, size - self._resident_then.get(pid, 0)) for pid, size in resident.items())
        return self._exact_bytes + grown_bytes > self.limit_bytes or now_s > self._exact_at_s + EXACT_EVERY_S

    def look_closely(self, family: proc_usage.Family, now_s: float) -> Beyond | None:
        """Read the exact figures; may run in another thread, but only once at a time."""
        began_s = time.thread_time()
        self._exact_bytes = sum(map(proc_usage.own_bytes, family.resident))
        cost_s = time.thread_time() - began_s
        self._exact_at_s, self._exact_again_s = now_s, now_s + cost_s / COST_SHARE
        self._resident_then = family.resident
        self.peak_bytes = max(self.peak_bytes, self._exact_bytes)
        if self._exact_bytes <= self.limit_bytes:
            return None
        n_below = len(family.resident) - 1
        below = f" with {n_below} process{'es' if n_below > 1 else ''} below it" if n_below else ""
        had, limit = size_text(self._exact_bytes), size_text(self.limit_bytes)
        return Beyond(ReasonCode.MEMORY_LIMIT, f"it had {had} of memory{below}, and its limit was {limit}")


def data_allowance_bytes(limit_bytes: int) -> int:
    """What RLIMIT_DATA allows a worker beyond what it has at its start: for what grows faster than anybody looks."""
    return 2 * max(LEAST_BYTES, limit_bytes) + SPARSE_BYTES


def freeze(group: int) -> None:
    """Stop a process group whole: the kernel lets no fork slip through. Its end is decided elsewhere."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGSTOP)
