"""The cluster as sinfo, squeue and scontrol tell it (JSON from Slurm 20.11 on).

Starts Slurm's own commands, nothing else; each with a time limit, since they hang while slurmctld is down. Field names
changed over the releases (numbers became {"set", "number"} objects, states became lists): both forms are read.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rfaas_slurm_plugin import hostlist
from rfaas_slurm_plugin.view import ClusterConfig, ClusterUnavailable, ClusterView, Job, Node, Partition

COMMAND_TIMEOUT_S = 15.0
"""slurmctld answers in milliseconds; its own clients give up after MessageTimeout, 10 s by default."""


class CliView:
    """Reads the cluster by Slurm's commands. `environment` is added to the current one (SLURM_CONF, PATH)."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = {**os.environ, **(environment or {})}

    async def read(self) -> ClusterView:
        """Nodes and jobs: one `sinfo` and one `squeue`, side by side."""
        taken_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        nodes, jobs = await asyncio.gather(
            self._json(["sinfo", "--all", "--json"]), self._json(["squeue", "--all", "--states=all", "--json"])
        )
        try:
            return ClusterView(
                taken_boot_s=taken_boot_s,
                nodes=parse_nodes(nodes),
                jobs=tuple(_job(job) for job in jobs["jobs"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ClusterUnavailable(f"Slurm's JSON has a form that is not known here: {error!r}") from error

    async def partitions(self) -> tuple[Partition, ...]:
        """All partitions, by `scontrol` (whose JSON came only with Slurm 23)."""
        text = await run(["scontrol", "--oneliner", "show", "partition"], self._environment)
        return tuple(_partition(line) for line in text.splitlines() if line.startswith("PartitionName="))

    async def config(self) -> ClusterConfig:
        """Settings of the cluster, by `scontrol show config`."""
        text = await run(["scontrol", "show", "config"], self._environment)
        pairs = {k.strip(): v.strip() for k, _, v in (line.partition("=") for line in text.splitlines())}
        return ClusterConfig(
            cluster=pairs.get("ClusterName", ""),
            preempt_type=pairs.get("PreemptType", ""),
            preempt_mode=pairs.get("PreemptMode", "OFF").upper(),
            kill_wait_s=float(pairs.get("KillWait", "30 sec").split()[0]),
            version=pairs.get("SLURM_VERSION", ""),
        )

    async def _json(self, command: Sequence[str]) -> dict[str, Any]:
        text = await run(command, self._environment)
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise ClusterUnavailable(f"{' '.join(command)}: not JSON: {text[:80]!r}") from error
        if not isinstance(answer, dict):
            raise ClusterUnavailable(f"{' '.join(command)}: not a JSON object")
        return answer


async def run(
    command: Sequence[str], environment: Mapping[str, str], stdin: str = "", timeout_s: float = COMMAND_TIMEOUT_S
) -> str:
    """Run one of Slurm's commands and return what it printed.

    Raises:
        ClusterUnavailable: not installed, failed, or no answer within the time; then it was killed.
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
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), timeout_s)
    except TimeoutError as error:
        raise ClusterUnavailable(f"{command[0]} gave no answer within {timeout_s:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise ClusterUnavailable(f"{' '.join(command)}: {err.decode(errors='replace').strip()[:300]}")
    return out.decode(errors="replace")


def parse_nodes(answer: Mapping[str, Any]) -> tuple[Node, ...]:
    """Nodes of `sinfo --json`, which lists nodes in 22.05 and rows of `sinfo` since 23.02."""
    if "nodes" in answer:
        return tuple(_node(node) for node in answer["nodes"])
    raise KeyError("no list of nodes; this Slurm's sinfo answers in another form")


def _node(node: Mapping[str, Any]) -> Node:
    return Node(
        name=str(node["name"]),
        address=str(node.get("address") or node["name"]),
        states=_states(node["state"]) | _states(node.get("state_flags", ())),
        partitions=tuple(node["partitions"]),
        cores=_number(node["cpus"]),
        allocated_cores=_number(node["alloc_cpus"]),
        memory_mib=_number(node["real_memory"]),
        allocated_memory_mib=_number(node["alloc_memory"]),
        slurmd_start_time_s=_number(node.get("slurmd_start_time")),
    )


def _job(job: Mapping[str, Any]) -> Job:
    states = _states(job["job_state"])
    return Job(
        job_id=_number(job["job_id"]),
        name=str(job["name"] or ""),
        user=str(job.get("user_name") or job.get("user_id")),
        partition=str(job["partition"] or ""),
        # COMPLETING is a flag beside the base state: it says that processes may still be there
        state="COMPLETING" if "COMPLETING" in states else next(iter(sorted(states)), ""),
        reason=str(job.get("state_reason") or ""),
        nodes=hostlist.expand(str(job.get("nodes") or "")),
        required_nodes=hostlist.expand(str(job.get("required_nodes") or "")),
        cores=_number(job.get("cpus")),
        memory_per_node_mib=_number(job.get("memory_per_node")),
        comment=_text(job.get("comment")),
        submit_time_s=_number(job["submit_time"]),
        start_time_s=_number(job.get("start_time")),
        end_time_s=_number(job.get("end_time")),
        preempt_time_s=_number(job.get("preempt_time")),
    )


def _states(value: object) -> frozenset[str]:
    if isinstance(value, str):
        value = re.split(r"[+,\s]", value)
    if not isinstance(value, Sequence):
        raise TypeError(f"a state is {type(value).__name__}")
    return frozenset(str(state).upper().strip("*~#!%$@^-") for state in value if state)


def _number(value: object) -> int:
    if isinstance(value, Mapping):
        value = value.get("number") if value.get("set", True) and not value.get("infinite") else None
    return int(value) if isinstance(value, int | float) else 0


def _text(value: object) -> str:
    if isinstance(value, Mapping):  # Slurm 23 on: {"administrator", "job", "system"}
        value = value.get("job")
    return str(value or "")


def _partition(line: str) -> Partition:
    pairs = dict(word.split("=", 1) for word in line.split() if "=" in word)
    grace = pairs.get("GraceTime", "0")
    return Partition(
        name=pairs["PartitionName"],
        nodes=() if pairs.get("Nodes") in (None, "(null)") else hostlist.expand(pairs["Nodes"]),
        up=pairs.get("State", "UP") == "UP",
        priority_tier=int(pairs.get("PriorityTier", "1")),
        preempt_mode=pairs.get("PreemptMode", "OFF").upper(),
        grace_s=0.0 if grace in ("NONE", "INFINITE", "UNLIMITED") else float(grace),
        max_time_s=duration_s(pairs.get("MaxTime", "UNLIMITED")),
    )


def duration_s(text: str) -> float | None:
    """Slurm's `days-hours:minutes:seconds` (each front part may be missing) in seconds; None: no limit.

    Raises:
        ValueError: not a duration of Slurm's.
    """
    if text.upper() in ("UNLIMITED", "INFINITE", "NONE", "PARTITION_LIMIT", "NOT_SET"):
        return None
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if len(parts) > 3:
        raise ValueError(f"{text!r} is not a duration")
    # without days one number is minutes and two are minutes:seconds; after "days-" one is hours, two are hours:minutes
    order = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    seconds = sum(part * unit for part, unit in zip(parts, order, strict=False))
    return float(seconds + (int(days) * 86_400 if dash else 0))
