"""The cluster as sinfo, squeue and scontrol tell it.

Starts Slurm's own commands, nothing else; each with a time limit, since they retry for seconds while slurmctld is down.
`sinfo --json` lists nodes in 22.05 and rows of its table since 23.02; `scontrol --json`, which lists nodes, came with
23.02: so whichever answers in the form of nodes is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rfaas_slurm_plugin.views.records import (
    UnknownForm,
    jobs_of,
    nodes_of,
    partition_line,
    refuse_errors,
    reservation_line,
)
from rfaas_slurm_plugin.views.view import ClusterConfig, ClusterUnavailable, ClusterView, Partition, Reservation

COMMAND_TIMEOUT_S: Final = 15.0
"""slurmctld answers in milliseconds; its own clients give up after MessageTimeout, 10 s by default."""

PING_TIMEOUT_S: Final = 5.0
KILLED_TIMEOUT_S: Final = 2.0
OUTPUT_LIMIT_BYTES: Final = 256 << 20
"""100,000 jobs are some 400 MB in `squeue --json` of 22.05, and nobody reads that every ten seconds."""

_SINFO: Final = ("sinfo", "--all", "--json")
_SQUEUE: Final = ("squeue", "--all", "--states=all", "--json")
_SCONTROL: Final = ("scontrol", "--json", "show", "nodes")


class CliView:
    """Reads the cluster by Slurm's commands. `environment` is added to the current one (SLURM_CONF, PATH)."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = {**os.environ, **(environment or {})}
        self._nodes_command: Sequence[str] = _SINFO

    async def ping(self) -> None:
        """One `scontrol ping`: it answers at once whether slurmctld is there or not, unlike every other command."""
        text = await run(["scontrol", "ping"], self._environment, timeout_s=PING_TIMEOUT_S)
        if not any(line.rstrip().endswith("UP") for line in text.splitlines()):
            raise ClusterUnavailable(f"scontrol ping: {text.strip()[:200]}")

    async def read(self) -> ClusterView:
        """Nodes, jobs and reservations: one `sinfo`, one `squeue` and one `scontrol`, side by side."""
        taken_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        nodes, jobs, reservations = await asyncio.gather(self._nodes(), self._jobs(), self._reservations())
        return ClusterView(
            taken_boot_s=taken_boot_s, nodes=nodes_of(nodes), jobs=jobs_of(jobs), reservations=reservations
        )

    async def partitions(self) -> tuple[Partition, ...]:
        """All partitions, by `scontrol`."""
        text = await run(["scontrol", "--all", "--oneliner", "show", "partition"], self._environment)
        return tuple(partition_line(line) for line in text.splitlines() if line.startswith("PartitionName="))

    async def config(self) -> ClusterConfig:
        """Settings of the cluster, by `scontrol show config`."""
        text = await run(["scontrol", "show", "config"], self._environment)
        pairs = {k.strip(): v.strip() for k, _, v in (line.partition("=") for line in text.splitlines())}
        try:
            kill_wait_s = float(pairs.get("KillWait", "30 sec").split()[0])
        except (IndexError, ValueError) as error:
            raise UnknownForm(f"scontrol show config: KillWait = {pairs['KillWait']!r} is no time") from error
        return ClusterConfig(
            cluster=pairs.get("ClusterName", ""),
            preempt_type=pairs.get("PreemptType", ""),
            preempt_mode=pairs.get("PreemptMode", "OFF").upper(),
            kill_wait_s=kill_wait_s,
            version=pairs.get("SLURM_VERSION", ""),
            slurm_uid=int(user[1]) if (user := re.search(r"\((\d+)\)$", pairs.get("SlurmUser", ""))) else 0,
        )

    async def _nodes(self) -> dict[str, Any]:
        answer = await self._json(self._nodes_command)
        if "nodes" not in answer and self._nodes_command is _SINFO:
            self._nodes_command = _SCONTROL
            answer = await self._json(_SCONTROL)
        return answer

    async def _jobs(self) -> dict[str, Any]:
        return await self._json(_SQUEUE)

    async def _reservations(self) -> tuple[Reservation, ...]:
        text = await run(["scontrol", "--oneliner", "show", "reservation"], self._environment)
        return tuple(reservation_line(line) for line in text.splitlines() if line.startswith("ReservationName="))

    async def _json(self, command: Sequence[str]) -> dict[str, Any]:
        text = await run(command, self._environment)
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ClusterUnavailable(f"{' '.join(command)}: not JSON: {text[:80]!r}") from error
        if not isinstance(answer, dict):
            raise ClusterUnavailable(f"{' '.join(command)}: not a JSON object")
        refuse_errors(answer, " ".join(command))
        return answer


async def run(
    command: Sequence[str], environment: Mapping[str, str], stdin: str = "", timeout_s: float = COMMAND_TIMEOUT_S
) -> str:
    """Run one of Slurm's commands and return what it printed.

    Raises:
        ClusterUnavailable: not installed, failed, printed more than OUTPUT_LIMIT_BYTES, or gave no answer within the
            time; in the last two cases it was killed.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environment),
        )
    except OSError as error:
        raise ClusterUnavailable(f"{command[0]} can't be started: {error}") from error
    try:
        out, err = await asyncio.wait_for(_communicate(process, stdin, command[0]), timeout_s)
    except TimeoutError as error:
        raise ClusterUnavailable(f"{command[0]} gave no answer within {timeout_s:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            # asyncio sees the end of a process only once its pipes are empty; a descendant may hold them open
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.communicate(), KILLED_TIMEOUT_S)
    if process.returncode:
        words = (err or out).decode(errors="replace").strip()[:300]  # scontrol ping complains on standard output
        raise ClusterUnavailable(f"{' '.join(command)}: {words}")
    return out.decode(errors="replace")


async def _communicate(process: asyncio.subprocess.Process, stdin: str, name: str) -> tuple[bytes, bytes]:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None

    async def feed(pipe: asyncio.StreamWriter) -> None:
        try:
            pipe.write(stdin.encode())
            await pipe.drain()
        except (BrokenPipeError, ConnectionResetError):
            pass  # it read nothing; its exit status says more
        finally:
            pipe.close()

    async def read(pipe: asyncio.StreamReader) -> bytes:
        found = bytearray()
        while data := await pipe.read(1 << 16):
            if len(found) <= OUTPUT_LIMIT_BYTES:
                found += data
            elif process.returncode is None:
                process.kill()  # and what it had printed is read and dropped: only then it counts as ended
        return bytes(found)

    _, out, err = await asyncio.gather(feed(process.stdin), read(process.stdout), read(process.stderr))
    await process.wait()
    if max(len(out), len(err)) > OUTPUT_LIMIT_BYTES:
        raise ClusterUnavailable(f"{name} printed more than {OUTPUT_LIMIT_BYTES >> 20} MiB")
    return out, err
