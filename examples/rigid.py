"""The rigid side of example 05: ask Slurm for nodes, run the Jacobi job on them, measure when it began.

Plain srun and sinfo, as any user of the cluster would type them; nothing here knows rfaas. Times are seconds of
CLOCK_BOOTTIME, so delays are right where all nodes share one clock (as on one machine); on several machines they are
off by the difference of their boot times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from occupancy import Lifetime

JACOBI = Path(__file__).with_name("04_jacobi_mpi.py")


class RigidJobFailed(Exception):
    """srun ended with an error or not in time; nothing of the job is left running. The message holds its output."""


@dataclass(frozen=True, slots=True)
class RigidRun:
    """A rigid job that has ended well."""

    submitted_s: float  # just before srun was started
    ranks: list[Lifetime]  # where and when each rank ran; `who` is ("rank", number)

    @property
    def start_delay_s(self) -> float:
        """From srun to the first rank's process: what the job's owner waited."""
        return self.started_s - self.submitted_s

    @property
    def started_s(self) -> float:
        """When the first rank began."""
        return min(rank.t0_s for rank in self.ranks)

    @property
    def ended_s(self) -> float:
        """When the last rank was done."""
        return max(rank.t1_s for rank in self.ranks)


def is_there() -> bool:
    """True where a Slurm answers; its commands alone may be installed anywhere."""
    try:
        return bool(cluster_cores())
    except (OSError, subprocess.SubprocessError):
        return False


def cluster_cores() -> dict[str, int]:
    """Cores of each node, by name.

    Raises:
        OSError: there is no sinfo here.
        subprocess.SubprocessError: no Slurm answers.
    """
    command = ["sinfo", "--noheader", "--Node", "--format=%N %c"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    return {node: int(cores) for node, cores in sorted(line.split() for line in answer.splitlines())}


def run_job(
    n_nodes: int,
    ranks_per_node: int,
    seconds: float,
    folder: Path,
    *,
    partition: str | None = None,
    timeout_s: float = 120.0,
) -> RigidRun:
    """Run the Jacobi job on whole nodes and wait for its end.

    Args:
        n_nodes: nodes, taken exclusively.
        ranks_per_node: usually a node's cores.
        seconds: how long it computes at least.
        folder: for its record; seen by the nodes under the same name.
        partition: the default one if None.
        timeout_s: for waiting and starting, beyond `seconds`; then the job is cancelled.

    Raises:
        RigidJobFailed: see there.
    """
    record = folder / f"ranks-{os.getpid()}.json"
    command = ["srun", f"--nodes={n_nodes}", f"--ntasks-per-node={ranks_per_node}", "--exclusive", "--mpi=pmix"]
    command += [f"--partition={partition}"] if partition else []
    command += [sys.executable, str(JACOBI), "--size=32", f"--seconds={seconds:g}", f"--record={record}"]
    environment = {**os.environ, "OMPI_MCA_mpi_yield_when_idle": "1"}
    submitted_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    _run_srun(command, environment, seconds + timeout_s)
    ranks = json.loads(record.read_text())
    record.unlink()
    return RigidRun(submitted_s, [Lifetime(r["node"], ("rank", r["rank"]), r["t0_s"], r["t1_s"]) for r in ranks])


def _run_srun(command: list[str], environment: dict[str, str], timeout_s: float) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment) as srun:
        try:
            output, _ = srun.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            srun.terminate()  # unlike a kill, this lets srun give back what it has or waits for
            output, _ = srun.communicate(timeout=60)
            raise RigidJobFailed(f"not done after {timeout_s:g} s: {output}") from None
    if srun.returncode != 0:
        raise RigidJobFailed(f"exit status {srun.returncode}: {output}")
