"""How long a rigid job waits for its first instruction: alone, beside a harvest that vanishes at once, beside rfaas.

slurmctld's own loop is part of every delay and varies with the machine's load, so a figure means something only
beside the others of the same run: `compare` takes them in turn. The clock is CLOCK_BOOTTIME, read by a C program
(delay_probe.c) before srun starts and in the task's `main`. A timing run should declare no more CPUs than exist.
"""

import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from cluster.rig import HEAD, Cluster, User, commands
from support.waiting import wait_until

SOURCE = Path(__file__).with_name("delay_probe.c")
REPORT = re.compile(r"^rfaas-delay (\w+) (\S+) (\d+)$", re.MULTILINE)
COMMAND_TIMEOUT_S = 30.0
READY_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class TaskStart:
    """One task of a rigid job: where, and when its first instruction ran (CLOCK_BOOTTIME)."""

    node: str
    began_ns: int


@dataclass(frozen=True)
class RigidStart:
    """When srun was started and when each of its tasks began."""

    launched_ns: int
    tasks: tuple[TaskStart, ...]

    @property
    def delay_s(self) -> float:
        """From srun's start to the first instruction of the first task."""
        return (min(task.began_ns for task in self.tasks) - self.launched_ns) / 1e9

    @property
    def last_delay_s(self) -> float:
        """The same for the last task."""
        return (max(task.began_ns for task in self.tasks) - self.launched_ns) / 1e9

    @property
    def nodes(self) -> list[str]:
        """The job's nodes, sorted."""
        return sorted({task.node for task in self.tasks})


class Load(Protocol):
    """What fills the cluster while a rigid job arrives."""

    def n_taken(self) -> int:
        """Slices that were taken back so far."""
        ...


class NoHarvest:
    """A cluster that does nothing else."""

    def n_taken(self) -> int:
        """None: there is nothing to take."""
        return 0


@dataclass(frozen=True)
class InstantHarvest:
    """Preemptible jobs whose step exits at once on SIGTERM: the least delay that any harvest can cause."""

    folder: Path
    n_slices: int
    submit: Callable[[], object]  # one of them

    def fill(self) -> None:
        """Submit a job for each slice that was taken, and wait for the steps. Raises AssertionError: not in time."""
        wanted = self.n_taken() + self.n_slices
        for _ in range(wanted - self.n_ready()):
            self.submit()
        wait_until(lambda: self.n_ready() == wanted, READY_TIMEOUT_S, "the harvest steps")

    def n_ready(self) -> int:
        """Steps that run and wait for SIGTERM, or have had it."""
        return len(self._times("ready"))

    def n_taken(self) -> int:
        """Steps that got SIGTERM."""
        return len(self.terminated_ns())

    def terminated_ns(self) -> list[int]:
        """When each of them got it (CLOCK_BOOTTIME), in order."""
        return self._times("terminated")

    def _times(self, word: str) -> list[int]:
        reports = (REPORT.findall(file.read_text()) for file in self.folder.iterdir())
        return sorted(int(time_ns) for lines in reports for found, _, time_ns in lines if found == word)


@dataclass(frozen=True)
class Delays:
    """The starts measured for one case, in order, each with the slices that the rigid job took."""

    name: str
    starts: tuple[RigidStart, ...]
    taken: tuple[int, ...]

    @property
    def median_s(self) -> float:
        """Median of the first tasks' delays."""
        return statistics.median(start.delay_s for start in self.starts)

    @property
    def worst_s(self) -> float:
        """The longest of them."""
        return max(start.delay_s for start in self.starts)

    def __str__(self) -> str:
        return f"{self.name}: median {self.median_s:.3f} s, worst {self.worst_s:.3f} s, n={len(self.starts)}"


