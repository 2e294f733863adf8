"""One cell of `colocation.py` on the Slurm of tests/cluster/rig: bob's job on one core, alice's slice on the other.

The node has two cores, and Slurm keeps each job to its own by cpusets. All else (slurmctld, slurmd, munged, allocator,
harvester, the calling program) is moved to the functions' core; the job's own slurmstepd and srun are on its core.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests")]

from cluster.harvested import event_log, logged, rfaas_up  # type: ignore[import-not-found]  # noqa: E402
from cluster.rig import HEAD, Cluster, Settings, User, sweep  # type: ignore[import-not-found]  # noqa: E402
from support.waiting import wait_until  # type: ignore[import-not-found]  # noqa: E402

RUN_S = 60.0
PROGRAMS = (
    HERE / "colocation_rigid.py",
    HERE / "colocation_functions.py",
    HERE.parent / "examples/04_jacobi_mpi.py",
)
JOB = ["sbatch", "--parsable", "-n1", "-c1", "--mem=1000", "-wn1", "--output=job.out"]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
Stamps = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Timing:
    """How long the parts of a cell take.

    Args:
        n_blocks: of each sort.
        block_s: of each block.
        settle_s: functions run so long before the first block where the guard acts.
        n_alone: blocks of functions before the rigid code begins.
    """

    n_blocks: int
    block_s: float
    settle_s: float
    n_alone: int = 6

    @property
    def least_s(self) -> float:
        """What a cell takes, about: with its job, its slice, and their end."""
        return (2 * self.n_blocks + self.n_alone) * self.block_s + self.settle_s + 12.0


@dataclass(frozen=True)
class Cell:
    """What was seen in one cell; spans are (begin, end) in seconds of CLOCK_MONOTONIC."""

    stamps: Stamps
    beside: list[tuple[float, float]]
    between: list[tuple[float, float]]
    alone_work: list[float]
    beside_work: list[float]
    cpus: dict[str, list[int]]
    verdicts: list[str]


@contextmanager
def site() -> Iterator[Cluster]:
    """A node of two cores and a head, rfaas on them.

    Raises:
        RigError: it does not start here; the message says why.
    """
    sweep()
    cluster = Cluster(f"colocation-{os.getpid()}")
    try:
        cluster.start(Settings(nodes=1, cpus=2, memory_mib=4000, cgroups=True, bound=True), with_starter=True)
        cluster.install_wheel()
        for program in PROGRAMS:
            shutil.copy(program, cluster.layout.share)
            (cluster.layout.share / program.name).chmod(0o644)
        yield cluster
    finally:
        cluster.stop()


def measured(cluster: Cluster, code: str, load: str, guarded: bool, timing: Timing) -> Cell:
    """One cell; nothing of it is left on the cluster.

    Raises:
        AssertionError, CommandFailed: something did not come up; the message says what.
        RuntimeError: the two do not have a core each.
    """
    alice, bob = cluster.user("alice"), cluster.user("bob")
    environment = {**event_log(alice), "RFAAS_GUARD_ACT": "throttle" if guarded else "off"}
    try:
        with (
            _rigid(cluster, bob, code) as job_cpus,
            rfaas_up(cluster, alice, "--nodes", "n1", cores=1, env=environment),
            _functions(cluster, alice, load) as ask,
        ):
            cpus = {"rigid code": job_cpus, "functions": ask("cpus")}
            if set(job_cpus) & set(cpus["functions"]):
                raise RuntimeError(f"the two share a core: {cpus}; may this process use two cores or more?")
            _move_all_else(cluster, cpus["functions"])
            alone = ask(f"work {timing.n_alone} {timing.block_s}")
            bob.put("go", "")
            _await(bob, "running")
            if guarded:
                ask(f"work 1 {timing.settle_s}")
            turns = ask(f"turns {timing.n_blocks} {timing.block_s}")
            bob.put("end", "")
            _await(bob, "rigid.npy")
            stamps: Stamps = np.load(bob.home / "rigid.npy")
        return Cell(
            stamps,
            [(begin_s, end_s) for begin_s, end_s, _, _ in turns],
            [(end_s, over_s) for _, end_s, over_s, _ in turns],
            [units / (end_s - begin_s) for begin_s, end_s, _, units in alone],
            [units / (end_s - begin_s) for begin_s, end_s, _, units in turns],
            cpus,
            _said(alice),
        )
    finally:
        cluster.remove_users_things()


def _move_all_else(cluster: Cluster, cpus: list[int]) -> None:
    """Keep this process and all of both nodes to these CPUs; for the job's own the kernel refuses, by its cpuset."""
    os.sched_setaffinity(0, cpus)
    for pid in (process.pid for node in cluster.nodes for process in node.processes()):
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), cpus)


@contextmanager
def _rigid(cluster: Cluster, bob: User, code: str) -> Iterator[list[int]]:
    """The job, ready to begin: the CPUs that Slurm gave it."""
    program = cluster.layout.share / "colocation_rigid.py"
    wrapped = f"--wrap=srun {bob.python} {program} {code} {bob.account.home}"
    job_id = bob.run(HEAD, [*JOB, wrapped], RUN_S, env=ONE_THREAD).stdout.strip()
    try:
        _await(bob, "ready")
        cpus: list[int] = json.loads((bob.home / "ready").read_text())
        yield cpus
    finally:
        bob.run(HEAD, ["scancel", "--full", job_id], RUN_S)


def _await(bob: User, name: str) -> None:
    """Wait until the rigid code has written a file; what its job printed is told if it does not."""
    try:
        wait_until((bob.home / name).exists, RUN_S, f"the rigid code's {name}")
    except AssertionError as error:
        out = bob.home / "job.out"
        raise AssertionError(f"{error}: {out.read_text()[-2000:] if out.exists() else 'no job'}") from None


@contextmanager
def _functions(cluster: Cluster, alice: User, load: str) -> Iterator[Callable[[str], list[Any]]]:
    """The calling program: ask it by a line, have its answer."""
    command = ["python", str(cluster.layout.share / "colocation_functions.py"), load, alice.account.home]
    errors: IO[str]
    with (
        (cluster.layout.share / "functions.err").open("w+") as errors,
        alice.popen(HEAD, command, stdin=subprocess.PIPE, stderr=errors) as running,
    ):
        process = running.process
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(line: str) -> list[Any]:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                errors.seek(0)
                raise AssertionError(f"the calling program ended: {errors.read()[-2000:]}")
            found: list[Any] = json.loads(answer)
            return found

        yield ask
        process.stdin.close()
        running.wait(RUN_S)


def _said(alice: User) -> list[str]:
    """What the guard did, in order, and when, from its first word on."""
    events = logged(alice, "neighbours", role="agent")
    return [
        f"{event['verdict']} {event['share']:.2f} after {(event['t_boot_ns'] - events[0]['t_boot_ns']) / 1e9:.1f} s"
        + (f" by {event['watch'].split()[0]}" if event.get("watch") else "")
        for event in events
    ]


def steal_s() -> float:
    """Seconds of all CPUs that a hypervisor has taken since the boot."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")


def slurm_version() -> str:
    """Of the cluster's Slurm."""
    return subprocess.run(["slurmd", "-V"], capture_output=True, text=True, check=False).stdout.strip()
