"""Functions on idle cores beside a rigid MPI job, which takes its nodes back and never learns who was there.

    python examples/05_side_by_side.py            # on a Slurm cluster: all of it, as an ordinary user
    python examples/05_side_by_side.py --local    # on any machine: the interactive half alone

An interactive program prices options in a stream of calls and searches the best classifier of handwritten digits at
the same time, through one executor (see `interactive`). On Slurm, `rfaas up --slurm` harvests the idle cores for it;
then `srun` starts the Jacobi job on some of the nodes (see `rigid`): they go back, the job runs and ends, and they
return. The same job was run before, without rfaas, so that its start delay can be compared.

Checks: no call lost, every price and score as computed here, the rigid job right, its nodes lent before and again
after it. Exit status 1 if any fails. The timeline is drawn from times that calls and ranks measured themselves, and
from rfaas's event log: leases, notices, re-dispatches (see `history`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import rfaas
import rigid
from history import History, read
from history import spans as records
from interactive import Outcome, now_s, pricing, run, search, summary, workers_seen
from occupancy import Event, EventKind
from rigid import RigidRun
from timeline import to_svg
from timeline_text import to_text

RECENT_S = 2.0  # a node whose workers answered so lately is lent


@contextmanager
def harvest() -> Iterator[None]:
    """`rfaas up --slurm` around a block; `rfaas down` after it, whatever happened."""
    subprocess.run(["rfaas", "up", "--slurm", "--cycle-s=1"], check=True, timeout=120)
    try:
        yield
    finally:
        subprocess.run(["rfaas", "down"], check=True, timeout=180)


@contextmanager
def events_folder() -> Iterator[Path]:
    """A folder in the working directory, where the nodes see it too; removed after the block, whatever happened."""
    folder = Path(tempfile.mkdtemp(dir=Path.cwd(), prefix="side-by-side-"))
    try:
        yield folder
    finally:
        os.environ.pop("RFAAS_EVENT_LOG", None)
        deadline_s = now_s() + 10.0
        while folder.exists() and now_s() < deadline_s:  # processes that leave still write into it
            shutil.rmtree(folder, ignore_errors=True)


def wait_for_nodes(outcome: Outcome, nodes: set[str], timeout_s: float) -> None:
    """Wait until workers on all these nodes answer calls.

    Raises:
        TimeoutError: some still don't; the message names them.
    """
    deadline_s = now_s() + timeout_s
    while missing := nodes - set(workers_seen(outcome, now_s() - RECENT_S)):
        if now_s() > deadline_s:
            raise TimeoutError(f"no call was answered from {', '.join(sorted(missing))} within {timeout_s:g} s")
        threading.Event().wait(0.1)


class Visit(threading.Thread):
    """The rigid job's visit, beside the stream of calls: all nodes lent, job comes and goes, all nodes lent again."""

    def __init__(self, outcome: Outcome, cores: dict[str, int], args: argparse.Namespace, folder: Path) -> None:
        super().__init__(name="rigid job's visit", daemon=True)
        self.outcome, self.cores, self.args, self.folder = outcome, cores, args, folder
        self.run_: RigidRun | None = None
        self.problem = "the rigid job's visit broke off"

    def run(self) -> None:
        """Runs in the thread; afterwards `problem` is empty if all went well, and `run_` is set if the job did."""
        try:
            wait_for_nodes(self.outcome, set(self.cores), timeout_s=90)
            print("all nodes are lent; the rigid job comes")
            self.run_ = rigid_job(self.cores, self.args, self.folder)
            print(f"it is done, it began {self.run_.start_delay_s:.2f} s after srun; its nodes should return")
            wait_for_nodes(self.outcome, set(self.cores), timeout_s=90)
            self.problem = ""
        except (TimeoutError, rigid.RigidJobFailed) as error:
            self.problem = str(error)


def rigid_job(cores: dict[str, int], args: argparse.Namespace, folder: Path) -> RigidRun:
    """Run the Jacobi job with a rank on every core of its nodes."""
    return rigid.run_job(args.nodes, min(cores.values()), args.rigid_seconds, folder, partition=args.partition)


def progress(every_s: float) -> Callable[[Outcome], None]:
    """A line now and then: calls done, and the workers that answered lately."""
    started_s = next_s = now_s()
    done_before = 0

    def report(outcome: Outcome) -> None:
        nonlocal next_s, done_before
        if now_s() < next_s:
            return
        workers = ", ".join(f"{n} on {node}" for node, n in workers_seen(outcome, now_s() - every_s).items())
        done = len(outcome.calls)
        print(f"{now_s() - started_s:6.1f} s  {done:6} calls, {done - done_before:5} of them new; workers: {workers}")
        next_s, done_before = now_s() + every_s, done

    return report