@dataclass(frozen=True)
class Probe:
    """The compiled delay_probe where every user of one cluster can run it."""

    cluster: Cluster
    path: Path

    def rigid_start(
        self, user: User, srun_options: Sequence[str], timeout_s: float, command: Sequence[str] = ()
    ) -> RigidStart:
        """Run a rigid job to its end and return when its tasks began.

        Args:
            user: who submits it, on the head.
            srun_options: e.g. `["-N2", "--exclusive"]`.
            timeout_s: for the whole job; then srun is killed, and the job stays until `Cluster.remove_users_things`.
            command: what each task becomes after its report; it ends at once if empty.

        Raises:
            CommandFailed, CommandTimeout: the job failed or did not end.
        """
        return self._interactive_start(user, ["srun", *srun_options, str(self.path), "task", *command], timeout_s)

    def start_by(self, how: str, user: User, options: Sequence[str], timeout_s: float) -> RigidStart:
        """Run a rigid job that ends at once, submitted by srun, by salloc (and srun in it), or by sbatch.

        Args:
            how: one of these three words.
            user: who submits it, on the head.
            options: which all three understand, e.g. `["-N2", "--exclusive"]`.
            timeout_s: for its submission, and for a batch job's first instruction.

        Raises:
            CommandFailed, CommandTimeout: it was refused, failed (a hook may do that) or did not end.
            AssertionError: a batch job did not begin, or did not end as COMPLETED.
        """
        if how == "sbatch":
            return self._batch_start(user, options, timeout_s)
        step = [] if how == "srun" else ["srun", "--quiet"]
        return self._interactive_start(user, [how, "--quiet", *options, *step, str(self.path), "task"], timeout_s)

    def _interactive_start(self, user: User, command: Sequence[str], timeout_s: float) -> RigidStart:
        lines = REPORT.findall(user.run(HEAD, [str(self.path), "launch", *command], timeout_s).stderr)
        tasks = tuple(TaskStart(node, int(time_ns)) for word, node, time_ns in lines if word == "task")
        (launched_ns,) = (int(time_ns) for word, _, time_ns in lines if word == "launch")
        assert tasks, "no task reported its start"
        return RigidStart(launched_ns, tasks)

    def _batch_start(self, user: User, options: Sequence[str], timeout_s: float) -> RigidStart:
        """As `start_by`: the probe is the script's interpreter, so that no shell's start is in the figure."""
        script = user.put("rigid-batch", f"#!{self.path} script\n", mode=0o700)
        output = user.home / "rigid-batch.out"
        output.unlink(missing_ok=True)
        where = ["--parsable", "-o", f"{user.account.home}/{output.name}"]
        done = user.run(HEAD, [str(self.path), "launch", "sbatch", *where, *options, script], timeout_s)
        job_id = done.stdout.strip()
        text = wait_until(
            lambda: output.read_text() if output.exists() else "", timeout_s, f"the start of job {job_id}"
        )
        show = ["scontrol", "-o", "show", "job", job_id]

        def state() -> str:
            found = re.search(r"JobState=(\w+)", self.cluster.head.run_as_root(*show))
            return found[1] if found and found[1] not in ("RUNNING", "COMPLETING") else ""

        ended = wait_until(state, timeout_s, f"the end of job {job_id}")
        assert ended == "COMPLETED", f"job {job_id} ended as {ended}"
        (launched_ns,) = (int(time_ns) for word, _, time_ns in REPORT.findall(done.stderr) if word == "launch")
        ((_, node, began_ns),) = REPORT.findall(text)
        return RigidStart(launched_ns, (TaskStart(node, int(began_ns)),))

    @contextmanager
    def no_harvest(self) -> Iterator[NoHarvest]:
        """All nodes idle. Raises RigError when they do not become so."""
        self.cluster.wait_idle()
        yield NoHarvest()
        self.cluster.wait_idle()

    @contextmanager
    def instant_harvest(
        self, user: User, *, slice_cpus: int | None = None, slice_memory_mib: int | None = None
    ) -> Iterator[InstantHarvest]:
        """Every node full of slices, one preemptible job each (an sbatch script runs the step under srun).

        Args:
            user: whose jobs they are.
            slice_cpus: CPUs of a slice; the whole node if None.
            slice_memory_mib: its memory; the node's in proportion to the CPUs if None.

        Raises:
            RigError, AssertionError: the nodes were not idle before, or the steps did not start; no job is left.
        """
        settings = self.cluster.settings
        cpus = slice_cpus or settings.cpus
        memory_mib = slice_memory_mib or settings.memory_mib * cpus // settings.cpus
        self.cluster.wait_idle()
        folder = self._fresh_folder(user)
        step = f"exec srun -n1 -c{cpus} {self.path} harvest {folder.relative_to(user.home)}/$SLURM_JOB_ID\n"
        script = user.put("instant-harvest.sh", "#!/bin/sh\n" + step)
        options = ["-p", "harvest", "-n1", f"-c{cpus}", f"--mem={memory_mib}", "-o", "/dev/null", "-J", "instant"]
        submit = partial(user.run, HEAD, ["sbatch", *options, script], COMMAND_TIMEOUT_S)
        harvest = InstantHarvest(folder, settings.nodes * (settings.cpus // cpus), submit)
        try:
            harvest.fill()
            yield harvest
        finally:
            user.run(HEAD, ["scancel", "--name=instant", f"--user={user.name}"], COMMAND_TIMEOUT_S)
            self.cluster.wait_idle()

    @staticmethod
    def _fresh_folder(user: User) -> Path:
        """A new folder of the user's: steps of an earlier harvest must not count."""
        number = len(list(user.home.glob("instant-harvest-*")))
        user.put(f"instant-harvest-{number}/about", "one file a job\n")
        return user.home / f"instant-harvest-{number}"


def build_probe(cluster: Cluster) -> Probe:
    """Compile delay_probe.c into the cluster's shared folder. Raises CommandFailed with the compiler's output."""
    path = cluster.layout.share / "delay_probe"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    commands.run(["cc", "-O2", "-std=c11", *warnings, "-o", str(path), str(SOURCE)], timeout_s=COMMAND_TIMEOUT_S)
    path.chmod(0o755)
    return Probe(cluster, path)


def compare(
    cases: Mapping[str, Callable[[], AbstractContextManager[Load]]], measure: Callable[[], RigidStart], rounds: int
) -> dict[str, Delays]:
    """Measure each case once a round, beginning with another each round, so that all see the same machine.

    Args:
        cases: by name, what fills the cluster: entered before the measurement and left after it.
        measure: starts one rigid job, e.g. `lambda: probe.rigid_start(bob, ["-N2", "--exclusive"], 60)`.
        rounds: how often.

    Raises:
        Whatever a case or `measure` raises; nothing of it is running then.
    """
    names = list(cases)
    results: dict[str, list[tuple[RigidStart, int]]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            with cases[name]() as load:
                taken_before = load.n_taken()
                start = measure()
                results[name].append((start, load.n_taken() - taken_before))
    return {
        name: Delays(name, tuple(start for start, _ in pairs), tuple(taken for _, taken in pairs))
        for name, pairs in results.items()
    }
