"""The cluster as pyslurm tells it, through a helper process.

pyslurm is C that mirrors Slurm's structures and is under the GPL, so it lives in a program of its own
(`pyslurm_helper/helper.py`): a crash there is a failed reading here, and the next reading starts another helper.
Partitions and settings are read once, by `scontrol`, as with slurmrestd.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import select
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rfaas_slurm_plugin.views.cli_view import CliView
from rfaas_slurm_plugin.views.records import refuse_errors, view_of
from rfaas_slurm_plugin.views.view import ClusterConfig, ClusterUnavailable, ClusterView, Partition

HELPER: Final = Path(__file__).parents[1] / "pyslurm_helper" / "helper.py"
START_TIMEOUT_S: Final = 20.0
"""Importing pyslurm takes 0.3 s where it is on a local disk."""

ANSWER_TIMEOUT_S: Final = 15.0
"""Slurm's library tries for some 9 s while slurmctld is down."""

ANSWER_LIMIT_BYTES: Final = 256 << 20
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 60.0
_CHUNK_BYTES: Final = 1 << 20

FITTING_PAIRS: Final = frozenset([("25.11", "26.05")])
"""Releases of pyslurm and of Slurm's library that differ and were tried together; the same release always fits."""


@dataclass(frozen=True, slots=True)
class PyslurmVersions:
    """What a helper said of itself: pyslurm's version, and the release of the Slurm library it has loaded."""

    pyslurm: str
    slurm: str

    @property
    def misfit(self) -> str:
        """Why these two are not used together, or ""."""
        release = ".".join(self.pyslurm.split(".")[:2])
        if release == self.slurm or (release, self.slurm) in FITTING_PAIRS:
            return ""
        return f"pyslurm {self.pyslurm} is not known to fit Slurm {self.slurm or 'of an unknown release'}"


class PyslurmView:
    """Reads the cluster by pyslurm. Give it the interpreter that has pyslurm; one helper runs at a time."""

    def __init__(self, python: str, settings: CliView | None = None) -> None:
        self._helper = PyslurmHelper([python, "-I", str(HELPER)])
        self._settings = settings or CliView()

    async def versions(self) -> PyslurmVersions:
        """Versions of pyslurm and its library. Raises ClusterUnavailable if it can't be imported."""
        return await asyncio.to_thread(self._helper.versions)

    async def ping(self) -> None:
        """One `scontrol ping`: the library itself tries for seconds while slurmctld is down."""
        await self._settings.ping()

    async def read(self) -> ClusterView:
        """Nodes, jobs and reservations: one question of each to the helper."""
        taken_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        nodes, jobs, reservations = await asyncio.to_thread(self._helper.ask, "nodes", "jobs", "reservations")
        return view_of(taken_boot_s, nodes, jobs, reservations)

    async def partitions(self) -> tuple[Partition, ...]:
        """All partitions, by `scontrol`."""
        return await self._settings.partitions()

    async def config(self) -> ClusterConfig:
        """Settings of the cluster, by `scontrol`."""
        return await self._settings.config()

    @property
    def helper_pid(self) -> int | None:
        """Pid of the running helper, for tests and `rfaas slurm check`; None: none runs."""
        return self._helper.pid

    def close(self) -> None:
        """End the helper."""
        self._helper.end()


