"""Runs the rings of tests that start real processes, one after the other, and says at the end what each came to.

usage: python tools/rings.py [RING...]     default: all of `RINGS` in their order; exit status 1 when any failed

Within a ring every test runs, also after one failed; after a ring that failed the others do not begin. Tests of a ring
run beside each other in pytest-xdist's workers, each of which takes a stretch of them, and from another what is left at
the end; those marked `serial` have a ring of their own, in which one runs at a time. A test that only missed a deadline
while others ran beside it (tests/support/deadlines.py) runs again alone, which decides: a process without a CPU keeps
no promise. Must run on the standard library alone.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CPUS = len(os.sched_getaffinity(0))
MOST_WORKERS = 8  # each may start an allocator, agents and their workers
PYTEST = (str(Path(sys.executable).with_name("pytest")),)
CLUSTERS = 2  # of four nodes each; what their tests wait for is mostly Slurm's clock

HERE = "not slurm and not rdma"  # needs nothing but this machine's processes

LAST_LINE = re.compile(r"^=* ?(\d+ (?:passed|failed|skipped|error|deselected|xfailed|no tests ran).*?) in [\d.]+s")


def beside(workers: int) -> tuple[str, ...]:
    """Options for so many tests at a time; one that waits for its own processes leaves its CPU to another."""
    return ("-n", str(min(workers, MOST_WORKERS)), "--dist", "worksteal")


RINGS = {
    "processes": (*PYTEST, *beside(CPUS + 1), "-m", f"not serial and {HERE}", "tests/system", "tests/faults"),
    "serial": (*PYTEST, "-m", f"serial and {HERE}", "tests/system", "tests/faults"),
    "pythons": (sys.executable, "tools/test_on_pythons.py"),
    "rdma": ("tests/rdma/rig/ring", "--where-possible"),  # on a device, else in one boot of a guest that has one
    "pyslurm": ("tests/cluster/rig/forky/ring", "--where-possible"),  # a newer Slurm, in a root directory of its own
    "slurm": (*PYTEST, *beside(CLUSTERS), "-m", "slurm", "tests/cluster", "tests/faults"),
}


@dataclass(frozen=True)
class Ran:
    """What a ring came to; `last_line` is pytest's count of outcomes, empty for what is not pytest."""

    status: int
    last_line: str
    seconds: float

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        return f"{'passed' if self.status == 0 else 'FAILED'}  {minutes:2} min {seconds:02} s  {self.last_line}"


def run(command: tuple[str, ...], **settings: str) -> Ran:
    """Run one command of a ring to its end, with these environment variables too, showing what it prints."""
    began_s, last_line = time.monotonic(), ""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **settings}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                if found := LAST_LINE.match(line):
                    last_line = found.group(1)
        except SystemExit:  # we are told to go: pytest's fixtures end what they started, then we do
            process.send_signal(signal.SIGINT)
            raise
    return Ran(process.returncode, last_line, time.monotonic() - began_s)


def run_ring(command: tuple[str, ...]) -> Ran:
    """Run one ring, and again alone what only came too late while other tests ran beside it."""
    with tempfile.TemporaryDirectory(prefix="rfaas-rings-") as directory:
        told = Path(directory, "late.json")
        together = run(command, RFAAS_TEST_LATE=str(told))
        late = only_late(told) if together.status == 1 and "-n" in command else []
    if not late:
        return together
    print(f"\n== again, alone: {len(late)} of them missed a deadline beside others, and nothing else", flush=True)
    alone = run((*PYTEST, *late))
    last_line = f"{together.last_line}; again alone: {alone.last_line}"
    return Ran(alone.status, last_line, together.seconds + alone.seconds)


def only_late(told: Path) -> list[str]:
    """Names of the tests that missed a deadline; none if any test failed in something else."""
    if not told.exists():
        return []
    failed = json.loads(told.read_text())
    return [] if failed["failed"] else list(failed["late"])


def main() -> int:
    """Run the rings that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rings", nargs="*", metavar="RING", help=f"of {', '.join(RINGS)}")
    asked = parser.parse_args().rings or list(RINGS)
    if unknown := [name for name in asked if name not in RINGS]:
        parser.error(f"no such ring: {', '.join(unknown)}; there are {', '.join(RINGS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    ran: dict[str, Ran] = {}
    for name in asked:
        print(f"\n== ring {name}", flush=True)
        ran[name] = run_ring(RINGS[name])
        if ran[name].status != 0:
            break
    print("\n== rings")
    for name in asked:
        print(f"{name:9} {ran.get(name, 'not run')}")
    return int(any(result.status != 0 for result in ran.values()))


if __name__ == "__main__":
    sys.exit(main())
