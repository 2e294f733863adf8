"""The agent's side of a memory server: starts the process, hands it connections, and proves its death.

Must not decide: it does what the core asked for and posts events. Lives in the agent's event loop, on the thread that
lives as long as the agent. Spec: docs/spec/008-memory.md section 1.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

from rfaas_executors import agent_events as on
from rfaas_executors.template_host import MARKER, Surroundings
from rfaas_executors.watch import Watch
from rfaas_executors.worker_handle import WorkerHandle

log = logging.getLogger(__name__)

OWN_BYTES = 64 << 20  # what the process may have beside the region: an interpreter


class MemoryHost:
    """One memory server. WorkerForked follows its start, WorkerDead its end.

    Args:
        order: what to serve.
        post: takes events; not called before `start` has returned.
    """

    def __init__(
        self, order: on.StartMemory, surroundings: Surroundings, watch: Watch, post: Callable[[on.Event], None]
    ) -> None:
        self._order = order
        self._surroundings = surroundings
        self._watch = watch
        self._post = post
        self._loop = asyncio.get_running_loop()
        self._handle = WorkerHandle(order.worker, order.region_bytes, post)
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1

    def start(self) -> None:
        """Start the process.

        Raises:
            OSError: it can't be had; nothing is left of it.
        """
        order = self._order
        try:
            theirs = self._handle.open()
            with theirs:
                page_fd = self._handle.page.detach()  # its mapping is enough here
                try:
                    self._process = self._exec(theirs.fileno(), page_fd)
                finally:
                    os.close(page_fd)
            pid = self._process.pid
            self._pidfd = os.pidfd_open(pid)
            self._handle.forked(pid, os.pidfd_open(pid))
        except OSError:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            self._handle.close()
            raise
        self._surroundings.templates.add(pid)  # no stray of a worker
        self._loop.add_reader(self._pidfd, self._on_exit)
        self._watch.add(order.worker, pid, order.region_bytes + OWN_BYTES, lambda: True)
        self._post(on.WorkerForked(order.worker, pid))

    def _exec(self, control_fd: int, page_fd: int) -> subprocess.Popen[bytes]:
        order = self._order
        numbers = (control_fd, page_fd, os.getpid(), order.slot, order.generation, order.region_bytes)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "rfaas_executors.memory_server", *map(str, numbers), self._surroundings.node],
            stdin=subprocess.DEVNULL,
            pass_fds=(control_fd, page_fd),
            env={**os.environ, MARKER: self._surroundings.slice_id.hex()},
            start_new_session=True,
        )

    def drain(self, worker: int, kill_at_s: float | None) -> None:
        """Nothing: the region stays as it is until it is killed."""

    def interrupt(self, worker: int, page_slot: int, call_id: int) -> None:
        """Nothing: it runs no calls."""

    def hand_over(self, order: on.HandOver, descriptor: int, key: bytes = b"") -> None:
        """Pass a connection; the descriptor stays the caller's."""
        self._handle.hand_over(order, descriptor, key)

    def kill(self, worker: int = 0) -> None:
        """SIGKILL; WorkerDead follows."""
        self._handle.kill()

    kill_template = kill

    def usages(self) -> Iterator[tuple[int, on.WorkerUsage]]:
        """What it has cost so far."""
        yield self._order.worker, self._handle.usage()

    def _on_exit(self) -> None:
        """It is dead: reaped, and with its last mapping the region is the kernel's again."""
        assert self._process is not None
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        pid = self._process.pid
        try:
            _, status, used = os.wait4(pid, 0)
            cpu_ns = round((used.ru_utime + used.ru_stime) * 1e9)
        except ChildProcessError:  # somebody else here reaped it
            status, cpu_ns = 0, 0
        signo = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        exit_status = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
        self._process.returncode = -signo or exit_status
        self._surroundings.templates.discard(pid)
        beyond = self._watch.remove(self._order.worker, signo)
        hint = beyond.hint if beyond else self._handle.last_words() or _describe(exit_status, signo)
        code = beyond.reason_code if beyond else 0
        usage, calls = self._handle.usage(cpu_ns), self._handle.calls()
        log.info("memory server ended worker=%d pid=%d how=%s", self._order.worker, pid, hint)
        self._post(on.WorkerDead(self._order.worker, exit_status, signo, calls, hint, usage, code))
        self._handle.close()


def _describe(exit_status: int, signo: int) -> str:
    how = f"was killed by {signal.Signals(signo).name}" if signo else f"exited with status {exit_status}"
    return f"the memory server {how}"
