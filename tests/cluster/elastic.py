"""An MPI program on preemptible nodes that loses them again and again: the example 09 on a real Slurm.

A rigid job takes chosen nodes, at least one of them the program's, and keeps them until the program goes on, so the
number of ranks with which it goes on is the driver's choice. Times are CLOCK_BOOTTIME, which all nodes of a rig share:
of the program by its own timeline, of the rigid job by its first instruction.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.rig import HEAD, Cluster, User
from cluster.rig.node import Process
from support.waiting import wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAM, SCRIPT = "09_elastic_jacobi.py", "09_elastic_jacobi.sh"
COMMAND_S = 30.0
BEGIN_S = 60.0  # to start again, on a machine that does other things too
RIGID = 'read up rest < /proc/uptime; echo "$up" >> "$1"; while [ ! -e "$2" ]; do sleep 0.05; done'


@dataclass(frozen=True)
class Loss:
    """One time that the program lost its nodes, and went on. Seconds; None: did not happen or could not be seen."""

    how: str  # "notice", "kill" (of one rank) or "kill all"
    ranks_before: int
    ranks_after: int
    lost_iterations: int
    notice_s: float | None  # from the signal at a rank until all ranks had agreed to stop
    checkpoint_s: float | None
    requeue_s: float | None  # from the end of that (or the kill) to the start of the next attempt's processes
    restart_s: float  # from there to the first iteration
    rigid_s: float | None  # what the rigid job waited for its first instruction
    waited_for_nodes: bool  # requeue_s holds the time in which the rigid job had all nodes


class Program:
    """The program as a job of alice's, and who takes its nodes away.

    Args:
        by: how it comes again: requeue, resubmit, auto.
        every: sweeps between two checkpoints.
        n_sweeps: in all.
    """

    def __init__(
        self, cluster: Cluster, *, by: str, every: int, n_sweeps: int, size: int = 128, pause_s: float = 0.002
    ) -> None:
        self.cluster, self.alice, self.bob = cluster, cluster.user("alice"), cluster.user("bob")
        self.every = every
        home = self.alice.account.home
        for name in (PROGRAM, SCRIPT):
            self.alice.put(f"examples/{name}", (EXAMPLES / name).read_text(), mode=0o700)
        self._words = [f"{home}/examples/{SCRIPT}", f"--every={every}", f"--sweeps={n_sweeps}", f"--size={size}"]
        self._words += [f"--pause-s={pause_s}", f"--checkpoints={home}/checkpoints", f"--witness={home}/witness"]
        self._environment = {
            "RFAAS_EXAMPLES": f"{home}/examples",
            "ELASTIC_BY": by,
            "OMPI_MCA_mpi_yield_when_idle": "1",
            "SBATCH_OUTPUT": f"{home}/out.txt",
        }
        self._n_rigid = 0

    def undisturbed_hash(self) -> str:
        """The hash of one process that nothing disturbs, on the head."""
        options = [word for word in self._words[1:] if word.startswith(("--sweeps", "--size"))]
        program = f"{self.alice.account.home}/examples/{PROGRAM}"
        done = self.alice.run(HEAD, ["python", program, *options, "--checkpoints=elsewhere"], 300)
        return done.stdout.split("hash ")[1].strip()

    def submit(self) -> None:
        """Start it, on all nodes that are free."""
        command = ["sbatch", "--parsable", "--partition=harvest", *self._words]
        self.alice.run(HEAD, command, COMMAND_S, env=self._environment)

    def events(self, word: str) -> list[dict[str, Any]]:
        """Those of its timeline, over all attempts, oldest first."""
        file = self.alice.home / "checkpoints" / "jacobi.timeline.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [event for event in map(_parsed, lines) if event and event["ev"] == word]

    def output(self) -> str:
        """What all attempts printed."""
        file = self.alice.home / "out.txt"
        return file.read_text(errors="replace") if file.exists() else ""

    def wait_begun(self, number: int) -> dict[str, Any]:
        """The event of its `number`-th beginning, from 1."""
        try:
            return wait_until(lambda: self.events("begun")[number - 1 : number], BEGIN_S, f"beginning {number}")[0]
        except AssertionError as error:
            queue = self.cluster.head.run_as_root("squeue", "-o", "%i %P %T %R %S", check=False)
            raise AssertionError(f"{error}\n{queue}\n{self.output()[-3000:]}") from None

    def done_sweeps(self) -> int:
        """The number of the newest sweep that was done."""
        file = self.alice.home / "witness"
        return int(file.read_text() or 0) if file.exists() else 0

    def nodes(self) -> list[str]:
        """Where it runs."""
        text = self.cluster.head.run_as_root("squeue", "-h", "-u", self.alice.name, "-t", "RUNNING", "-o", "%N")
        names = self.cluster.head.run_as_root("scontrol", "show", "hostnames", text.strip() or "none")
        return [name for name in names.split() if name in self.cluster.settings.node_names]

    def wait_sweeps(self, more: int) -> None:
        """Wait until so many more sweeps are done."""
        goal = self.done_sweeps() + more
        wait_until(lambda: self.done_sweeps() >= goal, BEGIN_S, f"sweep {goal}")

    def wait_hash(self, timeout_s: float) -> str:
        """The hash that it printed in the end."""

        def found() -> str:
            return next((line.split("hash ")[1] for line in self.output().splitlines() if "hash " in line), "")

        return wait_until(found, timeout_s, "the hash")

    # --- losses ---------------------------------------------------------------------------------------------------

    def preempt(self, ranks_after: int) -> Loss:
        """Have a rigid job take nodes, so that so many are left; all of them, for a moment, if it shall have all."""
        names, number = self.cluster.settings.node_names, len(self.events("begun"))
        before, mine = self.events("begun")[-1], self.nodes()
        n_taken = len(names) - ranks_after or len(names)
        order = mine + [name for name in names if name not in mine]  # at least one of the program's
        began_s = _now_s()
        with self._rigid(order[:n_taken]) as rigid:
            wait_until(rigid.started, BEGIN_S, "the rigid job's start")
            all_taken = n_taken == len(names)
            if not all_taken:
                self.wait_begun(number + 1)
        begun = self.wait_begun(number + 1)
        stopped = next((event for event in self.events("stopped") if event["attempt"] == before["attempt"]), None)
        assert stopped is not None, f"it was ended before it had saved itself\n{self.output()[-3000:]}"
        return Loss(
            how="notice",
            ranks_before=stopped["ranks"],
            ranks_after=begun["ranks"],
            lost_iterations=stopped["iteration"] - begun["iteration"],
            notice_s=stopped["notice_s"],
            checkpoint_s=stopped["checkpoint_s"],
            requeue_s=(begun["process_start_ns"] - stopped["t_boot_ns"]) / 1e9,
            restart_s=(begun["t_boot_ns"] - begun["process_start_ns"]) / 1e9,
            rigid_s=rigid.started() - began_s,
            waited_for_nodes=all_taken,
        )

    def kill(self, *, everybody: bool = False) -> Loss:
        """SIGKILL to the last rank, or to all at once as if their power failed, without a word before."""
        before, number = self.events("begun")[-1], len(self.events("begun"))
        ranks = [process.pid for name in self.nodes() for process in self._ranks_on(name)]
        killed_s = _now_s()
        for pid in ranks if everybody else ranks[-1:]:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks), BEGIN_S, "the other ranks' end")
        reached = self.done_sweeps()  # before the next attempt has begun
        begun = self.wait_begun(number + 1)
        return Loss(
            how="kill all" if everybody else "kill",
            ranks_before=before["ranks"],
            ranks_after=begun["ranks"],
            lost_iterations=reached - begun["iteration"],
            notice_s=None,
            checkpoint_s=None,
            requeue_s=begun["process_start_ns"] / 1e9 - killed_s,
            restart_s=(begun["t_boot_ns"] - begun["process_start_ns"]) / 1e9,
            rigid_s=None,
            waited_for_nodes=False,
        )

    def _ranks_on(self, name: str) -> list[Process]:
        uid, program = self.alice.account.uid, f"python {self.alice.account.home}/examples/{PROGRAM}"
        return [
            p
            for p in self.cluster.node(name).processes()
            if p.uid == uid and program in p.command and "srun" not in p.command
        ]

    @contextmanager
    def _rigid(self, nodes: list[str]) -> Iterator["Rigid"]:
        self._n_rigid += 1
        home = self.bob.account.home
        start, stop = f"start-{self._n_rigid}", f"stop-{self._n_rigid}"
        command = ["srun", f"-N{len(nodes)}", f"-w{','.join(nodes)}", "--exclusive", "sh", "-c", RIGID, "rigid"]
        with self.bob.popen(HEAD, [*command, f"{home}/{start}", f"{home}/{stop}"]) as running:
            try:
                yield Rigid(self.bob, start)
            finally:
                self.bob.put(stop, "")
                running.wait(COMMAND_S)


@dataclass(frozen=True)
class Rigid:
    """A rigid job; its tasks write when they began."""

    bob: User
    file: str

    def started(self) -> float:
        """When its first task began; 0 before."""
        path = self.bob.home / self.file
        return min(map(float, path.read_text().split()), default=0.0) if path.exists() else 0.0


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:  # being written
        return None
    return event


def _now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
