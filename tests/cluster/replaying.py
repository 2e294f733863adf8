"""A stretch of a day, compressed, on the real slurmctld: rigid jobs come and go, and something fills the gaps.

Lengths of gaps and jobs are drawn from log-normal distributions with the median of gaps and the share of long ones that
are published for a large Slurm machine (median 300 s, nine of ten under 20 minutes), then divided by the compression.
Each rigid job is a batch job of a whole node, submitted at its planned moment and pinned, so that every fill meets the
same plan. Times are CLOCK_BOOTTIME: of the submission by the driver, of start and end by the job itself.
"""

import itertools
import json
import math
import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from cluster.harvested import Stream, rfaas_up, streaming
from cluster.rig import HEAD, Cluster, User
from support.waiting import wait_until

GAP_MEDIAN_S, GAP_SIGMA = 300.0, 1.08  # nine of ten under 1200 s
JOB_MEDIAN_S, JOB_SIGMA = 900.0, 1.0
LONG_S = 60.0
RUN_S = 60.0
LAST_S = 90.0  # for the last jobs to end
CALLS = {"n_calls": 0, "ahead": 64, "min_s": 0.05, "max_s": 0.15}
NEXT_CALL_S = 0.3  # a worker that waits no longer for its next call serves; a longer pause is counted as lost

JOB = """\
#!/bin/sh
read up rest < /proc/uptime; echo "start $1 $2 $up" >> "$3"
sleep "$4"
read up rest < /proc/uptime; echo "end $1 $2 $up" >> "$3"
"""

DRIVER = """\
import json, subprocess, sys, time
given = json.load(open(sys.argv[1]))
began_s = time.clock_gettime(time.CLOCK_BOOTTIME)
for number, (at_s, node, length_s) in enumerate(given["plan"]):
    time.sleep(max(0.0, began_s + at_s - time.clock_gettime(time.CLOCK_BOOTTIME)))
    submitted_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    words = [given["script"], str(number), node, given["witness"], f"{length_s:.3f}"]
    subprocess.run(["sbatch", "--parsable", "--exclusive", "-N1", "-w", node, "--output=/dev/null", *words], check=True,
                   stdout=subprocess.DEVNULL)
    with open(given["witness"], "a") as file:
        file.write(f"submit {number} {node} {submitted_s:.3f}\\n")
"""


@dataclass(frozen=True)
class Planned:
    """A rigid job: when it is submitted after the beginning, where, how long it runs. Compressed seconds."""

    at_s: float
    node: str
    length_s: float


def planned(nodes: list[str], span_s: float, compression: float, seed: int) -> list[Planned]:
    """A plan for that many real seconds, by time."""
    rng = random.Random(seed)
    plan = []
    for node in nodes:
        at_s = rng.uniform(0.0, 0.5) * GAP_MEDIAN_S / compression
        while at_s < span_s:
            length_s = rng.lognormvariate(math.log(JOB_MEDIAN_S), JOB_SIGMA) / compression
            length_s = max(0.2, min(length_s, span_s - at_s))
            plan.append(Planned(at_s, node, length_s))
            at_s += length_s + rng.lognormvariate(math.log(GAP_MEDIAN_S), GAP_SIGMA) / compression
    return sorted(plan, key=lambda job: job.at_s)


@dataclass(frozen=True)
class RigidRun:
    """One rigid job as it went; seconds of CLOCK_BOOTTIME."""

    node: str
    submitted_s: float
    start_s: float
    end_s: float

    @property
    def delay_s(self) -> float:
        """From its submission to its first instruction."""
        return self.start_s - self.submitted_s


