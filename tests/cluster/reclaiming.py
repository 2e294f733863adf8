"""How long rigid jobs wait for nodes that are harvested: beside rfaas, beside the floor, beside nothing, by turns.

The floor is a harvest step that exits at once on SIGTERM, with the same slices. One `Part` is one cluster: a scheduler,
a GraceTime and a shape of slices. In it the loads take turns in blocks, there and back (plain, floor, rfaas, rfaas,
floor, plain), so that a machine that slows down slows all of them. Each measurement is a `Row`; those that are there
are not made again.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Protocol

from cluster.delay import InstantHarvest, Probe
from cluster.harvested import event_log, logged, rfaas_up
from cluster.hook_rig import unwell_nodes
from cluster.phases import PERIODS_S, share_of_turn, wait_for_phase
from cluster.rig import HEAD, Cluster, CommandFailed, CommandTimeout, Settings, User

LOADS = ("plain", "floor", "rfaas")
HOWS = ("srun", "sbatch", "salloc")
WORKERS = ("idle", "busy", "stubborn")
SCHEDULERS = {
    "tuned": Settings.scheduler,
    "default": "bf_interval=30",  # Slurm's own default: every other word is left out
}
SHAPES = {  # nodes, CPUs of each, CPUs of a slice; no more CPUs than a small machine has
    "whole nodes": (2, 1, 1),
    "single cores": (1, 2, 1),
}
SIZES = {  # of rigid jobs, by shape: options, and how many slices each takes
    "whole nodes": {"1 node": (["-N1", "--exclusive"], 1), "all nodes": (["-N2", "--exclusive"], 2)},
    "single cores": {"1 core": (["-n1", "-c1", "--mem=100"], 1)},
}
RUN_S = 60.0
READY_S = 60.0
HOOKS = ("Prolog", "Epilog", "PrologSlurmctld", "EpilogSlurmctld")

PROGRAM = Path(__file__).with_name("told_workers.py").read_text()


# --- what is measured -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """What one cluster is like."""

    scheduler: str
    grace_s: int
    shape: str

    @property
    def grace_of_calls_s(self) -> int:
        """What an agent counts on: GraceTime, or KillWait where that is 0."""
        return self.grace_s or Settings.kill_wait_s

    def settings(self, hook: str) -> Settings:
        """The cluster, with the hooks of site mode as `rfaas slurm install --hooks` writes them."""
        nodes, cpus, _ = SHAPES[self.shape]
        lines = [*(f"{name}={hook}" for name in HOOKS), "PrologFlags=Alloc"]
        return Settings(
            nodes=nodes,
            cpus=cpus,
            memory_mib=4000,
            grace_s=self.grace_s,
            scheduler=SCHEDULERS[self.scheduler],
            extra_conf="\n".join(lines) + "\n",
        )


PARTS = tuple(Part(s, grace_s, shape) for shape in SHAPES for s in SCHEDULERS for grace_s in (0, 5))


@dataclass(frozen=True)
class Case:
    """One measurement: which load, how its workers are, how the rigid job comes, how much it asks for, which time."""

    part: Part
    load: str
    workers: str  # of WORKERS; "" where the load has none
    how: str
    size: str
    number: int


@dataclass(frozen=True)
class Row:
    """What came of one case. `failed`: why the rigid job failed; `unwell`: nodes that were drained or down after it."""

    case: Case
    delay_s: float = 0.0
    taken: int = 0
    failed: str = ""
    unwell: str = ""
    told_s: float = 0.0  # from the submission to the last slice's SIGTERM
    phase_s: float = 0.0  # of a batch job, from the last harvest job's start to the submission; 0 without one

    def as_json(self) -> str:
        """A line."""
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, line: str) -> "Row":
        """Back. Raises ValueError, TypeError or KeyError for a line that was cut off."""
        words = json.loads(line)
        case = words.pop("case")
        return cls(case=Case(**{**case, "part": Part(**case["part"])}), **words)


def cases(part: Part, plain: int, idle: int, busy: int, stubborn: int) -> list[list[Case]]:
    """The blocks of a part: so many rounds of every kind of job for no harvest, and for workers by what they do.

    The floor gets as many rounds as idle workers, and each of its jobs comes at the same moment of slurmctld's turn
    as that of the same number beside idle workers.
    """
    kinds = [(how, size) for size in SIZES[part.shape] for how in HOWS]

    def block(load: str, numbers: range, workers: str) -> list[Case]:
        return [Case(part, load, workers, how, size, number) for number in numbers for how, size in kinds]

    half = (idle + 1) // 2
    first, second = range(half), range(half, idle)
    return [
        block("plain", range((plain + 1) // 2), ""),
        block("floor", first, ""),
        block("rfaas", first, "idle") + block("rfaas", range(busy), "busy"),
        block("rfaas", second, "idle") + block("rfaas", range(stubborn), "stubborn"),
        block("floor", second, ""),
        block("plain", range((plain + 1) // 2, plain), ""),
    ]


# --- what fills the cluster -------------------------------------------------------------------------------------------


class Load(Protocol):
    """What rigid jobs take their nodes from."""

    def fill(self, workers: str) -> None:
        """All slices are there again, and their workers are so."""
        ...

    def taken_ns(self) -> list[int]:
        """When slices were told to go, so far (CLOCK_BOOTTIME)."""
        ...


@dataclass(frozen=True)
class Plain:
    """Nothing: the cluster is idle."""

    cluster: Cluster

    def fill(self, workers: str) -> None:
        """All nodes idle. Raises RigError."""
        self.cluster.wait_idle()

    def taken_ns(self) -> list[int]:
        """None."""
        return []


@dataclass(frozen=True)
class Floor:
    """Steps that exit at once."""

    harvest: InstantHarvest

    def fill(self, workers: str) -> None:
        """Every slice has a step. Raises AssertionError."""
        self.harvest.fill()

    def taken_ns(self) -> list[int]:
        """When steps got SIGTERM."""
        return self.harvest.terminated_ns()


@dataclass
class Functions:
    """rfaas, and a program whose workers are idle, busy with short calls, or in calls that end by SIGKILL alone."""

    user: User
    process: subprocess.Popen[str]
    errors: IO[str]
    slices: int
    idle_for_s: float = field(default=0.3)

    def fill(self, workers: str) -> None:
        """Every slice is up and its workers are so. Raises AssertionError with what the program said."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{workers}\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        self.errors.seek(0)
        assert answer == "ready\n", f"{workers}: {answer!r} {self.errors.read()[-2000:]}"
        time.sleep(self.idle_for_s if workers == "idle" else 0.0)  # let them fall asleep

    def taken_ns(self) -> list[int]:
        """When agents got SIGTERM."""
        return [event["t_boot_ns"] for event in logged(self.user, "reclaim_sig", role="agent")]