class PyslurmHelper:
    """A helper process and the questions to it; blocking, one question at a time, from any thread.

    One that died, did not answer in time or said something else is killed, and the question fails. The next question
    starts another, but not before a pause that doubles from FIRST_PAUSE_S to LONGEST_PAUSE_S with each death in a row,
    between half and whole; until then questions fail at once.

    Args:
        command: starts the helper.
        environment: added to the current one.
        now: the monotonic clock, in seconds.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = tuple(command)
        self._environment = {**os.environ, **(environment or {})}
        self._now = now
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._versions = PyslurmVersions("", "")
        self._deaths = 0  # in a row
        self._not_before_s = 0.0

    @property
    def pid(self) -> int | None:
        """Pid of the running helper; None: none runs."""
        process = self._process
        return None if process is None else process.pid

    def versions(self) -> PyslurmVersions:
        """What the helper said of itself, started if it does not run. Raises ClusterUnavailable."""
        with self._lock:
            self._ensure_running()
            return self._versions

    def ask(self, *names: str) -> list[dict[str, Any]]:
        """The lists of these names, in order.

        Raises:
            ClusterUnavailable: no helper can be started, it died, did not answer in time, or Slurm did not answer it.
        """
        with self._lock:
            self._ensure_running()
            answers = [self._question(name) for name in names]
            self._deaths = 0
            return answers

    def end(self) -> None:
        """End the helper, if one runs; a later question starts another."""
        with self._lock:
            self._kill()

    def _ensure_running(self) -> None:
        if self._process is not None:
            return
        wait_s = self._not_before_s - self._now()
        if wait_s > 0:
            raise ClusterUnavailable(f"the pyslurm helper died {self._deaths} times; the next starts in {wait_s:.1f} s")
        try:
            process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environment, cwd="/"
            )
        except OSError as error:
            raise ClusterUnavailable(f"the pyslurm helper can't be started: {error}") from error
        self._process = process
        self._finalizer = weakref.finalize(self, _end, process)
        hello = self._answer("its start", START_TIMEOUT_S)
        if "errors" in hello:
            self._kill()
        refuse_errors(hello, f"pyslurm in {self._command[0]}")
        self._versions = PyslurmVersions(str(hello.get("pyslurm", "")), str(hello.get("slurm", "")))

    def _question(self, name: str) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{name}\n".encode())
            self._process.stdin.flush()
        except OSError:
            raise self._death(name, "") from None
        answer = self._answer(name, ANSWER_TIMEOUT_S)
        refuse_errors(answer, "pyslurm")
        return answer

    def _answer(self, what: str, timeout_s: float) -> dict[str, Any]:
        deadline_s = time.monotonic() + timeout_s
        buffer = bytearray()
        try:
            while b"\n" not in buffer and len(buffer) < 20:
                buffer += self._some(deadline_s)
            head, _, rest = bytes(buffer).partition(b"\n")
            size = int(head)
            if not 0 <= size <= ANSWER_LIMIT_BYTES:
                raise ValueError(f"an answer of {size} bytes")
            body = bytearray(rest)
            while len(body) < size:
                body += self._some(deadline_s)
            answer = json.loads(bytes(body))
            if not isinstance(answer, dict):
                raise ValueError("no JSON object")
        except (OSError, EOFError, ValueError, RecursionError) as error:
            raise self._death(what, str(error)) from error
        return answer

    def _some(self, deadline_s: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        poller = select.poll()  # unlike select(2) it takes any descriptor
        poller.register(self._process.stdout, select.POLLIN)
        if not poller.poll(max(0.0, deadline_s - time.monotonic()) * 1e3):
            raise TimeoutError("no answer in time")
        data = os.read(self._process.stdout.fileno(), _CHUNK_BYTES)
        if not data:
            raise EOFError
        return data

    def _death(self, what: str, why: str) -> ClusterUnavailable:
        process = self._process
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may be dying: then its own status says more than ours
            process.wait(0.2)
        status = process.returncode
        self._kill()
        self._deaths += 1
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._deaths - 1, 10)) * random.uniform(0.5, 1.0)
        self._not_before_s = self._now() + pause_s
        how = f"was killed ({why})" if status is None else _ending(status)
        return ClusterUnavailable(f"the pyslurm helper {how} at {what}")

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            self._finalizer.detach()
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a helper and reap it."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what was written and not read
                pipe.close()


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"died of {signal.Signals(-status).name}"
    except ValueError:
        return f"died of signal {-status}"
