"""A few questions to Slurm's own commands, for people: why a harvest job waits, what state a node is in.

Read with formats that every Slurm has; decisions are the harvester's, which reads the cluster by its own ways.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

from rfaas.cli.reasons import Reason

TIMEOUT_S: Final = 10.0
VERDICT_OLD_S: Final = 120
_WHY: Final = {
    "Priority": "jobs of higher priority come first",
    "Resources": "nothing is idle",
    "ReqNodeNotAvail": "the node is down, drained or reserved",
    "BeginTime": "Slurm requeued it and waits",
    "AssocGrpCpuLimit": "the account's limit of cores is reached",
    "QOSMaxJobsPerUserLimit": "the QOS allows no more jobs of yours",
}


def pending_jobs(alloc_id: str) -> list[Reason]:
    """Why harvest jobs of an allocator have not started; says so too if Slurm does not answer."""
    said = _ask(["squeue", "--me", "--noheader", "--states=PENDING", "--Format=JobID:20,Reason:40,Comment:80"])
    if isinstance(said, Reason):
        return [said]
    waiting = [line for line in said.splitlines() if alloc_id in line]
    counts: dict[str, int] = {}
    for line in waiting:
        reason = line[20:60].strip()
        counts[reason] = counts.get(reason, 0) + 1
    return [
        Reason(
            f"{n} harvest jobs are pending in Slurm: {why}{_meaning(why)}",
            "they start by themselves when cores are idle",
        )
        for why, n in counts.items()
    ]


def _meaning(why: str) -> str:
    known = next((text for name, text in _WHY.items() if why.startswith(name)), "")
    return f" ({known})" if known else ""


def node(name: str) -> list[Reason]:
    """What Slurm says of a node; nothing if there is no Slurm or no such node."""
    if shutil.which("scontrol") is None:
        return []
    said = _ask(["scontrol", "--oneliner", "show", "node", name])
    if isinstance(said, Reason):
        return []
    words = dict(re.findall(r"(\w+)=(\S+)", said))
    if words.get("NodeName") != name:
        return []
    reason = re.search(r"Reason=(.*?)(?: \[|$)", said)
    cores = f"{words.get('CPUAlloc', '?')} of {words.get('CPUTot', '?')} cores allocated"
    text = f"Slurm: {name} is {words.get('State', '?')}, {cores}"
    return [Reason(text + (f", because: {reason[1]}" if reason else ""), "")]


def verdict(state_dir: Path, name: str) -> list[Reason]:
    """What the harvester made of a node at its last look; nothing if none runs here, or it does not know the node.

    The file is the harvester's: rfaas_slurm_plugin/harvest/verdict_file.py.
    """
    try:
        told = json.loads((state_dir / "harvest.json").read_text())
        _, text, remedy = told["nodes"][name]
        age_s = max(0, int(time.time()) - int(told["at_unix_s"]))
    except (OSError, ValueError, KeyError, TypeError):
        return []
    old = f" ({age_s} s ago: does the harvester run? rfaas logs harvester)" if age_s > VERDICT_OLD_S else ""
    return [Reason(f"harvester: {text}{old}", remedy)]


def _ask(command: list[str]) -> str | Reason:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Reason(f"Slurm can't be asked: {error}", "rfaas doctor")
    if done.returncode != 0:
        return Reason(f"Slurm can't be asked: {done.stderr.strip()}", "rfaas doctor")
    return done.stdout