@contextmanager
def _functions(cluster: Cluster, user: User, slice_cpus: int) -> Iterator[Functions]:
    cores = cluster.settings.nodes * cluster.settings.cpus
    given = {"n": cores, "witness": f"{user.account.home}/stubborn", "ready_s": READY_S}
    program = user.put("reclaimed.py", PROGRAM)
    (user.home / "stubborn").unlink(missing_ok=True)
    options = ["--slice-cores", str(slice_cpus)]
    with (
        (cluster.layout.share / "reclaimed.err").open("w+") as errors,
        rfaas_up(cluster, user, *options, env=event_log(user)),
        user.popen(HEAD, ["python", program, json.dumps(given)], stdin=subprocess.PIPE, stderr=errors) as running,
    ):
        yield Functions(user, running.process, errors, cores // slice_cpus)
        assert running.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            running.process.stdin.close()
        running.wait(RUN_S)


@contextmanager
def loaded(load: str, part: Part, probe: Probe, alice: User) -> Iterator[Load]:
    """The load for the length of the block. Raises what its start raises; nothing of it is left then."""
    cluster = probe.cluster
    slice_cpus = SHAPES[part.shape][2]
    if load == "plain":
        yield Plain(cluster)
    elif load == "floor":
        with probe.instant_harvest(alice, slice_cpus=slice_cpus) as harvest:
            yield Floor(harvest)
    else:
        with _functions(cluster, alice, slice_cpus) as functions:
            yield functions
    cluster.wait_idle()


def measured(case: Case, load: Load, probe: Probe, bob: User) -> Row:
    """Fill the cluster, submit one rigid job, and say how it went."""
    sizes = SIZES[case.part.shape]
    options, _ = sizes[case.size]
    load.fill(case.workers)
    before, phase_s = len(load.taken_ns()), 0.0
    if case.how == "sbatch":
        share = share_of_turn(case.number, list(sizes).index(case.size))
        phase_s = wait_for_phase(probe.cluster, PERIODS_S[case.part.scheduler], share)
    try:
        start = probe.start_by(case.how, bob, options, RUN_S)
    except (CommandFailed, CommandTimeout, AssertionError) as error:
        return Row(case, failed=str(error)[-500:], unwell=unwell_nodes(probe.cluster))
    taken = load.taken_ns()[before:]
    told_s = (max(taken) - start.launched_ns) / 1e9 if taken else 0.0
    return Row(case, start.delay_s, len(taken), "", unwell_nodes(probe.cluster), told_s, phase_s)


def run_part(
    part: Part,
    blocks: Sequence[Sequence[Case]],
    cluster: Cluster,
    users: tuple[User, User],
    probe: Probe,
    add: Callable[[Row], None],
    until_s: float = float("inf"),
) -> bool:
    """Measure the cases on a running cluster, one load after the other; True if all were, False if time was up.

    Args:
        part: what the cluster is like.
        blocks: of `cases`, without what was measured before.
        users: whose the harvest is, and whose the rigid jobs are.
        add: gets each row.
        until_s: `time.monotonic()` after which no job is begun.
    """
    alice, bob = users
    for block in blocks:
        if not block:
            continue
        if time.monotonic() > until_s:
            return False
        with loaded(block[0].load, part, probe, alice) as load:
            for case in block:
                if time.monotonic() > until_s:
                    return False
                add(measured(case, load, probe, bob))
        cluster.remove_users_things()
    return True
