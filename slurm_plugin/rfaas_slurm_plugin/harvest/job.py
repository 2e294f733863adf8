"""The harvest job: its script, its submission, its cancellation.

One form for every GraceTime: a batch script that runs the agent as a *step*, because with GraceTime above 0 only steps
get the early SIGTERM (measured on 22.05, docs/slurm.md). The script ignores SIGTERM so that it outlives the step.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rfaas_slurm_plugin.policy.settings import JOB_NAME, HarvestPolicy, Submit
from rfaas_slurm_plugin.views.cli_view import run
from rfaas_slurm_plugin.views.view import ClusterUnavailable
from rfaas_transport.errors import ConfigError


@dataclass(frozen=True, slots=True)
class JobTemplate:
    """What all harvest jobs of one `rfaas up` have in common."""

    state_dir: Path
    daemon_python: str
    alloc_id: str  # 32 hex digits: whose jobs these are
    grace_s: float
    drain_s: float
    extra: Sequence[str] = ()  # further options for sbatch, from the command line


def comment(template: JobTemplate, stamp: int) -> str:
    """What marks a job as a slice of this allocator, and this submission among all that ever got its job id."""
    return f"rfaas:{template.alloc_id}:{stamp}"


def stamp_of(text: str, alloc_id: str) -> int | None:
    """The stamp in a job's comment; None if the job is not a slice of this allocator."""
    parts = text.split(":")
    return int(parts[2]) if len(parts) == 3 and parts[:2] == ["rfaas", alloc_id] and parts[2].isdigit() else None


def script(template: JobTemplate, action: Submit, stamp: int) -> str:
    """The batch script of one slice."""
    agent = [
        template.daemon_python,
        *("-m", "rfaas_executors"),
        *("--state-dir", str(template.state_dir)),
        *("--cores", str(action.cores)),
        *("--memory-bytes", str(action.memory_mib << 20)),
        *("--grace-s", f"{template.grace_s:g}"),
        *("--drain-s", f"{template.drain_s:g}"),
        *("--submit-time", str(stamp)),
        # Slurm 22.05 tells a job nothing of its end; the script begins when the job does
        *(("--end-in-s", str(60 * action.time_limit_min)) if action.time_limit_min else ()),
        *("--listen", "auto"),
        *("--sched", "idle"),
        "--from-slurm",
    ]
    step = ["srun", "--quiet", "--mpi=none", "--ntasks=1", f"--cpus-per-task={action.cores}", "--kill-on-bad-exit=1"]
    return f"""#!/bin/sh
# A slice of rfaas: idle cores lent until Slurm takes them back. `rfaas status` shows it, `rfaas down` ends it.
trap '' TERM
{shlex.join(step)} {shlex.join(agent)}
"""


async def submit(
    template: JobTemplate, policy: HarvestPolicy, action: Submit, stamp: int, environment: Mapping[str, str]
) -> int:
    """Submit one slice and return its job id.

    Raises:
        ClusterUnavailable: sbatch failed or did not answer; in the second case the job may exist all the same, and the
            next view will show it by its comment.
    """
    log = template.state_dir / "log" / "slice-%j.log"
    command = [
        *("sbatch", "--parsable", f"--job-name={JOB_NAME}", f"--partition={policy.partition}"),
        *(f"--nodelist={action.node}", "--nodes=1", "--ntasks=1", f"--cpus-per-task={action.cores}"),
        *(f"--mem={action.memory_mib}", "--no-requeue", f"--comment={comment(template, stamp)}"),
        *(f"--output={log}", "--open-mode=append", f"--chdir={template.state_dir}", "--export=ALL"),
        *([f"--time={action.time_limit_min}"] if action.time_limit_min else []),
        *template.extra,
    ]
    answer = await run(command, environment, stdin=script(template, action, stamp))
    job_id = answer.strip().split(";")[0]
    if not job_id.isdigit():
        raise ClusterUnavailable(f"sbatch answered {answer.strip()[:100]!r}, which is no job id")
    return int(job_id)


async def refuse_wrong_options(partition: str, options: Sequence[str], environment: Mapping[str, str]) -> None:
    """Let sbatch itself judge options that a user passed on; nothing is submitted.

    Raises:
        ConfigError: sbatch refuses them; the message is its own.
    """
    command = ["sbatch", "--test-only", f"--partition={partition}", "--ntasks=1", *options]
    try:
        await run(command, environment, stdin="#!/bin/sh\n")
    except ClusterUnavailable as error:
        raise ConfigError(f"sbatch refuses the options passed on: {error}", hint="see man sbatch") from error


async def cancel(job_ids: Iterable[int], environment: Mapping[str, str]) -> None:
    """Cancel jobs; those that ended meanwhile are no error."""
    ids = [str(job_id) for job_id in job_ids]
    if ids:
        await run(["scancel", "--quiet", *ids], environment)
