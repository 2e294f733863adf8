"""The command `python -m rfaas_executors.share`: lend a part of this job, as long as its tasks leave it.

Keeps one agent on CPUs that no bound task may use. When a later step takes some of them the agent gives everything
back, with its grace, and another begins elsewhere, or none while there is no room. SIGTERM ends both; the agent also
goes when this process dies: it holds the only other end of the agent's standard input.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from rfaas_executors import sharing
from rfaas_transport.errors import ConfigError

LOOK_S: Final = 0.5
SLACK_S: Final = 2.0  # of an agent, beyond its grace
EX_CONFIG: Final = 78
WOKEN_BY: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Lender:
    """The agent, and the CPUs that it has.

    Args:
        options: the command line.
        job_id: of the job.
        environ: Slurm's variables of it.
    """

    def __init__(self, options: argparse.Namespace, job_id: str) -> None:
        self._options = options
        self._job_id = job_id
        self._allowed = frozenset(os.sched_getaffinity(0))
        self._job_cpus = int(os.environ.get("SLURM_CPUS_ON_NODE") or len(self._allowed))
        self._agent: subprocess.Popen[bytes] | None = None
        self._cpus: frozenset[int] = frozenset()
        self._told_full = False

    def run(self) -> int:
        """Lend until told to leave, or until the agent leaves by itself; return its status."""
        while True:
            self._look()
            woken = signal.sigtimedwait(WOKEN_BY, LOOK_S)
            if woken is not None and woken.si_signo != signal.SIGCHLD:
                return self._leave()
            if self._agent is not None and self._agent.poll() is not None:
                return self._agent.returncode

    def _look(self) -> None:
        tasks = list(sharing.tasks_of(self._job_id, os.getpid()))
        if self._agent is not None:
            if not self._is_bound(tasks):
                return
            print(f"rfaas share: tasks took CPUs of {sorted(self._cpus)}: giving all back", file=sys.stderr, flush=True)
            self._leave()
        cpus = sharing.choose(self._allowed, tasks, self._options.cores, self._job_cpus)
        if cpus:
            self._begin(cpus)
        elif not self._told_full:
            self._told_full = True
            print(
                f"rfaas share: the job's tasks are bound to all but fewer than {self._options.cores} of its CPUs "
                f"{sorted(self._allowed)}: nothing is shared while that is so",
                file=sys.stderr,
                flush=True,
            )

    def _is_bound(self, tasks: list[frozenset[int]]) -> bool:
        """Whether a bound task may use a CPU of the agent."""
        if len(self._allowed) < self._job_cpus:
            return False
        return any(cpus & self._cpus for cpus in tasks if self._allowed - cpus)

    def _begin(self, cpus: frozenset[int]) -> None:
        os.sched_setaffinity(0, cpus)  # the agent inherits it
        try:
            self._agent = subprocess.Popen(_agent(self._options), stdin=subprocess.PIPE)
        finally:
            os.sched_setaffinity(0, self._allowed)
        self._cpus, self._told_full = cpus, False

    def _leave(self) -> int:
        """Let the agent give back what it has; after its grace it is killed."""
        agent, self._agent = self._agent, None
        if agent is None:
            return 0
        assert agent.stdin is not None
        agent.send_signal(signal.SIGTERM)
        agent.stdin.close()
        try:
            return agent.wait(self._options.grace_s + SLACK_S)
        except subprocess.TimeoutExpired:
            agent.kill()
            return agent.wait()


def _agent(options: argparse.Namespace) -> list[str]:
    agent = [sys.executable, "-m", "rfaas_executors", "--from-slurm", "--shared", "--sched", "idle", "--listen", "auto"]
    agent += ["--end-with-stdin", "--state-dir", str(options.state_dir), "--cores", str(options.cores), "--say", "text"]
    return [*agent, "--memory-bytes", str(options.memory_bytes), "--grace-s", f"{options.grace_s:g}"]


def _log_to(state_dir: Path, job_id: str) -> None:
    """Send standard output and error to a log of the state directory: slurmstepd gives us none."""
    folder = state_dir / "log"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"share-{job_id}-{socket.gethostname()}.log"
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def main() -> int:
    """Run until SIGTERM; return 0, the agent's status, or 78 if nothing can be shared."""
    parser = argparse.ArgumentParser(prog="python -m rfaas_executors.share", description="Lend a part of this job.")
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("--grace-s", type=float, required=True)
    parser.add_argument("--log", action="store_true", help="write to a file of the state directory")
    options = parser.parse_args()
    job_id = os.environ.get("SLURM_JOB_ID", "")
    signal.pthread_sigmask(signal.SIG_BLOCK, WOKEN_BY)
    if options.log:
        _log_to(options.state_dir, job_id)
    try:
        if not job_id:
            raise ConfigError("not inside a Slurm job", hint="`rfaas agent` lends cores of a host without Slurm")
        sharing.check(sharing.Share(options.cores, options.memory_bytes), os.environ)
        return Lender(options, job_id).run()
    except ConfigError as error:
        print(f"rfaas share: {error}", file=sys.stderr)
        return EX_CONFIG


if __name__ == "__main__":
    sys.exit(main())
