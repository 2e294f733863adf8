"""Give nodes of one's own Slurm job back while it runs: `give_back_nodes`.

Slurm takes whole nodes of a running job and gives none (docs/malleable.md): more workers come from an `Executor`, which
needs no node of the job. Must not do anything unless asked; talks to Slurm by its own commands, as the user.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from rfaas_transport.errors import ConfigError, RfaasError

COMMAND_S: Final = 30.0  # a busy slurmctld takes its time
LONGEST_S: Final = 86_400.0
POLL_S: Final = 0.1
SCRIPT_STEPS: Final = ("batch", "extern", "interactive")  # the job's own, on its first node or on all
_RUN: Final = re.compile(r"^(\d+)(?:\(x(\d+)\))?$")  # of Slurm's counts by node: "4(x2),2"


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What became of a job.

    Attributes:
        kept: nodes that it has now.
        gone: nodes that it gave back.
        environment: variables of Slurm's that say something else now; empty for another job than the caller's own.
    """

    kept: tuple[str, ...]
    gone: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def give_back_nodes(
    n_keep: int | None = None,
    *,
    keep: Iterable[str] = (),
    job_id: str | None = None,
    set_environment: bool = True,
    timeout_s: float = COMMAND_S,
) -> Shrunk:
    """Give nodes of a running Slurm job back, and wait until Slurm says that they are gone.

    The node of the batch script (or of salloc's shell) and the one that this process runs on are always kept, and no
    node goes on which a step of the job runs: Slurm would kill that step, wherever else it runs too. End the step
    first, an MPI program with all its ranks. What runs nowhere else but in an `Executor` is not concerned: that is no
    step of this job.

    Args:
        n_keep: nodes to keep, at least 1; None: those of `keep`. Nodes in `keep` count first, then those with steps,
            then the job's order.
        keep: names of nodes that must stay.
        job_id: None: SLURM_JOB_ID. Of an array one task is meant, the one that has this id as its SLURM_JOB_ID.
        set_environment: put `Shrunk.environment` into `os.environ`, so that the next srun knows.
        timeout_s: of each command, and of the wait.

    Returns:
        What was kept and what went. With nothing to give back nothing is asked of Slurm.

    Raises:
        ConfigError: no job, one that does not run or is a part of a heterogeneous job, a value of a wrong type, names
            that are not its nodes, or fewer nodes than must stay; Slurm was asked for nothing.
        RfaasError: a command failed, or Slurm did not do it in time: `scontrol show job` says what holds.
    """
    keep = _checked(n_keep, keep, timeout_s)
    job = str(job_id or os.environ.get("SLURM_JOB_ID", ""))
    if not (job.isascii() and job.isdecimal()):
        raise ConfigError(f"{job!r} is no Slurm job", hint="call it inside of a job, or give job_id=")
    told = _job(job, timeout_s)
    own = job == os.environ.get("SLURM_JOB_ID")
    job = _alone(told)
    nodes = _hostnames(told["NodeList"], timeout_s)
    must = _must_stay(nodes, keep, told, _steps(job, timeout_s))
    chosen = _choose(nodes, must, n_keep, wished=keep)
    gone = tuple(node for node in nodes if node not in chosen)
    if not gone:
        return Shrunk(chosen, ())
    with tempfile.TemporaryDirectory() as scratch:  # scontrol writes a script for shells where it runs
        _run("scontrol", "update", f"JobId={job}", f"NodeList={','.join(chosen)}", timeout_s=timeout_s, cwd=scratch)
    _wait_for(job, chosen, timeout_s)
    environment = _environment(nodes, chosen, os.environ) if own else {}
    if set_environment:
        os.environ.update(environment)
    return Shrunk(chosen, gone, environment)


def _checked(n_keep: object, keep: object, timeout_s: object) -> tuple[str, ...]:
    """What is to be kept, by name. Raises ConfigError: a value is of another kind; nothing was asked of Slurm."""
    if n_keep is not None and (isinstance(n_keep, bool) or not isinstance(n_keep, int)):
        raise ConfigError(f"n_keep={n_keep!r} is no number of nodes", hint="write a whole number, at least 1")
    if isinstance(keep, str) or not isinstance(keep, Iterable):
        raise ConfigError(f"keep={keep!r} is no list of names", hint='write keep=["n7", "n9"]')
    names = tuple(keep)
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"keep={names!r}: names of nodes are texts", hint='write keep=["n7", "n9"]')
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s <= LONGEST_S:
        raise ConfigError(f"timeout_s={timeout_s!r}", hint=f"seconds: above 0, at most {LONGEST_S:g}")
    return names


def _job(job: str, timeout_s: float) -> dict[str, str]:
    """The fields of a running job.

    Raises:
        ConfigError: it does not run.
    """
    lines = _run("scontrol", "show", "job", "-o", job, timeout_s=timeout_s).splitlines()
    return _told(job, lines)


def _told(job: str, lines: Iterable[str]) -> dict[str, str]:
    """The line of this job among what scontrol printed: the id of an array's last task is that of the whole array."""
    found = (dict(part.partition("=")[::2] for part in line.split()) for line in lines)
    told = next((each for each in found if job in (each.get("JobId"), _alone(each))), {})
    if told.get("JobState") != "RUNNING":
        state = told.get("JobState", "unknown")
        raise ConfigError(f"job {job} is {state}", hint="only a running job has nodes to give back")
    if "HetJobId" in told:
        raise ConfigError(
            f"job {job} is a part of the heterogeneous job {told['HetJobId']}",
            hint="its parts can't be told apart safely here: run what shall shrink as a job of its own",
        )
    return told