@dataclass
class Report:
    """All that is known in the end."""

    outcome: Outcome
    history: History
    cores: dict[str, int]
    visit: RigidRun | None = None


def draw(report: Report, out: Path) -> None:
    """Print the timeline and write it as a picture."""
    calls, visit, history = report.outcome.calls, report.visit, report.history
    spans, events = records(history, calls, visit.ranks if visit else [], report.cores), list(history.events)
    if visit:
        start = f"rigid job starts, {visit.start_delay_s:.2f} s after srun"
        events.append(Event(visit.started_s, EventKind.JOB_START, label=start))
        events.append(Event(visit.ended_s, EventKind.JOB_END))
    t0_s, t1_s = min(span.t0_s for span in spans), max(span.t1_s for span in spans)
    print(to_text(spans, events, report.cores, t0_s, t1_s))
    title = "Functions beside a rigid MPI job" if visit else "Functions on idle cores"
    subtitle = f"{len(calls):,} calls, {history.count(EventKind.REDISPATCH)} of them re-dispatched"
    subtitle += f", {len(report.outcome.problems)} lost or wrong"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(to_svg(spans, events, report.cores, t0_s, t1_s, title=title, subtitle=subtitle))
    print(f"the timeline as a picture: {out}")


def on_this_machine(args: argparse.Namespace, log: Path) -> Report:
    """Price and search on the embedded default for `args.seconds`."""
    n_workers = len(os.sched_getaffinity(0))
    outcome, prices, scores = Outcome(), pricing(), search()
    with rfaas.Executor(max_workers=n_workers) as executor:
        end_s = now_s() + args.seconds
        run(executor, prices, scores, outcome, 2 * n_workers, lambda: now_s() > end_s, progress(every_s=1.0))
        return Report(outcome, read(log, until_s=now_s()), {socket.gethostname(): n_workers})


def on_slurm(args: argparse.Namespace, log: Path) -> Report:
    """Price and search on harvested cores while the rigid job comes and goes."""
    cores = rigid.cluster_cores()
    alone = rigid_job(cores, args, log)
    print(f"without rfaas the rigid job began {alone.start_delay_s:.2f} s after srun")
    outcome, prices, scores = Outcome(), pricing(), search()
    visit = Visit(outcome, cores, args, log)
    n_workers = sum(cores.values())
    with harvest(), rfaas.Executor(max_workers=n_workers) as executor:
        visit.start()
        run(executor, prices, scores, outcome, 2 * n_workers, lambda: not visit.is_alive(), progress(every_s=1.0))
        report = Report(outcome, read(log, until_s=now_s()), cores, visit.run_)
    if visit.problem:
        outcome.problems.append(visit.problem)
    if visit.run_:
        print(f"start delay {visit.run_.start_delay_s:.2f} s with harvest, {alone.start_delay_s:.2f} s without")
    return report


def main() -> int:
    """Run, check, draw; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--local", action="store_true", help="stay on this machine, also where there is a Slurm")
    parser.add_argument("--seconds", type=float, default=8.0, help="locally: price so long (default: %(default)s)")
    parser.add_argument("--nodes", type=int, default=2, help="nodes of the rigid job (default: %(default)s)")
    parser.add_argument("--partition", help="partition of the rigid job (default: the cluster's)")
    parser.add_argument("--rigid-seconds", type=float, default=8.0, help="it runs so long (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/timeline.svg"), help="picture (default: %(default)s)")
    args = parser.parse_args()

    with events_folder() as folder:
        os.environ["RFAAS_EVENT_LOG"] = str(folder)  # from here on all processes of rfaas say what they do
        if args.local or not rigid.is_there():
            print("this machine alone" if args.local else "no Slurm answers here: the interactive half alone")
            report = on_this_machine(args, folder)
        else:
            report = on_slurm(args, folder)

    print(summary(report.outcome))
    for problem in report.outcome.problems:
        print(f"wrong: {problem}", file=sys.stderr)
    if report.outcome.calls:
        draw(report, args.out)
    return 1 if report.outcome.problems or not report.outcome.calls else 0


if __name__ == "__main__":
    sys.exit(main())
