"""What a batch script asks after its step has ended: `python -m rfaas.elastic again STATUS SCRIPT [ARGUMENT...]`.

Also `python -m rfaas.elastic show DIRECTORY NAME`, which lists the checkpoints that there are.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time

from rfaas.elastic.ending import AGAIN
from rfaas.elastic.errors import CheckpointError
from rfaas_transport.errors import ConfigError

RESTARTS = "RFAAS_ELASTIC_RESTARTS"
KILLED = 128  # a shell's, and srun's, status of what a signal ended is this and the signal's number
SLURM_TIMEOUT_S = 60.0
STAY_S = 120.0


def comes_again(status: int) -> bool:
    """Whether a program that ended so has more to do: it was stopped by a notice, or killed."""
    return status == AGAIN or status > KILLED


def n_restarts(environment: dict[str, str]) -> int:
    """How often this work was started before, requeued or submitted again."""
    return int(environment.get(RESTARTS, "0")) + int(environment.get("SLURM_RESTART_COUNT", "0"))


def without_job(environment: dict[str, str]) -> dict[str, str]:
    """What a new job may inherit: nothing that says what the old one had."""
    kept = {"SLURM_CONF"}
    return {k: v for k, v in environment.items() if k in kept or not k.startswith(("SLURM_", "SLURMD_"))}


def again(status: int, script: list[str], how: str, most: int, stay_s: float = STAY_S) -> int:
    """Have the job come again if its status says so; returns what the batch script shall end with."""
    environment = dict(os.environ)
    if not comes_again(status):
        return status
    restarts = n_restarts(environment)
    if restarts >= most:
        print(f"rfaas.elastic: ended with {status} after {restarts} restarts: that is enough", file=sys.stderr)
        return status
    if how == "slurm":
        # a script that ends within GraceTime ends the job, and Slurm has nothing left that it could requeue
        print(f"rfaas.elastic: status {status}: stays up to {stay_s:.0f} s, for Slurm to requeue the job", flush=True)
        time.sleep(stay_s)
        message = "Slurm did not take the job: is PreemptMode=REQUEUE, and was it preempted?"
        print(f"rfaas.elastic: {message}", file=sys.stderr)
        return status
    job = environment.get("SLURM_JOB_ID", "")
    tries = {"requeue": [_requeue], "resubmit": [_resubmit], "auto": [_requeue, _resubmit]}[how]
    for attempt in tries:
        done = attempt(job, script, environment, restarts)
        if done.returncode == 0:
            print(
                f"rfaas.elastic: {attempt.__name__.strip('_')} after status {status}: {done.stdout.strip()}", flush=True
            )
            return 0
        print(f"rfaas.elastic: {' '.join(done.args)}: {done.stderr.strip()}", file=sys.stderr)
    return status


def _requeue(
    job: str, script: list[str], environment: dict[str, str], restarts: int
) -> subprocess.CompletedProcess[str]:
    return _run(["scontrol", "requeue", job], environment)


def _resubmit(
    job: str, script: list[str], environment: dict[str, str], restarts: int
) -> subprocess.CompletedProcess[str]:
    inherited = without_job(environment) | {RESTARTS: str(restarts + 1)}
    options = ["--parsable", f"--dependency=afterany:{job}"] if job else ["--parsable"]
    partition = environment.get("SLURM_JOB_PARTITION")
    options += [f"--partition={partition}"] if partition else []
    return _run(["sbatch", *options, *script], inherited)


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SLURM_TIMEOUT_S)


def show(directory: str, name: str) -> int:
    """List the checkpoints of a name; status 1 if one is damaged."""
    from rfaas.elastic.store import Store  # numpy; the other command has no time for it

    store, wrong = Store(directory, name), 0
    for sequence in store.sequences():
        try:
            found = store.manifest(sequence)
            for number, array in enumerate(found.arrays):
                store.read(found, number, tuple((0, points) for points in array.shape))
        except CheckpointError as error:
            print(f"{sequence:8d}  {error.message}")
            wrong = 1
            continue
        n_bytes = sum(part.n_bytes for part in found.parts)
        arrays = ", ".join(f"{a.name} {a.shape} {a.dtype}" for a in found.arrays)
        print(f"{sequence:8d}  iteration {found.iteration}, {len(found.parts)} ranks, {n_bytes} bytes: {arrays}")
    return wrong


def main() -> int:
    """Do what the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rfaas.elastic", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    comes = commands.add_parser("again", help="have this job come again if its step's status says so")
    comes.add_argument(
        "--by",
        choices=("auto", "requeue", "resubmit", "slurm"),
        default="auto",
        help="[auto: requeue, else resubmit]; slurm: leave it to PreemptMode=REQUEUE",
    )
    comes.add_argument("--most", type=int, default=1000, help="restarts of the same work [1000]")
    comes.add_argument("--stay-s", type=float, default=STAY_S, help="with --by slurm: at least GraceTime [120]")
    comes.add_argument("status", type=int)
    comes.add_argument("script", nargs=argparse.REMAINDER, help="to submit again, with its arguments")
    lists = commands.add_parser("show", help="list checkpoints, all verified")
    lists.add_argument("directory")
    lists.add_argument("name")
    asked = parser.parse_args()
    if asked.command == "again":
        # at GraceTime's end Slurm signals the batch script too: it would end before it has asked for the job; where it
        # does not ask, that is the end it waits for
        signal.signal(signal.SIGTERM, signal.SIG_DFL if asked.by == "slurm" else signal.SIG_IGN)
        return again(asked.status, asked.script, asked.by, asked.most, asked.stay_s)
    try:
        return show(asked.directory, asked.name)
    except (ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