@dataclass(frozen=True)
class Replayed:
    """What came of one fill."""

    runs: tuple[RigidRun, ...]
    idle_core_s: float = 0.0
    long_core_s: float = 0.0  # of gaps of at least LONG_S, compressed alike
    recovered_core_s: float = 0.0
    recovered_long_core_s: float = 0.0

    def numbers(self) -> dict[str, Any]:
        """For a line of JSON that is added up with others."""
        delays_s = [round(run.delay_s, 3) for run in self.runs]
        return {"delays_s": delays_s} | {
            name: round(getattr(self, name), 2)
            for name in ("idle_core_s", "long_core_s", "recovered_core_s", "recovered_long_core_s")
        }

    def about(self) -> dict[str, Any]:
        """For a reader, of this stretch alone."""
        delays_s = sorted(run.delay_s for run in self.runs)
        found: dict[str, Any] = {
            "jobs": len(delays_s),
            "delay_median_s": round(statistics.median(delays_s), 3),
            "delay_p90_s": round(delays_s[max(0, -(-9 * len(delays_s) // 10) - 1)], 3),
            "delay_worst_s": round(delays_s[-1], 3),
        }
        if self.recovered_core_s:
            found |= {
                "idle_core_s": round(self.idle_core_s, 1),
                "long_core_s": round(self.long_core_s, 1),
                "recovered_share": round(self.recovered_core_s / self.idle_core_s, 4),
                "recovered_long_share": round(self.recovered_long_core_s / self.long_core_s, 4),
            }
        return found


def replay(cluster: Cluster, bob: User, plan: list[Planned], span_s: float) -> tuple[RigidRun, ...]:
    """Run the plan to its end and return how each rigid job went. Raises AssertionError if one is missing."""
    witness = bob.put("replayed", "")
    script = bob.put("job.sh", JOB, mode=0o700)
    steps = [(job.at_s, job.node, job.length_s) for job in plan]
    given = bob.put("plan.json", json.dumps({"plan": steps, "witness": witness, "script": script}))
    bob.run(HEAD, ["python", bob.put("driver.py", DRIVER), given], span_s + LAST_S)

    def lines() -> list[list[str]]:
        return [line.split() for line in (bob.home / "replayed").read_text().splitlines()]

    wait_until(lambda: sum(words[0] == "end" for words in lines()) == len(plan), LAST_S, "the last rigid jobs")
    told: dict[int, dict[str, float]] = {}
    for word, number, _, at_s in lines():
        told.setdefault(int(number), {})[word] = float(at_s)
    return tuple(RigidRun(job.node, told[i]["submit"], told[i]["start"], told[i]["end"]) for i, job in enumerate(plan))


# --- what fills the gaps ------------------------------------------------------------------------------------------


@contextmanager
def nothing(cluster: Cluster, alice: User) -> Iterator[None]:
    """The cluster alone."""
    yield None


@contextmanager
def plain_jobs(cluster: Cluster, alice: User) -> Iterator[None]:
    """Ordinary batch jobs in the low-priority partition, more than there are nodes, that know nothing of notices."""
    cpus = cluster.settings.cpus
    jobs = ["sbatch", "--parsable", "-p", "harvest", "--array=1-500", f"-c{cpus}", "--mem=100", "--output=/dev/null"]
    job_id = alice.run(HEAD, [*jobs, "--wrap=sleep 86400"], RUN_S).stdout.strip()
    try:
        running = ["squeue", "-h", "-j", job_id, "-t", "RUNNING"]
        wait_until(
            lambda: len(alice.run(HEAD, running, RUN_S).stdout.splitlines()) == cluster.settings.nodes, RUN_S, "jobs"
        )
        yield None
    finally:
        alice.run(HEAD, ["scancel", job_id], RUN_S)
        cluster.wait_idle()


@contextmanager
def functions(cluster: Cluster, alice: User) -> Iterator[Stream]:
    """rfaas, and a program that keeps every worker busy."""
    cores = cluster.settings.nodes * cluster.settings.cpus
    with rfaas_up(cluster, alice), streaming(alice, max_workers=cores, **CALLS, limit_s=86_400) as stream:
        wait_until(lambda: len(stream.nodes_since(0)) == cluster.settings.nodes, RUN_S, "calls on every node")
        yield stream
        stream.stop()
        assert stream.process is not None
        out, err = stream.process.output(RUN_S)
        answer = json.loads(out or "{}")
        assert answer, err[-2000:]
        wrong = [error for error in answer["errors"] if error["type"] != "Reclaimed"]
        assert not wrong, wrong[:3]


Fill = Callable[[Cluster, User], AbstractContextManager[Stream | None]]
FILLS: dict[str, Fill] = {"no harvest": nothing, "plain low-priority jobs": plain_jobs, "rfaas": functions}


def replayed(
    cluster: Cluster, alice: User, bob: User, fill: str, plan: list[Planned], span_s: float, long_s: float
) -> Replayed:
    """Replay the plan with one fill; for rfaas with what it recovered, as the functions themselves wrote."""
    with FILLS[fill](cluster, alice) as stream:
        runs = replay(cluster, bob, plan, span_s)
        served = [] if stream is None else serving(stream)
    return recovered(runs, served, cluster.settings.cpus, long_s) if stream is not None else Replayed(runs)


@dataclass(frozen=True)
class Served:
    """A worker of a node was at work, from its first call to its last, without a long pause."""

    node: str
    start_s: float
    end_s: float


def serving(stream: Stream) -> list[Served]:
    """When workers served. A call that was cut off counts for nothing."""
    by_worker: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for run in stream.witness.runs:
        if run.end_ns:
            by_worker.setdefault((run.node, run.pid), []).append((run.start_ns / 1e9, run.end_ns / 1e9))
    found = []
    for (node, _), calls in by_worker.items():
        calls.sort()
        begin_s, until_s = calls[0]
        for start_s, end_s in calls[1:]:
            if start_s - until_s > NEXT_CALL_S:
                found.append(Served(node, begin_s, until_s))
                begin_s = start_s
            until_s = end_s
        found.append(Served(node, begin_s, until_s))
    return found


def recovered(runs: tuple[RigidRun, ...], served: list[Served], cpus: int, long_s: float) -> Replayed:
    """How much of the gaps was served. A gap lasts from a job's end to the submission of the next one there."""
    idle = long = got = got_long = 0.0
    for node in sorted({run.node for run in runs}):
        here = sorted((run for run in runs if run.node == node), key=lambda run: run.start_s)
        there = [one for one in served if one.node == node]
        for before, after in itertools.pairwise(here):
            length_s = after.submitted_s - before.end_s
            if length_s <= 0:
                continue
            part = sum(max(0.0, min(one.end_s, after.submitted_s) - max(one.start_s, before.end_s)) for one in there)
            idle, got = idle + length_s * cpus, got + part
            if length_s >= long_s:
                long, got_long = long + length_s * cpus, got_long + part
    return Replayed(runs, idle, long, got, got_long)