def _alone(told: Mapping[str, str]) -> str:
    """What names this job and no other: `scontrol update JobId=` with the id of an array changes all its tasks."""
    task = told.get("ArrayTaskId", "")
    return f"{told['ArrayJobId']}_{task}" if task.isdecimal() else told.get("JobId", "")


def _steps(job: str, timeout_s: float) -> dict[str, list[str]]:
    """Nodes of each step that programs were started in."""
    lines = _run("squeue", "--steps", "--noheader", "-j", job, "-o", "%i %N", timeout_s=timeout_s).splitlines()
    found = (line.split() for line in lines if line.strip())
    named = {name: nodes for name, nodes in found if name.rpartition(".")[2] not in SCRIPT_STEPS}
    return {name: _hostnames(nodes, timeout_s) for name, nodes in named.items()}


def _must_stay(
    nodes: list[str], keep: tuple[str, ...], told: Mapping[str, str], steps: Mapping[str, list[str]]
) -> dict[str, str]:
    """Nodes that can't go, each with the reason."""
    strangers = [node for node in keep if node not in nodes]
    if strangers:
        raise ConfigError(
            f"{', '.join(strangers)}: no nodes of this job", hint=f"its nodes are {', '.join(nodes)}, by these names"
        )
    must = dict.fromkeys(keep, "named in keep")
    must |= {node: f"step {name} runs there" for name, on in steps.items() for node in on if node in nodes}
    here = socket.gethostname().partition(".")[0]
    must |= {node: "this process runs there" for node in nodes if node.partition(".")[0] == here}
    if (first := told.get("BatchHost")) in nodes:
        must[first or ""] = "the job's script runs there"
    return must


def _choose(nodes: list[str], must: Mapping[str, str], n_keep: int | None, wished: tuple[str, ...]) -> tuple[str, ...]:
    if n_keep is None and not wished:
        raise ConfigError("nothing says what to keep", hint="give n_keep=, or keep= with names of nodes")
    n = len({*wished, *must}) if n_keep is None else n_keep
    if not len(must) <= n <= len(nodes) or n < 1:
        why = "; ".join(f"{node}: {reason}" for node, reason in must.items())
        raise ConfigError(
            f"{n} nodes can't be kept of {len(nodes)}: {len(must)} must stay ({why})",
            hint="end the steps on nodes that are to go, and keep at least those that must stay",
        )
    others = [node for node in nodes if node not in must]
    kept = {*must, *others[: n - len(must)]}
    return tuple(node for node in nodes if node in kept)


def _environment(nodes: list[str], kept: tuple[str, ...], environ: Mapping[str, str]) -> dict[str, str]:
    """What an srun goes by, of those variables that are set: Slurm's own script leaves the numbers of tasks out."""
    found = dict.fromkeys(("SLURM_JOB_NUM_NODES", "SLURM_NNODES"), str(len(kept)))
    found |= dict.fromkeys(("SLURM_JOB_NODELIST", "SLURM_NODELIST"), ",".join(kept))
    for name in "SLURM_JOB_CPUS_PER_NODE", "SLURM_TASKS_PER_NODE":
        counts = dict(zip(nodes, _counts(environ.get(name, "")), strict=False))
        if len(counts) == len(nodes):
            found[name] = ",".join(counts[node] for node in kept)
            if name == "SLURM_TASKS_PER_NODE":
                n_tasks = sum(int(counts[node]) for node in kept)
                found |= dict.fromkeys(("SLURM_NTASKS", "SLURM_NPROCS"), str(n_tasks))
    return {name: value for name, value in found.items() if name in environ}


def _counts(text: str) -> list[str]:
    """Slurm's "4(x2),2" as 4, 4, 2; empty if it is written in another way."""
    runs = [_RUN.match(part) for part in text.split(",")]
    return [run[1] for run in runs if run for _ in range(int(run[2] or 1))] if all(runs) else []


def _wait_for(job: str, kept: tuple[str, ...], timeout_s: float) -> None:
    until_s = time.monotonic() + timeout_s
    while sorted(now := _hostnames(_job(job, timeout_s)["NodeList"], timeout_s)) != sorted(kept):
        if time.monotonic() > until_s:
            raise RfaasError(
                f"job {job} still has {', '.join(now)} {timeout_s:g} s after Slurm took the change",
                hint="slurmctld's log says why; the job goes on with what it has",
            )
        time.sleep(POLL_S)


def _hostnames(expression: str, timeout_s: float) -> list[str]:
    return _run("scontrol", "show", "hostnames", expression, timeout_s=timeout_s).split()


def _run(*command: str, timeout_s: float, cwd: str | None = None) -> str:
    """The output of one of Slurm's commands.

    Raises:
        RfaasError: it failed.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, cwd=cwd, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RfaasError(
            f"{shlex.join(command)}: {error}", hint="are Slurm's commands in PATH, and is it up?"
        ) from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
        again = "Slurm without an accounting database shrinks a job once: give back all at once; with one, try again"
        hint = again if "DB index" in said else "the job goes on as it is"
        raise RfaasError(f"{shlex.join(command)}: {said}", hint=hint)
    return done.stdout
